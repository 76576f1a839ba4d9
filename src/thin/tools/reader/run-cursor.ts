/**
 * Mappings of one device as runs: virtual and data blocks that go up together, of one time, joined across leaves.
 */
import type { BlockStore } from "./block-store.js";
import { KEYS } from "./node.js";
import { TreeCursor, type TreeDamage } from "./tree-cursor.js";

export const MAPPING_BYTES = 8;
const TWO_32 = 4294967296;

export class RunCursor {
  /** The run that `next` moved to. */
  virtualBegin = 0;
  dataBegin = 0;
  length = 0;
  time = 0;
  readonly #leaves: TreeCursor;
  #index = 0;
  #nr = 0;

  constructor(store: BlockStore, root: number, onDamage: (damage: TreeDamage) => void) {
    this.#leaves = new TreeCursor(store, root, MAPPING_BYTES, onDamage);
  }

  /** @returns false at the end */
  next(): boolean {
    const leaves = this.#leaves;
    if (this.#index >= this.#nr && !this.#nextLeaf()) return false;
    let { words } = leaves;
    let key = leaves.at + KEYS + this.#index * 2;
    let value = leaves.values + this.#index * 2;
    const time = words[value]! & 0xffffff;
    const begin = words[key + 1]! * TWO_32 + words[key]!;
    const data = words[value + 1]! * 256 + (words[value]! >>> 24);
    let length = 1;
    for (;;) {
      this.#index++;
      if (this.#index >= this.#nr) {
        if (!this.#nextLeaf()) break;
        words = leaves.words;
        key = leaves.at + KEYS;
        value = leaves.values;
      } else {
        key += 2;
        value += 2;
      }
      const low = words[value]!;
      if (
        (low & 0xffffff) !== time ||
        words[value + 1]! * 256 + (low >>> 24) !== data + length ||
        words[key + 1]! * TWO_32 + words[key]! !== begin + length
      ) {
        break;
      }
      length++;
    }
    this.virtualBegin = begin;
    this.dataBegin = data;
    this.length = length;
    this.time = time;
    return true;
  }

  #nextLeaf(): boolean {
    if (!this.#leaves.next()) {
      this.#nr = 0;
      this.#index = 0;
      return false;
    }
    this.#nr = this.#leaves.nr;
    this.#index = 0;
    return true;
  }
}
