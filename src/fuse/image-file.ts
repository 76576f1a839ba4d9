/**
 * A block device as a file: what the requests for one node do. Reading and writing at once is the device's `tryRead` and
 * `tryWrite`; all else takes promises.
 */
import { IoError, StateError } from "../errors/index.js";
import type { BlockDevice } from "../io/index.js";
import { FALLOC, SEEK_DATA } from "./protocol.js";

export interface ImageOptions {
  /** In the folder; no slash. */
  readonly name: string;
  readonly device: BlockDevice;
  readonly readOnly?: boolean;
  /**
   * What is discarded reads as zeros; default true. A hole punched by the kernel must, because a loop device asks for
   * zeros with the same request as for a discard. Where it does not hold, punching is refused.
   */
  readonly discardReadsZeros?: boolean;
}

const SECTOR_BYTES = 512;
/** Extents are asked for in stretches of this size while looking for data or a hole. */
const SEEK_STEP_BYTES = 2 ** 30;
const DEFAULT_UNIT_BYTES = 4096;
/** Largest power of two that is announced as a discard unit. */
const MAX_UNIT_BYTES = 2 ** 30;

export class ImageFile {
  readonly name: string;
  readonly node: number;
  readonly device: BlockDevice;
  readonly isReadOnly: boolean;
  readonly timeMs = Date.now();
  /** As announced. It grows with the device and never shrinks: what is missing then is an error, not the end. */
  sizeBytes: number;
  /** Handles on it. */
  opens = 0;
  /** Requests that wait for something. */
  underWay = 0;
  /** No new requests: they fail. */
  isRemoved = false;
  discardReadsZeros: boolean;
  readonly #listeners: (() => void)[] = [];

  constructor(node: number, { name, device, readOnly, discardReadsZeros }: ImageOptions) {
    this.name = name;
    this.node = node;
    this.device = device;
    this.isReadOnly = readOnly === true || device.isReadOnly;
    this.sizeBytes = device.sizeBytes;
    this.discardReadsZeros = discardReadsZeros ?? true;
  }

  /** Unit of discards, a power of two, as a loop device wants it. */
  get unitBytes(): number {
    const granularity = this.device.discardGranularityBytes;
    if (granularity === 0) return DEFAULT_UNIT_BYTES;
    let unit = SECTOR_BYTES;
    while (granularity % (unit * 2) === 0 && unit < MAX_UNIT_BYTES) unit *= 2;
    return Math.max(unit, DEFAULT_UNIT_BYTES);
  }

  /** @returns whether the device has grown since */
  takeUpSize(): boolean {
    if (this.device.sizeBytes <= this.sizeBytes) return false;
    this.sizeBytes = this.device.sizeBytes;
    return true;
  }

  /** Told when the last handle was closed. */
  onUnused(listener: () => void): void {
    this.#listeners.push(listener);
  }

  closed(): void {
    this.opens = Math.max(0, this.opens - 1);
    if (this.opens === 0) for (const listener of this.#listeners) listener();
  }

  /** How much of a read lies within the announced size. */
  readable(offset: number, size: number): number {
    return Math.max(0, Math.min(size, this.sizeBytes - offset));
  }

  isWhole(offset: number, size: number): boolean {
    return offset % SECTOR_BYTES === 0 && size % SECTOR_BYTES === 0;
  }

  /** Whole sectors without a promise, from the front. @returns bytes done */
  tryRead(offset: number, buffer: Uint8Array): number {
    const { device } = this;
    if (device.tryRead !== undefined) return device.tryRead(offset, buffer);
    if (device.sync === undefined) return 0;
    device.sync.read(offset, buffer);
    return buffer.length;
  }

  tryWrite(offset: number, buffer: Uint8Array): number {
    const { device } = this;
    if (device.tryWrite !== undefined) return device.tryWrite(offset, buffer);
    if (device.sync === undefined) return 0;
    device.sync.write(offset, buffer);
    return buffer.length;
  }

  /** A read of any offset and length, by way of whole sectors. */
  async read(offset: number, buffer: Uint8Array): Promise<void> {
    if (this.isWhole(offset, buffer.length)) return this.device.read(offset, buffer);
    const from = offset - (offset % SECTOR_BYTES);
    const to = Math.ceil((offset + buffer.length) / SECTOR_BYTES) * SECTOR_BYTES;
    const whole = new Uint8Array(to - from);
    await this.device.read(from, whole);
    buffer.set(whole.subarray(offset - from, offset - from + buffer.length));
  }

  /** @throws IoError EROFS, EINVAL, EFBIG */
  checkWrite(offset: number, size: number): void {
    if (this.isReadOnly) throw new IoError("EROFS", `${this.name} is read-only`);
    if (!this.isWhole(offset, size)) throw new IoError("EINVAL", `${this.name}: a write that is not of whole sectors`);
    if (offset + size > this.sizeBytes) throw new IoError("EFBIG", `${this.name}: a write past the end`);
  }

  /** Zeros in [offset, offset + length): a discard or a request for zeros, which look alike. */
  async allocate(mode: number, offset: number, length: number): Promise<void> {
    if (this.isReadOnly) throw new IoError("EROFS", `${this.name} is read-only`);
    const isPunch = mode === (FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE);
    const isZero = (mode & ~FALLOC.KEEP_SIZE) === FALLOC.ZERO_RANGE;
    if (!isPunch && !isZero) throw new StateError("EOPNOTSUPP", `${this.name}: fallocate mode ${mode}`);
    const canDiscard = this.device.discardGranularityBytes > 0 && this.discardReadsZeros;
    if (isPunch && !canDiscard) throw new StateError("EOPNOTSUPP", `${this.name} does not discard`);
    const end = Math.min(offset + length, this.sizeBytes);
    if (offset >= end) return;
    if (!this.isWhole(offset, end - offset)) {
      throw new IoError("EINVAL", `${this.name}: a range that is not of whole sectors`);
    }
    if (!canDiscard) return this.device.writeZeroes(offset, end - offset);
    const unit = this.device.discardGranularityBytes;
    const from = Math.ceil(offset / unit) * unit;
    const to = Math.floor(end / unit) * unit;
    if (from >= to) return this.#zeroPart(offset, end);
    await this.#zeroPart(offset, from);
    await this.device.writeZeroes(from, to - from);
    await this.#zeroPart(to, end);
  }

  /** A part of a unit: only what does not read as zeros is written, so that nothing is provisioned. */
  async #zeroPart(from: number, to: number): Promise<void> {
    if (from >= to) return;
    for (const { kind, offset, length } of await this.device.extents(from, to - from)) {
      if (kind === "data") await this.device.writeZeroes(offset, length);
    }
  }

  /** SEEK_DATA or SEEK_HOLE. @returns undefined behind the end, or when nothing but a hole follows */
  async seek(whence: number, offset: number): Promise<number | undefined> {
    const end = this.sizeBytes;
    if (offset >= end) return undefined;
    const wanted = whence === SEEK_DATA ? "data" : "zeros";
    const start = offset - (offset % SECTOR_BYTES);
    for (let at = start; at < end; at += SEEK_STEP_BYTES) {
      for (const extent of await this.device.extents(at, Math.min(SEEK_STEP_BYTES, end - at))) {
        if (extent.kind === wanted) return Math.max(extent.offset, offset);
      }
    }
    return whence === SEEK_DATA ? undefined : end;
  }
}
