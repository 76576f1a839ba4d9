/**
 * The synchronous side of a device opened with O_DIRECT: memory, offset and length of every transfer at multiples of
 * the alignment. Everything goes through one aligned buffer; what does not begin or end at the alignment is read,
 * changed and written back. The tail of a file that ends between two multiples goes through the page cache: a direct
 * write of the last whole unit would make the file longer.
 */
import { fstatSync, readSync, writeSync } from "node:fs";
import type { Backing } from "./backing.js";
import { FileIo, type FileIoOptions } from "./file-io.js";
import { checkRange, refuseReadOnly } from "./range.js";

const BOUNCE_BYTES = 1024 * 1024;

export interface DirectIoOptions extends FileIoOptions {
  /** The same file, opened without O_DIRECT. */
  readonly cached: Backing;
  /** A power of two from 512 to 1 MiB. */
  readonly alignmentBytes: number;
  /** Page-aligned memory of BOUNCE_BYTES. */
  readonly bounce: Uint8Array;
}

export class DirectIo extends FileIo {
  static readonly bounceBytes = BOUNCE_BYTES;
  #cachedFd: number;
  readonly #alignment: number;
  readonly #bounce: Uint8Array;

  constructor(options: DirectIoOptions) {
    super(options);
    this.#cachedFd = options.cached.fd;
    this.#alignment = options.alignmentBytes;
    this.#bounce = options.bounce;
  }

  override detach(): void {
    super.detach();
    this.#cachedFd = this.fd;
  }

  override read(offset: number, buffer: Uint8Array): void {
    checkRange(this.name, this.sizeBytes, offset, buffer.length);
    this.#inWindows(offset, buffer.length, (window, inWindow, done, count) => {
      if (!this.#fill(window)) return this.#cached("read", offset, buffer, done, count);
      buffer.set(this.#bounce.subarray(inWindow, inWindow + count), done);
    });
  }

  override write(offset: number, buffer: Uint8Array): void {
    checkRange(this.name, this.sizeBytes, offset, buffer.length);
    if (this.backing.isReadOnly) refuseReadOnly(this.name);
    this.willChange(offset, buffer.length);
    this.#inWindows(offset, buffer.length, (window, inWindow, done, count) => {
      if (this.#passesEnd(window)) return this.#cached("write", offset, buffer, done, count);
      const isWhole = count === window.length;
      if (!isWhole && !this.#fill(window)) return this.#cached("write", offset, buffer, done, count);
      this.#bounce.set(buffer.subarray(done, done + count), inWindow);
      this.#drain(window);
    });
  }

  /** Cuts a transfer into aligned windows of at most the bounce buffer. */
  #inWindows(
    offset: number,
    length: number,
    act: (window: { at: number; length: number }, inWindow: number, done: number, count: number) => void,
  ): void {
    const unit = this.#alignment;
    for (let done = 0; done < length; ) {
      const at = this.base + offset + done;
      const inWindow = at % unit;
      const count = Math.min(BOUNCE_BYTES - inWindow, length - done);
      const window = { at: at - inWindow, length: Math.ceil((inWindow + count) / unit) * unit };
      act(window, inWindow, done, count);
      done += count;
    }
  }

  /** Reads a window into the bounce buffer. @returns false when it is not there in full */
  #fill({ at, length }: { at: number; length: number }): boolean {
    let done = 0;
    while (done < length) {
      let count: number;
      try {
        count = readSync(this.fd, this.#bounce, done, length - done, at + done);
      } catch (error) {
        throw this.failure("read", at - this.base, length, error);
      }
      done += count;
      // A short transfer that is not aligned ends at the end of the file; going on from there is not allowed.
      if (count === 0 || done % this.#alignment !== 0) return done >= length;
    }
    return true;
  }

  #drain({ at, length }: { at: number; length: number }): void {
    for (let done = 0; done < length; ) {
      try {
        done += writeSync(this.fd, this.#bounce, done, length - done, at + done);
      } catch (error) {
        throw this.failure("write", at - this.base, length, error);
      }
    }
  }

  #passesEnd({ at, length }: { at: number; length: number }): boolean {
    if (this.backing.kind !== "file") return false;
    try {
      return at + length > fstatSync(this.fd).size;
    } catch (error) {
      throw this.failure("write", at - this.base, length, error);
    }
  }

  #cached(what: "read" | "write", offset: number, buffer: Uint8Array, from: number, count: number): void {
    for (let done = 0; done < count; ) {
      let moved: number;
      try {
        const at = this.base + offset + from + done;
        moved =
          what === "read"
            ? readSync(this.#cachedFd, buffer, from + done, count - done, at)
            : writeSync(this.#cachedFd, buffer, from + done, count - done, at);
      } catch (error) {
        throw this.failure(what, offset, buffer.length, error);
      }
      if (moved === 0) throw this.truncated(offset, buffer.length);
      done += moved;
    }
  }
}
