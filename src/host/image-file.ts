/**
 * A regular file that an image is written into, front to back. What is not written stays a hole.
 *
 * Room is asked for ahead of the writes: the kernel then finds it once a stretch instead of page by page, which takes a
 * third off the time. What turns out to be zeros is given back; where that is much, nothing is asked for any more.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { IoError } from "../errors/index.js";
import { nativeCalls, systemError } from "../io/index.js";

/** How far ahead room is asked for, and how often it is decided whether that pays. */
const ALLOCATE_BYTES = 64 * 2 ** 20;
/** Not worth a system call below. */
const MIN_ALLOCATE_BYTES = 2 ** 20;
/** Share of what was allocated that may have been given back. */
const MAX_SPARSE_SHARE = 1 / 8;
const NEW_FILE_MODE = 0o660;

export class ImageFile implements Disposable {
  readonly path: string;
  readonly fd: number;
  readonly #native = nativeCalls();
  #allocates: boolean;
  #allocatedTo = 0;
  #allocatedBytes = 0;
  #returnedBytes = 0;
  #isClosed = false;

  /** Made, or emptied. @throws IoError, SpaceError */
  constructor(path: string, sizeBytes: number) {
    this.path = path;
    this.#allocates = this.#native !== undefined;
    try {
      this.fd = openSync(path, constants.O_RDWR | constants.O_CREAT, NEW_FILE_MODE);
    } catch (error) {
      throw systemError(error, `${path}: cannot be written`);
    }
    try {
      // Not when it is empty already: ext4 takes a truncation to nothing as a wish to have the file on disk when it is closed.
      if (fstatSync(this.fd).size > 0) ftruncateSync(this.fd, 0);
      ftruncateSync(this.fd, sizeBytes);
    } catch (error) {
      closeSync(this.fd);
      throw systemError(error, `${path}: cannot be written`);
    }
  }

  /** Data is about to come at `from`, in a stretch that ends at `to`; stretches are told in order. */
  expect(from: number, to: number): void {
    if (from < this.#allocatedTo) return;
    const length = Math.min(to - from, ALLOCATE_BYTES);
    if (!this.#allocates || length < MIN_ALLOCATE_BYTES) return;
    try {
      this.#native?.allocate(this.fd, { offset: from, length }, { keepSize: true });
      this.#allocatedTo = from + length;
      this.#allocatedBytes += length;
    } catch {
      // A file system that cannot, or has no room for all of it: the writes will tell.
      this.#allocates = false;
    }
  }

  /** `length` bytes of a buffer. @throws IoError, SpaceError */
  write(offset: number, buffer: Buffer, from: number, length: number): void {
    try {
      for (let done = 0; done < length; ) {
        const count = writeSync(this.fd, buffer, from + done, length - done, offset + done);
        if (count === 0) throw new IoError("EIO", `${this.path}: nothing could be written at ${offset + done}`);
        done += count;
      }
    } catch (error) {
      throw systemError(error, `${this.path}: cannot be written`);
    }
  }

  /** [from, to) was expected, but only zeros came: it becomes a hole again. */
  giveBack(from: number, to: number): void {
    if (from >= this.#allocatedTo) return;
    this.#returnedBytes += to - from;
    if (this.#returnedBytes > Math.max(ALLOCATE_BYTES, this.#allocatedBytes * MAX_SPARSE_SHARE))
      this.#allocates = false;
    try {
      this.#native?.punchHole(this.fd, { offset: from, length: to - from });
    } catch {
      // It reads as zeros all the same, it only takes room.
      this.#allocates = false;
    }
  }

  /** Closes the file; nothing is flushed. @throws IoError, SpaceError what the file system kept for now */
  finish(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    try {
      closeSync(this.fd);
    } catch (error) {
      throw systemError(error, `${this.path}: cannot be written`);
    }
  }

  [Symbol.dispose](): void {
    this.finish();
  }
}
