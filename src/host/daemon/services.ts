/**
 * Services: what goes on in a daemon after the command that asked for it has ended, or as long as that command lives. An
 * NBD export, an attached block device and a monitor are services.
 *
 * A kind of service is one file that declares a `ServiceKind`, and a line `serviceKind(NBD_EXPORT)` in service-kinds.ts:
 *
 *     export const NBD_EXPORT: ServiceKind<ExportRequest> = {
 *       kind: "nbd",
 *       parse: parseExportRequest,               // what came over the socket; trusts nothing, throws StateError EINVAL
 *       async start(context, request) {
 *         const hold = await context.hold(request.device, { what: "NBD export", hint: "end udm serve" });
 *         const stopWatching = hold.device.onTable(() => sizeMayHaveChanged());
 *         const server = await listen(hold.device, ...);
 *         server.once("failed", (error) => context.ended(error));   // it ended by itself; `stop` is called
 *         return {
 *           describe: () => ({ device: hold.name, uri: server.uri, connections: server.connections }),
 *           async stop() {                         // called once, whatever happened; must not throw away what a client wrote
 *             stopWatching();
 *             await server.close();
 *             await hold[Symbol.asyncDispose]();   // commits and closes the pool when this was its last user
 *           },
 *         };
 *       },
 *     };
 *
 * `hold.device` is a mapped device: one object for as long as it is held. Suspends, table loads, snapshots and resizes
 * happen under it, while requests wait; `tryRead` and `tryWrite` answer at once what can be answered at once (0: use the
 * promise). Never await inside another operation of the host from `start`: `context.change` runs one, in turn.
 *
 * A command that is to end with its service waits for `host.waitService(name)`.
 *
 * Commands start a service with `host.startService({ kind, options, lasts })`, on a host from `context.daemonHost()`, which
 * starts a daemon where none runs. A service that lasts `"connection"` ends with that command, however the command ends; one
 * that lasts `"daemon"` is ended by `host.stopService(name)`. A daemon that was started by a command ends when it has neither
 * services nor connections.
 */
import type { Hold, Holder } from "../../device-registry/index.js";
import { codeOf, messageOf, StateError } from "../../errors/index.js";
import type { ServiceInfo } from "../host.js";
import type { ResidentCore } from "./resident-core.js";

/** What survives JSON. */
export type Plain = string | number | boolean | null | readonly Plain[] | { readonly [key: string]: Plain | undefined };

export interface ServiceKind<Options> {
  readonly kind: string;
  /** @throws StateError EINVAL, UsageError */
  parse(options: unknown): Options;
  /** A name that is free, to stop it by; default `KIND-N`. */
  name?(options: Options): string;
  /** Whether a service that has this name is of something else by now, as one whose device was renamed. */
  isOther?(options: Options, details: Details): boolean;
  /** Everything that was opened is closed again when it throws. */
  start(context: ServiceContext, options: Options): Promise<Service>;
}

/** A kind whose options nobody else knows. */
export interface AnyServiceKind {
  readonly kind: string;
  /** @throws StateError EINVAL */
  prepare(options: unknown): Prepared;
}

interface Prepared {
  readonly name: string | undefined;
  isOther(details: Details): boolean;
  start(context: ServiceContext): Promise<Service>;
}

type Details = { readonly [key: string]: Plain | undefined };

export function serviceKind<Options>(kind: ServiceKind<Options>): AnyServiceKind {
  return {
    kind: kind.kind,
    prepare(given) {
      const options = kind.parse(given);
      return {
        name: kind.name?.(options),
        isOther: (details) => kind.isOther?.(options, details) === true,
        start: (context) => kind.start(context, options),
      };
    },
  };
}

export interface Service {
  /** What `udm daemon status` and whoever started it are told. */
  describe(): Details;
  /** Called once. */
  stop(): Promise<void>;
}

export interface ServiceContext {
  readonly name: string;
  /** For sockets and mount points; exists, and is this user's alone. */
  readonly runDir: string;
  /** Where relative paths of the request begin. */
  readonly cwd: string;
  readonly core: ResidentCore;
  hold(device: string, holder: Holder): Promise<Hold>;
  log(line: string): void;
  /** The service ended by itself, or cannot go on: it is stopped and forgotten. */
  ended(error?: unknown): void;
}

export interface StartRequest {
  readonly kind: string;
  readonly options: unknown;
  /** One that goes with whoever asked for it. */
  readonly owner?: object | undefined;
  readonly cwd: string;
}

interface Running {
  readonly name: string;
  readonly kind: string;
  readonly owner: object | undefined;
  readonly sinceMs: number;
  /** Undefined while it starts. */
  service: Service | undefined;
  ended: { readonly error: unknown } | undefined;
  readonly waiters: ((error: unknown) => void)[];
  stopping: Promise<void> | undefined;
}

export interface ServicesOptions {
  readonly core: ResidentCore;
  readonly kinds: readonly AnyServiceKind[];
  readonly runDir: string;
  readonly log: (line: string) => void;
  /** One came or went. */
  readonly onChange: () => void;
}

/** Longest wait for one service to end before the daemon goes on without it. */
const STOP_PATIENCE_MS = 30_000;

export class Services {
  readonly #options: ServicesOptions;
  readonly #running = new Map<string, Running>();
  #isClosed = false;

  constructor(options: ServicesOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#running.size;
  }

  list(): readonly ServiceInfo[] {
    return [...this.#running.values()]
      .filter((each) => each.service !== undefined)
      .map((each) => infoOf(each))
      .sort((left, right) => (left.name < right.name ? -1 : 1));
  }

  /** @throws StateError EINVAL (no such kind), EEXIST; what parsing and starting throw */
  async start(request: StartRequest): Promise<ServiceInfo> {
    const kind = this.#options.kinds.find((each) => each.kind === request.kind);
    if (kind === undefined) {
      throw new StateError("EINVAL", `the daemon has no service of kind '${request.kind}'`, {
        hint: "a newer one may: udm daemon stop, then try again",
      });
    }
    if (this.#isClosed) throw new StateError("EAGAIN", "the daemon is ending", { hint: "try again" });
    const prepared = kind.prepare(request.options);
    const present = this.#running.get(prepared.name ?? "")?.service;
    const isOther = present !== undefined && prepared.isOther(present.describe());
    const name = isOther ? this.#freeName(prepared.name!) : (prepared.name ?? this.#freeName(kind.kind));
    if (this.#running.has(name)) {
      throw new StateError("EEXIST", `'${name}' is there already`, { hint: "udm daemon status shows what is served" });
    }
    const running: Running = {
      name,
      kind: kind.kind,
      owner: request.owner,
      sinceMs: Date.now(),
      service: undefined,
      ended: undefined,
      waiters: [],
      stopping: undefined,
    };
    this.#running.set(name, running);
    try {
      running.service = await prepared.start(this.#contextOf(running, request.cwd));
    } catch (error) {
      this.#forget(running);
      throw error;
    }
    this.#options.log(`service ${name} began`);
    // It may have ended, or its owner gone, while it began.
    if (running.ended !== undefined) {
      await this.#stop(running);
      throw running.ended.error ?? new StateError("EIO", `'${name}' ended at once`);
    }
    this.#options.onChange();
    return infoOf(running);
  }

  /** @throws StateError ENOENT; what stopping throws, after it was forgotten */
  async stop(name: string): Promise<void> {
    const running = this.#running.get(name);
    if (running?.service === undefined) {
      throw new StateError("ENOENT", `nothing called '${name}' is served`, { hint: "udm daemon status shows what is" });
    }
    await this.#stop(running);
  }

  /** @throws StateError ENOENT; what it ended with */
  async untilEnded(name: string): Promise<void> {
    const running = this.#running.get(name);
    if (running === undefined) throw new StateError("ENOENT", `nothing called '${name}' is served`);
    const error = await new Promise<unknown>((resolve) => running.waiters.push(resolve));
    if (error !== undefined) throw error;
  }

  /** Whoever asked for these has gone. */
  async leave(owner: object): Promise<void> {
    await this.#stopAll([...this.#running.values()].filter((each) => each.owner === owner));
  }

  /** Newest first: what came later may stand on what was there. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#stopAll([...this.#running.values()].reverse());
  }

  async #stopAll(all: readonly Running[]): Promise<void> {
    for (const running of all) {
      running.ended ??= { error: undefined };
      if (running.service === undefined) continue;
      let timer: NodeJS.Timeout | undefined;
      const patience = new Promise<"late">((resolve) => {
        timer = setTimeout(() => resolve("late"), STOP_PATIENCE_MS);
      });
      const result = await Promise.race([this.#stop(running).catch(() => undefined), patience]);
      clearTimeout(timer);
      if (result === "late") this.#options.log(`service ${running.name} does not end; going on without it`);
    }
  }

  #stop(running: Running): Promise<void> {
    running.stopping ??= this.#stopNow(running);
    return running.stopping;
  }

  async #stopNow(running: Running): Promise<void> {
    try {
      await running.service?.stop();
      this.#options.log(`service ${running.name} ended`);
    } catch (error) {
      this.#options.log(`service ${running.name} ended with an error: ${messageOf(error)}`);
      throw error;
    } finally {
      this.#forget(running);
    }
  }

  #forget(running: Running): void {
    if (this.#running.get(running.name) === running) this.#running.delete(running.name);
    for (const tell of running.waiters.splice(0)) tell(running.ended?.error);
    this.#options.onChange();
  }

  #freeName(kind: string): string {
    for (let number = 1; ; number++) if (!this.#running.has(`${kind}-${number}`)) return `${kind}-${number}`;
  }

  #contextOf(running: Running, cwd: string): ServiceContext {
    const { core, runDir, log } = this.#options;
    return {
      name: running.name,
      runDir,
      cwd,
      core,
      hold: (device, holder) => core.hold(device, holder),
      log: (line) => log(`${running.name}: ${line}`),
      ended: (error) => {
        running.ended ??= { error };
        if (error !== undefined) log(`${running.name}: ${codeOf(error) ?? ""} ${messageOf(error)}`);
        if (running.service !== undefined) this.#stop(running).catch(() => undefined);
      },
    };
  }
}

function infoOf(running: Running): ServiceInfo {
  return {
    name: running.name,
    kind: running.kind,
    lasts: running.owner === undefined ? "daemon" : "connection",
    sinceMs: running.sinceMs,
    details: running.service?.describe() ?? {},
  };
}
