/**
 * Regular files and block devices as devices.
 *
 * The asynchronous side does small transfers at once, on the caller's thread: handing a 4 KiB read to libuv's threads
 * costs three to six times the read itself. From 1 MiB on a transfer takes longer than the hand-over, and a pipeline
 * that reads one file while it writes another gains from the second core; those go to the thread pool. So do flushes,
 * which wait for the disk.
 */
import { close as closeCallback, closeSync, read, statSync, write } from "node:fs";
import { promisify } from "node:util";
import { codeOf, IoError, StateError } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { type Backing, backingBytes, openBacking } from "./backing.js";
import type { BlockDevice, Extent, Located, SyncIo } from "./block-device.js";
import { DirectIo } from "./direct-io.js";
import { FileIo } from "./file-io.js";
import { type Native, nativeCalls } from "./native.js";
import { checkRange, refuseReadOnly } from "./range.js";
import { createSparseFile } from "./sparse-file.js";

export interface FileDeviceOptions {
  /** What messages call it; default the path. */
  readonly name?: string;
  readonly readOnly?: boolean;
  /** Where writing is not allowed, open for reading, as loop devices do. */
  readonly fallBackToReadOnly?: boolean;
  /** First byte of the device in the file, a multiple of 512. */
  readonly offsetBytes?: number;
  /** Most bytes the device may have; 0 no limit. */
  readonly sizeLimitBytes?: number;
  /** The size the device has whatever happens to the file; a file too short for it is refused. */
  readonly fixedSizeBytes?: number;
  /** Logical block size to report: 512, 1024, 2048 or 4096. Default: the block device's, 512 for files. */
  readonly sectorBytes?: number;
  /** Make the file with that many bytes, sparse, where there is none. */
  readonly createBytes?: number;
  /** Refuse a block device that anybody else holds (O_EXCL), and hold it. Files: see claims. */
  readonly exclusive?: boolean;
  /** O_DIRECT: past the page cache. */
  readonly direct?: boolean;
  /** Reads and writes of this size and more are done by another thread. Default 1 MiB. */
  readonly threadPoolBytes?: number;
  /**
   * For one who serves others, and expects small writes into what is in the page cache. Default false: long stretches are
   * sent on their way to the disk while they are written, which serves who writes much and then flushes.
   */
  readonly isServing?: boolean;
  /** System calls to use; default what the machine has. */
  readonly native?: Native | "none";
}

const DEFAULT_THREAD_POOL_BYTES = 1024 * 1024;
/** O_DIRECT needs at most this on any disk we know. */
const DIRECT_ALIGNMENT_BYTES = 4096;
const SECTOR_CHOICES: readonly number[] = [512, 1024, 2048, 4096];

const readAt = promisify(read);
const writeAt = promisify(write);
const closeFd = promisify(closeCallback);

export class FileDevice implements BlockDevice {
  readonly path: string;
  readonly name: string;
  readonly isReadOnly: boolean;
  readonly isBlockDevice: boolean;
  readonly logicalBlockBytes: number;
  readonly sync: SyncIo;
  readonly #io: FileIo;
  readonly #backing: Backing;
  readonly #options: FileDeviceOptions;
  readonly #cached: Backing | undefined;
  readonly #threadPoolBytes: number;
  #fixedSizeBytes: number | undefined;
  #isOpen = true;

  /**
   * @throws StateError ENOENT, EACCES, EBUSY (held by somebody else), EINVAL (a directory), ENOTBLK (a character
   * device); IoError EROFS (cannot be written), EINVAL (offset or sector size), EIO (shorter than promised); SpaceError
   */
  static open(path: string, options: FileDeviceOptions = {}): FileDevice {
    const { offsetBytes = 0, sizeLimitBytes = 0, sectorBytes } = options;
    if (offsetBytes % SECTOR_BYTES !== 0 || offsetBytes < 0) {
      throw new IoError("EINVAL", `${path}: offset ${offsetBytes} is not a multiple of ${SECTOR_BYTES} bytes`);
    }
    if (sizeLimitBytes < 0) throw new IoError("EINVAL", `${path}: size limit ${sizeLimitBytes} is negative`);
    if (sectorBytes !== undefined && !SECTOR_CHOICES.includes(sectorBytes)) {
      throw new IoError("EINVAL", `${path}: sector size ${sectorBytes} is not one of ${SECTOR_CHOICES.join(", ")}`);
    }
    if (options.createBytes !== undefined) createWhereMissing(path, options.createBytes);
    return new FileDevice(path, options);
  }

  private constructor(path: string, options: FileDeviceOptions) {
    this.path = path;
    this.name = options.name ?? path;
    this.#options = options;
    this.#fixedSizeBytes = options.fixedSizeBytes;
    this.#threadPoolBytes = options.threadPoolBytes ?? DEFAULT_THREAD_POOL_BYTES;
    const native = options.native === "none" ? undefined : (options.native ?? nativeCalls());
    const direct = options.direct ?? false;
    const how = {
      readOnly: options.readOnly ?? false,
      fallBackToReadOnly: options.fallBackToReadOnly ?? false,
      exclusive: options.exclusive ?? false,
      native,
    };
    if (direct && native === undefined) {
      throw new IoError("EOPNOTSUPP", `${path}: direct I/O needs aligned memory, which is not to be had here`, {
        hint: "open it without direct I/O",
      });
    }
    const backing = openBacking(path, { ...how, direct });
    this.#backing = backing;
    this.isReadOnly = backing.isReadOnly;
    this.isBlockDevice = backing.kind === "block";
    this.logicalBlockBytes = Math.max(options.sectorBytes ?? 0, backing.logicalBlockBytes);
    const { offsetBytes = 0, isServing = false } = options;
    const ioOptions = { name: this.name, backing, offsetBytes, native, isServing };
    try {
      if (direct) {
        this.#cached = openBacking(path, { ...how, readOnly: backing.isReadOnly, exclusive: false, direct: false });
        const bounce = native!.pageAlignedBuffer(DirectIo.bounceBytes);
        const alignmentBytes = Math.max(DIRECT_ALIGNMENT_BYTES, backing.logicalBlockBytes);
        this.#io = new DirectIo({ ...ioOptions, cached: this.#cached, alignmentBytes, bounce });
      } else this.#io = new FileIo(ioOptions);
      this.sync = this.#io;
      this.#io.sizeBytes = this.#presentSize();
    } catch (error) {
      this.#closeNow();
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#io.sizeBytes;
  }

  get discardGranularityBytes(): number {
    if (this.isBlockDevice) return this.isReadOnly ? 0 : this.#backing.discardGranularityBytes;
    return this.#io.canDiscard() ? Math.max(4096, this.logicalBlockBytes) : 0;
  }

  /** Holes are punched in files; what a block device does with zeros is not known. */
  get zeroGranularityBytes(): number {
    return this.isBlockDevice ? 0 : this.discardGranularityBytes;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    if (buffer.length < this.#threadPoolBytes || this.#cached !== undefined) return this.#io.read(offset, buffer);
    checkRange(this.name, this.sizeBytes, offset, buffer.length);
    for (let done = 0; done < buffer.length; ) {
      const at = this.#io.base + offset + done;
      let count: number;
      try {
        count = (await readAt(this.#io.fd, buffer, done, buffer.length - done, at)).bytesRead;
      } catch (error) {
        throw this.#io.failure("read", offset, buffer.length, error);
      }
      if (count === 0) throw this.#io.truncated(offset, buffer.length);
      done += count;
    }
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    if (buffer.length < this.#threadPoolBytes || this.#cached !== undefined) this.#io.write(offset, buffer);
    else await this.#writeInPool(offset, buffer);
    if (options?.fua === true) await this.flush();
  }

  flush(): Promise<void> {
    return this.#io.flushInPool();
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#io.discard(offset, length);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#io.writeZeroes(offset, length);
  }

  locate(offset: number, length: number): readonly Located[] | undefined {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.isBlockDevice || this.#cached !== undefined) return undefined;
    return [{ offset, length, fd: this.#io.fd, fileOffset: this.#io.base + offset }];
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (length === 0) return [];
    const native = this.#io.native;
    if (native === undefined || this.isBlockDevice) return [{ offset, length, kind: "data" }];
    try {
      return this.#askExtents(native, offset, length);
    } catch (error) {
      const code = codeOf(error);
      if (code === "EINVAL" || code === "EOPNOTSUPP") return [{ offset, length, kind: "data" }];
      throw error;
    }
  }

  /** Takes up the file's present size, within the limit; forgets what was known of its holes. */
  async refreshSize(): Promise<void> {
    if (!this.#isOpen) throw new IoError("EIO", `${this.name}: it is closed`);
    this.#io.sizeBytes = this.#presentSize();
    this.#io.forgetRegions();
  }

  /** Another size for a device of fixed size. @throws IoError EIO when the file is too short for it */
  async setFixedSize(bytes: number): Promise<void> {
    const before = this.#fixedSizeBytes;
    this.#fixedSizeBytes = bytes;
    try {
      await this.refreshSize();
    } catch (error) {
      this.#fixedSizeBytes = before;
      throw error;
    }
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#io.detach();
    if (this.#cached !== undefined) await closeFd(this.#cached.fd);
    await closeFd(this.#backing.fd);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #closeNow(): void {
    this.#isOpen = false;
    if (this.#cached !== undefined) closeSync(this.#cached.fd);
    closeSync(this.#backing.fd);
  }

  async #writeInPool(offset: number, buffer: Uint8Array): Promise<void> {
    checkRange(this.name, this.sizeBytes, offset, buffer.length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    this.#io.willChange(offset, buffer.length);
    for (let done = 0; done < buffer.length; ) {
      const at = this.#io.base + offset + done;
      try {
        done += (await writeAt(this.#io.fd, buffer, done, buffer.length - done, at)).bytesWritten;
      } catch (error) {
        throw this.#io.failure("write", offset, buffer.length, error);
      }
    }
    // Somebody may have asked about holes, or flushed, while the write was on its way.
    this.#io.willChange(offset, buffer.length);
    this.#io.wrote(offset, buffer.length);
  }

  /** Bytes of the file behind the offset, within the limit, in whole sectors. Source: section 9.3 of dmsetup-cli. */
  #presentSize(): number {
    const { offsetBytes = 0, sizeLimitBytes = 0 } = this.#options;
    const fixedSizeBytes = this.#fixedSizeBytes;
    const file = backingBytes(this.#backing, this.#io.native);
    const behind = Math.max(file - offsetBytes, 0);
    if (fixedSizeBytes !== undefined) {
      if (behind >= fixedSizeBytes) return fixedSizeBytes;
      throw new IoError(
        "EIO",
        `${this.name}: ${this.path} is truncated: found ${file} bytes, wanted ${offsetBytes + fixedSizeBytes}`,
        { hint: "somebody else cut the file off; give it its old size back, or take up the new size with loop resize" },
      );
    }
    const limited = sizeLimitBytes > 0 ? Math.min(behind, sizeLimitBytes) : behind;
    return limited - (limited % SECTOR_BYTES);
  }

  #askExtents(native: Native, offset: number, length: number): Extent[] {
    const { fd, base } = this.#io;
    const extents: Extent[] = [];
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const found = native.seekData(fd, base + at);
      if (found === undefined && backingBytes(this.#backing, native) < base + end)
        throw this.#io.truncated(offset, length);
      const dataAt = found === undefined ? end : Math.min(found - base, end);
      if (dataAt > at) extents.push({ offset: at, length: dataAt - at, kind: "zeros" });
      if (dataAt >= end) break;
      const hole = native.seekHole(fd, base + dataAt);
      const holeAt = hole === undefined ? end : Math.min(hole - base, end);
      extents.push({ offset: dataAt, length: holeAt - dataAt, kind: "data" });
      at = holeAt;
    }
    return inSectors(extents, end);
  }
}

/**
 * Moves borders that are not at sectors outwards, so that data grows and zeros shrink; neighbours of one kind become one.
 * A file ends where it likes, and some file systems keep holes in bytes.
 */
function inSectors(extents: readonly Extent[], end: number): Extent[] {
  const whole: Extent[] = [];
  let at = extents[0]?.offset ?? end;
  for (const extent of extents) {
    const up = extent.kind === "data" ? Math.ceil : Math.floor;
    const to = Math.min(up((extent.offset + extent.length) / SECTOR_BYTES) * SECTOR_BYTES, end);
    if (to <= at) continue;
    const last = whole.at(-1);
    if (last?.kind === extent.kind) whole[whole.length - 1] = { ...last, length: to - last.offset };
    else whole.push({ offset: at, length: to - at, kind: extent.kind });
    at = to;
  }
  return whole;
}

function createWhereMissing(path: string, bytes: number): void {
  if (statSync(path, { throwIfNoEntry: false }) !== undefined) return;
  try {
    createSparseFile(path, bytes);
  } catch (error) {
    // Somebody else was faster: theirs is opened.
    if (!(error instanceof StateError && error.code === "EEXIST")) throw error;
  }
}
