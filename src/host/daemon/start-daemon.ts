/** Starting a daemon in the background, and waiting for one to end. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { StateFile } from "../../device-registry/index.js";
import { codeOf, IoError, messageOf, StateError } from "../../errors/index.js";
import type { DaemonInfo, Host } from "../host.js";
import { errorFromPlain, type PlainError } from "./protocol.js";
import { type ConnectOptions, connectHost } from "./rpc-host.js";
import { daemonPaths, makeRunDir } from "./socket-path.js";

export interface StartOptions extends ConnectOptions {
  /** Words that run this program's daemon in the foreground, which tells on descriptor 3 how it went. */
  readonly program: readonly string[];
}

/** A daemon's first words on descriptor 3. */
export type Readiness = { readonly ready: true } | { readonly ready: false; readonly error: PlainError };

const START_MS = 60_000;
const MAX_LOG_BYTES = 4 * 2 ** 20;
const PAUSE_MS = 20;

/**
 * The host of the daemon, which is started where none runs.
 * @throws StateError EBUSY when a command holds the state for longer than it may be waited for; what the daemon could not do
 */
export async function daemonHost(
  options: StartOptions,
): Promise<{ readonly host: Host; readonly wasStarted: boolean }> {
  for (let tries = 0; ; tries++) {
    const host = await connectHost(options);
    if (host !== undefined) return { host, wasStarted: tries > 0 };
    if (tries === 3) {
      throw new IoError("EIO", "a daemon was started, and ended again", {
        hint: `its last words are in ${daemonPaths(options).log}`,
      });
    }
    try {
      await startDaemon(options);
    } catch (error) {
      // Somebody else may have been faster: then theirs is used.
      const other = await connectHost(options);
      if (other === undefined) throw error;
      return { host: other, wasStarted: false };
    }
  }
}

async function startDaemon(options: StartOptions): Promise<void> {
  makeRunDir(options.runDir);
  const log = openLog(daemonPaths(options).log);
  const [program, ...words] = options.program as [string, ...string[]];
  let child: ChildProcess;
  try {
    child = spawn(program, words, { cwd: "/", detached: true, stdio: ["ignore", log, log, "pipe"] });
  } finally {
    closeSync(log);
  }
  try {
    const readiness = await firstWords(child);
    if (!readiness.ready) throw errorFromPlain(readiness.error);
  } finally {
    const pipe = child.stdio[3];
    if (pipe != null) pipe.destroy();
    child.unref();
  }
}

function openLog(path: string): number {
  const fd = openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o600);
  if (fstatSync(fd).size > MAX_LOG_BYTES) ftruncateSync(fd, 0);
  return fd;
}

function firstWords(child: ChildProcess): Promise<Readiness> {
  return new Promise((resolve, reject) => {
    let text = "";
    const timer = setTimeout(() => {
      reject(new IoError("ETIMEDOUT", `the daemon (process ${child.pid}) does not get ready`, { hint: "try again" }));
    }, START_MS);
    const end = (run: () => void) => {
      clearTimeout(timer);
      run();
    };
    child.once("error", (error) =>
      end(() => reject(new IoError("EIO", `the daemon cannot be started: ${messageOf(error)}`, { cause: error }))),
    );
    const pipe = child.stdio[3] as NodeJS.ReadableStream;
    pipe.setEncoding("utf8");
    pipe.on("data", (part: string) => {
      text += part;
    });
    pipe.on("error", () => undefined);
    pipe.on("end", () =>
      end(() => {
        try {
          resolve(JSON.parse(text) as Readiness);
        } catch {
          reject(new IoError("EIO", "the daemon ended before it was ready", { hint: "udm daemon start --foreground" }));
        }
      }),
    );
  });
}

/** Asks the daemon to end and waits until it has. @returns what it was; undefined when none ran */
export async function endDaemon(
  options: ConnectOptions & { readonly waitMs: number },
): Promise<DaemonInfo | undefined> {
  const host = await connectHost(options);
  if (host === undefined) {
    await removeStale(options);
    return undefined;
  }
  const info = await host.daemonInfo();
  await host.stopDaemon();
  await host.close();
  if (info === undefined) return undefined;
  const until = performance.now() + options.waitMs;
  while (isAlive(info)) {
    if (performance.now() > until) {
      throw new StateError("EBUSY", `the daemon (process ${info.pid}) has not ended after ${options.waitMs / 1000} s`, {
        hint: "something it serves may be in use: udm daemon status",
      });
    }
    await sleep(PAUSE_MS);
  }
  return info;
}

/** It has given everything back once its socket is gone and its process too. */
function isAlive({ pid, socket }: DaemonInfo): boolean {
  if (statSync(socket, { throwIfNoEntry: false }) !== undefined) return true;
  try {
    // The state stands behind the name, which may hold anything. A process that nobody has waited for yet has ended.
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat[stat.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}

/**
 * Takes away a socket that a killed daemon left, which nobody answers on. @returns whether there was one. Who has the
 * state's lock knows that no daemon is just coming up.
 */
export async function removeStale(options: { readonly stateDir: string; readonly runDir: string }): Promise<boolean> {
  const { socket } = daemonPaths(options);
  if (statSync(socket, { throwIfNoEntry: false }) === undefined) return false;
  try {
    using _lock = await new StateFile(options.stateDir).lock({ timeoutMs: 0, purpose: "daemon status" });
    rmSync(socket, { force: true });
    return true;
  } catch (error) {
    if (codeOf(error) === "EBUSY" || codeOf(error) === "EACCES") return false;
    throw error;
  }
}
