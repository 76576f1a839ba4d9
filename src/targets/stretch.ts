/** A stretch of a device that may have shrunk since the table was made: what lies behind its end is an I/O error. */
import { IoError } from "../errors/index.js";
import { type BlockDevice, type Extent, SliceDevice, type SyncIo } from "../io/index.js";

export interface StretchOptions {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export function stretchOf(below: BlockDevice, { offsetBytes, lengthBytes }: StretchOptions): BlockDevice {
  const left = Math.max(0, Math.min(lengthBytes, below.sizeBytes - offsetBytes));
  if (left === lengthBytes) return new SliceDevice(below, { offsetBytes, lengthBytes });
  const slice = new SliceDevice(below, { offsetBytes: left === 0 ? 0 : offsetBytes, lengthBytes: left });
  return new CutOffDevice(slice, lengthBytes);
}

class CutOffDevice implements BlockDevice {
  readonly name: string;
  readonly isReadOnly: boolean;
  readonly logicalBlockBytes: number;
  readonly discardGranularityBytes: number;
  readonly sync: SyncIo | undefined;
  readonly #left: BlockDevice;

  constructor(
    left: BlockDevice,
    readonly sizeBytes: number,
  ) {
    this.name = left.name;
    this.isReadOnly = left.isReadOnly;
    this.logicalBlockBytes = left.logicalBlockBytes;
    this.discardGranularityBytes = left.discardGranularityBytes;
    this.#left = left;
    this.sync = left.sync === undefined ? undefined : this.#syncOver(left.sync);
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.#check(offset, buffer.length);
    await this.#left.read(offset, buffer);
  }
  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    this.#check(offset, buffer.length);
    await this.#left.write(offset, buffer, options);
  }
  flush(): Promise<void> {
    return this.#left.flush();
  }
  async discard(offset: number, length: number): Promise<void> {
    this.#check(offset, length);
    await this.#left.discard(offset, length);
  }
  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#check(offset, length);
    await this.#left.writeZeroes(offset, length);
  }
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    const inside = Math.max(0, Math.min(length, this.#left.sizeBytes - offset));
    const found = inside === 0 ? [] : await this.#left.extents(offset, inside);
    return inside === length ? found : [...found, { offset: offset + inside, length: length - inside, kind: "data" }];
  }
  refreshSize(): Promise<void> {
    return this.#left.refreshSize();
  }
  async close(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}

  #check(offset: number, length: number): void {
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) {
      throw new IoError(
        "EINVAL",
        `${this.name}: ${length} bytes at ${offset} leave the stretch of ${this.sizeBytes} bytes`,
      );
    }
    if (offset + length > this.#left.sizeBytes) {
      throw new IoError(
        "EIO",
        `${this.name}: ${length} bytes at ${offset} are past the end, at ${this.#left.sizeBytes} bytes`,
        {
          hint: "the device below was made smaller than the table says",
        },
      );
    }
  }

  #syncOver(below: SyncIo): SyncIo {
    const checked = (offset: number, length: number) => this.#check(offset, length);
    return {
      read: (offset, buffer) => {
        checked(offset, buffer.length);
        below.read(offset, buffer);
      },
      write: (offset, buffer) => {
        checked(offset, buffer.length);
        below.write(offset, buffer);
      },
      flush: () => below.flush(),
      discard: (offset, length) => {
        checked(offset, length);
        below.discard(offset, length);
      },
      writeZeroes: (offset, length) => {
        checked(offset, length);
        below.writeZeroes(offset, length);
      },
      knownZeroes: (offset, length) => {
        checked(offset, length);
        return below.knownZeroes(offset, length);
      },
    };
  }
}
