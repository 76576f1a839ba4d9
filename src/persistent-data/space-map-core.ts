/**
 * What both space maps share: two-bit counts in bitmap blocks, larger counts in an overflow tree, and an index that says
 * where each bitmap lies and how full it is. Source: thin-engine 3.1, 3.2, 3.6.
 *
 * The two bits of an entry are stored high bit first, so as a plain field 1 means two owners and 2 means one.
 */
import { bytes, type ReadView, struct, u32, u64, type Values } from "../bytes/index.js";
import { SpaceError, StateError } from "../errors/index.js";
import type { WriteBlock } from "./block-manager.js";
import { emptyTree, insert, lookup, Position, remove, type Tree } from "./btree/index.js";
import type { TransactionManager } from "./transaction-manager.js";
import { damaged, METADATA_BLOCK_BYTES, makeValidator } from "./validator.js";

/** Root of a space map, kept in the superblock. Source: the kernel's disk_sm_root. */
export const SPACE_MAP_ROOT = struct("space map root", 32, {
  nrBlocks: u64(0, "blocks governed"),
  nrAllocated: u64(8, "blocks with a count above 0"),
  bitmapRoot: u64(16, "data: root of the index btree; metadata: the index block"),
  refCountRoot: u64(24, "root of the overflow btree"),
});
export type SpaceMapRoot = Values<typeof SPACE_MAP_ROOT>;

/** One bitmap in the index. Source: the kernel's disk_index_entry. */
export const INDEX_ENTRY = struct("index entry", 16, {
  blocknr: u64(0, "metadata block of the bitmap"),
  nrFree: u32(8, "entries with count 0, out of all a bitmap can hold"),
  noneFreeBefore: u32(12, "no entry below is free"),
});

const BITMAP_HEADER = struct("bitmap header", 16, {
  csum: u32(0, "crc32c of the rest of the block, xored with the bitmap salt"),
  unused: bytes(4, 4, "zero"),
  blocknr: u64(8, "metadata block this bitmap was written to"),
});
const HEADER_BYTES = BITMAP_HEADER.size;

export const ENTRIES_PER_BITMAP = (METADATA_BLOCK_BYTES - HEADER_BYTES) * 4;
export const BITMAP = makeValidator({ name: "sm_bitmap", salt: 240779 });

/** Raw values of the two bits. */
const RAW_FREE = 0;
const RAW_TWO = 1;
const RAW_ONE = 2;
const RAW_OVERFLOW = 3;
const COUNT_OF_RAW = [0, 2, 1, 3] as const;
/** The count that no longer fits two bits. */
const OVERFLOW_COUNT = 3;
const LOW_BITS = 0x55555555;
const ENTRIES_PER_WORD = 16;
const MAX_COUNT = 0xffffffff;

/** A decoded index entry; filled by the store, so that nothing is allocated per block. */
export class IndexEntry {
  blocknr = 0;
  nrFree = 0;
  noneFreeBefore = 0;
}

/** Where the index entries of a map live. */
export interface IndexStore {
  /** Fills `entry` with the entry of a bitmap. */
  load(index: number, entry: IndexEntry): void;
  save(index: number, entry: Readonly<IndexEntry>): void;
  /** Makes the stored index say what was saved. @returns where its root is now */
  commit(bitmapRoot: number): number;
  readonly maxBitmaps: number;
}

/** One version of a space map: the live one, or the one of the last commit. */
export class SpaceMapCore {
  nrBlocks = 0;
  nrAllocated = 0;
  bitmapRoot = 0;
  refCountRoot = 0;
  /** Some index entry was saved since the last commit. */
  #isIndexChanged = false;
  readonly #transaction: TransactionManager;
  readonly #index: IndexStore;
  readonly #overflow: Tree;
  readonly #entry = new IndexEntry();
  readonly #position = new Position();
  readonly #number = new DataView(new ArrayBuffer(4));

  constructor(transaction: TransactionManager, index: IndexStore) {
    this.#transaction = transaction;
    this.#index = index;
    this.#overflow = { transaction, value: { size: 4 } };
  }

  createOverflow(): void {
    this.refCountRoot = emptyTree(this.#overflow);
  }

  get root(): SpaceMapRoot {
    return {
      nrBlocks: this.nrBlocks,
      nrAllocated: this.nrAllocated,
      bitmapRoot: this.bitmapRoot,
      refCountRoot: this.refCountRoot,
    };
  }

  set root(root: SpaceMapRoot) {
    this.nrBlocks = root.nrBlocks;
    this.nrAllocated = root.nrAllocated;
    this.bitmapRoot = root.bitmapRoot;
    this.refCountRoot = root.refCountRoot;
  }

  /** Adds zeroed bitmaps for blocks up to `nrBlocks`. */
  extend(nrBlocks: number): void {
    const had = Math.ceil(this.nrBlocks / ENTRIES_PER_BITMAP);
    const wanted = Math.ceil(nrBlocks / ENTRIES_PER_BITMAP);
    if (wanted > this.#index.maxBitmaps) {
      throw new SpaceError(
        `a space map of ${nrBlocks} blocks is too large: the limit is ${this.#index.maxBitmaps * ENTRIES_PER_BITMAP}`,
      );
    }
    this.#mendLastBitmap();
    // Set first: the blocks of the new bitmaps may themselves be new ones.
    this.nrBlocks = nrBlocks;
    for (let index = had; index < wanted; index++) {
      const bitmap = this.#transaction.newBlock(BITMAP);
      const entry = new IndexEntry();
      entry.blocknr = bitmap.blocknr;
      entry.nrFree = ENTRIES_PER_BITMAP;
      this.#save(index, entry);
    }
  }

  /**
   * Tools before thin-provisioning-tools 1.0.10 count as free in the last bitmap only entries that exist. After growth
   * inside that bitmap such a number would hide free blocks.
   */
  #mendLastBitmap(): void {
    const used = this.nrBlocks % ENTRIES_PER_BITMAP;
    if (used === 0) return;
    const index = Math.floor(this.nrBlocks / ENTRIES_PER_BITMAP);
    const entry = new IndexEntry();
    this.#index.load(index, entry);
    const { view } = this.#transaction.read(entry.blocknr, BITMAP);
    let nrFree = ENTRIES_PER_BITMAP;
    for (let at = 0; at < used; at++) if (rawAt(view, at) !== RAW_FREE) nrFree--;
    if (nrFree === entry.nrFree) return;
    entry.nrFree = nrFree;
    this.#save(index, entry);
  }

  count(block: number): number {
    const raw = this.rawCount(block);
    return raw === OVERFLOW_COUNT ? this.#overflowCount(block) : raw;
  }

  /** 0, 1, 2, or 3 for everything above. */
  rawCount(block: number): number {
    this.#checkRange(block, block + 1);
    const index = Math.floor(block / ENTRIES_PER_BITMAP);
    this.#index.load(index, this.#entry);
    const { view } = this.#transaction.read(this.#entry.blocknr, BITMAP);
    return COUNT_OF_RAW[rawAt(view, block - index * ENTRIES_PER_BITMAP)]!;
  }

  /**
   * The counts of `length` blocks from `from` on become those of as many from `to` on, which have none. Only for a map
   * that governs other blocks than its own.
   */
  move(from: number, to: number, length: number): void {
    this.#checkRange(from, from + length);
    this.#checkRange(to, to + length);
    for (let done = 0; done < length; ) {
      const fromIndex = Math.floor((from + done) / ENTRIES_PER_BITMAP);
      const toIndex = Math.floor((to + done) / ENTRIES_PER_BITMAP);
      const count = Math.min(
        length - done,
        (fromIndex + 1) * ENTRIES_PER_BITMAP - from - done,
        (toIndex + 1) * ENTRIES_PER_BITMAP - to - done,
      );
      this.#moveWithin(fromIndex, toIndex, from + done, to + done, count);
      done += count;
    }
  }

  /** Neither range leaves its bitmap. */
  #moveWithin(fromIndex: number, toIndex: number, from: number, to: number, length: number): void {
    const source = new IndexEntry();
    const sourceBitmap = this.#openBitmap(fromIndex, source);
    const target = fromIndex === toIndex ? source : new IndexEntry();
    const targetBitmap = fromIndex === toIndex ? sourceBitmap : this.#openBitmap(toIndex, target);
    for (let step = 0; step < length; step++) {
      const fromAt = from + step - fromIndex * ENTRIES_PER_BITMAP;
      const toAt = to + step - toIndex * ENTRIES_PER_BITMAP;
      const raw = rawAt(sourceBitmap.view, fromAt);
      if (raw === RAW_FREE || rawAt(targetBitmap.view, toAt) !== RAW_FREE) {
        const [block, what] = raw === RAW_FREE ? [from + step, "no owner"] : [to + step, "an owner already"];
        throw damaged(sourceBitmap.blocknr, "sm_bitmap", `block ${block} has ${what}, its count is to move`, "EUCLEAN");
      }
      if (raw === RAW_OVERFLOW) {
        const count = this.#overflowCount(from + step);
        this.refCountRoot = remove(this.#overflow, this.refCountRoot, from + step).root;
        this.#setOverflow(to + step, count);
      }
      setRaw(targetBitmap.view, toAt, raw);
      if (target.noneFreeBefore === toAt) target.noneFreeBefore = toAt + 1;
      target.nrFree--;
      setRaw(sourceBitmap.view, fromAt, RAW_FREE);
      source.noneFreeBefore = Math.min(source.noneFreeBefore, fromAt);
      source.nrFree++;
    }
    this.#save(fromIndex, source);
    if (target !== source) this.#save(toIndex, target);
  }

  /** Fills `entry`, with the number of the shadow in it. */
  #openBitmap(index: number, entry: IndexEntry): WriteBlock {
    this.#index.load(index, entry);
    const bitmap = this.#transaction.shadow(entry.blocknr, BITMAP).block;
    entry.blocknr = bitmap.blocknr;
    return bitmap;
  }

  /**
   * Governs fewer blocks; bitmaps behind the last are given up. Only for a map that governs other blocks than its own.
   * @param removeEntry takes a bitmap out of the index
   * @throws StateError EBUSY when one of the blocks given up has an owner; nothing was changed then
   */
  shrink(nrBlocks: number, removeEntry: (index: number) => void): void {
    const first = Math.floor(nrBlocks / ENTRIES_PER_BITMAP);
    const had = Math.ceil(this.nrBlocks / ENTRIES_PER_BITMAP);
    const entry = this.#entry;
    for (let index = first; index < had; index++) {
      this.#index.load(index, entry);
      const base = index * ENTRIES_PER_BITMAP;
      const { view } = this.#transaction.read(entry.blocknr, BITMAP);
      const used = findUsedEntry(
        view,
        Math.max(0, nrBlocks - base),
        Math.min(ENTRIES_PER_BITMAP, this.nrBlocks - base),
      );
      if (used < 0) continue;
      throw new StateError("EBUSY", `block ${base + used} is in use, the space map is to end at ${nrBlocks}`);
    }
    for (let index = Math.ceil(nrBlocks / ENTRIES_PER_BITMAP); index < had; index++) {
      this.#index.load(index, entry);
      const { blocknr } = entry;
      removeEntry(index);
      this.#transaction.dec(blocknr);
    }
    this.nrBlocks = nrBlocks;
    this.#isIndexChanged = true;
    this.#mendLastBitmap();
  }

  /** First block in [begin, end) with count 0; -1 when there is none. */
  findFree(begin: number, end: number): number {
    const entry = this.#entry;
    const last = Math.ceil(end / ENTRIES_PER_BITMAP) - 1;
    for (let index = Math.floor(begin / ENTRIES_PER_BITMAP); index <= last; index++) {
      this.#index.load(index, entry);
      if (entry.nrFree === 0) continue;
      const base = index * ENTRIES_PER_BITMAP;
      const from = Math.max(begin - base, 0, entry.noneFreeBefore);
      const to = Math.min(end - base, ENTRIES_PER_BITMAP);
      const { view } = this.#transaction.read(entry.blocknr, BITMAP);
      const found = findFreeEntry(view, from, to);
      if (found >= 0) return base + found;
    }
    return -1;
  }

  inc(begin: number, end: number): void {
    this.#eachBitmap(begin, end, true);
  }

  dec(begin: number, end: number): void {
    this.#eachBitmap(begin, end, false);
  }

  commit(): void {
    if (!this.#isIndexChanged) return;
    this.bitmapRoot = this.#index.commit(this.bitmapRoot);
    this.#isIndexChanged = false;
  }

  #save(index: number, entry: Readonly<IndexEntry>): void {
    this.#isIndexChanged = true;
    this.#index.save(index, entry);
  }

  #eachBitmap(begin: number, end: number, isInc: boolean): void {
    this.#checkRange(begin, end);
    for (let at = begin; at < end; ) {
      const index = Math.floor(at / ENTRIES_PER_BITMAP);
      const base = index * ENTRIES_PER_BITMAP;
      const stop = Math.min(end, base + ENTRIES_PER_BITMAP);
      // An entry of its own: the overflow tree may come back here for other bitmaps.
      const entry = new IndexEntry();
      this.#index.load(index, entry);
      const bitmap = this.#transaction.shadow(entry.blocknr, BITMAP).block;
      entry.blocknr = bitmap.blocknr;
      for (; at < stop; at++) {
        if (isInc) this.#incOne(bitmap, entry, at, at - base);
        else this.#decOne(bitmap, entry, at, at - base);
      }
      this.#save(index, entry);
    }
  }

  #incOne(bitmap: WriteBlock, entry: IndexEntry, block: number, at: number): void {
    switch (rawAt(bitmap.view, at)) {
      case RAW_FREE:
        setRaw(bitmap.view, at, RAW_ONE);
        this.nrAllocated++;
        entry.nrFree--;
        if (entry.noneFreeBefore === at) entry.noneFreeBefore = at + 1;
        return;
      case RAW_ONE:
        setRaw(bitmap.view, at, RAW_TWO);
        return;
      case RAW_TWO:
        setRaw(bitmap.view, at, RAW_OVERFLOW);
        this.#setOverflow(block, OVERFLOW_COUNT);
        return;
      default: {
        const count = this.#overflowCount(block);
        if (count >= MAX_COUNT) {
          throw damaged(this.refCountRoot, "btree_node", `block ${block} has ${count} owners already`, "EUCLEAN");
        }
        this.#setOverflow(block, count + 1);
      }
    }
  }

  #decOne(bitmap: WriteBlock, entry: IndexEntry, block: number, at: number): void {
    switch (rawAt(bitmap.view, at)) {
      case RAW_FREE:
        throw damaged(bitmap.blocknr, "sm_bitmap", `block ${block} is to lose an owner and has none`, "EUCLEAN");
      case RAW_ONE:
        if (this.nrAllocated === 0) {
          throw damaged(
            this.bitmapRoot,
            "space map",
            `block ${block} has an owner, the root says that no block has`,
            "EUCLEAN",
          );
        }
        setRaw(bitmap.view, at, RAW_FREE);
        this.nrAllocated--;
        entry.nrFree++;
        entry.noneFreeBefore = Math.min(entry.noneFreeBefore, at);
        return;
      case RAW_TWO:
        setRaw(bitmap.view, at, RAW_ONE);
        return;
      default: {
        const count = this.#overflowCount(block);
        if (count > OVERFLOW_COUNT) {
          this.#setOverflow(block, count - 1);
          return;
        }
        this.refCountRoot = remove(this.#overflow, this.refCountRoot, block).root;
        setRaw(bitmap.view, at, RAW_TWO);
      }
    }
  }

  #overflowCount(block: number): number {
    const position = this.#position;
    if (!lookup(this.#overflow, this.refCountRoot, block, position)) {
      throw damaged(
        this.refCountRoot,
        "btree_node",
        `no count for block ${block}, whose bitmap says 3 or more`,
        "EUCLEAN",
      );
    }
    return position.view.getUint32(position.offset, true);
  }

  #setOverflow(block: number, count: number): void {
    this.#number.setUint32(0, count, true);
    this.refCountRoot = insert(this.#overflow, this.refCountRoot, block, this.#number, 0).root;
  }

  #checkRange(begin: number, end: number): void {
    if (begin < 0 || end > this.nrBlocks) {
      throw damaged(
        this.bitmapRoot,
        "space map",
        `block ${end - 1} lies outside the ${this.nrBlocks} blocks governed`,
        "EUCLEAN",
      );
    }
  }
}

function rawAt(view: ReadView, entry: number): number {
  return (view.getUint32(HEADER_BYTES + (entry >>> 4) * 4, true) >>> ((entry & 15) * 2)) & 3;
}

function setRaw(view: DataView, entry: number, raw: number): void {
  const offset = HEADER_BYTES + (entry >>> 4) * 4;
  const shift = (entry & 15) * 2;
  view.setUint32(offset, (view.getUint32(offset, true) & ~(3 << shift)) | (raw << shift), true);
}

/** First entry in [from, to) whose two bits are zero, sixteen a step; -1 when there is none. */
function findFreeEntry(view: ReadView, from: number, to: number): number {
  for (let word = Math.floor(from / ENTRIES_PER_WORD); word * ENTRIES_PER_WORD < to; word++) {
    const bits = view.getUint32(HEADER_BYTES + word * 4, true);
    let free = ~(bits | (bits >>> 1)) & LOW_BITS;
    const base = word * ENTRIES_PER_WORD;
    if (base < from) free &= ~0 << ((from - base) * 2);
    if (free === 0) continue;
    const entry = base + ((31 - Math.clz32(free & -free)) >>> 1);
    return entry < to ? entry : -1;
  }
  return -1;
}

/** First entry in [from, to) whose two bits are not zero; -1 when there is none. */
function findUsedEntry(view: ReadView, from: number, to: number): number {
  for (let entry = from; entry < to; entry++) {
    if (entry % ENTRIES_PER_WORD === 0 && view.getUint32(HEADER_BYTES + (entry >>> 4) * 4, true) === 0) {
      entry += ENTRIES_PER_WORD - 1;
    } else if (rawAt(view, entry) !== RAW_FREE) return entry;
  }
  return -1;
}
