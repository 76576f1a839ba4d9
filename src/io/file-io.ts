/**
 * The synchronous side of a file or block device: whole transfers, holes, flushes.
 *
 * Reads and writes are single system calls into the caller's buffer; nothing is allocated on the way. What is known of a
 * file's holes is kept (KnownRegions), learnt by SEEK_DATA when somebody asks and kept true by our own writes. It holds
 * as long as nobody else writes to the file, which is what claims are for.
 *
 * A flush that failed is never followed by one that succeeds: the kernel reports a lost write once and then forgets it,
 * so a later success would vouch for bytes that are gone.
 */
import { fdatasync, fdatasyncSync, fstatSync, futimesSync, readSync, statfsSync, writeSync } from "node:fs";
import { promisify } from "node:util";
import { codeOf, IoError, SpaceError, type UdmError } from "../errors/index.js";
import { type Backing, backingBytes } from "./backing.js";
import type { SyncIo } from "./block-device.js";
import { errnoError, systemError } from "./errno.js";
import { KnownRegions } from "./known-regions.js";
import type { FileRange, Native } from "./native.js";
import { checkRange, refuseReadOnly } from "./range.js";
import { runSync } from "./run.js";
import { freeBytes } from "./sparse-file.js";

/** Source of zeros where a device cannot make them itself. */
const ZERO_CHUNK_BYTES = 1024 * 1024;
/** After so many bytes written one behind the other, the kernel is told to begin writing them back. */
const STREAK_BYTES = 8 * 1024 * 1024;
/**
 * Served files are written in pieces of this size on ext4, which keeps what is written at once in one folio of the page cache
 * and walks through all blocks of it at each later write: measured, a 4 KiB write costs 0.8 us in a folio of 4 KiB, 1.2 of
 * 16 KiB, 2.5 of 64 to 256 KiB, 7 of 1 MiB.
 */
const SERVED_PIECE_BYTES = 16 * 1024;
/** statfs(2)'s word for ext2, ext3 and ext4. */
const EXT4_MAGIC = 0xef53;
/** A descriptor that is never open: after close, a number that somebody else may get must not be used. */
const CLOSED_FD = 0x7fffffff;
let zeroChunk: Uint8Array | undefined;
const syncData = promisify(fdatasync);

export interface FileIoOptions {
  readonly name: string;
  readonly backing: Backing;
  readonly offsetBytes: number;
  readonly native: Native | undefined;
  readonly isServing: boolean;
}

export class FileIo implements SyncIo {
  readonly name: string;
  fd: number;
  readonly base: number;
  readonly backing: Backing;
  readonly native: Native | undefined;
  /** Bytes from `base` on that belong to the device. */
  sizeBytes = 0;
  /** Something may be in caches that a flush would write; true at first, for what earlier processes left. */
  #isDirty = true;
  readonly #known = new KnownRegions();
  #flushFailure: UdmError | undefined;
  /** Settles, and never rejects, when the flush under way in the pool is done. */
  #flushing: Promise<void> | undefined;
  #canPunch: boolean | undefined;
  /** Where the present run of writes, each behind the last, began and ends, and how much of it is not on its way yet. */
  #streakEnd = -1;
  readonly #writesBackEarly: boolean;
  #streakBytes = 0;
  /** No single write is longer. */
  readonly #pieceBytes: number;

  constructor({ name, backing, offsetBytes, native, isServing }: FileIoOptions) {
    this.#writesBackEarly = !isServing;
    this.#pieceBytes = isServing && isOnExt4(backing) ? SERVED_PIECE_BYTES : Number.POSITIVE_INFINITY;
    this.name = name;
    this.fd = backing.fd;
    this.base = offsetBytes;
    this.backing = backing;
    this.native = native;
  }

  read(offset: number, buffer: Uint8Array): void {
    const length = buffer.length;
    checkRange(this.name, this.sizeBytes, offset, length);
    let done: number;
    try {
      done = readSync(this.fd, buffer, 0, length, this.base + offset);
    } catch (error) {
      throw this.failure("read", offset, length, error);
    }
    if (done !== length) this.#readRest(offset, buffer, done);
  }

  write(offset: number, buffer: Uint8Array): void {
    const length = buffer.length;
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.backing.isReadOnly) refuseReadOnly(this.name);
    this.willChange(offset, length);
    const isWhole = length <= this.#pieceBytes;
    for (let done = 0; done < length; ) {
      const at = this.base + offset + done;
      const count = isWhole ? length - done : Math.min(length - done, this.#pieceBytes - (at % this.#pieceBytes));
      try {
        done += writeSync(this.fd, buffer, done, count, at);
      } catch (error) {
        throw this.failure("write", offset, length, error);
      }
    }
    this.wrote(offset, length);
  }

  flush(): void {
    // While one is under way in the pool, this one waits in the kernel for the same pages.
    if (!this.#beginFlush() && this.#flushing === undefined) return;
    try {
      fdatasyncSync(this.fd);
    } catch (error) {
      throw this.#flushFailed(error);
    }
  }

  /**
   * One at a time: the kernel reports a lost write to one flush only, so whoever comes while one is under way waits for
   * its outcome, and then flushes only what was written since.
   */
  async flushInPool(): Promise<void> {
    while (this.#flushing !== undefined) await this.#flushing;
    if (!this.#beginFlush()) return;
    let failure: UdmError | undefined;
    this.#flushing = syncData(this.fd).catch((error: unknown) => {
      failure = this.#flushFailed(error);
    });
    await this.#flushing;
    this.#flushing = undefined;
    if (failure !== undefined) throw failure;
  }

  /** A hole is punched in a file; a block device is told. Where neither is possible nothing happens. */
  discard(offset: number, length: number): void {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.backing.isReadOnly) refuseReadOnly(this.name);
    if (length === 0) return;
    if (this.backing.kind === "file") this.#punch(offset, length);
    else this.#discardBlocks(offset, length);
  }

  writeZeroes(offset: number, length: number): void {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.backing.isReadOnly) refuseReadOnly(this.name);
    if (length === 0) return;
    if (this.backing.kind === "file") {
      if (this.knownZeroes(offset, length) === length) return;
      if (!this.#punch(offset, length)) this.#writeZeroBytes(offset, length);
      return;
    }
    this.#zeroBlocks(offset, length);
  }

  knownZeroes(offset: number, length: number): number {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.native === undefined || this.backing.kind !== "file") return 0;
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const region = this.#known.find(at) ?? this.#learn(at);
      if (region.kind === "data") break;
      at = region.end;
    }
    return Math.min(at, end) - offset;
  }

  /** Whether discards do something: asked of the file system once, with a hole beyond the end of the file. */
  canDiscard(): boolean {
    if (this.backing.isReadOnly) return false;
    if (this.backing.kind === "block") return this.backing.discardGranularityBytes > 0;
    this.#canPunch ??= this.#probePunch();
    return this.#canPunch;
  }

  /** To be called before bytes change: they are dirty, and no longer known to be zeros. */
  willChange(offset: number, length: number): void {
    this.#isDirty = true;
    this.#known.written(offset, offset + length);
  }

  /** Everything after this fails; the descriptor is the caller's to close. */
  detach(): void {
    this.fd = CLOSED_FD;
  }

  /**
   * To be called behind writes. Of a long stretch written in order the kernel begins to write back what there is, so that
   * disk and processor work at the same time and the flush at the end finds little to do.
   */
  wrote(offset: number, length: number): void {
    if (!this.#writesBackEarly) return;
    this.#streakBytes = offset === this.#streakEnd ? this.#streakBytes + length : length;
    this.#streakEnd = offset + length;
    if (this.#streakBytes < STREAK_BYTES || this.native === undefined) return;
    const start = this.base + this.#streakEnd - this.#streakBytes;
    try {
      this.native.startWriteback(this.fd, { offset: start, length: this.#streakBytes });
    } catch {
      // A wish, no more: what cannot be written the flush reports.
    }
    this.#streakBytes = 0;
  }

  /** What was known of holes may no longer hold. */
  forgetRegions(): void {
    this.#known.forget();
  }

  failure(what: string, offset: number, length: number, error: unknown): UdmError {
    const context = `${this.name}: ${what} of ${length} bytes at ${offset}`;
    const code = codeOf(error);
    if (code === undefined) return systemError(error, context);
    if (code !== "ENOSPC" && code !== "EDQUOT") return errnoError(code, context, undefined, error);
    const free = freeBytes(this.backing.path);
    const room = free === undefined ? "" : `${free} bytes are free there; `;
    const where =
      this.backing.kind === "file" ? `the file system of ${this.backing.path} is full` : "the device is full";
    return new SpaceError(`${context}: ${code === "EDQUOT" ? "disk quota exceeded" : "no space left on device"}`, {
      hint: `${where}: ${room}make room and try again`,
      cause: error,
    });
  }

  truncated(offset: number, length: number): IoError {
    const found = backingBytes(this.backing, this.native);
    const from = this.base + offset;
    return new IoError(
      "EIO",
      `${this.name}: truncated: wanted ${length} bytes at ${from}, ${this.backing.path} ends at ${found}`,
      { hint: "the file was cut off by somebody else; give it its old size back, what was cut off is lost" },
    );
  }

  /** @returns false when there is nothing to flush. @throws what an earlier flush failed with */
  #beginFlush(): boolean {
    if (this.#flushFailure !== undefined) {
      throw new IoError(
        this.#flushFailure.code,
        `${this.name}: an earlier flush failed, writes before it may be lost`,
        {
          cause: this.#flushFailure,
        },
      );
    }
    if (!this.#isDirty || this.backing.isReadOnly) return false;
    this.#isDirty = false;
    return true;
  }

  #flushFailed(error: unknown): UdmError {
    const failure = systemError(error, `${this.name}: flush`);
    this.#isDirty = true;
    this.#flushFailure = failure;
    return failure;
  }

  #readRest(offset: number, buffer: Uint8Array, got: number): void {
    for (let done = got; done < buffer.length; ) {
      let count: number;
      try {
        count = readSync(this.fd, buffer, done, buffer.length - done, this.base + offset + done);
      } catch (error) {
        throw this.failure("read", offset, buffer.length, error);
      }
      if (count === 0) throw this.truncated(offset, buffer.length);
      done += count;
    }
  }

  /** Asks for the stretch that begins at `at`, and remembers it. */
  #learn(at: number): { readonly end: number; readonly kind: "zeros" | "data" } {
    const native = this.native!;
    try {
      const data = native.seekData(this.fd, this.base + at);
      // Nothing but a hole up to the end of the file: the rest of the device, should the file be shorter, reads as an error.
      const dataAt = data === undefined ? Math.max(fstatSync(this.fd).size - this.base, at) : data - this.base;
      if (dataAt > at) {
        this.#known.note(at, dataAt, "zeros");
        return { end: dataAt, kind: "zeros" };
      }
      const hole = data === undefined ? undefined : native.seekHole(this.fd, this.base + at);
      const holeAt = hole === undefined ? this.sizeBytes : hole - this.base;
      this.#known.note(at, holeAt, "data");
      return { end: holeAt, kind: "data" };
    } catch {
      // A file system without such questions: all of it is data.
      this.#known.note(0, this.sizeBytes, "data");
      return { end: this.sizeBytes, kind: "data" };
    }
  }

  /** @returns whether [offset, offset + length) now is a hole */
  #punch(offset: number, length: number): boolean {
    if (this.#canPunch === false) return false;
    const range: FileRange = { offset: this.base + offset, length };
    this.#isDirty = true;
    try {
      if (this.native !== undefined) this.native.punchHole(this.fd, range);
      else this.#runOnFd("fallocate", ["--punch-hole", ...rangeArguments(range)]);
    } catch (error) {
      if (this.native === undefined || codeOf(error) === "EOPNOTSUPP") {
        this.#canPunch = false;
        return false;
      }
      throw this.failure("discard", offset, length, error);
    }
    this.#canPunch = true;
    if (this.native !== undefined) this.#known.note(offset, offset + length, "zeros");
    return true;
  }

  #probePunch(): boolean {
    const beyond = { offset: Math.ceil((this.base + this.sizeBytes) / 4096) * 4096 + 2 ** 30, length: 4096 };
    const { atime, mtime } = fstatSync(this.fd);
    try {
      if (this.native !== undefined) this.native.punchHole(this.fd, beyond);
      else this.#runOnFd("fallocate", ["--punch-hole", ...rangeArguments(beyond)]);
    } catch {
      return false;
    }
    try {
      // Nothing changed in the file; its time says so, where we may set it.
      futimesSync(this.fd, atime, mtime);
    } catch (error) {
      if (codeOf(error) !== "EPERM") throw this.failure("discard", 0, 0, error);
    }
    return true;
  }

  /** A discard of whole logical blocks inside the range; the rest keeps its bytes, as it may. */
  #discardBlocks(offset: number, length: number): void {
    if (this.backing.discardGranularityBytes === 0) return;
    const range = this.#wholeBlocks(offset, length);
    if (range === undefined) return;
    this.#isDirty = true;
    try {
      if (this.native !== undefined) this.native.discard(this.fd, range);
      else this.#runOnFd("blkdiscard", ["--force", ...rangeArguments(range)]);
    } catch (error) {
      if (this.native === undefined || codeOf(error) === "EOPNOTSUPP") return;
      throw this.failure("discard", offset, length, error);
    }
  }

  #zeroBlocks(offset: number, length: number): void {
    const range = this.#wholeBlocks(offset, length);
    if (range === undefined || this.native === undefined) {
      this.#writeZeroBytes(offset, length);
      return;
    }
    const before = range.offset - this.base - offset;
    const behind = length - before - range.length;
    this.#isDirty = true;
    try {
      this.native.zeroOut(this.fd, range);
    } catch (error) {
      if (codeOf(error) !== "EOPNOTSUPP") throw this.failure("zeroing", offset, length, error);
      this.#writeZeroBytes(offset, length);
      return;
    }
    if (before > 0) this.#writeZeroBytes(offset, before);
    if (behind > 0) this.#writeZeroBytes(offset + length - behind, behind);
  }

  /** The largest stretch of whole logical blocks in a range of the device, as offsets of the backing. */
  #wholeBlocks(offset: number, length: number): FileRange | undefined {
    const unit = this.backing.logicalBlockBytes;
    const start = Math.ceil((this.base + offset) / unit) * unit;
    const end = Math.floor((this.base + offset + length) / unit) * unit;
    return end > start ? { offset: start, length: end - start } : undefined;
  }

  #writeZeroBytes(offset: number, length: number): void {
    zeroChunk ??= new Uint8Array(ZERO_CHUNK_BYTES);
    for (let done = 0; done < length; done += ZERO_CHUNK_BYTES) {
      const count = Math.min(ZERO_CHUNK_BYTES, length - done);
      this.write(offset + done, count === ZERO_CHUNK_BYTES ? zeroChunk : zeroChunk.subarray(0, count));
    }
  }

  /** util-linux on our own descriptor, where the system call is out of reach. */
  #runOnFd(program: string, args: readonly string[]): void {
    runSync(program, [...args, `/proc/${process.pid}/fd/${this.fd}`]);
  }
}

function isOnExt4({ kind, path }: Backing): boolean {
  if (kind !== "file") return false;
  try {
    return statfsSync(path).type === EXT4_MAGIC;
  } catch {
    return false;
  }
}

function rangeArguments({ offset, length }: FileRange): string[] {
  return ["--offset", `${offset}`, "--length", `${length}`];
}
