/** Devices that stand on nothing: all zeros, or all errors. */
import { IoError, UdmError } from "../errors/index.js";
import type { BlockDevice, Extent, SyncIo } from "../io/index.js";

export class FixedDevice implements BlockDevice {
  readonly isReadOnly = false;
  readonly logicalBlockBytes = 512;
  readonly discardGranularityBytes: number;
  readonly sync: SyncIo;

  constructor(
    readonly name: "zero" | "error",
    readonly sizeBytes: number,
  ) {
    this.discardGranularityBytes = name === "zero" ? 512 : 0;
    const fails = (operation: string) => (offset: number, length: number) => {
      this.#check(offset, length);
      if (name === "error") throw new IoError("EIO", `error target: ${operation} of ${length} bytes at ${offset}`);
    };
    const [read, write, discard] = [fails("read"), fails("write"), fails("discard")];
    this.sync = {
      read(offset, buffer) {
        read(offset, buffer.length);
        buffer.fill(0);
      },
      write: (offset, buffer) => write(offset, buffer.length),
      flush() {},
      discard,
      writeZeroes: write,
      knownZeroes: (_offset, length) => (name === "zero" ? length : 0),
    };
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.sync.read(offset, buffer);
  }
  async write(offset: number, buffer: Uint8Array): Promise<void> {
    this.sync.write(offset, buffer);
  }
  async flush(): Promise<void> {}
  async discard(offset: number, length: number): Promise<void> {
    this.sync.discard(offset, length);
  }
  async writeZeroes(offset: number, length: number): Promise<void> {
    this.sync.writeZeroes(offset, length);
  }
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.#check(offset, length);
    return length === 0 ? [] : [{ offset, length, kind: this.name === "zero" ? "zeros" : "data" }];
  }
  async refreshSize(): Promise<void> {}
  async close(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}

  #check(offset: number, length: number): void {
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) {
      throw new UdmError(
        "EINVAL",
        `${this.name}: ${length} bytes at ${offset} leave the device of ${this.sizeBytes} bytes`,
      );
    }
  }
}
