/**
 * Mappings of one device leaf by leaf, in each as runs: virtual and data blocks that go up together, whatever their
 * time. Leaves are asked for, so that two sides can pass over what they share.
 */
import type { BlockStore } from "../reader/block-store.js";
import { KEYS } from "../reader/node.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";
import { TreeCursor, type TreeDamage } from "../reader/tree-cursor.js";

/** Where a run begins when there is none. */
export const NOTHING = Number.POSITIVE_INFINITY;

const TWO_32 = 4294967296;

export class LeafRuns {
  /** The run that comes first. */
  begin = NOTHING;
  data = 0;
  length = 0;
  /** Nothing of the present leaf was taken. */
  isWhole = false;
  /** All of it was, or there was none yet; false at the end. */
  isDone = true;
  readonly #leaves: TreeCursor;
  #index = 0;

  /** @param readAhead blocks that were read for the other side, which this one will most likely pass over */
  constructor(store: BlockStore, root: number, onDamage: (damage: TreeDamage) => void, readAhead: Uint8Array) {
    this.#leaves = new TreeCursor(store, root, MAPPING_BYTES, onDamage, readAhead);
  }

  get blocknr(): number {
    return this.#leaves.blocknr;
  }
  get nr(): number {
    return this.#leaves.nr;
  }
  /** Whether the present leaf lies in a subtree that was marked. */
  get isMarked(): boolean {
    return this.isWhole && this.#leaves.isMarked;
  }
  get isNextMarked(): boolean {
    return this.#leaves.isNextMarked;
  }

  /** Block of the subtree that comes next, 0 at the end. */
  peek(): number {
    return this.#leaves.peek();
  }

  skip(): void {
    this.#leaves.skip();
  }

  markNext(): void {
    this.#leaves.markNext();
  }

  /** Goes to the next leaf. */
  enter(): void {
    this.isDone = false;
    this.isWhole = this.#leaves.next();
    this.#index = 0;
    if (this.isWhole) this.#load();
    else this.begin = NOTHING;
  }

  /** Passes over what is left of the leaf. */
  drop(): void {
    this.#index = this.#leaves.nr;
    this.#load();
  }

  take(count: number): void {
    this.isWhole = false;
    this.begin += count;
    this.data += count;
    this.length -= count;
    if (this.length === 0) this.#load();
  }

  /** Whether the leaf, whole, has no gap between its first and its last virtual block. */
  get isContiguous(): boolean {
    const { words, at, nr } = this.#leaves;
    const last = at + KEYS + (nr - 1) * 2;
    return words[last + 1]! * TWO_32 + words[last]! - this.begin === nr - 1;
  }

  #load(): void {
    const { words, at, values, nr } = this.#leaves;
    let index = this.#index;
    if (index >= nr) {
      this.isWhole = false;
      this.isDone = true;
      this.begin = NOTHING;
      return;
    }
    const key = at + KEYS;
    const begin = words[key + index * 2 + 1]! * TWO_32 + words[key + index * 2]!;
    const data = words[values + index * 2 + 1]! * 256 + (words[values + index * 2]! >>> 24);
    let length = 1;
    for (index++; index < nr; index++, length++) {
      const value = values + index * 2;
      if (words[value + 1]! * 256 + (words[value]! >>> 24) !== data + length) break;
      if (words[key + index * 2 + 1]! * TWO_32 + words[key + index * 2]! !== begin + length) break;
    }
    this.#index = index;
    this.begin = begin;
    this.data = data;
    this.length = length;
  }
}
