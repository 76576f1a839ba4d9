/**
 * The host a command works with: that of the daemon, where one has the state dir, else one in its own process. A daemon that
 * appears while the own one waits for the state's lock takes over: nothing was done yet, so the same call goes to it.
 */
import { statSync } from "node:fs";
import { METHOD_NAMES, PLAN_NAMES } from "./daemon/methods.js";
import { daemonPaths } from "./daemon/socket-path.js";
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
  const { socket } = daemonPaths(options);
  const isThere = () => statSync(socket, { throwIfNoEntry: false }) !== undefined;
  const served = isThere() ? await connect(options) : undefined;
  if (served !== undefined) return served;
  // A socket that nobody answers on says nothing; another one does.
  const left = inodeOf(socket);
  const appeared = () => {
    const inode = inodeOf(socket);
    return inode !== undefined && inode !== left;
  };
  const own = await openHost({
    ...options,
    onWait: () => {
      if (appeared()) throw new DaemonAppeared();
    },
  });
  return new TakeOver(own, () => connect(options)).host;
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino;
}

async function connect(options: AnyHostOptions): Promise<Host | undefined> {
  const { connectHost } = await import("./daemon/rpc-host.js");
  return connectHost(options);
}

class DaemonAppeared extends Error {}

type Method = (...args: readonly unknown[]) => Promise<unknown>;

class TakeOver {
  readonly host: Host;
  readonly #own: Host;
  readonly #connect: () => Promise<Host | undefined>;
  #daemon: Host | undefined;

  constructor(own: Host, connectAgain: () => Promise<Host | undefined>) {
    this.#own = own;
    this.#connect = connectAgain;
    const table = (names: readonly string[], of: (host: Host) => object) =>
      Object.fromEntries(names.map((name) => [name, (...args: unknown[]) => this.#call(name, of, args)]));
    this.host = {
      ...(table(METHOD_NAMES, (host) => host) as unknown as Omit<Host, "plan" | "close">),
      plan: table(PLAN_NAMES, (host) => host.plan) as unknown as HostPlans,
      close: async () => {
        await this.#own.close();
        await this.#daemon?.close();
      },
    };
  }

  async #call(name: string, of: (host: Host) => object, args: readonly unknown[]): Promise<unknown> {
    const run = (host: Host) => (of(host) as Readonly<Record<string, Method>>)[name]!(...args);
    for (;;) {
      if (this.#daemon !== undefined) return run(this.#daemon);
      try {
        return await run(this.#own);
      } catch (error) {
        if (!(error instanceof DaemonAppeared)) throw error;
        this.#daemon = await this.#connect();
      }
    }
  }
}
