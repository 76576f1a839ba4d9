/**
 * A device that takes its time: every operation is carried out some turns of the event loop after it was asked for, and
 * answered some turns later, by a seeded chance. Operations under way overtake each other, as on a real disk. It has no
 * synchronous side.
 */
import type { BlockDevice, Extent } from "../../src/io/index.js";
import { Random } from "./random.js";

export class DelayedDevice implements BlockDevice {
  readonly sync = undefined;
  readonly #random: Random;
  #held: Promise<void> | undefined;
  #release: () => void = () => {};
  /** Operations asked for and not answered yet. */
  underWay = 0;
  mostUnderWay = 0;

  constructor(
    readonly below: BlockDevice,
    options: { readonly seed: number; readonly maxTurns?: number },
  ) {
    this.#random = new Random(options.seed);
    this.#maxTurns = options.maxTurns ?? 4;
  }
  readonly #maxTurns: number;

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

  /** From now on operations wait until `release`. */
  hold(): void {
    this.#held ??= new Promise((resolve) => {
      this.#release = resolve;
    });
  }

  release(): void {
    this.#held = undefined;
    this.#release();
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#later(() => this.below.read(offset, buffer));
  }

  write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    return this.#later(() => this.below.write(offset, buffer, options));
  }

  flush(): Promise<void> {
    return this.#later(() => this.below.flush());
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#later(() => this.below.discard(offset, length));
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#later(() => this.below.writeZeroes(offset, length));
  }

  extents(offset: number, length: number): Promise<readonly Extent[]> {
    return this.#later(() => this.below.extents(offset, length));
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

  async #later<T>(run: () => Promise<T>): Promise<T> {
    this.underWay++;
    this.mostUnderWay = Math.max(this.mostUnderWay, this.underWay);
    try {
      await this.#turns();
      if (this.#held !== undefined) await this.#held;
      const result = await run();
      await this.#turns();
      return result;
    } finally {
      this.underWay--;
    }
  }

  async #turns(): Promise<void> {
    for (let left = this.#random.between(0, this.#maxTurns); left > 0; left--) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}
