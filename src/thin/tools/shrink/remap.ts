/**
 * Mappings of moved blocks are changed, and nothing else: the mapping trees of all devices are one graph, and what comes
 * out is the same graph, node for node, in which the nodes that had to change lie in other blocks. So whatever was
 * shared is shared afterwards: leaves, inner nodes, whole trees, data blocks. Keys, times and the fill of nodes stay.
 *
 * A node has to change when it is a leaf that maps a moved block, or when a child of it changed. It gets a copy, once,
 * however many refer to it; each reference that is changed takes its count along from the old block to the new one.
 * Nobody but the live trees may refer to them (no metadata snapshot), so nothing is left of the old blocks' counts.
 *
 * Which leaves map blocks of a range is known without reading them: the lowest and highest block that each of them maps
 * behind the new end is kept, as it is found by a sweep and changed here.
 */
import {
  BTREE_NODE,
  childAt,
  damaged,
  isLeaf,
  nrEntriesOf,
  setChildAt,
  valueOffset,
} from "../../../persistent-data/index.js";
import { BLOCK_TIME_BYTES, blockOf, setBlockTime, timeOf } from "../../block-time.js";
import type { MetadataStore } from "../../metadata-store.js";
import type { Pace } from "../pace.js";
import type { BlockStore } from "../reader/block-store.js";
import { eachDeviceRoot } from "../reader/devices.js";
import { MAX_TREE_DEPTH } from "../reader/node.js";
import { NodeSweep } from "../reader/node-sweep.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";
import type { SuperblockValues } from "../reader/superblock.js";
import { damageError } from "../sound.js";
import type { Relocation } from "./relocation.js";

/** 0: not met. */
const LEAF = 1;
const INNER = 2;

/** What is known of each metadata block that is a node of a mapping tree. */
export class NodeTable {
  readonly kind: Uint8Array;
  /** Lowest and highest data block behind the new end that a leaf maps; low above high where there is none. */
  readonly low: Float64Array;
  readonly high: Float64Array;
  /** Leaves that map blocks behind the new end. */
  leaves = 0;

  constructor(nrBlocks: number) {
    this.kind = new Uint8Array(nrBlocks);
    this.low = new Float64Array(nrBlocks);
    this.high = new Float64Array(nrBlocks);
  }
}

/** Reads every leaf once. @throws DamageError */
export async function readNodeTable(
  store: BlockStore,
  superblock: SuperblockValues,
  limit: number,
  pace: Pace,
): Promise<NodeTable> {
  const table = new NodeTable(store.nrBlocks);
  const sweep = new NodeSweep(store, {
    valueSize: MAPPING_BYTES,
    references: new Uint32Array(store.nrBlocks),
    onDamage: (blocknr) => {
      throw damaged(blocknr, BTREE_NODE.name, "cannot be used as a node of a mapping tree", "EUCLEAN");
    },
    pace,
  });
  eachDeviceRoot(
    store,
    superblock.mappingRoot,
    (_id, root) => sweep.addRoot(root),
    (damage) => {
      throw damageError(store, damage, "the devices tree");
    },
  );
  await sweep.run((blocknr, words, _at, nr, values) => {
    table.kind[blocknr] = LEAF;
    let low = Number.POSITIVE_INFINITY;
    let high = -1;
    for (let index = 0, word = values; index < nr; index++, word += 2) {
      const block = words[word + 1]! * 256 + (words[word]! >>> 24);
      if (block < limit) continue;
      if (block < low) low = block;
      if (block > high) high = block;
    }
    table.low[blocknr] = low;
    table.high[blocknr] = high;
    if (high >= 0) table.leaves++;
  });
  return table;
}

export class Remap {
  readonly #store: MetadataStore;
  readonly #table: NodeTable;
  readonly #relocation: Relocation;
  readonly #begin: number;
  readonly #end: number;
  /** Where each old node is now; 0 for one that was not met. */
  readonly #place: Uint32Array;
  #nodes = 0;

  /** One transaction: of all blocks to move, those among [begin, end). */
  constructor(store: MetadataStore, table: NodeTable, relocation: Relocation, range: { begin: number; end: number }) {
    this.#store = store;
    this.#table = table;
    this.#relocation = relocation;
    this.#begin = range.begin;
    this.#end = range.end;
    this.#place = new Uint32Array(table.kind.length);
  }

  /** Nodes that were written anew. */
  get nodes(): number {
    return this.#nodes;
  }

  /**
   * Changes trees and counts in the running transaction; yields where others may have a turn, who change nothing.
   * @throws SpaceError when the metadata has no room for the copies: abort then; DamageError, IoError
   */
  *run(): Generator<void, void, void> {
    const store = this.#store;
    store.mappingRoot = yield* this.#devices(store.mappingRoot, 0);
    let runs = 0;
    for (const { from, to, length } of this.#relocation.runs(this.#begin, this.#end)) {
      store.dataMap.move(from, to, length);
      store.transaction.blocks.trim();
      if (++runs % 64 === 0) yield;
    }
  }

  /** Nodes of the tree of devices, whose values are roots. Nobody shares them. */
  *#devices(blocknr: number, depth: number): Generator<void, number, void> {
    const { view } = this.#read(blocknr, depth);
    const nr = nrEntriesOf(view);
    const children = new Float64Array(nr);
    for (let index = 0; index < nr; index++) {
      const child = childAt(view, index);
      children[index] = isLeaf(view) ? yield* this.#mappings(child, 0) : yield* this.#devices(child, depth + 1);
    }
    return this.#replace(blocknr, children);
  }

  /** A node of a mapping tree. @returns where it is afterwards */
  *#mappings(blocknr: number, depth: number): Generator<void, number, void> {
    const { transaction } = this.#store;
    const known = this.#place[blocknr]!;
    if (known !== 0) {
      if (known !== blocknr) {
        transaction.inc(known);
        transaction.dec(blocknr);
      }
      return known;
    }
    const place = this.#table.kind[blocknr] === LEAF ? this.#leaf(blocknr) : yield* this.#inner(blocknr, depth);
    this.#place[blocknr] = place;
    return place;
  }

  *#inner(blocknr: number, depth: number): Generator<void, number, void> {
    const { view } = this.#read(blocknr, depth);
    if (isLeaf(view)) throw damaged(blocknr, BTREE_NODE.name, "is a leaf the sweep did not meet", "EUCLEAN");
    const nr = nrEntriesOf(view);
    const children = new Float64Array(nr);
    for (let index = 0; index < nr; index++) children[index] = yield* this.#mappings(childAt(view, index), depth + 1);
    const place = this.#replace(blocknr, children);
    this.#table.kind[place] = INNER;
    yield;
    return place;
  }

  /** A node with other children is copied. */
  #replace(blocknr: number, children: Float64Array): number {
    const { transaction } = this.#store;
    const { view } = transaction.read(blocknr, BTREE_NODE);
    const isSame = children.every((child, index) => child === childAt(view, index));
    if (isSame) return blocknr;
    const { block } = transaction.shadow(blocknr, BTREE_NODE);
    for (let index = 0; index < children.length; index++) setChildAt(block.view, index, children[index]!);
    this.#nodes++;
    transaction.blocks.trim();
    return block.blocknr;
  }

  #leaf(blocknr: number): number {
    const table = this.#table;
    const begin = this.#begin;
    const end = this.#end;
    if (table.low[blocknr]! >= end || table.high[blocknr]! < begin) return blocknr;
    const { transaction } = this.#store;
    const { view: before } = transaction.read(blocknr, BTREE_NODE);
    const nr = nrEntriesOf(before);
    let isChanged = false;
    for (
      let index = 0, offset = valueOffset(before, 0);
      index < nr && !isChanged;
      index++, offset += BLOCK_TIME_BYTES
    ) {
      const dataBlock = blockOf(before, offset);
      isChanged = dataBlock >= begin && dataBlock < end;
    }
    if (!isChanged) return blocknr;
    const { block } = transaction.shadow(blocknr, BTREE_NODE);
    const { view } = block;
    let low = Number.POSITIVE_INFINITY;
    let high = -1;
    for (let index = 0, offset = valueOffset(view, 0); index < nr; index++, offset += BLOCK_TIME_BYTES) {
      const dataBlock = blockOf(view, offset);
      if (dataBlock < this.#relocation.limit) continue;
      if (dataBlock >= begin && dataBlock < end) {
        setBlockTime(view, offset, this.#relocation.target(dataBlock), timeOf(view, offset));
        continue;
      }
      if (dataBlock < low) low = dataBlock;
      if (dataBlock > high) high = dataBlock;
    }
    table.kind[block.blocknr] = LEAF;
    table.low[block.blocknr] = low;
    table.high[block.blocknr] = high;
    this.#nodes++;
    transaction.blocks.trim();
    return block.blocknr;
  }

  #read(blocknr: number, depth: number) {
    if (depth >= MAX_TREE_DEPTH) {
      throw damaged(blocknr, BTREE_NODE.name, `tree deeper than ${MAX_TREE_DEPTH} levels: a circle`, "EUCLEAN");
    }
    return this.#store.transaction.read(blocknr, BTREE_NODE);
  }
}
