/**
 * The file that new content is written into before it takes its name: `NAME.PID.part`, beside NAME. It is locked while it
 * is written, so that what a killed process left can be told from what is being written, and is cleared away by the next
 * who writes to the same name.
 *
 * A name that is a symbolic link means what it leads to: the link stays, and a link to nothing gets its target made.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { codeOf, StateError } from "../errors/index.js";
import { flushFolder, nativeCalls, systemError } from "../io/index.js";

/** As many as Linux follows. */
const MAX_LINKS = 40;

export class PartFile {
  /** What it becomes. */
  readonly place: string;
  readonly path: string;
  readonly fd: number;
  #isOpen = true;

  /**
   * @param place no symbolic link: see `placeOf`
   * @throws StateError EACCES, ENOENT, EEXIST; SpaceError; IoError
   */
  constructor(place: string, mode: number) {
    if (isAmongDevices(place)) {
      throw new StateError("ENOENT", `${place}: no such device, and no place for a file`, { hint: "check the name" });
    }
    this.place = place;
    this.path = `${place}.${process.pid}.part`;
    clearLeftovers(place);
    try {
      this.fd = openSync(this.path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, mode);
    } catch (error) {
      throw systemError(error, `${place}: cannot be written`);
    }
    tryLock(this.fd);
  }

  /** Durable, and under its name, when it returns. */
  finish(): void {
    if (!this.#isOpen) return;
    try {
      fsyncSync(this.fd);
      renameSync(this.path, this.place);
      this.#close();
      flushFolder(dirname(this.place));
    } catch (error) {
      throw systemError(error, `${this.place}: cannot be written`);
    }
  }

  /** Takes it away, unless it is finished. */
  drop(): void {
    if (!this.#isOpen) return;
    rmSync(this.path, { force: true });
    this.#close();
  }

  #close(): void {
    this.#isOpen = false;
    closeSync(this.fd);
  }
}

/** A name that is mistyped, or a link to a device that has gone, does not become a file there. */
export function isAmongDevices(place: string): boolean {
  const path = resolve(place);
  return path.startsWith("/dev/") && !path.startsWith("/dev/shm/");
}

/**
 * Where a path leads through symbolic links; what is there need not exist.
 * @returns undefined for what is no name in a folder: a descriptor of a process, as /dev/stdout is
 * @throws StateError ELOOP, ENOENT, EACCES for a folder on the way
 */
export function placeOf(path: string): string | undefined {
  let place = path;
  for (let links = 0; links <= MAX_LINKS; links++) {
    try {
      if (lstatSync(place, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return place;
      // A link is relative to the folder that it lies in, not to the one it was reached by.
      const folder = realpathSync(dirname(place));
      if (/^\/proc\/.*\/fd$/.test(folder)) return undefined;
      place = resolve(folder, readlinkSync(place));
    } catch (error) {
      throw systemError(error, `${path}: cannot be written`);
    }
  }
  throw new StateError("EINVAL", `${path}: too many symbolic links, or links that lead to each other`, {
    hint: "name the file itself",
  });
}

/** What is left of those who wrote to the same name and were killed. Whatever speaks against it, it is left alone. */
function clearLeftovers(place: string): void {
  const folder = dirname(place);
  const begin = `${basename(place)}.`;
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return;
  }
  for (const name of names) {
    if (!name.startsWith(begin)) continue;
    const pid = /^([1-9]\d*)\.part$/.exec(name.slice(begin.length))?.[1];
    if (pid !== undefined && !isOther(Number(pid))) clearLeftover(join(folder, name));
  }
}

function clearLeftover(path: string): void {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stat = fstatSync(fd);
    if (stat.isFile() && stat.uid === process.geteuid?.() && tryLock(fd)) rmSync(path, { force: true });
  } catch {
    // Somebody else's, or gone meanwhile.
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Another process that runs. */
function isOther(pid: number): boolean {
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) !== "ESRCH";
  }
}

/** @returns false when somebody has it locked, or nobody can tell */
function tryLock(fd: number): boolean {
  try {
    return nativeCalls()?.flock(fd, "exclusive") === true;
  } catch {
    return false;
  }
}
