/**
 * A BlockDevice as an export: any byte may be addressed (parts of sectors are read, changed and written back), long zeroes
 * go in pieces, and what the device cannot do is left out.
 */
import { setImmediate as turn } from "node:timers/promises";
import { IoError } from "../errors/index.js";
import type { BlockDevice, Extent } from "../io/index.js";
import { AccessGate } from "./access-gate.js";
import type { NbdExport, SharedExtent } from "./export.js";

export interface DeviceExportOptions {
  readonly name: string;
  readonly description?: string;
  readonly readOnly?: boolean;
  readonly sharing?: (offset: number, length: number) => Promise<readonly SharedExtent[]>;
}

const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;
/** Zeros written, and ranges handed on, at a time: others get their turn in between. */
const PIECE_BYTES = 2 ** 20;
/** Stretches handed on to a device in one call: mapped or not, that is quick. */
const STRETCH_BYTES = 2 ** 30;
const MAX_PREFERRED_BYTES = 32 * 2 ** 20;
const ZEROS = new Uint8Array(PIECE_BYTES);

export class DeviceExport implements NbdExport {
  readonly name: string;
  readonly description: string | undefined;
  readonly minimumBlockBytes = 1;
  readonly canMultiConn = true;
  readonly sharing?: (offset: number, length: number) => Promise<readonly SharedExtent[]>;
  readonly #device: BlockDevice;
  readonly #readOnly: boolean;
  readonly #gate = new AccessGate();

  constructor(device: BlockDevice, options: DeviceExportOptions) {
    this.#device = device;
    this.name = options.name;
    this.description = options.description;
    this.#readOnly = options.readOnly ?? false;
    if (options.sharing !== undefined) this.sharing = options.sharing;
  }

  get sizeBytes(): number {
    return this.#device.sizeBytes;
  }

  get isReadOnly(): boolean {
    return this.#readOnly || this.#device.isReadOnly;
  }

  /** The unit of discards, which for a thin device is its block, cut down to a power of two. */
  get preferredBlockBytes(): number {
    const unit = Math.max(PAGE_BYTES, this.#device.discardGranularityBytes);
    return Math.min(MAX_PREFERRED_BYTES, largestPowerDividing(unit));
  }

  get canTrim(): boolean {
    return !this.isReadOnly && this.#device.discardGranularityBytes > 0;
  }

  get canFastZero(): boolean {
    return !this.isReadOnly;
  }

  tryRead(offset: number, buffer: Uint8Array): number {
    if (isUnaligned(offset, buffer.length)) return this.#tryReadParts(offset, buffer);
    const device = this.#device;
    if (device.tryRead !== undefined) return device.tryRead(offset, buffer);
    if (device.sync === undefined) return 0;
    device.sync.read(offset, buffer);
    return buffer.length;
  }

  tryWrite(offset: number, buffer: Uint8Array): number {
    this.#refuseReadOnly();
    if (!this.#gate.isOpen) return 0;
    if (isUnaligned(offset, buffer.length)) return this.#tryWriteParts(offset, buffer);
    return this.#tryWriteSectors(offset, buffer);
  }

  #tryWriteSectors(offset: number, buffer: Uint8Array): number {
    const device = this.#device;
    if (device.tryWrite !== undefined) return device.tryWrite(offset, buffer);
    if (device.sync === undefined) return 0;
    device.sync.write(offset, buffer);
    return buffer.length;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    if (!isUnaligned(offset, buffer.length)) return this.#device.read(offset, buffer);
    const { from, bytes } = wholeSectors(offset, buffer.length);
    await this.#device.read(from, bytes);
    buffer.set(bytes.subarray(offset - from, offset - from + buffer.length));
  }

  async write(offset: number, buffer: Uint8Array): Promise<void> {
    this.#refuseReadOnly();
    if (!isUnaligned(offset, buffer.length)) return this.#gate.shared(() => this.#device.write(offset, buffer));
    const { from, bytes } = wholeSectors(offset, buffer.length);
    await this.#gate.exclusive(async () => {
      await this.#device.read(from, bytes);
      bytes.set(buffer, offset - from);
      await this.#device.write(from, bytes);
    });
  }

  flush(): Promise<void> {
    return this.#device.flush();
  }

  async trim(offset: number, length: number): Promise<void> {
    this.#refuseReadOnly();
    if (!this.canTrim) return;
    const from = Math.ceil(offset / SECTOR_BYTES) * SECTOR_BYTES;
    const to = Math.floor((offset + length) / SECTOR_BYTES) * SECTOR_BYTES;
    for (let at = from; at < to; ) {
      // Ends of stretches lie on the device's own units: no block is left out because it was cut in two.
      const end = Math.min(to, (Math.floor(at / STRETCH_BYTES) + 1) * STRETCH_BYTES);
      await this.#gate.shared(() => this.#device.discard(at, end - at));
      if (end < to) await turn();
      at = end;
    }
  }

  async writeZeroes(
    offset: number,
    length: number,
    { noHole, isFast }: { readonly noHole: boolean; readonly isFast: boolean },
  ): Promise<boolean> {
    this.#refuseReadOnly();
    if (isFast && (noHole || !(await this.#isQuicklyZeroed(offset, offset + length)))) return false;
    const end = offset + length;
    const from = Math.min(end, Math.ceil(offset / SECTOR_BYTES) * SECTOR_BYTES);
    const to = Math.max(from, Math.floor(end / SECTOR_BYTES) * SECTOR_BYTES);
    if (from > offset) await this.write(offset, ZEROS.subarray(0, from - offset));
    for (let at = from; at < to; ) {
      const size = noHole ? PIECE_BYTES : STRETCH_BYTES;
      const stop = Math.min(to, (Math.floor(at / size) + 1) * size);
      const begin = at;
      await this.#gate.shared(() =>
        noHole
          ? this.#device.write(begin, ZEROS.subarray(0, stop - begin))
          : this.#device.writeZeroes(begin, stop - begin),
      );
      if (stop < to) await turn();
      at = stop;
    }
    if (end > to) await this.write(to, ZEROS.subarray(0, end - to));
    return true;
  }

  /** Whole units are dropped; what sticks out at either end must read as zeros already. */
  async #isQuicklyZeroed(from: number, to: number): Promise<boolean> {
    const unit = this.#device.zeroGranularityBytes ?? 0;
    const begin = unit === 0 ? to : Math.min(to, Math.ceil(from / unit) * unit);
    const end = unit === 0 ? to : Math.max(begin, Math.floor(to / unit) * unit);
    return (await this.#readsAsZeros(from, begin)) && (await this.#readsAsZeros(end, to));
  }

  async #readsAsZeros(from: number, to: number): Promise<boolean> {
    if (from >= to) return true;
    if (isUnaligned(from, to - from)) return false;
    const found = await this.#device.extents(from, to - from);
    return found.every(({ kind }) => kind === "zeros");
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    const from = Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES;
    const to = Math.min(this.sizeBytes, Math.ceil((offset + length) / SECTOR_BYTES) * SECTOR_BYTES);
    return this.#device.extents(from, to - from);
  }

  #tryReadParts(offset: number, buffer: Uint8Array): number {
    const { from, bytes } = wholeSectors(offset, buffer.length);
    if (this.tryRead(from, bytes) < bytes.length) return 0;
    buffer.set(bytes.subarray(offset - from, offset - from + buffer.length));
    return buffer.length;
  }

  /** Nobody else gets in between: all of it happens at once. */
  #tryWriteParts(offset: number, buffer: Uint8Array): number {
    if (!this.#gate.isIdle) return 0;
    const { from, bytes } = wholeSectors(offset, buffer.length);
    if (this.tryRead(from, bytes) < bytes.length) return 0;
    bytes.set(buffer, offset - from);
    // Where only a part could be written, the rest is written again with all of it.
    return this.#tryWriteSectors(from, bytes) === bytes.length ? buffer.length : 0;
  }

  #refuseReadOnly(): void {
    if (this.isReadOnly) throw new IoError("EROFS", `${this.name}: is exported read-only`);
  }
}

function isUnaligned(offset: number, length: number): boolean {
  return ((offset | length) & (SECTOR_BYTES - 1)) !== 0;
}

/** Room for the sectors that a range touches. */
function wholeSectors(offset: number, length: number): { readonly from: number; readonly bytes: Uint8Array } {
  const from = Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES;
  const to = Math.ceil((offset + length) / SECTOR_BYTES) * SECTOR_BYTES;
  return { from, bytes: new Uint8Array(to - from) };
}

function largestPowerDividing(value: number): number {
  return value & -value;
}
