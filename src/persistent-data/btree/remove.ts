/**
 * Removal as the kernel does it: on the way down the children of every internal node are brought to a healthy fill
 * first, so that the leaf can lose an entry. Siblings are shadowed whether or not they change. Source: thin-engine 2.6.
 */
import type { WriteBlock } from "../block-manager.js";
import {
  BTREE_NODE,
  balanceTo,
  childAt,
  copyEntries,
  deleteEntry,
  isLeaf,
  keyAt,
  lowerBound,
  maxEntriesOf,
  moveWithin,
  nrEntriesOf,
  redistribute,
  setChildAt,
  setKeyAt,
  setNrEntries,
  valueOffset,
} from "./node.js";
import { Spine, shadowNode } from "./spine.js";
import { incChildren, type Tree } from "./tree.js";

export interface Removed {
  readonly root: number;
  /** Entries that are gone. */
  readonly count: number;
}

/** Removes one key. `count` is 0 when it was not there; the root may be new all the same. */
export function remove(tree: Tree, root: number, key: number): Removed {
  const spine = new Spine();
  const index = descend(tree, spine, root, key);
  const count = index >= 0 && dropIf(tree, spine, index, key, key + 1) !== undefined ? 1 : 0;
  return { root: spine.rootOr(root), count };
}

/** Removes keys in [begin, end), beginning with one that is there, up to the first stop; callers start again behind it. */
export function removeRun(tree: Tree, root: number, begin: number, end: number): Removed & { readonly next: number } {
  let at = begin;
  let newRoot = root;
  for (let count = 0; ; count++) {
    const spine = new Spine();
    const index = descend(tree, spine, newRoot, at);
    newRoot = spine.rootOr(newRoot);
    const dropped = index < -1 ? undefined : dropIf(tree, spine, Math.max(index, 0), at, end);
    if (dropped === undefined) return { root: newRoot, count, next: at };
    at = dropped + 1;
  }
}

const NO_WAY_DOWN = -2;

/** Walks to the leaf for `key`. @returns its entry at or before the key, -1 for none, -2 when a node above had none */
function descend(tree: Tree, spine: Spine, root: number, key: number): number {
  let blocknr = root;
  let index = -1;
  for (;;) {
    const node = spine.step(tree, blocknr, index);
    if (!isLeaf(node.view)) {
      if (!fixChildren(tree, node, key)) return NO_WAY_DOWN;
    }
    index = lowerBound(node.view, key);
    if (isLeaf(node.view)) return index;
    blocknr = childAt(node.view, index);
  }
}

/** Deletes entry `index` of the current leaf when its key is in [begin, end). @returns that key */
function dropIf(tree: Tree, spine: Spine, index: number, begin: number, end: number): number | undefined {
  const { view } = spine.current;
  if (index >= nrEntriesOf(view)) return undefined;
  const key = keyAt(view, index);
  if (key < begin || key >= end) return undefined;
  tree.value.dec?.(view, valueOffset(view, index), 1);
  deleteEntry(view, index);
  return key;
}

interface Child {
  readonly index: number;
  readonly block: WriteBlock;
}

/** Makes the child on the way to `key` safe to take an entry from. @returns false when no child covers the key */
function fixChildren(tree: Tree, node: WriteBlock, key: number): boolean {
  const { view } = node;
  const nr = nrEntriesOf(view);
  if (nr === 1) {
    swallowOnlyChild(tree, node);
    return true;
  }
  const index = lowerBound(view, key);
  if (index < 0) return false;
  if (index === 0) mendTwo(tree, view, shadowAt(tree, view, 0), shadowAt(tree, view, 1));
  else if (index === nr - 1) mendTwo(tree, view, shadowAt(tree, view, index - 1), shadowAt(tree, view, index));
  else mendThree(tree, view, index);
  return true;
}

function shadowAt(tree: Tree, parent: DataView, index: number): Child {
  const block = shadowNode(tree, childAt(parent, index));
  setChildAt(parent, index, block.blocknr);
  return { index, block };
}

/** A node with one child takes the child's place: the tree loses a level. */
function swallowOnlyChild(tree: Tree, node: WriteBlock): void {
  const { transaction } = tree;
  const childNr = childAt(node.view, 0);
  node.bytes.set(transaction.read(childNr, BTREE_NODE).bytes);
  // A child somebody else owns too keeps its children: they have one more parent now.
  if (transaction.isShared(childNr)) incChildren(tree, node.view);
  transaction.dec(childNr);
}

/** Entries below which a node is too empty. */
function minEntries(block: WriteBlock): number {
  return Math.floor(maxEntriesOf(block.view) / 3);
}

function mendTwo(tree: Tree, parent: DataView, left: Child, right: Child): void {
  const leftView = left.block.view;
  const rightView = right.block.view;
  const nrLeft = nrEntriesOf(leftView);
  const nrRight = nrEntriesOf(rightView);
  if (nrLeft + nrRight < 2 * (minEntries(left.block) + 1)) {
    copyEntries(rightView, 0, leftView, nrLeft, nrRight);
    setNrEntries(leftView, nrLeft + nrRight);
    deleteEntry(parent, right.index);
    tree.transaction.dec(right.block.blocknr);
    return;
  }
  balanceTo(leftView, rightView, Math.floor((nrLeft + nrRight) / 2));
  setKeyAt(parent, right.index, keyAt(rightView, 0));
}

function mendThree(tree: Tree, parent: DataView, index: number): void {
  const left = shadowAt(tree, parent, index - 1);
  const centre = shadowAt(tree, parent, index);
  const right = shadowAt(tree, parent, index + 1);
  const total = nrEntriesOf(left.block.view) + nrEntriesOf(centre.block.view) + nrEntriesOf(right.block.view);
  if (total < 4 * minEntries(left.block) + 1) dropCentre(tree, parent, left, centre, right);
  else evenThree(parent, left, centre, right);
}

function dropCentre(tree: Tree, parent: DataView, left: Child, centre: Child, right: Child): void {
  const leftView = left.block.view;
  const centreView = centre.block.view;
  const rightView = right.block.view;
  const nrLeft = nrEntriesOf(leftView);
  const nrCentre = nrEntriesOf(centreView);
  const nrRight = nrEntriesOf(rightView);
  const toLeft = Math.min(maxEntriesOf(leftView) - nrLeft, nrCentre);
  const toRight = nrCentre - toLeft;
  copyEntries(centreView, 0, leftView, nrLeft, toLeft);
  setNrEntries(leftView, nrLeft + toLeft);
  if (toRight > 0) {
    moveWithin(rightView, 0, toRight, nrRight);
    copyEntries(centreView, toLeft, rightView, 0, toRight);
    setNrEntries(rightView, nrRight + toRight);
  }
  setKeyAt(parent, right.index, keyAt(rightView, 0));
  deleteEntry(parent, centre.index);
  tree.transaction.dec(centre.block.blocknr);
  mendTwo(tree, parent, left, { index: right.index - 1, block: right.block });
}

function evenThree(parent: DataView, left: Child, centre: Child, right: Child): void {
  const views = [left.block.view, centre.block.view, right.block.view];
  const total = views.reduce((sum, view) => sum + nrEntriesOf(view), 0);
  const targetRight = Math.floor(total / 3);
  const targetLeft = targetRight + (total % 3 === 0 ? 0 : 1);
  redistribute(views, [targetLeft, total - targetLeft - targetRight, targetRight]);
  setKeyAt(parent, centre.index, keyAt(centre.block.view, 0));
  setKeyAt(parent, right.index, keyAt(right.block.view, 0));
}
