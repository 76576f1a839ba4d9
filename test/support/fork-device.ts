/**
 * A device in memory that forks at no cost: a fork sees the pages of the device it came from until it writes its own.
 * Pages are never changed in place, so what a fork reads stays as it was, as long as the parent is not written.
 */
import type { SyncIo } from "../../src/io/index.js";
import { SyncBackedDevice } from "../../src/io/sync-backed-device.js";
import type { LogEntry } from "./recording-device.js";

const PAGE = 4096;
const ZEROS = new Uint8Array(PAGE);

export class ForkDevice extends SyncBackedDevice {
  readonly isReadOnly = false;
  readonly logicalBlockBytes = 512;
  readonly discardGranularityBytes = PAGE;
  readonly sync: SyncIo;
  readonly #own = new Map<number, Uint8Array>();

  constructor(
    readonly name: string,
    public sizeBytes: number,
    readonly parent?: ForkDevice,
  ) {
    super();
    this.sync = {
      read: (offset, buffer) => this.#read(offset, buffer),
      write: (offset, buffer) => this.#write(offset, buffer.length, buffer),
      flush: () => {},
      discard: (offset, length) => this.#write(offset, length, undefined),
      writeZeroes: (offset, length) => this.#write(offset, length, undefined),
      knownZeroes: (offset, length) => {
        let at = offset;
        while (at < offset + length && this.page(Math.floor(at / PAGE)) === ZEROS)
          at = (Math.floor(at / PAGE) + 1) * PAGE;
        return Math.min(at, offset + length) - offset;
      },
    };
  }

  fork(): ForkDevice {
    return new ForkDevice(this.name, this.sizeBytes, this);
  }

  /** Bytes of a page, not to be changed. Pages without data are one and the same array. */
  page(index: number): Uint8Array {
    for (let device: ForkDevice | undefined = this; device !== undefined; device = device.parent) {
      const page = device.#own.get(index);
      if (page !== undefined) return page;
    }
    return ZEROS;
  }

  isZeroPage(index: number): boolean {
    return this.page(index) === ZEROS;
  }

  /** Pages this device holds itself. */
  get ownPages(): number[] {
    return [...this.#own.keys()];
  }

  /** All bytes. */
  contents(): Uint8Array {
    const bytes = new Uint8Array(this.sizeBytes);
    this.#read(0, bytes);
    return bytes;
  }

  /** Carries out an entry of a recorded log. */
  play(entry: LogEntry): void {
    if (entry.kind === "write") this.sync.write(entry.offset, entry.data);
    else if (entry.kind !== "flush") this.#write(entry.offset, entry.length, undefined);
  }

  #checkRange(offset: number, length: number): void {
    if (offset < 0 || offset + length > this.sizeBytes)
      throw new Error(`${this.name}: ${length} bytes at ${offset} leave it`);
  }

  #read(offset: number, buffer: Uint8Array): void {
    this.#checkRange(offset, buffer.length);
    for (let done = 0; done < buffer.length; ) {
      const inPage = (offset + done) % PAGE;
      const count = Math.min(PAGE - inPage, buffer.length - done);
      buffer.set(this.page((offset + done - inPage) / PAGE).subarray(inPage, inPage + count), done);
      done += count;
    }
  }

  #write(offset: number, length: number, buffer: Uint8Array | undefined): void {
    this.#checkRange(offset, length);
    for (let done = 0; done < length; ) {
      const inPage = (offset + done) % PAGE;
      const count = Math.min(PAGE - inPage, length - done);
      const index = (offset + done - inPage) / PAGE;
      if (buffer === undefined && count === PAGE) this.#own.set(index, ZEROS);
      else {
        const page = this.page(index).slice();
        if (buffer === undefined) page.fill(0, inPage, inPage + count);
        else page.set(buffer.subarray(done, done + count), inPage);
        this.#own.set(index, page);
      }
      done += count;
    }
  }
}
