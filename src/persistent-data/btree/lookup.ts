/** Reading a tree: one key, the next key, the ends. */
import type { ReadView } from "../../bytes/index.js";
import { childAt, isLeaf, keyAt, lowerBound, nrEntriesOf, valueOffset } from "./node.js";
import { readNode, type Tree } from "./tree.js";

/** Where a value lies; reused by callers so that a lookup allocates nothing. */
export class Position {
  view: ReadView = EMPTY;
  /** Byte offset of the value in the leaf. */
  offset = 0;
  key = 0;
  /** Entry in the leaf. */
  index = 0;

  set(view: ReadView, index: number): void {
    this.view = view;
    this.index = index;
    this.key = keyAt(view, index);
    this.offset = valueOffset(view, index);
  }
}

const EMPTY: ReadView = new DataView(new ArrayBuffer(0));

/** Finds `key`; @returns false when the tree does not hold it */
export function lookup(tree: Tree, root: number, key: number, position: Position): boolean {
  let blocknr = root;
  let low = 0;
  let high = Number.POSITIVE_INFINITY;
  for (let depth = 0; ; depth++) {
    const { view } = readNode(tree, blocknr, depth, low, high);
    const index = lowerBound(view, key);
    if (index < 0) return false;
    if (isLeaf(view)) {
      if (keyAt(view, index) !== key) return false;
      position.set(view, index);
      return true;
    }
    low = keyAt(view, index);
    if (index + 1 < nrEntriesOf(view)) high = keyAt(view, index + 1);
    blocknr = childAt(view, index);
  }
}

/** Finds the smallest key >= `key`; @returns false when there is none */
export function lookupNext(tree: Tree, root: number, key: number, position: Position): boolean {
  let blocknr = root;
  let low = 0;
  let high = Number.POSITIVE_INFINITY;
  for (let depth = 0; ; depth++) {
    const { view } = readNode(tree, blocknr, depth, low, high);
    if (isLeaf(view)) {
      const index = atOrAfter(view, key, low);
      if (index < nrEntriesOf(view)) {
        position.set(view, index);
        return true;
      }
      // Behind the last key of its leaf: in a leaf further on, if anywhere. Rare enough to begin again.
      return nextBelow(tree, root, key, position, 0, 0, Number.POSITIVE_INFINITY);
    }
    const index = Math.max(lowerBound(view, key), 0);
    low = keyAt(view, index);
    if (index + 1 < nrEntriesOf(view)) high = keyAt(view, index + 1);
    blocknr = childAt(view, index);
  }
}

/**
 * First entry of a leaf with a key >= `key`. Where keys are consecutive, as those of written stretches are, it is found
 * without a search: a node that is not in the processor's cache costs one line of it instead of five.
 * @param low the parent's key for the leaf, most often its first
 */
function atOrAfter(view: ReadView, key: number, low: number): number {
  const guess = key - low;
  if (guess >= 0 && guess < nrEntriesOf(view) && keyAt(view, guess) === key) return guess;
  const index = lowerBound(view, key);
  return index < 0 || keyAt(view, index) < key ? index + 1 : index;
}

function nextBelow(
  tree: Tree,
  blocknr: number,
  key: number,
  position: Position,
  depth: number,
  low: number,
  high: number,
): boolean {
  const { view } = readNode(tree, blocknr, depth, low, high);
  const nr = nrEntriesOf(view);
  if (isLeaf(view)) {
    const index = atOrAfter(view, key, low);
    if (index >= nr) return false;
    position.set(view, index);
    return true;
  }
  for (let index = Math.max(lowerBound(view, key), 0); index < nr; index++) {
    const childHigh = index + 1 < nr ? keyAt(view, index + 1) : high;
    if (nextBelow(tree, childAt(view, index), key, position, depth + 1, keyAt(view, index), childHigh)) return true;
  }
  return false;
}

/** Largest key, or undefined for a tree without entries. */
export function highestKey(tree: Tree, root: number): number | undefined {
  let blocknr = root;
  let low = 0;
  for (let depth = 0; ; depth++) {
    const { view } = readNode(tree, blocknr, depth, low);
    const nr = nrEntriesOf(view);
    if (nr === 0) return undefined;
    low = keyAt(view, nr - 1);
    if (isLeaf(view)) return low;
    blocknr = childAt(view, nr - 1);
  }
}
