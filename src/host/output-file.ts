/**
 * A file that a tool writes from front to back. A regular one is written beside and takes its name when it is whole, so
 * that what is cut off leaves nothing half-written; pipes and devices are written as they are.
 */
import {
  accessSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  openSync,
  type Stats,
  statSync,
  writeSync,
} from "node:fs";
import { StateError } from "../errors/index.js";
import { Claims, systemError } from "../io/index.js";
import { PartFile, placeOf } from "./part-file.js";

/** What others may do with a new one is left to the umask. */
const MODE = 0o666;
const PERMISSIONS = 0o777;

export class OutputFile implements Disposable {
  readonly path: string;
  /** Where it is written until it is whole; undefined for what is no regular file. */
  readonly #part: PartFile | undefined;
  #fd: number | undefined;

  /** @throws StateError EBUSY, EACCES, ENOENT, EINVAL; IoError */
  constructor(path: string) {
    this.path = path;
    const place = placeOf(path);
    const present = statSync(path, { throwIfNoEntry: false });
    if (present?.isDirectory() === true) throw new StateError("EINVAL", `${path}: is a folder`);
    // What somebody has in use, or has mounted, is not written over.
    if (present?.isFile() === true || present?.isBlockDevice() === true) {
      new Claims().claim({ path, role: "output" }).release();
    }
    if (place !== undefined && (present === undefined || present.isFile())) {
      this.#part = partFor(path, place, present);
      this.#fd = this.#part.fd;
      return;
    }
    try {
      this.#fd = openSync(path, constants.O_WRONLY | (present?.isFile() === true ? constants.O_APPEND : 0));
    } catch (error) {
      throw systemError(error, `${path}: cannot be written`);
    }
  }

  write(piece: Uint8Array): void {
    try {
      for (let done = 0; done < piece.length; ) done += writeSync(this.#fd!, piece, done);
    } catch (error) {
      throw systemError(error, `${this.path}: cannot be written`);
    }
  }

  /** Durable, and under its name, when it returns. */
  finish(): void {
    const fd = this.#fd;
    if (fd === undefined) return;
    if (this.#part !== undefined) {
      this.#part.finish();
      this.#fd = undefined;
      return;
    }
    this.#fd = undefined;
    try {
      closeSync(fd);
    } catch (error) {
      throw systemError(error, `${this.path}: cannot be written`);
    }
  }

  /** Takes away what was not finished. */
  [Symbol.dispose](): void {
    if (this.#fd === undefined) return;
    if (this.#part === undefined) closeSync(this.#fd);
    this.#part?.drop();
    this.#fd = undefined;
  }
}

/** A file that is replaced keeps its owner and its permissions; one that must not be written is not replaced. */
function partFor(path: string, place: string, present: Stats | undefined): PartFile {
  try {
    if (present !== undefined) accessSync(place, constants.W_OK);
  } catch (error) {
    throw systemError(error, `${path}: cannot be written`);
  }
  const part = new PartFile(place, present === undefined ? MODE : MODE & present.mode);
  if (present === undefined) return part;
  try {
    fchownSync(part.fd, present.uid, present.gid);
  } catch {
    // Only root can give files away.
  }
  try {
    fchmodSync(part.fd, present.mode & PERMISSIONS);
  } catch {
    // A file system without permissions.
  }
  return part;
}
