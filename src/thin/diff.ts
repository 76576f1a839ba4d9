/**
 * Where two devices of a pool differ, from their mapping trees alone. A node that both trees hold says the same for both,
 * whatever is below it: such nodes are left out by their block number. What remains of either tree is swept over in key
 * order. Equal data blocks are equal, whenever they were mapped.
 */

import { getU64 } from "../bytes/index.js";
import { StateError } from "../errors/index.js";
import {
  childAt,
  damaged,
  isLeaf,
  keyAt,
  lookup,
  nrEntriesOf,
  Position,
  readNode,
  type Tree,
  valueOffset,
} from "../persistent-data/index.js";
import { BLOCK_TIME_BYTES, blockOf } from "./block-time.js";
import type { ThinMetadata } from "./metadata.js";

/** One device maps the blocks and the other does not, or both map them to different data blocks. */
export type DiffKind = "left-only" | "right-only" | "differ";

const IN_LEFT = 1;
const IN_RIGHT = 2;
const IN_BOTH = 3;

/**
 * Calls `visit` with stretches of virtual blocks in order; neighbours of a kind come as one.
 * @throws StateError ENODATA; DamageError; IoError
 */
export function diffDevices(
  metadata: ThinMetadata,
  left: number,
  right: number,
  visit: (virtualBlock: number, count: number, kind: DiffKind) => void,
): void {
  const { mappings, metadataBlocks } = metadata.treesForReading();
  const [leftRoot, rightRoot] = [rootOf(metadata, left), rootOf(metadata, right)];
  const marks = new Uint8Array(metadataBlocks);
  markNodes(mappings, leftRoot, 0, marks, IN_LEFT);
  markNodes(mappings, rightRoot, 0, marks, IN_RIGHT);
  const runs = [leftRoot, rightRoot].map((root) => {
    const list = new RunList();
    collectRuns(mappings, root, 0, 0, Number.POSITIVE_INFINITY, marks, list);
    return list;
  }) as [RunList, RunList];
  sweep(runs[0], runs[1], joined(visit));
}

function rootOf(metadata: ThinMetadata, id: number): number {
  const { devices, deviceRoot } = metadata.treesForReading();
  const position = new Position();
  if (lookup(devices, deviceRoot, id, position)) return getU64(position.view, position.offset);
  throw new StateError("ENODATA", `thin device ${id} does not exist in the pool`, {
    hint: "'udm thin list' shows what the pool holds",
  });
}

/** Marks the nodes of a tree, but not what is below one that the other tree has. Leaves are known by their first sibling. */
function markNodes(tree: Tree, blocknr: number, depth: number, marks: Uint8Array, mark: number): boolean {
  if (setMark(marks, blocknr, mark) === IN_BOTH) return false;
  const { view } = readNode(tree, blocknr, depth);
  if (isLeaf(view)) return true;
  const nr = nrEntriesOf(view);
  let areLeaves = false;
  for (let index = 0; index < nr; index++) {
    const child = childAt(view, index);
    if (areLeaves) setMark(marks, child, mark);
    else areLeaves = markNodes(tree, child, depth + 1, marks, mark);
  }
  return false;
}

function setMark(marks: Uint8Array, blocknr: number, mark: number): number {
  if (blocknr >= marks.length) {
    throw damaged(blocknr, "btree_node", `lies outside the metadata of ${marks.length} blocks`, "EUCLEAN");
  }
  const both = marks[blocknr]! | mark;
  marks[blocknr] = both;
  return both;
}

function collectRuns(
  tree: Tree,
  blocknr: number,
  depth: number,
  low: number,
  high: number,
  marks: Uint8Array,
  runs: RunList,
): void {
  if (marks[blocknr] === IN_BOTH) return;
  const { view } = readNode(tree, blocknr, depth, low, high);
  const nr = nrEntriesOf(view);
  if (isLeaf(view)) {
    for (let index = 0, offset = valueOffset(view, 0); index < nr; index++, offset += BLOCK_TIME_BYTES) {
      runs.add(keyAt(view, index), blockOf(view, offset));
    }
    return;
  }
  for (let index = 0; index < nr; index++) {
    const childHigh = index + 1 < nr ? keyAt(view, index + 1) : high;
    collectRuns(tree, childAt(view, index), depth + 1, keyAt(view, index), childHigh, marks, runs);
  }
}

/** Runs of consecutive mappings in key order, 24 bytes each. */
class RunList {
  length = 0;
  virtual = new Float64Array(256);
  data = new Float64Array(256);
  count = new Float64Array(256);

  add(virtualBlock: number, dataBlock: number): void {
    const last = this.length - 1;
    if (last >= 0) {
      const count = this.count[last]!;
      if (virtualBlock === this.virtual[last]! + count && dataBlock === this.data[last]! + count) {
        this.count[last] = count + 1;
        return;
      }
    }
    if (this.length === this.virtual.length) this.#grow();
    this.virtual[this.length] = virtualBlock;
    this.data[this.length] = dataBlock;
    this.count[this.length] = 1;
    this.length++;
  }

  #grow(): void {
    const doubled = (from: Float64Array): Float64Array<ArrayBuffer> => {
      const to = new Float64Array(from.length * 2);
      to.set(from);
      return to;
    };
    this.virtual = doubled(this.virtual);
    this.data = doubled(this.data);
    this.count = doubled(this.count);
  }
}

/** Goes over both lists at once; each step ends where either list has a border. */
function sweep(
  left: RunList,
  right: RunList,
  emit: (from: number, to: number, kind: DiffKind | undefined) => void,
): void {
  let [i, j, at] = [0, 0, 0];
  while (i < left.length || j < right.length) {
    const leftEnd = i < left.length ? left.virtual[i]! + left.count[i]! : Number.POSITIVE_INFINITY;
    const rightEnd = j < right.length ? right.virtual[j]! + right.count[j]! : Number.POSITIVE_INFINITY;
    const leftFrom = i < left.length ? Math.max(left.virtual[i]!, at) : Number.POSITIVE_INFINITY;
    const rightFrom = j < right.length ? Math.max(right.virtual[j]!, at) : Number.POSITIVE_INFINITY;
    if (leftFrom < rightFrom) {
      at = Math.min(leftEnd, rightFrom);
      emit(leftFrom, at, "left-only");
    } else if (rightFrom < leftFrom) {
      at = Math.min(rightEnd, leftFrom);
      emit(rightFrom, at, "right-only");
    } else {
      at = Math.min(leftEnd, rightEnd);
      const isSame = left.data[i]! - left.virtual[i]! === right.data[j]! - right.virtual[j]!;
      emit(leftFrom, at, isSame ? undefined : "differ");
    }
    if (leftEnd <= at) i++;
    if (rightEnd <= at) j++;
  }
  emit(at, at, undefined);
}

/** Joins neighbours of a kind; what is the same on both sides is left out. */
function joined(
  visit: (virtualBlock: number, count: number, kind: DiffKind) => void,
): (from: number, to: number, kind: DiffKind | undefined) => void {
  let [begin, end] = [0, 0];
  let current: DiffKind | undefined;
  return (from, to, kind) => {
    if (kind === current && from === end) {
      end = to;
      return;
    }
    if (current !== undefined) visit(begin, end - begin, current);
    [begin, end, current] = [from, to, kind];
  };
}
