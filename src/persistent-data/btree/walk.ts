/** Walking a tree: all leaves in key order, and giving up a whole tree. */
import type { ReadView } from "../../bytes/index.js";
import { childAt, isLeaf, keyAt, lowerBound, nrEntriesOf, valueOffset } from "./node.js";
import { readNode, type Tree } from "./tree.js";

/** Called with a leaf and its entries [from, to); returning false ends the walk. `blocknr` names the leaf. */
export type LeafVisitor = (view: ReadView, from: number, to: number, blocknr: number) => unknown;

/** Visits every leaf that may hold keys in [begin, end), in key order. The tree must not change meanwhile. */
export function walkLeaves(tree: Tree, root: number, begin: number, end: number, visit: LeafVisitor): void {
  walkNode(tree, root, begin, end, visit, 0, 0, Number.POSITIVE_INFINITY);
}

function walkNode(
  tree: Tree,
  blocknr: number,
  begin: number,
  end: number,
  visit: LeafVisitor,
  depth: number,
  low: number,
  high: number,
): boolean {
  const { view } = readNode(tree, blocknr, depth, low, high);
  const nr = nrEntriesOf(view);
  const first = lowerBound(view, begin);
  if (isLeaf(view)) {
    const from = first >= 0 && keyAt(view, first) === begin ? first : first + 1;
    const to = end === Number.POSITIVE_INFINITY ? nr : lowerBound(view, end - 1) + 1;
    return from >= to || visit(view, from, to, blocknr) !== false;
  }
  for (let index = Math.max(first, 0); index < nr && keyAt(view, index) < end; index++) {
    const childHigh = index + 1 < nr ? keyAt(view, index + 1) : high;
    if (!walkNode(tree, childAt(view, index), begin, end, visit, depth + 1, keyAt(view, index), childHigh))
      return false;
  }
  return true;
}

/**
 * Gives up one reference to a tree: blocks that nobody else refers to are freed with what they own, others lose a count.
 */
export function deleteTree(tree: Tree, root: number): void {
  deleteNode(tree, root, 0, 0, Number.POSITIVE_INFINITY);
}

function deleteNode(tree: Tree, blocknr: number, depth: number, low: number, high: number): void {
  const { transaction } = tree;
  if (transaction.spaceMap.count(blocknr) > 1) {
    transaction.dec(blocknr);
    return;
  }
  const { view } = readNode(tree, blocknr, depth, low, high);
  const nr = nrEntriesOf(view);
  if (isLeaf(view)) {
    tree.value.dec?.(view, valueOffset(view, 0), nr);
  } else {
    for (let index = 0; index < nr; index++) {
      const childHigh = index + 1 < nr ? keyAt(view, index + 1) : high;
      deleteNode(tree, childAt(view, index), depth + 1, keyAt(view, index), childHigh);
    }
  }
  transaction.dec(blocknr);
}
