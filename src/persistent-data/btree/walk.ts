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
  for (const _ of deleteTreeInSteps(tree, root));
}

/**
 * The same in steps of some leaves. In between blocks may be read and let go from the cache, but nothing may be changed.
 */
export function* deleteTreeInSteps(tree: Tree, root: number): Generator<void, void> {
  yield* deleteNode(tree, { blocknr: root, low: 0, high: Number.POSITIVE_INFINITY }, 0, { leaves: 0 });
}

const LEAVES_PER_STEP = 8;

interface Child {
  readonly blocknr: number;
  readonly low: number;
  readonly high: number;
}

function* deleteNode(
  tree: Tree,
  { blocknr, low, high }: Child,
  depth: number,
  done: { leaves: number },
): Generator<void, void> {
  const { transaction } = tree;
  if (transaction.spaceMap.count(blocknr) > 1) {
    transaction.dec(blocknr);
    return;
  }
  const { view } = readNode(tree, blocknr, depth, low, high);
  if (isLeaf(view)) {
    tree.value.dec?.(view, valueOffset(view, 0), nrEntriesOf(view));
    done.leaves++;
  } else {
    for (const child of childrenOf(view, high)) {
      yield* deleteNode(tree, child, depth + 1, done);
      if (done.leaves < LEAVES_PER_STEP) continue;
      done.leaves = 0;
      yield;
    }
  }
  transaction.dec(blocknr);
}

/** All at once: the block may be gone from the cache by the time the last is looked at. */
function childrenOf(view: ReadView, high: number): readonly Child[] {
  const children: Child[] = [];
  const nr = nrEntriesOf(view);
  for (let index = 0; index < nr; index++) {
    const childHigh = index + 1 < nr ? keyAt(view, index + 1) : high;
    children.push({ blocknr: childAt(view, index), low: keyAt(view, index), high: childHigh });
  }
  return children;
}
