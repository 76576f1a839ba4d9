/**
 * A device in memory, for tests and for scratch. Pages that were never written, or were discarded whole, take no room
 * and read as zeros, so that a device of a petabyte costs nothing.
 */
import { invariant } from "../errors/index.js";
import type { BlockDevice, Extent, SyncIo } from "./block-device.js";
import { checkRange, refuseReadOnly } from "./range.js";
import { SyncBackedDevice } from "./sync-backed-device.js";

export interface MemoryDeviceOptions {
  readonly name?: string;
  readonly sizeBytes: number;
  readonly readOnly?: boolean;
  readonly logicalBlockBytes?: number;
  /** Discard unit; 0: the device does not discard. Default: a page. */
  readonly discardGranularityBytes?: number;
  /** Unit of allocation, a multiple of 512. Default 4096. */
  readonly pageBytes?: number;
}

export class MemoryDevice extends SyncBackedDevice implements BlockDevice {
  readonly name: string;
  readonly isReadOnly: boolean;
  readonly logicalBlockBytes: number;
  readonly discardGranularityBytes: number;
  readonly sync: SyncIo;
  readonly #pageBytes: number;
  readonly #options: MemoryDeviceOptions;
  #pages = new Map<number, Uint8Array>();
  /** Pages that a clone has too; they are copied before they are changed. */
  #borrowed = new Set<number>();
  #sizeBytes: number;

  constructor(options: MemoryDeviceOptions) {
    super();
    this.#options = options;
    this.name = options.name ?? "memory";
    this.isReadOnly = options.readOnly ?? false;
    this.logicalBlockBytes = options.logicalBlockBytes ?? 512;
    this.#pageBytes = options.pageBytes ?? 4096;
    this.discardGranularityBytes = options.discardGranularityBytes ?? this.#pageBytes;
    this.#sizeBytes = options.sizeBytes;
    invariant(this.#pageBytes % 512 === 0 && this.#pageBytes > 0, `pages of ${this.#pageBytes} bytes`);
    this.sync = {
      read: (offset, buffer) => this.#read(offset, buffer),
      write: (offset, buffer) => this.#write(offset, buffer),
      flush: () => {},
      discard: (offset, length) => this.#zero(offset, length),
      writeZeroes: (offset, length) => this.#zero(offset, length),
      knownZeroes: (offset, length) => this.#knownZeroes(offset, length),
    };
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Bytes of the pages that hold data. */
  get allocatedBytes(): number {
    return this.#pages.size * this.#pageBytes;
  }

  /** Grows or cuts off; what is cut off reads as zeros when the device grows again. */
  resize(sizeBytes: number): void {
    if (sizeBytes < this.#sizeBytes) this.#zeroBetween(sizeBytes, this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
  }

  /** A device with the same bytes that goes its own way. */
  clone(overrides: Partial<MemoryDeviceOptions> = {}): MemoryDevice {
    const copy = new MemoryDevice({
      ...this.#options,
      ...overrides,
      sizeBytes: overrides.sizeBytes ?? this.#sizeBytes,
      pageBytes: this.#pageBytes,
    });
    copy.#pages = new Map(this.#pages);
    copy.#borrowed = new Set(this.#pages.keys());
    this.#borrowed = new Set(this.#pages.keys());
    if (copy.sizeBytes < this.#sizeBytes) copy.#zeroBetween(copy.sizeBytes, this.#sizeBytes);
    return copy;
  }

  /** All bytes, for devices small enough. */
  contents(): Uint8Array {
    const all = new Uint8Array(this.#sizeBytes);
    this.#read(0, all);
    return all;
  }

  override async extents(offset: number, length: number): Promise<readonly Extent[]> {
    checkRange(this.name, this.#sizeBytes, offset, length);
    const end = offset + length;
    const extents: Extent[] = [];
    let at = offset;
    for (const index of this.#pagesBetween(offset, end)) {
      const from = Math.max(index * this.#pageBytes, offset);
      const to = Math.min((index + 1) * this.#pageBytes, end);
      if (from > at) extents.push({ offset: at, length: from - at, kind: "zeros" });
      const last = extents.at(-1);
      if (last?.kind === "data" && last.offset + last.length === from) {
        extents[extents.length - 1] = { ...last, length: to - last.offset };
      } else extents.push({ offset: from, length: to - from, kind: "data" });
      at = to;
    }
    if (at < end) extents.push({ offset: at, length: end - at, kind: "zeros" });
    return extents;
  }

  #read(offset: number, buffer: Uint8Array): void {
    checkRange(this.name, this.#sizeBytes, offset, buffer.length);
    const size = this.#pageBytes;
    for (let done = 0; done < buffer.length; ) {
      const at = offset + done;
      const inPage = at % size;
      const count = Math.min(size - inPage, buffer.length - done);
      const page = this.#pages.get((at - inPage) / size);
      if (page === undefined) buffer.fill(0, done, done + count);
      else buffer.set(count === size ? page : page.subarray(inPage, inPage + count), done);
      done += count;
    }
  }

  #write(offset: number, buffer: Uint8Array): void {
    checkRange(this.name, this.#sizeBytes, offset, buffer.length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    const size = this.#pageBytes;
    for (let done = 0; done < buffer.length; ) {
      const at = offset + done;
      const inPage = at % size;
      const count = Math.min(size - inPage, buffer.length - done);
      const index = (at - inPage) / size;
      const page = this.#pageToChange(index) ?? this.#addPage(index);
      page.set(count === buffer.length ? buffer : buffer.subarray(done, done + count), inPage);
      done += count;
    }
  }

  #addPage(index: number): Uint8Array {
    const page = new Uint8Array(this.#pageBytes);
    this.#pages.set(index, page);
    return page;
  }

  #pageToChange(index: number): Uint8Array | undefined {
    const page = this.#pages.get(index);
    if (page === undefined || !this.#borrowed.delete(index)) return page;
    const own = page.slice();
    this.#pages.set(index, own);
    return own;
  }

  #dropPage(index: number): void {
    this.#pages.delete(index);
    this.#borrowed.delete(index);
  }

  #zero(offset: number, length: number): void {
    checkRange(this.name, this.#sizeBytes, offset, length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    this.#zeroBetween(offset, offset + length);
  }

  #zeroBetween(start: number, end: number): void {
    for (const index of this.#pagesBetween(start, end)) {
      const from = Math.max(start - index * this.#pageBytes, 0);
      const to = Math.min(end - index * this.#pageBytes, this.#pageBytes);
      if (from === 0 && to === this.#pageBytes) this.#dropPage(index);
      else this.#pageToChange(index)?.fill(0, from, to);
    }
  }

  #knownZeroes(offset: number, length: number): number {
    checkRange(this.name, this.#sizeBytes, offset, length);
    if (length === 0) return 0;
    const first = this.#firstPageBetween(offset, offset + length);
    if (first === undefined) return length;
    return Math.max(first * this.#pageBytes - offset, 0);
  }

  /** Index of the first page with data that overlaps [start, end). */
  #firstPageBetween(start: number, end: number): number | undefined {
    const from = Math.floor(start / this.#pageBytes);
    const to = Math.ceil(end / this.#pageBytes);
    if (to - from <= this.#pages.size) {
      for (let index = from; index < to; index++) if (this.#pages.has(index)) return index;
      return undefined;
    }
    let first: number | undefined;
    for (const index of this.#pages.keys()) {
      if (index >= from && index < to && (first === undefined || index < first)) first = index;
    }
    return first;
  }

  /** Indexes of pages with data that overlap [start, end), in order; looks at whichever is fewer, range or pages. */
  #pagesBetween(start: number, end: number): number[] {
    const from = Math.floor(start / this.#pageBytes);
    const to = Math.ceil(end / this.#pageBytes);
    const found: number[] = [];
    if (to - from <= this.#pages.size) {
      for (let index = from; index < to; index++) if (this.#pages.has(index)) found.push(index);
      return found;
    }
    for (const index of this.#pages.keys()) if (index >= from && index < to) found.push(index);
    return found.sort((a, b) => a - b);
  }
}
