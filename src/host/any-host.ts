/**
 * The host a command works with: that of the daemon, where one has the state dir, else one in its own process. A daemon that
 * appears while the own one waits for the state's lock takes over, and one that has gone is given up: in both cases nothing
 * of the call was done yet, so the same call goes to the other. Inside a group there is no changing over.
 */
import { codeOf } from "../errors/index.js";
import { METHOD_NAMES, PLAN_NAMES } from "./daemon/methods.js";
import { daemonPaths, socketIdentity } from "./daemon/socket-path.js";
import type { Host, HostPlans } from "./host.js";
import { type HostOptions, openHost } from "./open-host.js";

export interface AnyHostOptions extends HostOptions {
  readonly version: string;
  /** Where relative paths begin. */
  readonly cwd: string;
  /** The daemon's operations are logged here too. */
  readonly wantsLog?: boolean;
}

/** @throws StateError EACCES, EINVAL; IoError ETIMEDOUT, when a daemon is there and cannot be used */
export async function openAnyHost(options: AnyHostOptions): Promise<Host> {
  const any = new AnyHost(options);
  await any.open();
  return any.host;
}

/** Thrown in place of waiting on: a daemon is there now. */
class DaemonAppeared extends Error {}

type Method = (...args: readonly unknown[]) => Promise<unknown>;

class AnyHost {
  readonly host: Host;
  readonly #options: AnyHostOptions;
  readonly #socket: string;
  #own: Host | undefined;
  #daemon: Host | undefined;
  /** The socket that was there when nobody answered: another one is a daemon's. */
  #left: string | undefined;
  #isInGroup = false;

  constructor(options: AnyHostOptions) {
    this.#options = options;
    this.#socket = daemonPaths(options).socket;
    const table = (names: readonly string[], of: (host: Host) => object) =>
      Object.fromEntries(names.map((name) => [name, (...args: unknown[]) => this.#call(name, of, args)]));
    this.host = {
      ...(table(METHOD_NAMES, (host) => host) as unknown as Omit<Host, "plan" | "close">),
      plan: table(PLAN_NAMES, (host) => host.plan) as unknown as HostPlans,
      close: async () => {
        await this.#own?.close();
        await this.#daemon?.close();
      },
    };
  }

  async open(): Promise<Host> {
    const present = this.#daemon ?? (await this.#connect());
    if (present !== undefined) return present;
    this.#own ??= await openHost({ ...this.#options, onWait: () => this.#look() });
    return this.#own;
  }

  async #connect(): Promise<Host | undefined> {
    const there = socketIdentity(this.#socket);
    if (there === undefined || there === this.#left) return undefined;
    const { connectHost } = await import("./daemon/rpc-host.js");
    this.#daemon = await connectHost(this.#options);
    this.#left = this.#daemon === undefined ? there : undefined;
    return this.#daemon;
  }

  /** While the state's lock is waited for. */
  #look(): void {
    const there = socketIdentity(this.#socket);
    if (there !== undefined && there !== this.#left) throw new DaemonAppeared();
  }

  async #call(name: string, of: (host: Host) => object, args: readonly unknown[]): Promise<unknown> {
    for (;;) {
      const host = this.#isInGroup ? (this.#daemon ?? this.#own!) : await this.open();
      try {
        const result = await (of(host) as Readonly<Record<string, Method>>)[name]!(...args);
        if (name === "begin") this.#isInGroup = true;
        return result;
      } catch (error) {
        if (this.#isInGroup) throw error;
        // One that is just ending begins nothing: whoever comes waits for the lock instead.
        const isEnding = host === this.#daemon && codeOf(error) === "EAGAIN";
        if (isEnding) await this.#daemon?.close();
        if (isEnding || (await isGone(error))) this.#daemon = undefined;
        else if (!(error instanceof DaemonAppeared)) throw error;
      } finally {
        if (name === "commit" || name === "undo") this.#isInGroup = false;
      }
    }
  }
}

async function isGone(error: unknown): Promise<boolean> {
  return error instanceof Error && error instanceof (await import("./daemon/rpc-host.js")).DaemonGone;
}
