/**
 * Space maps: what their index says of each bitmap, and the counts themselves, bitmap by bitmap, with the larger ones
 * from the overflow tree put in. Source: thin-engine 3.1, 3.2.
 */
import { ENTRIES_PER_BITMAP, INDEX_ENTRY, MAX_METADATA_BLOCKS } from "../../../persistent-data/index.js";
import type { Pace } from "../pace.js";
import { BLOCK_WORDS, BlockBuffer, type BlockStore } from "./block-store.js";
import { keyOf, numberAt } from "./node.js";
import { Kind, Problem } from "./problems.js";
import type { MapRoot } from "./superblock.js";
import { TreeCursor, type TreeDamage } from "./tree-cursor.js";

export const COUNT_BYTES = 4;
export const INDEX_ENTRY_BYTES = INDEX_ENTRY.size;
export { ENTRIES_PER_BITMAP };

/** Bitmaps in an index block. */
const INDEX_BLOCK_ENTRIES = MAX_METADATA_BLOCKS / ENTRIES_PER_BITMAP;
/** First entry of an index block, and first count of a bitmap, in words. */
const HEADER_WORDS = 4;
const ENTRY_WORDS = INDEX_ENTRY.size / 4;
const NR_FREE = INDEX_ENTRY.fields.nrFree.offset / 4;
const NONE_FREE_BEFORE = INDEX_ENTRY.fields.noneFreeBefore.offset / 4;
const COUNTS_PER_WORD = 16;
/** More bitmaps than metadata blocks there cannot be. */
const MAX_BITMAPS = MAX_METADATA_BLOCKS;
const BATCH = 64;
/** Raw value that sends to the overflow tree, and the counts of the others: stored high bit first. */
export const RAW_OVERFLOW = 3;
const COUNT_OF_RAW = Uint8Array.of(0, 2, 1, 3);

/** Where each bitmap of a map lies; by number of the bitmap. */
export interface SpaceMapIndex {
  readonly root: MapRoot;
  readonly nrBitmaps: number;
  /** Block of the bitmap; NaN where the index has no entry, or it could not be read. */
  readonly blocknr: Float64Array;
  readonly nrFree: Uint32Array;
  readonly noneFreeBefore: Uint32Array;
}

/** How many bitmaps a map of so many blocks has; what is absurd is cut off. */
export function bitmapsFor(nrBlocks: number): number {
  return Math.min(Math.ceil(nrBlocks / ENTRIES_PER_BITMAP), MAX_BITMAPS);
}

function emptyIndex(root: MapRoot, nrBitmaps: number): SpaceMapIndex {
  return {
    root,
    nrBitmaps,
    blocknr: new Float64Array(nrBitmaps).fill(Number.NaN),
    nrFree: new Uint32Array(nrBitmaps),
    noneFreeBefore: new Uint32Array(nrBitmaps),
  };
}

/** Index of the data space map. Entries beyond the map's size are left out. */
export function readDataIndex(store: BlockStore, root: MapRoot, onDamage: (damage: TreeDamage) => void): SpaceMapIndex {
  // One more than there can be: the missing one is told, and what is absurd costs no memory.
  const index = emptyIndex(root, Math.min(bitmapsFor(root.nrBlocks), store.nrBlocks + 1));
  const cursor = new TreeCursor(store, root.bitmapRoot, INDEX_ENTRY_BYTES, onDamage);
  while (cursor.next()) {
    for (let entry = 0; entry < cursor.nr; entry++) {
      const bitmap = keyOf(cursor.words, cursor.at, entry);
      if (bitmap < index.nrBitmaps) takeEntry(index, bitmap, cursor.words, cursor.values + entry * ENTRY_WORDS);
    }
  }
  return index;
}

/** Index block of the metadata space map; no entry is known when the block is damaged. */
export function readMetadataIndex(
  store: BlockStore,
  root: MapRoot,
  onDamage: (blocknr: number, problem: Problem) => void,
): SpaceMapIndex {
  const index = emptyIndex(root, Math.min(bitmapsFor(root.nrBlocks), INDEX_BLOCK_ENTRIES));
  const buffer = new BlockBuffer(1);
  if (root.bitmapRoot === 0 || !store.isInside(root.bitmapRoot)) {
    onDamage(root.bitmapRoot, Problem.Outside);
    return index;
  }
  store.loadOne(root.bitmapRoot, buffer);
  const problem = store.check(root.bitmapRoot, Kind.Index, buffer, 0);
  if (problem !== Problem.None) {
    onDamage(root.bitmapRoot, problem);
    return index;
  }
  for (let bitmap = 0; bitmap < index.nrBitmaps; bitmap++) {
    takeEntry(index, bitmap, buffer.words, HEADER_WORDS + bitmap * ENTRY_WORDS);
  }
  return index;
}

function takeEntry(index: SpaceMapIndex, bitmap: number, words: Uint32Array, word: number): void {
  index.blocknr[bitmap] = numberAt(words, word);
  index.nrFree[bitmap] = words[word + NR_FREE]!;
  index.noneFreeBefore[bitmap] = words[word + NONE_FREE_BEFORE]!;
}

/**
 * The overflow tree beside an ascending walk over blocks: entries come as they are passed by.
 */
export class OverflowCursor {
  readonly #leaves: TreeCursor;
  #index = -1;
  #nr = 0;
  /** Block of the present entry, Infinity at the end, and its count. */
  block = -1;
  count = 0;

  constructor(store: BlockStore, root: number, onDamage: (damage: TreeDamage) => void) {
    this.#leaves = new TreeCursor(store, root, COUNT_BYTES, onDamage);
    this.next();
  }

  next(): void {
    this.#index++;
    if (this.#index >= this.#nr) {
      if (!this.#leaves.next()) {
        this.block = Number.POSITIVE_INFINITY;
        this.#nr = 0;
        return;
      }
      this.#nr = this.#leaves.nr;
      this.#index = 0;
    }
    this.block = keyOf(this.#leaves.words, this.#leaves.at, this.#index);
    this.count = this.#leaves.words[this.#leaves.values + this.#index]!;
  }
}

/** One bitmap, decoded: counts of `nr` blocks from `first` on. Valid until the visitor returns. */
export interface BitmapCounts {
  bitmap: number;
  blocknr: number;
  first: number;
  nr: number;
  /** Counts; RAW_OVERFLOW or more come from the overflow tree, and stay at 3 where that has no entry. */
  readonly counts: Uint32Array;
  /** Entries the bitmap sends to the overflow tree and the tree does not have. */
  missingOverflow: number;
  /** Entries of the overflow tree whose bitmap says less than 3. */
  strayOverflow: number;
}

export interface CountsOptions {
  readonly onBitmapDamage: (bitmap: number, blocknr: number, problem: Problem) => void;
  readonly onOverflowDamage: (damage: TreeDamage) => void;
  readonly pace: Pace;
  /** Bitmaps to walk over; all unless given. */
  readonly fromBitmap?: number;
  readonly toBitmap?: number;
}

/** Walks the counts of a map in order. Bitmaps that cannot be used are told and left out. */
export async function eachBitmap(
  store: BlockStore,
  index: SpaceMapIndex,
  options: CountsOptions,
  visit: (bitmap: BitmapCounts) => void,
): Promise<void> {
  const overflow = new OverflowCursor(store, index.root.refCountRoot, options.onOverflowDamage);
  const buffer = new BlockBuffer(BATCH);
  const list = new Uint32Array(BATCH);
  const order = new Float64Array(BATCH);
  const slotOf = new Int16Array(BATCH);
  const state: BitmapCounts = {
    bitmap: 0,
    blocknr: 0,
    first: 0,
    nr: 0,
    counts: new Uint32Array(ENTRIES_PER_BITMAP),
    missingOverflow: 0,
    strayOverflow: 0,
  };
  const end = Math.min(options.toBitmap ?? index.nrBitmaps, index.nrBitmaps);
  for (let from = options.fromBitmap ?? 0; from < end; from += BATCH) {
    const to = Math.min(end, from + BATCH);
    loadSorted(store, index, from, to, { buffer, list, order, slotOf });
    for (let bitmap = from; bitmap < to; bitmap++) {
      const blocknr = index.blocknr[bitmap]!;
      const slot = slotOf[bitmap - from]!;
      const problem = slot < 0 ? Problem.Outside : store.check(blocknr, Kind.Bitmap, buffer, slot * BLOCK_WORDS);
      if (problem !== Problem.None) {
        options.onBitmapDamage(bitmap, blocknr, problem);
        continue;
      }
      state.bitmap = bitmap;
      state.blocknr = blocknr;
      state.first = bitmap * ENTRIES_PER_BITMAP;
      state.nr = Math.min(ENTRIES_PER_BITMAP, index.root.nrBlocks - state.first);
      decode(buffer.words, slot * BLOCK_WORDS + HEADER_WORDS, state, overflow);
      visit(state);
    }
    if (options.pace.isDue) await options.pace.rest(0);
  }
}

interface Batch {
  readonly buffer: BlockBuffer;
  readonly list: Uint32Array;
  readonly order: Float64Array;
  readonly slotOf: Int16Array;
}

function loadSorted(store: BlockStore, index: SpaceMapIndex, from: number, to: number, batch: Batch): void {
  let count = 0;
  for (let bitmap = from; bitmap < to; bitmap++) {
    const blocknr = index.blocknr[bitmap]!;
    batch.slotOf[bitmap - from] = -1;
    if (blocknr > 0 && store.isInside(blocknr)) batch.order[count++] = blocknr * BATCH + (bitmap - from);
  }
  const sorted = batch.order.subarray(0, count).sort();
  for (let slot = 0; slot < count; slot++) {
    const blocknr = Math.floor(sorted[slot]! / BATCH);
    batch.list[slot] = blocknr;
    batch.slotOf[sorted[slot]! - blocknr * BATCH] = slot;
  }
  store.load(batch.list, 0, count, batch.buffer, 0);
}

function decode(words: Uint32Array, word: number, state: BitmapCounts, overflow: OverflowCursor): void {
  const { counts, nr, first } = state;
  state.missingOverflow = 0;
  state.strayOverflow = 0;
  // Entries of bitmaps that could not be read.
  while (overflow.block < first) overflow.next();
  for (let entry = 0; entry < nr; word++) {
    let bits = words[word]!;
    const stop = Math.min(entry + COUNTS_PER_WORD, nr);
    if (bits === 0) {
      counts.fill(0, entry, stop);
      entry = stop;
      continue;
    }
    for (; entry < stop; entry++) {
      const raw = bits & 3;
      bits >>>= 2;
      counts[entry] = COUNT_OF_RAW[raw]!;
      if (raw === RAW_OVERFLOW) takeOverflow(state, overflow, entry);
    }
  }
  while (overflow.block < first + nr) {
    state.strayOverflow++;
    overflow.next();
  }
}

function takeOverflow(state: BitmapCounts, overflow: OverflowCursor, entry: number): void {
  const block = state.first + entry;
  while (overflow.block < block) {
    state.strayOverflow++;
    overflow.next();
  }
  if (overflow.block === block) {
    state.counts[entry] = overflow.count;
    overflow.next();
  } else state.missingOverflow++;
}
