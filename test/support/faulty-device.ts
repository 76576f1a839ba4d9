/** Fails the n-th operation of a kind, once or from then on, on both sides of a device. */
import { type Code, IoError, SpaceError } from "../../src/errors/index.js";
import type { BlockDevice, Extent, SyncIo } from "../../src/io/index.js";

export type FaultKind = "read" | "write" | "flush" | "discard" | "zeroes";

export interface Fault {
  readonly on: FaultKind | readonly FaultKind[];
  /** Counts from 1, over all kinds in `on` together. */
  readonly at: number;
  readonly code: "EIO" | "ENOSPC";
  /** Also every later one. */
  readonly fromThenOn?: boolean;
  /** Bytes of a failing write that reach the device nevertheless; default none. */
  readonly tornBytes?: number;
}

export class FaultyDevice implements BlockDevice {
  readonly sync: SyncIo | undefined;
  readonly #below: BlockDevice;
  #fault: Fault | undefined;
  #seen = 0;
  #fired = 0;
  readonly counts: Record<FaultKind, number> = { read: 0, write: 0, flush: 0, discard: 0, zeroes: 0 };

  constructor(below: BlockDevice, fault?: Fault) {
    this.#below = below;
    this.#fault = fault;
    this.sync = below.sync === undefined ? undefined : this.#guard(below.sync);
  }

  /** How often it failed. */
  get fired(): number {
    return this.#fired;
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

  /** Sets the fault, counting from now on; undefined heals. */
  arm(fault: Fault | undefined): void {
    this.#fault = fault;
    this.#seen = 0;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.#pass("read");
    return this.#below.read(offset, buffer);
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    const failure = this.#failureOf("write");
    if (failure === undefined) return this.#below.write(offset, buffer, options);
    const torn = this.#tornPart(buffer);
    if (torn.length > 0) await this.#below.write(offset, torn);
    throw failure;
  }

  async flush(): Promise<void> {
    this.#pass("flush");
    return this.#below.flush();
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#pass("discard");
    return this.#below.discard(offset, length);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#pass("zeroes");
    return this.#below.writeZeroes(offset, length);
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

  #guard(below: SyncIo): SyncIo {
    return {
      read: (offset, buffer) => {
        this.#pass("read");
        below.read(offset, buffer);
      },
      write: (offset, buffer) => {
        const failure = this.#failureOf("write");
        if (failure === undefined) return below.write(offset, buffer);
        const torn = this.#tornPart(buffer);
        if (torn.length > 0) below.write(offset, torn);
        throw failure;
      },
      flush: () => {
        this.#pass("flush");
        below.flush();
      },
      discard: (offset, length) => {
        this.#pass("discard");
        below.discard(offset, length);
      },
      writeZeroes: (offset, length) => {
        this.#pass("zeroes");
        below.writeZeroes(offset, length);
      },
      knownZeroes: (offset, length) => below.knownZeroes(offset, length),
    };
  }

  #pass(kind: FaultKind): void {
    const failure = this.#failureOf(kind);
    if (failure !== undefined) throw failure;
  }

  #failureOf(kind: FaultKind): Error | undefined {
    this.counts[kind]++;
    const fault = this.#fault;
    if (fault === undefined || !(Array.isArray(fault.on) ? fault.on.includes(kind) : fault.on === kind))
      return undefined;
    this.#seen++;
    if (this.#seen !== fault.at && !(fault.fromThenOn === true && this.#seen > fault.at)) return undefined;
    this.#fired++;
    return failureFor(this.name, kind, fault.code);
  }

  #tornPart(buffer: Uint8Array): Uint8Array {
    return buffer.subarray(0, Math.min(this.#fault?.tornBytes ?? 0, buffer.length));
  }
}

function failureFor(name: string, kind: FaultKind, code: Extract<Code, "EIO" | "ENOSPC">): Error {
  if (code === "ENOSPC") return new SpaceError(`${name}: injected: no space left on device`);
  return new IoError("EIO", `${name}: injected ${kind} error`);
}
