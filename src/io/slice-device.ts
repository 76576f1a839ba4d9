/** A part of another device, with offsets of its own. Closing it leaves the device below open. */
import { IoError } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { BlockDevice, Extent, SyncIo } from "./block-device.js";
import { checkRange, refuseReadOnly } from "./range.js";

export interface SliceOptions {
  readonly name?: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Read-only even where the device below is not. */
  readonly readOnly?: boolean;
}

export class SliceDevice implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly logicalBlockBytes: number;
  readonly discardGranularityBytes: number;
  readonly sync: SyncIo | undefined;
  readonly #below: BlockDevice;
  readonly #offset: number;

  /** @throws IoError EINVAL when the part is not inside the device, or not in whole sectors */
  constructor(below: BlockDevice, { name, offsetBytes, lengthBytes, readOnly }: SliceOptions) {
    if (offsetBytes < 0 || lengthBytes < 0 || offsetBytes + lengthBytes > below.sizeBytes) {
      const part = `${lengthBytes} bytes from ${offsetBytes} on`;
      throw new IoError("EINVAL", `${below.name}: ${part} are outside the device of ${below.sizeBytes} bytes`);
    }
    if (offsetBytes % SECTOR_BYTES !== 0 || lengthBytes % SECTOR_BYTES !== 0) {
      throw new IoError(
        "EINVAL",
        `${below.name}: a part of ${lengthBytes} bytes from ${offsetBytes} on is not in whole sectors`,
      );
    }
    this.name = name ?? `${below.name}[${offsetBytes}+${lengthBytes}]`;
    this.sizeBytes = lengthBytes;
    this.isReadOnly = below.isReadOnly || readOnly === true;
    this.logicalBlockBytes = below.logicalBlockBytes;
    this.discardGranularityBytes = below.discardGranularityBytes;
    this.#below = below;
    this.#offset = offsetBytes;
    this.sync = below.sync === undefined ? undefined : this.#syncOver(below.sync);
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#inside(offset, buffer.length, (at) => this.#below.read(at, buffer));
  }

  write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    return this.#changing(offset, buffer.length, (at) => this.#below.write(at, buffer, options));
  }

  flush(): Promise<void> {
    return this.#below.flush();
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#changing(offset, length, (at) => this.#below.discard(at, length));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#changing(offset, length, (at) => this.#below.writeZeroes(at, length));
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    const below = await this.#inside(offset, length, (at) => this.#below.extents(at, length));
    return below.map((extent) => ({ ...extent, offset: extent.offset - this.#offset }));
  }

  refreshSize(): Promise<void> {
    return this.#below.refreshSize();
  }

  async close(): Promise<void> {}

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #inside<T>(offset: number, length: number, act: (at: number) => Promise<T>): Promise<T> {
    checkRange(this.name, this.sizeBytes, offset, length);
    return act(this.#offset + offset);
  }

  async #changing<T>(offset: number, length: number, act: (at: number) => Promise<T>): Promise<T> {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    return act(this.#offset + offset);
  }

  #syncOver(below: SyncIo): SyncIo {
    const start = this.#offset;
    const size = this.sizeBytes;
    const check = (offset: number, length: number) => checkRange(this.name, size, offset, length);
    const checkWrite = (offset: number, length: number) => {
      check(offset, length);
      if (this.isReadOnly) refuseReadOnly(this.name);
    };
    return {
      read: (offset, buffer) => {
        check(offset, buffer.length);
        below.read(start + offset, buffer);
      },
      write: (offset, buffer) => {
        checkWrite(offset, buffer.length);
        below.write(start + offset, buffer);
      },
      flush: () => below.flush(),
      discard: (offset, length) => {
        checkWrite(offset, length);
        below.discard(start + offset, length);
      },
      writeZeroes: (offset, length) => {
        checkWrite(offset, length);
        below.writeZeroes(start + offset, length);
      },
      knownZeroes: (offset, length) => {
        check(offset, length);
        return below.knownZeroes(start + offset, length);
      },
    };
  }
}
