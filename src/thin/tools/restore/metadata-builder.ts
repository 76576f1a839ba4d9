/**
 * New metadata from devices and mappings in ascending order. Trees are packed; blocks are used from the front of the
 * device on, space maps come last. The superblock is wiped first and written last, so that what is cut off is no pool.
 *
 * What is in memory: two nodes for each level of a tree, two bytes for each data block, some words for each device, and
 * the leaves of shared stretches.
 */
import { SpaceError, StateError } from "../../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../../io/index.js";
import { INDEX_ENTRY, METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { TIME_LIMIT } from "../../block-time.js";
import { DEVICE_DETAILS } from "../../device-details.js";
import { usableBlocks } from "../../metadata-store.js";
import { SUPERBLOCK, SUPERBLOCK_VALIDATOR, THIN_MAGIC, THIN_VERSION, writeSpaceMapRoot } from "../../superblock.js";
import { MAX_DATA_BLOCK_SECTORS_ON_DISK, MIN_DATA_BLOCK_SECTORS_ON_DISK } from "../limits.js";
import { BLOCK_WORDS } from "../reader/block-store.js";
import { DETAILS_BYTES, type DetailsValues, ROOT_BYTES } from "../reader/devices.js";
import { entriesOf, valuesAt } from "../reader/node.js";
import { Kind } from "../reader/problems.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";
import { COUNT_BYTES, ENTRIES_PER_BITMAP, INDEX_ENTRY_BYTES } from "../reader/space-map.js";
import type { MapRoot } from "../reader/superblock.js";
import { BlockAppender } from "./block-appender.js";
import { type SharedLeaf, TreeBuilder } from "./tree-builder.js";

export interface BuildHead {
  readonly time: number;
  readonly transactionId: number;
  readonly dataBlockSectors: number;
  readonly nrDataBlocks: number;
}

interface BuiltDevice {
  readonly id: number;
  readonly root: number;
  readonly details: DetailsValues;
}

const MAX_COUNTED = 65535;
const HEADER_WORDS = 4;
const COUNTS_PER_WORD = 16;
const OVERFLOW_COUNT = 3;
/** Stored high bit first: counts of 0, 1, 2, and 3 or more. */
const RAW_OF_COUNT = Uint8Array.of(0, 2, 1, 3);
const MAX_DATA_BLOCKS = 2 ** 40;

export class MetadataBuilder {
  readonly #io: SyncIo;
  readonly #name: string;
  readonly #nrBlocks: number;
  readonly #out: BlockAppender;
  readonly #head: BuildHead;
  readonly #dataCounts: Uint16Array;
  /** Counts that two bytes do not hold. */
  readonly #largeCounts = new Map<number, number>();
  /** Metadata blocks with another count than one. */
  readonly #shares = new Map<number, number>();
  readonly #devices: BuiltDevice[] = [];
  #tree: TreeBuilder | undefined;
  #mapped = 0;

  /** Wipes the superblock. @throws StateError EINVAL for a head that no pool has; IoError */
  constructor(device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">, head: BuildHead) {
    checkHeadValues(device.name, head);
    if (device.sync === undefined) {
      throw new StateError("EOPNOTSUPP", `${device.name}: metadata must lie on a file or block device`);
    }
    this.#io = device.sync;
    this.#name = device.name;
    this.#nrBlocks = usableBlocks(Math.floor(device.sizeBytes / METADATA_BLOCK_BYTES));
    this.#head = head;
    this.#dataCounts = new Uint16Array(head.nrDataBlocks);
    if (this.#nrBlocks > 0) {
      this.#io.write(0, new Uint8Array(METADATA_BLOCK_BYTES));
      this.#io.flush();
    }
    this.#out = new BlockAppender(device.sync, this.#nrBlocks, 1);
  }

  /** Blocks made so far. */
  get nrMade(): number {
    return this.#out.next;
  }

  beginDevice(): void {
    this.#tree = this.#mappingTree();
    this.#mapped = 0;
  }

  /** Keys go up within a device. @throws StateError EINVAL for a mapping behind the data device */
  run(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    this.#count(dataBegin, length);
    this.#tree!.pushRun(virtualBegin, dataBegin, length, time);
    this.#mapped += length;
  }

  /** Whole leaves made before, for several devices. */
  share(leaves: readonly SharedLeaf[]): void {
    for (const leaf of leaves) {
      this.#tree!.attach(leaf);
      this.#mapped += leaf.nr;
    }
  }

  /** @returns mappings of the device */
  endDevice(id: number, details: DetailsValues): number {
    const root = this.#tree!.finish();
    this.#tree = undefined;
    this.#devices.push({ id, root, details: { ...details, mappedBlocks: this.#mapped } });
    return this.#mapped;
  }

  /** Mappings that are no device's yet. Their leaves have no owner until they are shared. */
  beginShared(): readonly SharedLeaf[] {
    const leaves: SharedLeaf[] = [];
    this.#tree = new TreeBuilder(this.#out, MAPPING_BYTES, (leaf) => {
      leaves.push(leaf);
      this.#shares.set(leaf.blocknr, 0);
    });
    return leaves;
  }

  /** The internal nodes above the leaves have no use. */
  endShared(): void {
    const before = this.#out.next;
    this.#tree!.finish();
    this.#tree = undefined;
    for (let blocknr = before; blocknr < this.#out.next; blocknr++) {
      if (!this.#shares.has(blocknr)) this.#shares.set(blocknr, 0);
    }
  }

  /**
   * Writes what is left, flushes, and makes it a pool by its superblock; durable when it returns.
   * @throws SpaceError when the device is too small, with the size it should have; StateError EEXIST
   */
  finish(): void {
    this.#dropUnowned();
    const { detailsRoot, mappingRoot } = this.#deviceTrees();
    const dataMap = this.#dataSpaceMap();
    const metadataMap = this.#metadataSpaceMap();
    if (this.#out.next > this.#nrBlocks) throw this.#tooSmall();
    this.#out.flush();
    this.#io.flush();
    this.#writeSuperblock({ detailsRoot, mappingRoot, dataMap, metadataMap });
    this.#io.flush();
  }

  #mappingTree(): TreeBuilder {
    const tree = new TreeBuilder(this.#out, MAPPING_BYTES);
    tree.onShare = ({ blocknr }) => this.#shares.set(blocknr, this.#shares.get(blocknr)! + 1);
    tree.onCopy = (words) => {
      const values = valuesAt(words, 0);
      for (let index = 0; index < entriesOf(words, 0); index++) this.#count(dataBlockAt(words, values + index * 2), 1);
    };
    return tree;
  }

  #count(begin: number, length: number): void {
    const counts = this.#dataCounts;
    const end = begin + length;
    if (end > counts.length) {
      throw new StateError("EINVAL", `data block ${end - 1}: the pool has ${counts.length}`, {
        hint: "--nr-data-blocks gives it more",
      });
    }
    for (let block = begin; block < end; block++) {
      const before = counts[block]!;
      if (before < MAX_COUNTED) counts[block] = before + 1;
      else this.#largeCounts.set(block, (this.#largeCounts.get(block) ?? MAX_COUNTED) + 1);
    }
  }

  #countOf(block: number): number {
    const count = this.#dataCounts[block]!;
    return count < MAX_COUNTED ? count : (this.#largeCounts.get(block) ?? count);
  }

  /** Shared leaves that no device points at own nothing. */
  #dropUnowned(): void {
    if (this.#shares.size === 0 || this.#out.next > this.#nrBlocks) return;
    const tree = new TreeBuilder(this.#out, MAPPING_BYTES);
    for (const [blocknr, count] of this.#shares) {
      if (count > 0) continue;
      const words = tree.peek(blocknr);
      if (words === undefined) continue;
      const values = valuesAt(words, 0);
      for (let index = 0; index < entriesOf(words, 0); index++) this.#uncount(dataBlockAt(words, values + index * 2));
    }
  }

  #uncount(block: number): void {
    const count = this.#countOf(block);
    if (count > MAX_COUNTED) this.#largeCounts.set(block, count - 1);
    else this.#dataCounts[block] = count - 1;
  }

  #deviceTrees(): { readonly detailsRoot: number; readonly mappingRoot: number } {
    const devices = this.#devices.sort((left, right) => left.id - right.id);
    const roots = new TreeBuilder(this.#out, ROOT_BYTES);
    const details = new TreeBuilder(this.#out, DETAILS_BYTES);
    const view = new DataView(new ArrayBuffer(DETAILS_BYTES));
    const words = new Uint32Array(view.buffer);
    let before = -1;
    for (const { id, root, details: values } of devices) {
      if (id === before) throw new StateError("EEXIST", `device ${id} is there twice`);
      before = id;
      roots.push(id, root, 0);
      DEVICE_DETAILS.write(view, values);
      details.pushWords(id, words);
    }
    return { mappingRoot: roots.finish(), detailsRoot: details.finish() };
  }

  #dataSpaceMap(): MapRoot {
    const nrBlocks = this.#head.nrDataBlocks;
    const index = new TreeBuilder(this.#out, INDEX_ENTRY_BYTES);
    const overflow = new TreeBuilder(this.#out, COUNT_BYTES);
    const entry = new IndexValue();
    let nrAllocated = 0;
    const count = Math.ceil(nrBlocks / ENTRIES_PER_BITMAP);
    for (let bitmap = 0; bitmap < count; bitmap++) {
      const words = new BitmapWords(bitmap, nrBlocks);
      words.fill((block) => this.#countOf(block), overflow);
      nrAllocated += words.used;
      index.pushWords(bitmap, entry.fill(this.#out.append(words.words, Kind.Bitmap), words));
    }
    return { nrBlocks, nrAllocated, bitmapRoot: index.finish(), refCountRoot: overflow.finish() };
  }

  /** Governs its own blocks: their number is known before they are written. */
  #metadataSpaceMap(): MapRoot {
    const nrBlocks = this.#nrBlocks;
    const overflow = new TreeBuilder(this.#out, COUNT_BYTES);
    for (const [blocknr, count] of [...this.#shares].sort(([left], [right]) => left - right)) {
      if (count >= OVERFLOW_COUNT) overflow.pushWords(blocknr, [count]);
    }
    const refCountRoot = overflow.finish();
    const nrBitmaps = Math.ceil(nrBlocks / ENTRIES_PER_BITMAP);
    const used = this.#out.next + nrBitmaps + 1;
    const indexBlock = new Uint32Array(BLOCK_WORDS);
    const entry = new IndexValue();
    let nrAllocated = 0;
    for (let bitmap = 0; bitmap < nrBitmaps; bitmap++) {
      const words = new BitmapWords(bitmap, nrBlocks);
      words.fill((block) => (block < used ? (this.#shares.get(block) ?? 1) : 0), undefined);
      nrAllocated += words.used;
      const blocknr = this.#out.append(words.words, Kind.Bitmap);
      indexBlock.set(entry.fill(blocknr, words), HEADER_WORDS + bitmap * (INDEX_ENTRY_BYTES / 4));
    }
    const bitmapRoot = this.#out.append(indexBlock, Kind.Index);
    return { nrBlocks, nrAllocated, bitmapRoot, refCountRoot };
  }

  #writeSuperblock(roots: {
    readonly detailsRoot: number;
    readonly mappingRoot: number;
    readonly dataMap: MapRoot;
    readonly metadataMap: MapRoot;
  }): void {
    const bytes = new Uint8Array(METADATA_BLOCK_BYTES);
    const view = new DataView(bytes.buffer);
    const { set } = SUPERBLOCK;
    set.magic(view, THIN_MAGIC);
    set.version(view, THIN_VERSION);
    set.time(view, this.#head.time);
    set.transId(view, this.#head.transactionId);
    writeSpaceMapRoot(view, "data", roots.dataMap);
    writeSpaceMapRoot(view, "metadata", roots.metadataMap);
    set.dataMappingRoot(view, roots.mappingRoot);
    set.deviceDetailsRoot(view, roots.detailsRoot);
    set.dataBlockSize(view, this.#head.dataBlockSectors);
    set.metadataBlockSize(view, METADATA_BLOCK_BYTES / 512);
    set.metadataNrBlocks(view, this.#nrBlocks);
    SUPERBLOCK_VALIDATOR.prepare(view, 0);
    this.#io.write(0, bytes);
  }

  /** One bitmap governs far more blocks than the rest takes, so a device of the blocks wanted has room for its bitmaps. */
  #tooSmall(): SpaceError {
    const wanted = this.#out.next + Math.ceil(this.#out.next / ENTRIES_PER_BITMAP);
    return new SpaceError(
      `${this.#name}: ${this.#nrBlocks} blocks of 4 KiB, wanted ${wanted} (${wanted * METADATA_BLOCK_BYTES} bytes)`,
      {
        hint: `make it larger: truncate -s ${wanted * METADATA_BLOCK_BYTES} FILE, or lvextend; and more for what is to come`,
      },
    );
  }
}

function dataBlockAt(words: Uint32Array, word: number): number {
  return words[word + 1]! * 256 + (words[word]! >>> 24);
}

function checkHeadValues(name: string, { time, dataBlockSectors, nrDataBlocks }: BuildHead): void {
  const isPossible =
    dataBlockSectors >= MIN_DATA_BLOCK_SECTORS_ON_DISK &&
    dataBlockSectors <= MAX_DATA_BLOCK_SECTORS_ON_DISK &&
    dataBlockSectors % MIN_DATA_BLOCK_SECTORS_ON_DISK === 0;
  if (!isPossible) {
    throw new StateError("EINVAL", `${name}: data blocks of ${dataBlockSectors} sectors`, {
      hint: "a multiple of 128 from 128 to 2097152; --data-block-size gives another",
    });
  }
  if (time >= TIME_LIMIT) throw new StateError("EINVAL", `${name}: time ${time}, wanted below ${TIME_LIMIT}`);
  if (nrDataBlocks > MAX_DATA_BLOCKS)
    throw new StateError("EINVAL", `${name}: ${nrDataBlocks} data blocks are too many`);
}

/** A bitmap in the making. */
class BitmapWords {
  readonly words = new Uint32Array(BLOCK_WORDS);
  readonly #first: number;
  readonly #nr: number;
  used = 0;
  /** First entry that is free; the number of entries when none is. */
  firstFree: number;

  constructor(bitmap: number, nrBlocks: number) {
    this.#first = bitmap * ENTRIES_PER_BITMAP;
    this.#nr = Math.min(ENTRIES_PER_BITMAP, nrBlocks - this.#first);
    this.firstFree = this.#nr;
  }

  fill(countOf: (block: number) => number, overflow: TreeBuilder | undefined): void {
    const { words } = this;
    for (let entry = 0; entry < this.#nr; entry++) {
      const count = countOf(this.#first + entry);
      if (count === 0) {
        if (entry < this.firstFree) this.firstFree = entry;
        continue;
      }
      this.used++;
      const raw = RAW_OF_COUNT[Math.min(count, OVERFLOW_COUNT)]!;
      words[HEADER_WORDS + (entry >>> 4)]! |= raw << ((entry % COUNTS_PER_WORD) * 2);
      if (count >= OVERFLOW_COUNT) overflow?.pushWords(this.#first + entry, [count]);
    }
  }
}

class IndexValue {
  readonly #view = new DataView(new ArrayBuffer(INDEX_ENTRY_BYTES));
  readonly #words = new Uint32Array(this.#view.buffer);

  fill(blocknr: number, bitmap: BitmapWords): Uint32Array {
    INDEX_ENTRY.write(this.#view, {
      blocknr,
      nrFree: ENTRIES_PER_BITMAP - bitmap.used,
      noneFreeBefore: bitmap.firstFree,
    });
    return this.#words;
  }
}
