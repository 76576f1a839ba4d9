/** Owners of data blocks, counted from nothing. Memory goes with the blocks that have owners, not with the device. */

const PAGE_BLOCKS = 16384;
const MAX_COUNTED = 65535;

export class DataCounts {
  readonly #pages = new Map<number, Uint16Array>();
  /** Counts that two bytes do not hold. */
  readonly #large = new Map<number, number>();
  #lastPage = -1;
  #last: Uint16Array = new Uint16Array(0);

  add(block: number): void {
    const page = Math.floor(block / PAGE_BLOCKS);
    if (page !== this.#lastPage) this.#turnTo(page);
    const place = block - page * PAGE_BLOCKS;
    const count = this.#last[place]!;
    if (count < MAX_COUNTED) this.#last[place] = count + 1;
    else this.#large.set(block, (this.#large.get(block) ?? MAX_COUNTED) + 1);
  }

  of(block: number): number {
    const page = Math.floor(block / PAGE_BLOCKS);
    if (page !== this.#lastPage) {
      const found = this.#pages.get(page);
      if (found === undefined) return 0;
      this.#lastPage = page;
      this.#last = found;
    }
    const count = this.#last[block - page * PAGE_BLOCKS]!;
    return count < MAX_COUNTED ? count : (this.#large.get(block) ?? count);
  }

  #turnTo(page: number): void {
    const found = this.#pages.get(page) ?? new Uint16Array(PAGE_BLOCKS);
    this.#pages.set(page, found);
    this.#lastPage = page;
    this.#last = found;
  }
}
