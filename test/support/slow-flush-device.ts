/**
 * A device that does everything at once but flushes, whose answers come some turns of the event loop later. What was
 * written before a flush was asked for is durable when it is answered; of what is written meanwhile nobody knows.
 */
import type { BlockDevice, Extent, SyncIo } from "../../src/io/index.js";
import { Random } from "./random.js";

const MAX_TURNS = 6;

export class SlowFlushDevice implements BlockDevice {
  readonly sync: SyncIo | undefined;
  readonly #random: Random;
  /** Flushes asked for and not answered yet. */
  underWay = 0;
  /** Writes that were made meanwhile. */
  writesMeanwhile = 0;

  constructor(
    readonly below: BlockDevice,
    options: { readonly seed: number },
  ) {
    this.#random = new Random(options.seed);
    this.sync = below.sync === undefined ? undefined : this.#counted(below.sync);
  }

  get name(): string {
    return this.below.name;
  }
  get sizeBytes(): number {
    return this.below.sizeBytes;
  }
  get isReadOnly(): boolean {
    return this.below.isReadOnly;
  }
  get logicalBlockBytes(): number {
    return this.below.logicalBlockBytes;
  }
  get discardGranularityBytes(): number {
    return this.below.discardGranularityBytes;
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.below.read(offset, buffer);
  }

  write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    if (this.underWay > 0) this.writesMeanwhile++;
    return this.below.write(offset, buffer, options);
  }

  async flush(): Promise<void> {
    this.underWay++;
    try {
      // Sometimes what comes meanwhile is taken along, sometimes only what was there: a disk may do either.
      const isEarly = this.#random.oneIn(2);
      if (isEarly) await this.below.flush();
      for (let left = this.#random.between(1, MAX_TURNS); left > 0; left--) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      if (!isEarly) await this.below.flush();
    } finally {
      this.underWay--;
    }
  }

  discard(offset: number, length: number): Promise<void> {
    return this.below.discard(offset, length);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.below.writeZeroes(offset, length);
  }

  extents(offset: number, length: number): Promise<readonly Extent[]> {
    return this.below.extents(offset, length);
  }

  refreshSize(): Promise<void> {
    return this.below.refreshSize();
  }

  close(): Promise<void> {
    return this.below.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #counted(sync: SyncIo): SyncIo {
    return {
      read: (offset, buffer) => sync.read(offset, buffer),
      write: (offset, buffer) => {
        if (this.underWay > 0) this.writesMeanwhile++;
        sync.write(offset, buffer);
      },
      flush: () => sync.flush(),
      discard: (offset, length) => sync.discard(offset, length),
      writeZeroes: (offset, length) => sync.writeZeroes(offset, length),
      knownZeroes: (offset, length) => sync.knownZeroes(offset, length),
    };
  }
}
