/**
 * What new metadata has besides mapping trees: the two trees of devices, both space maps, the superblock. Blocks come out
 * of an appender, one behind the other; counts are asked for block by block.
 */
import { SpaceError, StateError } from "../../../errors/index.js";
import type { SyncIo } from "../../../io/index.js";
import { INDEX_ENTRY, METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { TIME_LIMIT } from "../../block-time.js";
import { DEVICE_DETAILS } from "../../device-details.js";
import { SUPERBLOCK, SUPERBLOCK_VALIDATOR, THIN_MAGIC, THIN_VERSION, writeSpaceMapRoot } from "../../superblock.js";
import { MAX_DATA_BLOCK_SECTORS_ON_DISK, MIN_DATA_BLOCK_SECTORS_ON_DISK } from "../limits.js";
import { BLOCK_WORDS } from "../reader/block-store.js";
import { DETAILS_BYTES, type DetailsValues, ROOT_BYTES } from "../reader/devices.js";
import { Kind } from "../reader/problems.js";
import { COUNT_BYTES, ENTRIES_PER_BITMAP, INDEX_ENTRY_BYTES } from "../reader/space-map.js";
import type { MapRoot } from "../reader/superblock.js";
import type { BlockAppender } from "./block-appender.js";
import { TreeBuilder } from "./tree-builder.js";

export interface BuildHead {
  readonly time: number;
  readonly transactionId: number;
  readonly dataBlockSectors: number;
  readonly nrDataBlocks: number;
}

export interface BuiltDevice {
  readonly id: number;
  /** Block of its mapping tree. */
  readonly root: number;
  readonly details: DetailsValues;
}

export interface BuiltRoots {
  readonly mappingRoot: number;
  readonly detailsRoot: number;
  readonly dataMap: MapRoot;
  readonly metadataMap: MapRoot;
}

const HEADER_WORDS = 4;
const COUNTS_PER_WORD = 16;
const OVERFLOW_COUNT = 3;
/** Stored high bit first: counts of 0, 1, 2, and 3 or more. */
const RAW_OF_COUNT = Uint8Array.of(0, 2, 1, 3);
const MAX_DATA_BLOCKS = 2 ** 40;

/** @throws StateError EINVAL for a head that no pool has */
export function checkBuildHead(name: string, { time, dataBlockSectors, nrDataBlocks }: BuildHead): void {
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

/** From here on, until the new superblock is written, the device is no pool. */
export function wipeSuperblock(io: SyncIo): void {
  io.write(0, new Uint8Array(METADATA_BLOCK_BYTES));
  io.flush();
}

/** @throws StateError EEXIST for an id that is there twice */
export function buildDeviceTrees(
  out: BlockAppender,
  built: readonly BuiltDevice[],
): Pick<BuiltRoots, "mappingRoot" | "detailsRoot"> {
  const devices = [...built].sort((left, right) => left.id - right.id);
  const roots = new TreeBuilder(out, ROOT_BYTES);
  const details = new TreeBuilder(out, DETAILS_BYTES);
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

export function buildDataMap(out: BlockAppender, nrBlocks: number, countOf: (block: number) => number): MapRoot {
  const index = new TreeBuilder(out, INDEX_ENTRY_BYTES);
  const overflow = new TreeBuilder(out, COUNT_BYTES);
  const entry = new IndexValue();
  let nrAllocated = 0;
  const count = Math.ceil(nrBlocks / ENTRIES_PER_BITMAP);
  for (let bitmap = 0; bitmap < count; bitmap++) {
    const words = new BitmapWords(bitmap, nrBlocks);
    words.fill(countOf, overflow);
    nrAllocated += words.used;
    index.pushWords(bitmap, entry.fill(out.append(words.words, Kind.Bitmap), words));
  }
  return { nrBlocks, nrAllocated, bitmapRoot: index.finish(), refCountRoot: overflow.finish() };
}

export interface MetadataCounts {
  /** Blocks with their counts, ascending; all that have three owners or more are among them. */
  readonly shared: Iterable<readonly [blocknr: number, count: number]>;
  /** Of each block made before the map. */
  readonly countOf: (blocknr: number) => number;
}

/** Comes last: it governs its own blocks, whose number is known before they are written. */
export function buildMetadataMap(out: BlockAppender, nrBlocks: number, { shared, countOf }: MetadataCounts): MapRoot {
  const before = out.next;
  const overflow = new TreeBuilder(out, COUNT_BYTES);
  for (const [blocknr, count] of shared) if (count >= OVERFLOW_COUNT) overflow.pushWords(blocknr, [count]);
  const refCountRoot = overflow.finish();
  const nrBitmaps = Math.ceil(nrBlocks / ENTRIES_PER_BITMAP);
  const used = out.next + nrBitmaps + 1;
  const indexBlock = new Uint32Array(BLOCK_WORDS);
  const entry = new IndexValue();
  let nrAllocated = 0;
  for (let bitmap = 0; bitmap < nrBitmaps; bitmap++) {
    const words = new BitmapWords(bitmap, nrBlocks);
    words.fill((block) => (block >= used ? 0 : block >= before ? 1 : countOf(block)), undefined);
    nrAllocated += words.used;
    const blocknr = out.append(words.words, Kind.Bitmap);
    indexBlock.set(entry.fill(blocknr, words), HEADER_WORDS + bitmap * (INDEX_ENTRY_BYTES / 4));
  }
  const bitmapRoot = out.append(indexBlock, Kind.Index);
  return { nrBlocks, nrAllocated, bitmapRoot, refCountRoot };
}

export function writeNewSuperblock(
  io: SyncIo,
  pool: { readonly head: BuildHead; readonly nrBlocks: number; readonly roots: BuiltRoots },
): void {
  const { head, nrBlocks, roots } = pool;
  const bytes = new Uint8Array(METADATA_BLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  const { set } = SUPERBLOCK;
  set.magic(view, THIN_MAGIC);
  set.version(view, THIN_VERSION);
  set.time(view, head.time);
  set.transId(view, head.transactionId);
  writeSpaceMapRoot(view, "data", roots.dataMap);
  writeSpaceMapRoot(view, "metadata", roots.metadataMap);
  set.dataMappingRoot(view, roots.mappingRoot);
  set.deviceDetailsRoot(view, roots.detailsRoot);
  set.dataBlockSize(view, head.dataBlockSectors);
  set.metadataBlockSize(view, METADATA_BLOCK_BYTES / 512);
  set.metadataNrBlocks(view, nrBlocks);
  SUPERBLOCK_VALIDATOR.prepare(view, 0);
  io.write(0, bytes);
}

/** One bitmap governs far more blocks than the rest takes, so a device of the blocks wanted has room for its bitmaps. */
export function tooSmall(name: string, nrBlocks: number, nrMade: number): SpaceError {
  const wanted = nrMade + Math.ceil(nrMade / ENTRIES_PER_BITMAP);
  return new SpaceError(
    `${name}: ${nrBlocks} blocks of 4 KiB, wanted ${wanted} (${wanted * METADATA_BLOCK_BYTES} bytes)`,
    {
      hint: `make it larger: truncate -s ${wanted * METADATA_BLOCK_BYTES} FILE, or lvextend; and more for what is to come`,
    },
  );
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
