/** A device for somebody who may go away in the middle: from then on every request is refused, so that long work ends. */
import { StateError } from "../../errors/index.js";
import type { BlockDevice, Extent } from "../../io/index.js";

export class Leash implements BlockDevice {
  readonly sync = undefined;
  readonly #device: BlockDevice;
  readonly #isGone: () => boolean;

  constructor(device: BlockDevice, isGone: () => boolean) {
    this.#device = device;
    this.#isGone = isGone;
  }

  get name(): string {
    return this.#device.name;
  }
  get sizeBytes(): number {
    return this.#device.sizeBytes;
  }
  get isReadOnly(): boolean {
    return this.#device.isReadOnly;
  }
  get logicalBlockBytes(): number {
    return this.#device.logicalBlockBytes;
  }
  get discardGranularityBytes(): number {
    return this.#device.discardGranularityBytes;
  }
  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.#check();
    await this.#device.read(offset, buffer);
  }
  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    this.#check();
    await this.#device.write(offset, buffer, options);
  }
  tryRead(offset: number, buffer: Uint8Array): number {
    this.#check();
    return this.#device.tryRead?.(offset, buffer) ?? 0;
  }
  tryWrite(offset: number, buffer: Uint8Array): number {
    this.#check();
    return this.#device.tryWrite?.(offset, buffer) ?? 0;
  }
  async flush(): Promise<void> {
    this.#check();
    await this.#device.flush();
  }
  async discard(offset: number, length: number): Promise<void> {
    this.#check();
    await this.#device.discard(offset, length);
  }
  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#check();
    await this.#device.writeZeroes(offset, length);
  }
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.#check();
    return this.#device.extents(offset, length);
  }
  async refreshSize(): Promise<void> {
    await this.#device.refreshSize();
  }
  /** The device stays its owner's. */
  async close(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}

  #check(): void {
    if (this.#isGone()) throw new StateError("EINTR", `${this.name}: whoever asked for this has gone`);
  }
}
