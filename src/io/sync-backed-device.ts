/**
 * The asynchronous side of a device whose synchronous side does all the work: every method is the synchronous one, with
 * what it throws turned into a rejection.
 */
import type { BlockDevice, Extent, SyncIo } from "./block-device.js";

export abstract class SyncBackedDevice implements BlockDevice {
  abstract readonly name: string;
  abstract readonly sizeBytes: number;
  abstract readonly isReadOnly: boolean;
  abstract readonly logicalBlockBytes: number;
  abstract readonly discardGranularityBytes: number;
  abstract readonly sync: SyncIo;

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.sync.read(offset, buffer);
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    this.sync.write(offset, buffer);
    if (options?.fua === true) this.sync.flush();
  }

  async flush(): Promise<void> {
    this.sync.flush();
  }

  async discard(offset: number, length: number): Promise<void> {
    this.sync.discard(offset, length);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.sync.writeZeroes(offset, length);
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    return length === 0 ? [] : [{ offset, length, kind: "data" }];
  }

  async refreshSize(): Promise<void> {}

  async close(): Promise<void> {}

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
