/**
 * Writes down every write, discard, zeroing and flush on its way to the device below, with the bytes, so that a crash
 * can be played at any point: see crash.ts.
 */
import type { BlockDevice, Extent, SyncIo } from "../../src/io/index.js";

export type LogEntry =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "zeroes"; readonly offset: number; readonly length: number }
  | { readonly kind: "discard"; readonly offset: number; readonly length: number }
  | { readonly kind: "flush" };

/** Log shared by several devices when the order between them matters (data before metadata). */
export interface DeviceLogEntry {
  readonly device: string;
  readonly entry: LogEntry;
}

export class RecordingDevice implements BlockDevice {
  readonly log: LogEntry[] = [];
  readonly sync: SyncIo | undefined;
  readonly #below: BlockDevice;
  readonly #shared: DeviceLogEntry[] | undefined;

  /** @param shared log that entries go to as well, with this device's name */
  constructor(below: BlockDevice, shared?: DeviceLogEntry[]) {
    this.#below = below;
    this.#shared = shared;
    this.sync = below.sync === undefined ? undefined : this.#record(below.sync);
  }

  get name(): string {
    return this.#below.name;
  }
  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }
  get isReadOnly(): boolean {
    return this.#below.isReadOnly;
  }
  get logicalBlockBytes(): number {
    return this.#below.logicalBlockBytes;
  }
  get discardGranularityBytes(): number {
    return this.#below.discardGranularityBytes;
  }

  /** Forgets what was logged so far. */
  clear(): void {
    this.log.length = 0;
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#below.read(offset, buffer);
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    const data = buffer.slice();
    await this.#below.write(offset, buffer, options);
    this.#add({ kind: "write", offset, data });
    // FUA promises only this write; a log of whole flushes would promise more, so it is a flush only when asked for alone.
    if (options?.fua === true) this.#add({ kind: "flush" });
  }

  async flush(): Promise<void> {
    await this.#below.flush();
    this.#add({ kind: "flush" });
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#below.discard(offset, length);
    this.#add({ kind: "discard", offset, length });
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#below.writeZeroes(offset, length);
    this.#add({ kind: "zeroes", offset, length });
  }

  extents(offset: number, length: number): Promise<readonly Extent[]> {
    return this.#below.extents(offset, length);
  }

  refreshSize(): Promise<void> {
    return this.#below.refreshSize();
  }

  close(): Promise<void> {
    return this.#below.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #add(entry: LogEntry): void {
    this.log.push(entry);
    this.#shared?.push({ device: this.name, entry });
  }

  #record(below: SyncIo): SyncIo {
    return {
      read: (offset, buffer) => below.read(offset, buffer),
      write: (offset, buffer) => {
        below.write(offset, buffer);
        this.#add({ kind: "write", offset, data: buffer.slice() });
      },
      flush: () => {
        below.flush();
        this.#add({ kind: "flush" });
      },
      discard: (offset, length) => {
        below.discard(offset, length);
        this.#add({ kind: "discard", offset, length });
      },
      writeZeroes: (offset, length) => {
        below.writeZeroes(offset, length);
        this.#add({ kind: "zeroes", offset, length });
      },
      knownZeroes: (offset, length) => below.knownZeroes(offset, length),
    };
  }
}
