/**
 * The space map of the data device: index entries in a btree, through a write-back cache of 64 slots (which decides the
 * order of allocations, so it follows the kernel's). Source: thin-engine 3.3 to 3.7.
 */
import { emptyTree, insert, lookup, Position, remove, type Tree } from "./btree/index.js";
import type { SpaceMap } from "./space-map.js";
import { INDEX_ENTRY, type IndexEntry, type IndexStore, SpaceMapCore, type SpaceMapRoot } from "./space-map-core.js";
import type { TransactionManager } from "./transaction-manager.js";
import { damaged } from "./validator.js";

const SLOTS = 64;
/** The kernel's multiplier 4294967291, modulo the number of slots. */
const SLOT_FACTOR = 59;
const NO_INDEX = -1;

/** Index entries behind the cache; `root` is owned by the map's core and kept in step. */
class TreeIndex implements IndexStore {
  readonly maxBitmaps = Number.MAX_SAFE_INTEGER;
  root = 0;
  readonly #tree: Tree;
  readonly #indexes = new Float64Array(SLOTS).fill(NO_INDEX);
  readonly #isDirty = new Uint8Array(SLOTS);
  readonly #blocknr = new Float64Array(SLOTS);
  readonly #nrFree = new Uint32Array(SLOTS);
  readonly #noneFreeBefore = new Uint32Array(SLOTS);
  readonly #position = new Position();
  readonly #value = new DataView(new ArrayBuffer(INDEX_ENTRY.size));

  constructor(tree: Tree) {
    this.#tree = tree;
  }

  load(index: number, entry: IndexEntry): void {
    const slot = (index * SLOT_FACTOR) % SLOTS;
    if (this.#indexes[slot] !== index) {
      this.#writeBack(slot);
      const position = this.#position;
      if (!lookup(this.#tree, this.root, index, position)) {
        throw damaged(this.root, "btree_node", `no entry for bitmap ${index} in the data space map's index`, "EUCLEAN");
      }
      this.#indexes[slot] = index;
      this.#blocknr[slot] = INDEX_ENTRY.get.blocknr(position.view, position.offset);
      this.#nrFree[slot] = INDEX_ENTRY.get.nrFree(position.view, position.offset);
      this.#noneFreeBefore[slot] = INDEX_ENTRY.get.noneFreeBefore(position.view, position.offset);
    }
    entry.blocknr = this.#blocknr[slot]!;
    entry.nrFree = this.#nrFree[slot]!;
    entry.noneFreeBefore = this.#noneFreeBefore[slot]!;
  }

  save(index: number, entry: Readonly<IndexEntry>): void {
    const slot = (index * SLOT_FACTOR) % SLOTS;
    if (this.#indexes[slot] !== index) this.#writeBack(slot);
    this.#indexes[slot] = index;
    this.#blocknr[slot] = entry.blocknr;
    this.#nrFree[slot] = entry.nrFree;
    this.#noneFreeBefore[slot] = entry.noneFreeBefore;
    this.#isDirty[slot] = 1;
  }

  remove(index: number): void {
    const slot = (index * SLOT_FACTOR) % SLOTS;
    if (this.#indexes[slot] === index) {
      this.#indexes[slot] = NO_INDEX;
      this.#isDirty[slot] = 0;
    }
    this.root = remove(this.#tree, this.root, index).root;
  }

  commit(): number {
    for (let slot = 0; slot < SLOTS; slot++) this.#writeBack(slot);
    return this.root;
  }

  copyFrom(other: TreeIndex): void {
    this.root = other.root;
    this.#indexes.set(other.#indexes);
    this.#isDirty.set(other.#isDirty);
    this.#blocknr.set(other.#blocknr);
    this.#nrFree.set(other.#nrFree);
    this.#noneFreeBefore.set(other.#noneFreeBefore);
  }

  #writeBack(slot: number): void {
    if (this.#isDirty[slot] === 0) return;
    this.#isDirty[slot] = 0;
    INDEX_ENTRY.set.blocknr(this.#value, this.#blocknr[slot]!);
    INDEX_ENTRY.set.nrFree(this.#value, this.#nrFree[slot]!);
    INDEX_ENTRY.set.noneFreeBefore(this.#value, this.#noneFreeBefore[slot]!);
    this.root = insert(this.#tree, this.root, this.#indexes[slot]!, this.#value, 0).root;
  }
}

export class DiskSpaceMap implements SpaceMap {
  readonly #liveIndex: TreeIndex;
  readonly #oldIndex: TreeIndex;
  readonly #live: SpaceMapCore;
  readonly #old: SpaceMapCore;
  #cursor = 0;
  #allocatedSinceCommit = 0;

  private constructor(transaction: TransactionManager) {
    const tree: Tree = { transaction, value: { size: INDEX_ENTRY.size } };
    this.#liveIndex = new TreeIndex(tree);
    this.#oldIndex = new TreeIndex(tree);
    this.#live = new SpaceMapCore(transaction, this.#liveIndex);
    this.#old = new SpaceMapCore(transaction, this.#oldIndex);
  }

  /** A map of no blocks. */
  static create(transaction: TransactionManager): DiskSpaceMap {
    const map = new DiskSpaceMap(transaction);
    map.#liveIndex.root = emptyTree({ transaction, value: { size: INDEX_ENTRY.size } });
    map.#live.bitmapRoot = map.#liveIndex.root;
    map.#live.createOverflow();
    map.commit();
    return map;
  }

  static open(transaction: TransactionManager, root: SpaceMapRoot): DiskSpaceMap {
    const map = new DiskSpaceMap(transaction);
    map.#live.root = root;
    map.#liveIndex.root = root.bitmapRoot;
    map.#remember();
    return map;
  }

  get nrBlocks(): number {
    return this.#old.nrBlocks;
  }

  /** Blocks governed once the running transaction is committed. */
  get nrLiveBlocks(): number {
    return this.#live.nrBlocks;
  }

  get nrFree(): number {
    return this.#old.nrBlocks - this.#old.nrAllocated - this.#allocatedSinceCommit;
  }

  get root(): SpaceMapRoot {
    return this.#live.root;
  }

  count(block: number): number {
    return this.#live.count(block);
  }

  isMoreThanOne(block: number): boolean {
    return this.#live.rawCount(block) > 1;
  }

  inc(begin: number, end: number): void {
    const before = this.#live.nrAllocated;
    this.#live.inc(begin, end);
    this.#allocatedSinceCommit += this.#live.nrAllocated - before;
  }

  dec(begin: number, end: number): void {
    const before = this.#live.nrAllocated;
    this.#live.dec(begin, end);
    this.#allocatedSinceCommit += this.#live.nrAllocated - before;
  }

  allocate(): number | undefined {
    let block = findCommonFree(this.#old, this.#live, this.#cursor, this.#live.nrBlocks);
    if (block < 0) block = findCommonFree(this.#old, this.#live, 0, this.#live.nrBlocks);
    if (block < 0) return undefined;
    this.#cursor = block + 1;
    this.inc(block, block + 1);
    return block;
  }

  /** Counts go from `length` blocks to as many others, which have none. @throws DamageError EUCLEAN */
  move(from: number, to: number, length: number): void {
    this.#live.move(from, to, length);
  }

  extend(nrBlocks: number): void {
    this.#live.extend(nrBlocks);
  }

  /** @throws StateError EBUSY when a block from `nrBlocks` on has an owner */
  shrink(nrBlocks: number): void {
    this.#live.shrink(nrBlocks, (index) => this.#liveIndex.remove(index));
  }

  commit(): void {
    this.#live.commit();
    this.#remember();
  }

  #remember(): void {
    this.#live.bitmapRoot = this.#liveIndex.root;
    this.#old.root = this.#live.root;
    this.#oldIndex.copyFrom(this.#liveIndex);
    this.#allocatedSinceCommit = 0;
  }
}

/** First block in [begin, end) that is free in the live and in the old map; -1 when there is none. */
export function findCommonFree(old: SpaceMapCore, live: SpaceMapCore, begin: number, end: number): number {
  for (let from = begin; ; ) {
    const block = live.findFree(from, end);
    if (block < 0 || block >= old.nrBlocks || old.rawCount(block) === 0) return block;
    from = block + 1;
  }
}
