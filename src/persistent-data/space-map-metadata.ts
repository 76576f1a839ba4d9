/**
 * The space map of the metadata device. It lives on the blocks it governs: changing a bitmap shadows it, which allocates
 * a block, which changes a bitmap. Changes that come up while one is being made are queued and made afterwards.
 * Source: thin-engine 3.3 to 3.8.
 */
import { bytes, struct, u32, u64 } from "../bytes/index.js";
import { InvariantError } from "../errors/index.js";
import type { SpaceMap } from "./space-map.js";
import {
  ENTRIES_PER_BITMAP,
  INDEX_ENTRY,
  type IndexEntry,
  type IndexStore,
  SpaceMapCore,
  type SpaceMapRoot,
} from "./space-map-core.js";
import { findCommonFree } from "./space-map-disk.js";
import type { TransactionManager } from "./transaction-manager.js";
import { makeValidator } from "./validator.js";

/** Head of the index block; 255 index entries follow. Source: the kernel's disk_metadata_index. */
const INDEX_HEADER = struct("metadata index header", 16, {
  csum: u32(0, "crc32c of the rest of the block, xored with the index salt"),
  padding: bytes(4, 4, "zero"),
  blocknr: u64(8, "metadata block this index was written to"),
});
export const METADATA_INDEX = makeValidator({ name: "index", salt: 160478 });
export const MAX_METADATA_BITMAPS = 255;
/** Blocks the format can govern on a metadata device. */
export const MAX_METADATA_BLOCKS = MAX_METADATA_BITMAPS * ENTRIES_PER_BITMAP;
const INDEX_BYTES = MAX_METADATA_BITMAPS * INDEX_ENTRY.size;
const MAX_QUEUED = 1024;

/** All entries in memory; the block is written at commit. */
class BlockIndex implements IndexStore {
  readonly maxBitmaps = MAX_METADATA_BITMAPS;
  readonly #transaction: TransactionManager;
  readonly #bytes = new Uint8Array(INDEX_BYTES);
  readonly #view = new DataView(this.#bytes.buffer);

  constructor(transaction: TransactionManager) {
    this.#transaction = transaction;
  }

  read(blocknr: number): void {
    const { bytes: stored } = this.#transaction.read(blocknr, METADATA_INDEX);
    this.#bytes.set(stored.subarray(INDEX_HEADER.size, INDEX_HEADER.size + INDEX_BYTES));
  }

  load(index: number, entry: IndexEntry): void {
    const base = index * INDEX_ENTRY.size;
    entry.blocknr = INDEX_ENTRY.get.blocknr(this.#view, base);
    entry.nrFree = INDEX_ENTRY.get.nrFree(this.#view, base);
    entry.noneFreeBefore = INDEX_ENTRY.get.noneFreeBefore(this.#view, base);
  }

  save(index: number, entry: Readonly<IndexEntry>): void {
    const base = index * INDEX_ENTRY.size;
    INDEX_ENTRY.set.blocknr(this.#view, entry.blocknr, base);
    INDEX_ENTRY.set.nrFree(this.#view, entry.nrFree, base);
    INDEX_ENTRY.set.noneFreeBefore(this.#view, entry.noneFreeBefore, base);
  }

  /** The shadow allocates, which changes entries once more, so they are copied behind it. */
  commit(bitmapRoot: number): number {
    const { block } = this.#transaction.shadow(bitmapRoot, METADATA_INDEX);
    block.bytes.set(this.#bytes, INDEX_HEADER.size);
    return block.blocknr;
  }

  copyFrom(other: BlockIndex): void {
    this.#bytes.set(other.#bytes);
  }
}

interface Change {
  readonly isInc: boolean;
  readonly begin: number;
  readonly end: number;
}

export class MetadataSpaceMap implements SpaceMap {
  readonly #liveIndex: BlockIndex;
  readonly #oldIndex: BlockIndex;
  readonly #live: SpaceMapCore;
  readonly #old: SpaceMapCore;
  readonly #queue: Change[] = [];
  #cursor = 0;
  #allocatedSinceCommit = 0;
  /** A change is being made: others wait in the queue. */
  #isChanging = false;
  /** Blocks come one after the other from the cursor on; nothing is looked up. While formatting or growing. */
  #isBootstrapping = false;
  #bootstrapLimit = 0;
  /** Runs after every allocation; the pool watches its low-water mark there. */
  onAllocate: (() => void) | undefined;

  private constructor(transaction: TransactionManager) {
    this.#liveIndex = new BlockIndex(transaction);
    this.#oldIndex = new BlockIndex(transaction);
    this.#live = new SpaceMapCore(transaction, this.#liveIndex);
    this.#old = new SpaceMapCore(transaction, this.#oldIndex);
    transaction.attach(this);
  }

  /** Lays out a new map behind the superblock. */
  static create(transaction: TransactionManager, nrBlocks: number): MetadataSpaceMap {
    const map = new MetadataSpaceMap(transaction);
    map.#cursor = 1;
    map.#bootstrapLimit = nrBlocks;
    map.#isBootstrapping = true;
    map.#live.bitmapRoot = transaction.newBlock(METADATA_INDEX).blocknr;
    map.#live.createOverflow();
    map.#live.extend(nrBlocks);
    map.#isBootstrapping = false;
    map.#queue.push({ isInc: true, begin: 0, end: map.#cursor });
    map.#drain();
    map.commit();
    return map;
  }

  static open(transaction: TransactionManager, root: SpaceMapRoot): MetadataSpaceMap {
    const map = new MetadataSpaceMap(transaction);
    map.#live.root = root;
    map.#liveIndex.read(root.bitmapRoot);
    map.#remember();
    return map;
  }

  get nrBlocks(): number {
    return this.#live.nrBlocks;
  }

  get nrFree(): number {
    return this.#old.nrBlocks - this.#old.nrAllocated - this.#allocatedSinceCommit;
  }

  get root(): SpaceMapRoot {
    return this.#live.root;
  }

  count(block: number): number {
    if (this.#isBootstrapping) return block < this.#cursor ? 1 : 0;
    return this.#live.count(block) + this.#queued(block);
  }

  isMoreThanOne(block: number): boolean {
    if (this.#isBootstrapping) return false;
    const queued = this.#queue.length === 0 ? 0 : this.#queued(block);
    if (queued > 1) return true;
    const raw = this.#live.rawCount(block);
    return raw === 3 || raw + queued > 1;
  }

  inc(begin: number, end: number): void {
    this.#change({ isInc: true, begin, end });
  }

  dec(begin: number, end: number): void {
    this.#change({ isInc: false, begin, end });
  }

  allocate(): number | undefined {
    const block = this.#isBootstrapping ? this.#takeNext() : this.#findFree();
    if (block < 0) return undefined;
    this.#cursor = block + 1;
    if (this.#isBootstrapping) return block;
    // What the change allocates itself is counted, and seen by the watcher, first.
    this.#change({ isInc: true, begin: block, end: block + 1 });
    this.#allocatedSinceCommit++;
    this.onAllocate?.();
    return block;
  }

  /** Makes the map govern `nrBlocks`; what it needs for that is put into the new area. */
  extend(nrBlocks: number): void {
    let from = this.#live.nrBlocks;
    this.#cursor = from;
    this.#bootstrapLimit = nrBlocks;
    this.#isBootstrapping = true;
    try {
      this.#live.extend(nrBlocks);
      do {
        this.#enqueue({ isInc: true, begin: from, end: this.#cursor });
        from = this.#cursor;
        this.#drain();
        this.#live.commit();
      } while (this.#cursor !== from);
    } finally {
      this.#isBootstrapping = false;
    }
  }

  commit(): void {
    this.#live.commit();
    this.#remember();
  }

  #remember(): void {
    this.#old.root = this.#live.root;
    this.#oldIndex.copyFrom(this.#liveIndex);
    this.#allocatedSinceCommit = 0;
  }

  #takeNext(): number {
    return this.#cursor < this.#bootstrapLimit ? this.#cursor : -1;
  }

  #findFree(): number {
    const block = this.#searchFrom(this.#cursor);
    return block >= 0 ? block : this.#searchFrom(0);
  }

  /** Skips blocks that are free but about to be taken: a search that wrapped round could meet them. */
  #searchFrom(begin: number): number {
    let block = findCommonFree(this.#old, this.#live, begin, this.#live.nrBlocks);
    while (block >= 0 && this.#queue.length > 0 && this.#queued(block) > 0) {
      block = findCommonFree(this.#old, this.#live, block + 1, this.#live.nrBlocks);
    }
    return block;
  }

  #change(change: Change): void {
    if (change.begin >= change.end) return;
    if (this.#isChanging || this.#isBootstrapping) {
      this.#enqueue(change);
      return;
    }
    this.#isChanging = true;
    try {
      this.#apply(change);
      this.#drain();
    } finally {
      this.#isChanging = false;
    }
  }

  /** A queued change counts as queued while it is made: the blocks it needs must not be mistaken for unshared ones. */
  #drain(): void {
    const wasChanging = this.#isChanging;
    this.#isChanging = true;
    try {
      while (this.#queue.length > 0) {
        this.#apply(this.#queue[0]!);
        this.#queue.shift();
      }
    } finally {
      this.#isChanging = wasChanging;
    }
  }

  #apply(change: Change): void {
    if (change.isInc) this.#live.inc(change.begin, change.end);
    else this.#live.dec(change.begin, change.end);
  }

  #enqueue(change: Change): void {
    if (this.#queue.length >= MAX_QUEUED) {
      throw new InvariantError(`more than ${MAX_QUEUED} nested changes of the metadata space map`);
    }
    this.#queue.push(change);
  }

  #queued(block: number): number {
    let sum = 0;
    for (const { isInc, begin, end } of this.#queue) {
      if (block >= begin && block < end) sum += isInc ? 1 : -1;
    }
    return sum;
  }
}
