/** Where a daemon listens: in the run dir, one socket for each state dir. */
import { createHash } from "node:crypto";
import { chmodSync, closeSync, constants, openSync, realpathSync, statSync } from "node:fs";
import type { Socket } from "node:net";
import { basename, dirname, join, resolve } from "node:path";
import { codeOf, StateError } from "../../errors/index.js";
import { makeFolder, systemError } from "../../io/index.js";

/** Longest path in a socket's address on Linux, with its ending zero. */
const MAX_ADDRESS_BYTES = 108;

export interface DaemonPaths {
  readonly socket: string;
  /** What it says while it runs in the background. */
  readonly log: string;
}

export function daemonPaths({ stateDir, runDir }: { readonly stateDir: string; readonly runDir: string }): DaemonPaths {
  const key = createHash("sha256").update(realPath(stateDir)).digest("hex").slice(0, 12);
  return { socket: join(runDir, `daemon-${key}.sock`), log: join(runDir, `daemon-${key}.log`) };
}

/** The same folder has one name, whatever links lead to it, before and after it is made. */
function realPath(path: string): string {
  const absolute = resolve(path);
  try {
    return realpathSync(absolute);
  } catch (error) {
    const parent = dirname(absolute);
    if (codeOf(error) !== "ENOENT" || parent === absolute) return absolute;
    return join(realPath(parent), basename(absolute));
  }
}

/** Which socket lies at a path; undefined when none does. Another daemon's is another one. */
export function socketIdentity(path: string): string | undefined {
  try {
    const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
    return stat === undefined ? undefined : `${stat.dev}:${stat.ino}:${stat.ctimeNs}`;
  } catch (error) {
    throw systemError(error, `${path}: cannot be looked for`);
  }
}

/** Makes the run dir for this user alone. @throws StateError EPERM when it is somebody else's, or open to others */
export function makeRunDir(runDir: string): void {
  try {
    makeFolder(runDir, 0o700);
  } catch (error) {
    throw systemError(error, `run folder ${runDir}: cannot be made`);
  }
  const { uid, mode } = statSync(runDir);
  const own = process.geteuid?.() ?? uid;
  if (uid !== own && uid !== 0) {
    throw new StateError("EPERM", `run folder ${runDir} belongs to user ${uid}, not to ${own}`, {
      hint: "set UDM_RUN_DIR to a folder of your own",
    });
  }
  if ((mode & 0o022) === 0) return;
  if (uid === own) return chmodSync(runDir, mode & 0o755);
  throw new StateError("EPERM", `run folder ${runDir} can be written by others`, {
    hint: "set UDM_RUN_DIR to a folder of your own",
  });
}

/**
 * An address for a path of any length: a long one goes through the folder's descriptor.
 * @returns the address, and what lets go of it once it was used
 */
export function socketAddress(path: string): { readonly address: string; done(): void } {
  if (Buffer.byteLength(path) < MAX_ADDRESS_BYTES) return { address: path, done() {} };
  const fd = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  return { address: `/proc/self/fd/${fd}/${basename(path)}`, done: () => closeSync(fd) };
}

/** Descriptor of a socket, where node tells it. */
export function descriptorOf(socket: Socket): number | undefined {
  const handle: unknown = "_handle" in socket ? socket._handle : undefined;
  const fd = typeof handle === "object" && handle !== null && "fd" in handle ? handle.fd : undefined;
  return typeof fd === "number" && fd >= 0 ? fd : undefined;
}
