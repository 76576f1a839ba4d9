/** What a tree is to the algorithms: where its blocks come from, and what its values own. */
import { getU64, type ReadView } from "../../bytes/index.js";
import type { DamageError } from "../../errors/index.js";
import type { ReadBlock } from "../block-manager.js";
import type { TransactionManager } from "../transaction-manager.js";
import { damaged } from "../validator.js";
import {
  BTREE_NODE,
  CHILD_BYTES,
  initNode,
  isLeaf,
  keyAt,
  LEAF_NODE,
  nrEntriesOf,
  valueOffset,
  valueSizeOf,
} from "./node.js";

/** Values of a tree. Hooks get `count` values packed one behind the other from `offset` on. */
export interface ValueType {
  readonly size: number;
  /** The values stand in one more leaf now. */
  inc?(view: ReadView, offset: number, count: number): void;
  /** The values are gone from a leaf. */
  dec?(view: ReadView, offset: number, count: number): void;
  /** Whether overwriting one value with the other changes nothing owned. */
  equal?(a: ReadView, aOffset: number, b: ReadView, bOffset: number): boolean;
}

export interface Tree {
  readonly transaction: TransactionManager;
  readonly value: ValueType;
}

/** Deeper than any tree of 4161600 blocks with sound nodes can be; a damaged one may loop. */
export const MAX_DEPTH = 16;

/** Root of a new tree without entries. */
export function emptyTree(tree: Tree): number {
  const block = tree.transaction.newBlock(BTREE_NODE);
  initNode(block.view, LEAF_NODE, tree.value.size);
  return block.blocknr;
}

/** The original and its copy both own the children now. Neighbouring block numbers are counted as one range. */
export function incChildren(tree: Tree, view: ReadView): void {
  const nr = nrEntriesOf(view);
  if (isLeaf(view)) tree.value.inc?.(view, valueOffset(view, 0), nr);
  else eachRun(view, valueOffset(view, 0), nr, (begin, end) => tree.transaction.inc(begin, end));
}

/** Calls `visit` with the runs of consecutive block numbers among `count` u64 values packed from `offset` on. */
export function eachRun(
  view: ReadView,
  offset: number,
  count: number,
  visit: (begin: number, end: number) => void,
): void {
  if (count === 0) return;
  let begin = getU64(view, offset);
  let end = begin + 1;
  for (let index = 1; index < count; index++) {
    const block = getU64(view, offset + index * CHILD_BYTES);
    if (block === end) {
      end++;
      continue;
    }
    visit(begin, end);
    begin = block;
    end = block + 1;
  }
  visit(begin, end);
}

/**
 * Reads a node and holds it against what its parent says of it: a sound node may still stand in the wrong place, in
 * another tree, or on a circle. Plain arguments, because this runs for every node of every lookup.
 * @param low the parent's key for it
 * @param high the parent's next key, Infinity when there is none
 */
export function readNode(
  tree: Tree,
  blocknr: number,
  depth: number,
  low = 0,
  high = Number.POSITIVE_INFINITY,
): ReadBlock {
  const block = tree.transaction.read(blocknr, BTREE_NODE);
  const { view } = block;
  if (depth >= MAX_DEPTH)
    throw damaged(blocknr, "btree_node", `tree deeper than ${MAX_DEPTH} levels: a circle`, "EUCLEAN");
  if (isLeaf(view) && valueSizeOf(view) !== tree.value.size) {
    throw damaged(blocknr, "btree_node", `values of ${valueSizeOf(view)} bytes, wanted ${tree.value.size}`, "EUCLEAN");
  }
  const nr = nrEntriesOf(view);
  if (nr > 0 && (keyAt(view, 0) < low || keyAt(view, nr - 1) >= high)) throw outOfPlace(blocknr, view, low, high);
  return block;
}

function outOfPlace(blocknr: number, view: ReadView, low: number, high: number): DamageError {
  const keys = `keys ${keyAt(view, 0)} to ${keyAt(view, nrEntriesOf(view) - 1)}`;
  return damaged(blocknr, "btree_node", `${keys}, its parent wants ${low} to below ${high}`, "EUCLEAN");
}
