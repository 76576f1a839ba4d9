/**
 * Insertion as the kernel does it: on the way down every node is shadowed, and every full node makes room first, by
 * handing entries to a neighbour, by splitting in two, or by making three of two. Which neighbour is asked, and in which
 * order blocks are allocated, decides where bytes land; both follow the kernel. Source: thin-engine 2.4, 2.5.
 */
import type { ReadView } from "../../bytes/index.js";
import type { WriteBlock } from "../block-manager.js";
import {
  BTREE_NODE,
  balanceTo,
  childAt,
  copyEntries,
  copyKind,
  insertChild,
  isLeaf,
  keyAt,
  lowerBound,
  makeInternal,
  maxEntriesOf,
  nrEntriesOf,
  openGap,
  redistribute,
  setChildAt,
  setKeyAt,
  setNrEntries,
  valueOffset,
} from "./node.js";
import { Spine, shadowNode } from "./spine.js";
import type { Tree } from "./tree.js";

/** A neighbour with this many free entries takes some instead of a split. */
const SPACE_THRESHOLD = 8;

export interface Inserted {
  readonly root: number;
  /** False: the key was there and its value was replaced. */
  readonly isNew: boolean;
}

/** Sets the value of `key` to the bytes at `offset` of `value`. */
export function insert(tree: Tree, root: number, key: number, value: ReadView, offset: number): Inserted {
  const spine = new Spine();
  const index = descend(spine, tree, root, key, -1);
  const isNew = putValue(tree, spine.current, index, key, value, offset);
  return { root: spine.rootOr(root), isNew };
}

/**
 * Sets the values of `count` keys in a row, from `first` on, in a tree whose root is a value of another tree, shadowing both
 * on the way down. Blocks and bytes are those of one insertion after the other; but where the next key falls into the
 * same leaf, and nothing on the way to it would have to make room, it is put there without going down again.
 * @param upper the tree of roots; `upperKey` must be in it, else undefined is returned
 * @param valueAt gives the value of the key `first + index` at the start of a view, which is used at once
 * @returns the new root of `upper`, and how many keys were not there before
 */
export function insertRunBelow(
  upper: Tree,
  root: number,
  upperKey: number,
  lower: Tree,
  first: number,
  count: number,
  valueAt: (index: number) => ReadView,
): { readonly root: number; readonly added: number } | undefined {
  let added = 0;
  let upperRoot = root;
  for (let done = 0; done < count; ) {
    const spine = new Spine();
    const upperIndex = descend(spine, upper, upperRoot, upperKey, -1);
    const leaf = spine.current.view;
    if (upperIndex >= nrEntriesOf(leaf) || keyAt(leaf, upperIndex) !== upperKey) return undefined;
    spine.enterTree();
    let index = descend(spine, lower, childAt(leaf, upperIndex), first + done, upperIndex);
    upperRoot = spine.rootOr(upperRoot);
    const { current } = spine;
    do {
      if (putValue(lower, current, index++, first + done, valueAt(done), 0)) added++;
      done++;
    } while (done < count && !spine.madeRoom && first + done < spine.high && hasRoomFor(current.view, first + done));
  }
  return { root: upperRoot, added };
}

/** Walks to the leaf for `key`, making room on the way. @returns where the key is or belongs in the leaf */
function descend(spine: Spine, tree: Tree, root: number, key: number, parentIndex: number): number {
  let blocknr = root;
  let index = parentIndex;
  for (let isTop = true; ; isTop = false) {
    spine.step(tree, blocknr, index);
    if (!hasRoomFor(spine.current.view, key)) {
      spine.madeRoom = true;
      if (isTop) splitBeneath(tree, spine.current);
      else makeRoom(tree, spine, index, key);
    }
    const { view } = spine.current;
    index = lowerBound(view, key);
    if (isLeaf(view)) return index < 0 || keyAt(view, index) !== key ? index + 1 : index;
    if (index < 0) {
      setKeyAt(view, 0, key);
      index = 0;
    }
    if (index + 1 < nrEntriesOf(view)) spine.high = keyAt(view, index + 1);
    blocknr = childAt(view, index);
  }
}

function hasRoomFor(view: ReadView, key: number): boolean {
  if (nrEntriesOf(view) < maxEntriesOf(view)) return true;
  if (!isLeaf(view)) return false;
  const index = lowerBound(view, key);
  return index >= 0 && keyAt(view, index) === key;
}

function putValue(tree: Tree, leaf: WriteBlock, index: number, key: number, value: ReadView, offset: number): boolean {
  const { view } = leaf;
  const { size } = tree.value;
  const isNew = index >= nrEntriesOf(view) || keyAt(view, index) !== key;
  if (isNew) {
    openGap(view, index);
    setKeyAt(view, index, key);
  } else {
    const { equal, dec } = tree.value;
    const at = valueOffset(view, index);
    if (dec !== undefined && !equal?.(view, at, value, offset)) dec(view, at, 1);
  }
  const at = valueOffset(view, index);
  for (let byte = 0; byte < size; byte += 4) view.setUint32(at + byte, value.getUint32(offset + byte, true), true);
  return isNew;
}

/** A full root keeps its block and becomes the parent of two new halves. */
function splitBeneath(tree: Tree, root: WriteBlock): void {
  const nr = nrEntriesOf(root.view);
  const half = Math.floor(nr / 2);
  const left = tree.transaction.newBlock(BTREE_NODE);
  const right = tree.transaction.newBlock(BTREE_NODE);
  fillFrom(root.view, 0, left, half);
  fillFrom(root.view, half, right, nr - half);
  makeInternal(root.view);
  insertChild(root.view, 0, keyAt(left.view, 0), left.blocknr);
  insertChild(root.view, 1, keyAt(right.view, 0), right.blocknr);
}

function fillFrom(source: ReadView, from: number, target: WriteBlock, count: number): void {
  copyKind(source, target.view);
  copyEntries(source, from, target.view, 0, count);
  setNrEntries(target.view, count);
}

/** The current node, at entry `index` of its parent, is full. */
function makeRoom(tree: Tree, spine: Spine, index: number, key: number): void {
  const parent = spine.parent!.view;
  const nrSiblings = nrEntriesOf(parent);
  let siblingShared = false;
  if (index > 0) {
    const leftNr = childAt(parent, index - 1);
    siblingShared = tree.transaction.isShared(leftNr);
    if (!siblingShared && freeEntries(tree, leftNr) >= SPACE_THRESHOLD) return evenLeft(tree, spine, index, key);
  }
  if (index < nrSiblings - 1) {
    const rightNr = childAt(parent, index + 1);
    const rightShared = tree.transaction.isShared(rightNr);
    if (!rightShared && freeEntries(tree, rightNr) >= SPACE_THRESHOLD) return evenRight(tree, spine, index, key);
    siblingShared ||= rightShared;
  }
  if (siblingShared || nrSiblings <= 2 || index === 0 || index === nrSiblings - 1) splitInTwo(tree, spine, index, key);
  else splitTwoInThree(tree, spine, index, key);
}

function freeEntries(tree: Tree, blocknr: number): number {
  const { view } = tree.transaction.read(blocknr, BTREE_NODE);
  return maxEntriesOf(view) - nrEntriesOf(view);
}

function shadowChild(tree: Tree, parent: DataView, index: number): WriteBlock {
  const child = shadowNode(tree, childAt(parent, index));
  setChildAt(parent, index, child.blocknr);
  return child;
}

function evenLeft(tree: Tree, spine: Spine, index: number, key: number): void {
  const parent = spine.parent!.view;
  const left = shadowChild(tree, parent, index - 1);
  const right = spine.current;
  evenOut(left, right);
  setKeyAt(parent, index, keyAt(right.view, 0));
  if (key < keyAt(right.view, 0)) spine.replaceCurrent(left);
}

function evenRight(tree: Tree, spine: Spine, index: number, key: number): void {
  const parent = spine.parent!.view;
  const left = spine.current;
  const right = shadowChild(tree, parent, index + 1);
  evenOut(left, right);
  setKeyAt(parent, index + 1, keyAt(right.view, 0));
  if (key >= keyAt(right.view, 0)) spine.replaceCurrent(right);
}

function evenOut(left: WriteBlock, right: WriteBlock): void {
  balanceTo(left.view, right.view, Math.floor((nrEntriesOf(left.view) + nrEntriesOf(right.view)) / 2));
}

function splitInTwo(tree: Tree, spine: Spine, index: number, key: number): void {
  const left = spine.current;
  const right = tree.transaction.newBlock(BTREE_NODE);
  const nr = nrEntriesOf(left.view);
  const half = Math.floor(nr / 2);
  fillFrom(left.view, half, right, nr - half);
  setNrEntries(left.view, half);
  insertChild(spine.parent!.view, index + 1, keyAt(right.view, 0), right.blocknr);
  if (key >= keyAt(right.view, 0)) spine.replaceCurrent(right);
}

/** Left sibling and current node become left, a new middle, right. */
function splitTwoInThree(tree: Tree, spine: Spine, index: number, key: number): void {
  const parent = spine.parent!.view;
  const left = shadowChild(tree, parent, index - 1);
  const right = spine.current;
  const middle = tree.transaction.newBlock(BTREE_NODE);
  copyKind(right.view, middle.view);
  const total = nrEntriesOf(left.view) + nrEntriesOf(right.view);
  const targetLeft = Math.floor(total / 3);
  const targetMiddle = Math.floor((total - targetLeft) / 2);
  redistribute([left.view, middle.view, right.view], [targetLeft, targetMiddle, total - targetLeft - targetMiddle]);
  setKeyAt(parent, index, keyAt(right.view, 0));
  insertChild(parent, index, keyAt(middle.view, 0), middle.blocknr);
  if (key < keyAt(middle.view, 0)) spine.replaceCurrent(left);
  else if (key < keyAt(right.view, 0)) spine.replaceCurrent(middle);
}
