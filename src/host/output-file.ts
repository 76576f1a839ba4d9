/**
 * A file that a tool writes from front to back. A regular one is written beside and takes its name when it is whole, so
 * that what is cut off leaves nothing half-written; pipes and devices are written as they are.
 */
import { closeSync, constants, fsyncSync, openSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { StateError } from "../errors/index.js";
import { Claims, flushFolder, systemError } from "../io/index.js";

/** What others may do with it is left to the umask. */
const MODE = 0o666;

export class OutputFile implements Disposable {
  readonly path: string;
  /** Where it is written until it is whole; undefined for what is no regular file. */
  readonly #fresh: string | undefined;
  #fd: number | undefined;

  /** @throws StateError EBUSY, EACCES, ENOENT, EINVAL; IoError */
  constructor(path: string) {
    this.path = path;
    const present = statSync(path, { throwIfNoEntry: false });
    if (present?.isDirectory() === true) throw new StateError("EINVAL", `${path}: is a folder`);
    // What somebody has in use, or has mounted, is not written over.
    if (present?.isFile() === true || present?.isBlockDevice() === true) {
      new Claims().claim({ path, role: "output" }).release();
    }
    this.#fresh = present === undefined || present.isFile() ? `${path}.${process.pid}.part` : undefined;
    try {
      const flags = this.#fresh === undefined ? constants.O_WRONLY : constants.O_WRONLY | constants.O_CREAT;
      this.#fd = openSync(this.#fresh ?? path, this.#fresh === undefined ? flags : flags | constants.O_EXCL, MODE);
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
    try {
      if (this.#fresh !== undefined) fsyncSync(fd);
      closeSync(fd);
      this.#fd = undefined;
      if (this.#fresh === undefined) return;
      renameSync(this.#fresh, this.path);
      flushFolder(dirname(this.path));
    } catch (error) {
      throw systemError(error, `${this.path}: cannot be written`);
    }
  }

  /** Takes away what was not finished. */
  [Symbol.dispose](): void {
    if (this.#fd === undefined) return;
    closeSync(this.#fd);
    this.#fd = undefined;
    if (this.#fresh !== undefined) rmSync(this.#fresh, { force: true });
  }
}
