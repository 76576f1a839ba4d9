/** `udm monitor`: looks after pools: extends them, tells what happens to them, runs hooks, publishes numbers. */
import { Command, Option } from "commander";
import { codeOf, messageOf, UsageError } from "../../errors/index.js";
import type { Host, PoolEvent } from "../../host/index.js";
import { formatPercent } from "../../ui/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import { parseSeconds } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { EventReader, pause } from "./follow.js";
import { runHook } from "./hook.js";
import { metricsText, type PoolNumbers } from "./metrics.js";
import { type Publisher, publisherFor } from "./publish.js";

interface MonitorOptions {
  readonly once?: boolean;
  readonly interval: number;
  readonly exec?: string;
  readonly prometheus?: string;
}

const DEFAULT_SECONDS = 10;
const LEAST_SECONDS = 0.1;
/** Events are looked for this often between the rounds; one begins the next round at once. */
const LOOK_MS = 500;

export function monitorCommand(context: Context): Command {
  return new Command("monitor")
    .description(
      "Looks at pools again and again: extends those that have passed their threshold, prints what happens to them, runs a command for each event, publishes their numbers.",
    )
    .argument("[pool...]", "these; all pools without it")
    .option("--once", "look once, and print a line for each pool")
    .addOption(new Option("--interval <seconds>", "look this often").argParser(parseSeconds).default(DEFAULT_SECONDS))
    .option("--exec <command>", "run this for each event, with UDM_EVENT, UDM_POOL and UDM_EVENT_JSON set")
    .option("--prometheus <where>", "publish numbers on HOST:PORT (:PORT for this machine only), or in a file")
    .action(async (pools: readonly string[], options: MonitorOptions) => {
      if (options.interval < LEAST_SECONDS) {
        throw new UsageError(`monitor: --interval ${options.interval} is too short`, {
          hint: `at least ${LEAST_SECONDS}`,
        });
      }
      const interrupt = context.takeInterrupt();
      const publisher = options.prometheus === undefined ? undefined : await publisherFor(options.prometheus);
      try {
        if (publisher !== undefined && options.once !== true) context.note(`numbers are at ${publisher.where}`);
        await new Monitor(context, pools, options, publisher).run(interrupt);
      } finally {
        await publisher?.close();
      }
    });
}

class Monitor {
  readonly #context: Context;
  readonly #wanted: readonly string[];
  readonly #options: MonitorOptions;
  readonly #publisher: Publisher | undefined;
  /** Trouble that was told already. */
  readonly #told = new Map<string, string>();

  constructor(context: Context, wanted: readonly string[], options: MonitorOptions, publisher: Publisher | undefined) {
    this.#context = context;
    this.#wanted = wanted;
    this.#options = options;
    this.#publisher = publisher;
  }

  async run(interrupt: AbortSignal): Promise<void> {
    const reader = new EventReader(await this.#context.ownHost(), this.#wanted);
    await reader.skip();
    do {
      const round = await this.#look();
      await this.#tell(await reader.next());
      this.#publisher?.publish(metricsText(round.pools, round.failed));
      if (this.#options.once === true) {
        await this.#conclude(round);
        return;
      }
      const until = performance.now() + this.#options.interval * 1000;
      for (let isQuiet = true; isQuiet && !interrupt.aborted && performance.now() < until; ) {
        await this.#context.whileRead(pause(interrupt, Math.min(LOOK_MS, Math.max(0, until - performance.now()))));
        const events = await reader.next();
        await this.#tell(events);
        isQuiet = events.length === 0;
      }
    } while (!interrupt.aborted);
  }

  /** A host for each round: a daemon may come and go between them. */
  async #look(): Promise<{ readonly pools: readonly PoolNumbers[]; readonly failed: readonly string[] }> {
    const pools: PoolNumbers[] = [];
    const failed: string[] = [];
    const host = await this.#context.freshHost();
    try {
      const names = this.#wanted.length > 0 ? this.#wanted : (await host.listPools()).map(({ name }) => name);
      for (const name of names) {
        try {
          pools.push(await this.#lookAt(host, name));
        } catch (error) {
          failed.push(name);
          this.#trouble(name, messageOf(error));
        }
      }
    } finally {
      await host.close();
    }
    return { pools, failed };
  }

  async #lookAt(host: Host, name: string): Promise<PoolNumbers> {
    try {
      await host.extendPool(name);
      this.#told.delete(name);
    } catch (error) {
      // That it cannot grow is an event of its own; that it cannot be looked at is not.
      if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EINVAL") throw error;
      this.#trouble(name, messageOf(error));
    }
    const info = await host.poolStatus(name);
    return { info, eventNr: (await host.deviceInfo(name)).eventNr };
  }

  /** Once, until it is another. */
  #trouble(name: string, reason: string): void {
    if (this.#told.get(name) === reason) return;
    this.#told.set(name, reason);
    this.#context.note(`${name}: ${reason}`);
  }

  async #tell(events: readonly PoolEvent[]): Promise<void> {
    for (const event of events) {
      if (this.#options.once !== true || !this.#context.globals.json) this.#context.line(this.#lineOf(event));
      if (this.#options.exec !== undefined) await runHook(this.#context, this.#options.exec, event);
    }
  }

  #lineOf(event: PoolEvent): string {
    if (this.#context.globals.json) return JSON.stringify(event);
    const { time, pool, event: kind, ...details } = event;
    const words = Object.entries(details).map(([key, value]) => `${key}=${value}`);
    return [time, pool, kind, ...words].join(" ");
  }

  async #conclude(round: {
    readonly pools: readonly PoolNumbers[];
    readonly failed: readonly string[];
  }): Promise<void> {
    if (round.failed.length > 0) this.#context.exitWith(1);
    if (this.#context.globals.json) {
      const pools = round.pools.map(({ info }) => summaryOf(info));
      this.#context.json({ pools, failed: round.failed } satisfies DocumentOf<"watched">);
      return;
    }
    for (const { info } of round.pools) {
      const { status } = info;
      const data = formatPercent(status.usedDataBlocks, status.totalDataBlocks);
      const metadata = formatPercent(status.usedMetadataBlocks, status.totalMetadataBlocks);
      const size = formatBytes(summaryOf(info).dataBytes, this.#context.globals.units ?? "h");
      this.#context.line(
        `${info.name}: ${status.mode}, data ${data}% of ${size}, metadata ${metadata}%${status.needsCheck ? ", needs check" : ""}`,
      );
    }
  }
}

function summaryOf({ name, status }: PoolNumbers["info"]) {
  const blockBytes = status.dataBlockSectors * 512;
  return {
    name,
    mode: status.mode,
    needsCheck: status.needsCheck,
    dataBytes: status.totalDataBlocks * blockBytes,
    usedDataBytes: status.usedDataBlocks * blockBytes,
    metadataBytes: status.totalMetadataBlocks * 4096,
    usedMetadataBytes: status.usedMetadataBlocks * 4096,
  };
}
