/**
 * A btree node: header, keys, then values behind room for max_entries keys. Functions here touch one or two nodes and
 * know nothing of trees. Source: the kernel's btree node, thin-engine 2.1.
 */
import { bytes, getU64, type ReadView, setU64, struct, u32, u64 } from "../../bytes/index.js";
import { invariant } from "../../errors/index.js";
import { damaged, METADATA_BLOCK_BYTES, makeValidator } from "../validator.js";

/** Head of a btree block; keys follow, then values. Source: the kernel's btree node header. */
export const NODE_HEADER = struct("btree node header", 32, {
  csum: u32(0, "crc32c of the rest of the block, xored with the node salt"),
  flags: u32(4, "1 internal, 2 leaf"),
  blocknr: u64(8, "metadata block this node was written to"),
  nrEntries: u32(16, "entries in use"),
  maxEntries: u32(20, "capacity, a multiple of 3"),
  valueSize: u32(24, "bytes per value, 8 in an internal node"),
  padding: bytes(28, 4, "zero"),
});

export const INTERNAL_NODE = 1;
export const LEAF_NODE = 2;
export const KEY_BYTES = 8;
export const CHILD_BYTES = 8;
const HEADER_BYTES = NODE_HEADER.size;
const FLAGS = NODE_HEADER.fields.flags.offset;
const NR_ENTRIES = NODE_HEADER.fields.nrEntries.offset;
const MAX_ENTRIES = NODE_HEADER.fields.maxEntries.offset;
const VALUE_SIZE = NODE_HEADER.fields.valueSize.offset;
const TWO_32 = 4294967296;
const SALT = 121107;

/** Entries that fit a node, rounded down to a multiple of 3. */
export function maxEntriesFor(valueSize: number): number {
  return 3 * Math.floor(Math.floor((METADATA_BLOCK_BYTES - HEADER_BYTES) / (KEY_BYTES + valueSize)) / 3);
}

export const BTREE_NODE = makeValidator({ name: "btree_node", salt: SALT, checkContent: checkNode });

function checkNode(view: ReadView, blocknr: number): void {
  const max = maxEntriesOf(view);
  const nr = nrEntriesOf(view);
  const valueSize = view.getUint32(VALUE_SIZE, true);
  const flags = view.getUint32(FLAGS, true);
  if (HEADER_BYTES + (KEY_BYTES + valueSize) * max > METADATA_BLOCK_BYTES) {
    throw damaged(blocknr, "btree_node", `${max} entries of ${valueSize} bytes do not fit a block`);
  }
  if (nr > max) throw damaged(blocknr, "btree_node", `${nr} entries, room for ${max}`);
  if (flags !== INTERNAL_NODE && flags !== LEAF_NODE) {
    throw damaged(blocknr, "btree_node", `flags 0x${flags.toString(16)}, wanted 1 (internal) or 2 (leaf)`);
  }
  if (max !== maxEntriesFor(valueSize)) {
    throw damaged(blocknr, "btree_node", `room for ${max} entries, wanted ${maxEntriesFor(valueSize)}`, "EUCLEAN");
  }
  if (flags === INTERNAL_NODE && valueSize !== CHILD_BYTES) {
    throw damaged(blocknr, "btree_node", `child numbers of ${valueSize} bytes, wanted ${CHILD_BYTES}`, "EUCLEAN");
  }
  if (flags === INTERNAL_NODE && nr === 0)
    throw damaged(blocknr, "btree_node", "internal node without entries", "EUCLEAN");
  let previous = -1;
  for (let index = 0; index < nr; index++) {
    const key = keyAt(view, index);
    if (key <= previous) {
      throw damaged(blocknr, "btree_node", `keys out of order: ${previous} before ${key} at entry ${index}`, "EUCLEAN");
    }
    previous = key;
  }
}

export function isLeaf(view: ReadView): boolean {
  return (view.getUint32(FLAGS, true) & LEAF_NODE) !== 0;
}

export function nrEntriesOf(view: ReadView): number {
  return view.getUint32(NR_ENTRIES, true);
}

export function maxEntriesOf(view: ReadView): number {
  return view.getUint32(MAX_ENTRIES, true);
}

export function valueSizeOf(view: ReadView): number {
  return view.getUint32(VALUE_SIZE, true);
}

export function setNrEntries(view: DataView, count: number): void {
  invariant(count >= 0 && count <= maxEntriesOf(view), `node would hold ${count} entries`);
  view.setUint32(NR_ENTRIES, count, true);
}

export function keyAt(view: ReadView, index: number): number {
  return getU64(view, HEADER_BYTES + index * KEY_BYTES);
}

export function setKeyAt(view: DataView, index: number, key: number): void {
  setU64(view, HEADER_BYTES + index * KEY_BYTES, key);
}

/** Byte offset of a value in its node. */
export function valueOffset(view: ReadView, index: number): number {
  return HEADER_BYTES + maxEntriesOf(view) * KEY_BYTES + index * valueSizeOf(view);
}

/** Child block number of an internal node, or any u64 value. */
export function childAt(view: ReadView, index: number): number {
  return getU64(view, HEADER_BYTES + maxEntriesOf(view) * KEY_BYTES + index * CHILD_BYTES);
}

export function setChildAt(view: DataView, index: number, blocknr: number): void {
  setU64(view, HEADER_BYTES + maxEntriesOf(view) * KEY_BYTES + index * CHILD_BYTES, blocknr);
}

/** Last entry whose key is <= `key`; -1 when there is none. */
export function lowerBound(view: ReadView, key: number): number {
  let low = -1;
  let high = view.getUint32(NR_ENTRIES, true);
  const keyHigh = Math.floor(key / TWO_32);
  const keyLow = key >>> 0;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    const at = HEADER_BYTES + middle * KEY_BYTES;
    const middleHigh = view.getUint32(at + 4, true);
    const middleLow = view.getUint32(at, true);
    if (middleHigh < keyHigh || (middleHigh === keyHigh && middleLow <= keyLow)) low = middle;
    else high = middle;
  }
  return low;
}

/** Makes a zeroed block an empty node. */
export function initNode(view: DataView, kind: typeof INTERNAL_NODE | typeof LEAF_NODE, valueSize: number): void {
  view.setUint32(FLAGS, kind, true);
  view.setUint32(NR_ENTRIES, 0, true);
  view.setUint32(MAX_ENTRIES, maxEntriesFor(valueSize), true);
  view.setUint32(VALUE_SIZE, valueSize, true);
}

/** Gives `to` the kind, capacity and value size of `from`. */
export function copyKind(from: ReadView, to: DataView): void {
  for (const offset of [FLAGS, MAX_ENTRIES, VALUE_SIZE]) to.setUint32(offset, from.getUint32(offset, true), true);
}

/** Turns a node into an internal one with no entries, in place. */
export function makeInternal(view: DataView): void {
  initNode(view, INTERNAL_NODE, CHILD_BYTES);
}

/** Opens a gap of one entry at `index`; the caller fills key and value. */
export function openGap(view: DataView, index: number): void {
  const nr = nrEntriesOf(view);
  invariant(index <= nr && nr < maxEntriesOf(view), `no room for entry ${index} of ${nr}`);
  moveWithin(view, index, index + 1, nr - index);
  setNrEntries(view, nr + 1);
}

export function insertChild(view: DataView, index: number, key: number, blocknr: number): void {
  openGap(view, index);
  setKeyAt(view, index, key);
  setChildAt(view, index, blocknr);
}

export function deleteEntry(view: DataView, index: number): void {
  const nr = nrEntriesOf(view);
  invariant(index < nr, `entry ${index} of ${nr} does not exist`);
  moveWithin(view, index + 1, index, nr - index - 1);
  setNrEntries(view, nr - 1);
}

/** Copies `count` entries between two nodes of one kind; counts are left to the caller. */
export function copyEntries(from: ReadView, fromIndex: number, to: DataView, toIndex: number, count: number): void {
  invariant(valueSizeOf(from) === valueSizeOf(to), "nodes of different value size");
  if (count <= 0) return;
  const size = valueSizeOf(from);
  const source = bytesOf(from);
  const target = bytesOf(to);
  const key = HEADER_BYTES + fromIndex * KEY_BYTES;
  target.set(source.subarray(key, key + count * KEY_BYTES), HEADER_BYTES + toIndex * KEY_BYTES);
  const value = valueOffset(from, fromIndex);
  target.set(source.subarray(value, value + count * size), valueOffset(to, toIndex));
}

/** Moves `count` entries within a node. */
export function moveWithin(view: DataView, fromIndex: number, toIndex: number, count: number): void {
  if (count <= 0) return;
  const all = bytesOf(view);
  const size = valueSizeOf(view);
  const key = HEADER_BYTES + fromIndex * KEY_BYTES;
  all.copyWithin(HEADER_BYTES + toIndex * KEY_BYTES, key, key + count * KEY_BYTES);
  const value = valueOffset(view, fromIndex);
  all.copyWithin(valueOffset(view, toIndex), value, value + count * size);
}

/** Moves entries between neighbours until the left one holds `leftCount`. */
export function balanceTo(left: DataView, right: DataView, leftCount: number): void {
  const nrLeft = nrEntriesOf(left);
  const nrRight = nrEntriesOf(right);
  const shift = nrLeft - leftCount;
  if (shift > 0) {
    moveWithin(right, 0, shift, nrRight);
    copyEntries(left, leftCount, right, 0, shift);
  } else if (shift < 0) {
    copyEntries(right, 0, left, nrLeft, -shift);
    moveWithin(right, -shift, 0, nrRight + shift);
  }
  setNrEntries(left, leftCount);
  setNrEntries(right, nrRight + shift);
}

/** Lays the entries of several neighbours out again so that each holds its target; the sum must stay. */
export function redistribute(nodes: readonly DataView[], targets: readonly number[]): void {
  const size = valueSizeOf(nodes[0]!);
  const total = nodes.reduce((sum, node) => sum + nrEntriesOf(node), 0);
  invariant(total === targets.reduce((sum, target) => sum + target, 0), "redistribution loses entries");
  const keys = new Uint8Array(total * KEY_BYTES);
  const values = new Uint8Array(total * size);
  let at = 0;
  for (const node of nodes) {
    const nr = nrEntriesOf(node);
    const all = bytesOf(node);
    keys.set(all.subarray(HEADER_BYTES, HEADER_BYTES + nr * KEY_BYTES), at * KEY_BYTES);
    const value = valueOffset(node, 0);
    values.set(all.subarray(value, value + nr * size), at * size);
    at += nr;
  }
  at = 0;
  for (const [index, node] of nodes.entries()) {
    const nr = targets[index]!;
    const all = bytesOf(node);
    all.set(keys.subarray(at * KEY_BYTES, (at + nr) * KEY_BYTES), HEADER_BYTES);
    all.set(values.subarray(at * size, (at + nr) * size), valueOffset(node, 0));
    setNrEntries(node, nr);
    at += nr;
  }
}

function bytesOf(view: ReadView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
