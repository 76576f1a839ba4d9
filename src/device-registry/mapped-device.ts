/**
 * A mapped device as something that holds bytes: the targets of its live table side by side. While it is suspended,
 * requests wait here; suspending waits for those under way. A sole target gets requests as they are.
 */
import { IoError, StateError, UdmError } from "../errors/index.js";
import type { BlockDevice, Extent, Located, SyncIo } from "../io/index.js";
import type { Target } from "../targets/index.js";

export interface Segment {
  readonly startBytes: number;
  readonly target: Target;
}

interface Part {
  readonly device: BlockDevice;
  /** On the part's device. */
  readonly offset: number;
  /** Within the request. */
  readonly at: number;
  readonly length: number;
}

export class MappedDevice implements BlockDevice {
  readonly #name: () => string;
  #segments: readonly Segment[] = [];
  #sizeBytes = 0;
  #isReadOnly = false;
  #isSuspended = true;
  #underWay = 0;
  #drained: (() => void) | undefined;
  #waiting: (() => void)[] = [];
  readonly #listeners = new Set<() => void | Promise<void>>();
  #following: Promise<unknown> = Promise.resolve();

  /** @param name asked for each time: devices are renamed */
  constructor(name: () => string) {
    this.#name = name;
  }

  get name(): string {
    return this.#name();
  }
  get sizeBytes(): number {
    return this.#sizeBytes;
  }
  get isReadOnly(): boolean {
    return this.#isReadOnly;
  }
  get isSuspended(): boolean {
    return this.#isSuspended;
  }
  get segments(): readonly Segment[] {
    return this.#segments;
  }
  get logicalBlockBytes(): number {
    return Math.max(512, ...this.#segments.map(({ target }) => target.device.logicalBlockBytes));
  }
  get discardGranularityBytes(): number {
    const all = this.#segments.map(({ target }) => target.device.discardGranularityBytes);
    return all.length === 0 || all.every((each) => each === 0) ? 0 : Math.max(...all);
  }
  get zeroGranularityBytes(): number {
    // Units of a second target need not begin at multiples of theirs.
    return this.#segments.length === 1 ? (this.#segments[0]!.target.device.zeroGranularityBytes ?? 0) : 0;
  }
  get sync(): SyncIo | undefined {
    if (!this.#segments.every(({ target }) => target.device.sync !== undefined)) return undefined;
    return this.#syncIo();
  }

  /** New targets; the device must be suspended. */
  setTargets(
    segments: readonly Segment[],
    options: { readonly sizeBytes: number; readonly isReadOnly: boolean },
  ): void {
    this.#segments = segments;
    this.#sizeBytes = options.sizeBytes;
    this.#isReadOnly = options.isReadOnly;
    this.tellChanged();
  }

  /**
   * Told after each new table, before requests flow, and after each new name: size, read-only and name may have changed.
   * What a listener begins is waited for, once requests flow, before the change counts as done. @returns ends it
   */
  onTable(listener: () => void | Promise<void>): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tellChanged(): void {
    for (const listener of this.#listeners) {
      const following = listener();
      if (following !== undefined) this.#following = Promise.allSettled([this.#following, following]);
    }
  }

  /** Resolves when the listeners have done what they began, however that went. */
  async followed(): Promise<void> {
    await this.#following;
  }

  /** Without a promise where a sole target can; 0 while suspended, or when the request leaves the device. */
  tryRead(offset: number, buffer: Uint8Array): number {
    const device = this.#soleDevice(offset, buffer.length);
    if (device === undefined) return 0;
    if (device.tryRead !== undefined) return device.tryRead(offset, buffer);
    if (device.sync === undefined) return 0;
    device.sync.read(offset, buffer);
    return buffer.length;
  }

  /** The same for writing. */
  tryWrite(offset: number, buffer: Uint8Array): number {
    const device = this.#isReadOnly ? undefined : this.#soleDevice(offset, buffer.length);
    if (device === undefined) return 0;
    if (device.tryWrite !== undefined) return device.tryWrite(offset, buffer);
    if (device.sync === undefined) return 0;
    device.sync.write(offset, buffer);
    return buffer.length;
  }

  #soleDevice(offset: number, length: number): BlockDevice | undefined {
    if (this.#isSuspended || this.#segments.length !== 1) return undefined;
    return offset >= 0 && offset + length <= this.#sizeBytes ? this.#segments[0]!.target.device : undefined;
  }

  /** Holds new requests back and waits for those under way, which a `noflush` does not. */
  async suspend(options: { readonly noflush: boolean }): Promise<void> {
    this.#isSuspended = true;
    if (this.#underWay > 0 && !options.noflush) {
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
  }

  resume(): void {
    this.#isSuspended = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#request(() =>
      this.#each(offset, buffer.length, (part) => part.device.read(part.offset, piece(buffer, part))),
    );
  }

  write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    return this.#request(() => {
      this.#refuseReadOnly();
      return this.#each(offset, buffer.length, (part) => part.device.write(part.offset, piece(buffer, part), options));
    });
  }

  flush(): Promise<void> {
    return this.#request(async () => {
      await Promise.all(this.#segments.map(({ target }) => target.device.flush()));
    });
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#request(() => {
      this.#refuseReadOnly();
      return this.#each(offset, length, (part) => part.device.discard(part.offset, part.length));
    });
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#request(() => {
      this.#refuseReadOnly();
      return this.#each(offset, length, (part) => part.device.writeZeroes(part.offset, part.length));
    });
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    const found: Extent[] = [];
    for (const part of this.#parts(offset, length)) {
      for (const each of await part.device.extents(part.offset, part.length)) {
        const last = found.at(-1);
        if (last?.kind === each.kind) found[found.length - 1] = { ...last, length: last.length + each.length };
        else found.push({ ...each, offset: each.offset - part.offset + offset + part.at });
      }
    }
    return found;
  }

  locate(offset: number, length: number): readonly Located[] | undefined {
    return this.#soleDevice(offset, length)?.locate?.(offset, length);
  }

  async refreshSize(): Promise<void> {}

  /** Takes the targets away without closing them; requests wait for new ones. */
  takeTargets(): readonly Segment[] {
    const segments = this.#segments;
    this.#segments = [];
    return segments;
  }

  /** Closes the targets, not what they stand on. */
  async close(): Promise<void> {
    const segments = this.#segments;
    this.#segments = [];
    for (const { target } of segments) await target.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #request(run: () => Promise<void>): Promise<void> {
    while (this.#isSuspended) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#underWay++;
    try {
      await run();
    } finally {
      this.#underWay--;
      if (this.#underWay === 0) {
        this.#drained?.();
        this.#drained = undefined;
      }
    }
  }

  #refuseReadOnly(): void {
    if (this.#isReadOnly) throw new IoError("EROFS", `${this.name} is read-only`);
  }

  #each(offset: number, length: number, run: (part: Part) => Promise<void>): Promise<void> {
    const sole = this.#segments.length === 1 ? this.#segments[0] : undefined;
    if (sole !== undefined) {
      this.#check(offset, length);
      return run({ device: sole.target.device, offset, at: 0, length });
    }
    return Promise.all(this.#parts(offset, length).map(run)).then(() => {});
  }

  #parts(offset: number, length: number): Part[] {
    this.#check(offset, length);
    const parts: Part[] = [];
    for (const { startBytes, target } of this.#segments) {
      const from = Math.max(offset, startBytes);
      const to = Math.min(offset + length, startBytes + target.device.sizeBytes);
      if (from < to) {
        parts.push({ device: target.device, offset: from - startBytes, at: from - offset, length: to - from });
      }
    }
    return parts;
  }

  #check(offset: number, length: number): void {
    if (offset < 0 || length < 0 || offset + length > this.#sizeBytes) {
      throw new UdmError(
        "EINVAL",
        `${this.name}: ${length} bytes at ${offset} leave the device of ${this.#sizeBytes} bytes`,
      );
    }
  }

  #syncIo(): SyncIo {
    const ready = () => {
      if (this.#isSuspended) {
        throw new StateError("EBUSY", `${this.name} is suspended`, { hint: `udm table resume ${this.name}` });
      }
    };
    return {
      read: (offset, buffer) => {
        ready();
        for (const part of this.#parts(offset, buffer.length)) part.device.sync!.read(part.offset, piece(buffer, part));
      },
      write: (offset, buffer) => {
        ready();
        this.#refuseReadOnly();
        for (const part of this.#parts(offset, buffer.length))
          part.device.sync!.write(part.offset, piece(buffer, part));
      },
      flush: () => {
        ready();
        for (const { target } of this.#segments) target.device.sync!.flush();
      },
      discard: (offset, length) => {
        ready();
        this.#refuseReadOnly();
        for (const part of this.#parts(offset, length)) part.device.sync!.discard(part.offset, part.length);
      },
      writeZeroes: (offset, length) => {
        ready();
        this.#refuseReadOnly();
        for (const part of this.#parts(offset, length)) part.device.sync!.writeZeroes(part.offset, part.length);
      },
      knownZeroes: (offset, length) => {
        let known = 0;
        for (const part of this.#parts(offset, length)) {
          const zeros = part.device.sync!.knownZeroes(part.offset, part.length);
          known += zeros;
          if (zeros < part.length) break;
        }
        return known;
      },
    };
  }
}

function piece(buffer: Uint8Array, part: Part): Uint8Array {
  return part.length === buffer.length ? buffer : buffer.subarray(part.at, part.at + part.length);
}
