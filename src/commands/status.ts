/** `udm status`: pools with bars, what needs attention and the command for it, on one screen. */
import { statfs } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { Command, Option } from "commander";
import { UsageError } from "../errors/index.js";
import type { DeviceInfo, Host } from "../host/index.js";
import type { Context } from "./context.js";
import { parseSeconds } from "./parse.js";
import type { DocumentOf } from "./schema/documents.js";
import { type Dashboard, dashboardLines, type PoolReport, poolReport, poolTrouble } from "./status-view.js";

const DEFAULT_SECONDS = 2;
const LEAST_SECONDS = 0.1;
const DEFAULT_COLUMNS = 80;

export function statusCommand(context: Context): Command {
  return new Command("status")
    .description("Shows pools with how full they are, devices, what needs attention and what to do about it.")
    .addOption(
      new Option("--watch [seconds]", "draw it again every so many seconds (2), until Ctrl-C").argParser(parseSeconds),
    )
    .action(async (options: { readonly watch?: number | true }) => {
      const host = await context.host();
      if (options.watch === undefined) {
        const dashboard = await gather(host);
        if (context.globals.json) context.json({ status: dashboard } satisfies DocumentOf<"status">);
        else context.lines(await draw(context, dashboard));
        return;
      }
      if (context.globals.json) {
        throw new UsageError("status: --watch and --json exclude each other", { hint: "call udm status --json again" });
      }
      const seconds = options.watch === true ? DEFAULT_SECONDS : options.watch;
      if (seconds < LEAST_SECONDS) {
        throw new UsageError(`status: --watch ${seconds} is too short`, { hint: `at least ${LEAST_SECONDS}` });
      }
      await context.whileRead(watch(context, host, seconds * 1000));
    });
}

/** Ends with the interrupt; a terminal keeps the last picture. */
async function watch(context: Context, host: Host, pauseMs: number): Promise<void> {
  const { stdout } = context.streams;
  const isTerminal = stdout.isTTY === true;
  for (let round = 0; context.interrupt?.aborted !== true; round++) {
    const lines = await draw(context, await gather(host));
    if (isTerminal) {
      // Home, each line over the old one, then nothing below: without the flicker of a cleared screen.
      stdout.write(
        `${round === 0 ? "\u001b[2J" : ""}\u001b[H${lines.map((line) => `${line}\u001b[K\n`).join("")}\u001b[J`,
      );
    } else {
      context.lines(round === 0 ? lines : ["", ...lines]);
    }
    const signal = context.interrupt === undefined ? {} : { signal: context.interrupt };
    await sleep(pauseMs, undefined, signal).catch(() => undefined);
  }
}

async function draw(context: Context, dashboard: Dashboard): Promise<readonly string[]> {
  const { stdout } = context.streams;
  const columns = "columns" in stdout && typeof stdout.columns === "number" ? stdout.columns : DEFAULT_COLUMNS;
  return dashboardLines(dashboard, {
    width: columns || DEFAULT_COLUMNS,
    isUtf8: context.isUtf8,
    unit: context.globals.units ?? "h",
    palette: await context.palette("stdout"),
  });
}

async function gather(host: Host): Promise<Dashboard> {
  const devices = await host.listDevices();
  const loops = await host.listLoops();
  const pools: PoolReport[] = [];
  for (const { name, state } of await host.listPools()) {
    try {
      const pool = await host.poolStatus(name);
      const room = pool.dataFile === undefined ? undefined : await roomBelow(pool.dataFile);
      pools.push(poolReport(pool, { provisionedBytes: provisioned(devices, name), roomBytes: room }));
    } catch (error) {
      pools.push(poolTrouble(name, state, error));
    }
  }
  const attention = devices
    .filter((device) => device.state === "SUSPENDED" && !pools.some((pool) => pool.name === device.name))
    .map(({ name }) => ({ subject: name, message: "is suspended", command: `udm table resume ${name}` }));
  return { pools, deviceCount: devices.length, loopCount: loops.length, attention };
}

/** Sizes of the active thin devices of a pool. */
function provisioned(devices: readonly DeviceInfo[], poolName: string): number {
  const pool = devices.find((device) => device.name === poolName);
  if (pool === undefined) return 0;
  const number = `${pool.major}:${pool.minor}`;
  return devices
    .filter((device) => device.targetTypes.includes("thin") && device.deps.includes(number))
    .reduce((sum, device) => sum + device.sizeBytes, 0);
}

/** What the file system under a sparse file can still give. */
async function roomBelow(file: string): Promise<number | undefined> {
  try {
    const { bavail, bsize } = await statfs(file);
    return bavail * bsize;
  } catch {
    // The file may be out of reach for us; then nothing is said about it.
    return undefined;
  }
}
