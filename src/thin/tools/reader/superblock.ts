/** A superblock, or the copy of one that the metadata snapshot is, as plain values. Nothing is trusted. */
import { METADATA_BLOCK_BYTES, SPACE_MAP_ROOT } from "../../../persistent-data/index.js";
import { FLAG_NEEDS_CHECK, SUPERBLOCK, SUPERBLOCK_LOCATION, THIN_MAGIC } from "../../superblock.js";
import { BlockBuffer, type BlockStore } from "./block-store.js";
import { numberAt } from "./node.js";
import { Kind, Problem } from "./problems.js";

export interface MapRoot {
  readonly nrBlocks: number;
  readonly nrAllocated: number;
  readonly bitmapRoot: number;
  readonly refCountRoot: number;
}

/** Numbers above 2^53 are Infinity. */
export interface SuperblockValues {
  readonly flags: number;
  readonly needsCheck: boolean;
  readonly version: number;
  readonly time: number;
  readonly transactionId: number;
  /** 0: none. */
  readonly heldRoot: number;
  readonly dataMap: MapRoot;
  readonly metadataMap: MapRoot;
  readonly mappingRoot: number;
  readonly detailsRoot: number;
  readonly dataBlockSectors: number;
  readonly metadataBlockSectors: number;
  readonly metadataNrBlocks: number;
  readonly compatFlags: number;
  readonly compatRoFlags: number;
  readonly incompatFlags: number;
  readonly uuid: Uint8Array;
}

export interface SuperblockReading {
  /** Block it was read from. */
  readonly blocknr: number;
  readonly problem: Problem | "magic";
  /** What its fields say, sound or not; undefined when it could not be read. */
  readonly values: SuperblockValues | undefined;
  /** The block as it lies on the device. */
  readonly bytes: Uint8Array;
  readonly storedChecksum: number;
}

const { fields } = SUPERBLOCK;

/** @param blocknr 0, or the held root */
export function readSuperblock(store: BlockStore, blocknr: number = SUPERBLOCK_LOCATION): SuperblockReading {
  const buffer = new BlockBuffer(1);
  const nothing = { blocknr, values: undefined, bytes: buffer.bytes, storedChecksum: 0 };
  if (!store.isInside(blocknr)) return { ...nothing, problem: Problem.Outside };
  if (!store.loadOne(blocknr, buffer)) return { ...nothing, problem: Problem.Unreadable };
  const problem = store.check(blocknr, Kind.Superblock, buffer, 0);
  const { words } = buffer;
  const values = superblockValues(words);
  const hasMagic = words[fields.magic.offset / 4] === THIN_MAGIC && words[fields.magic.offset / 4 + 1] === 0;
  return {
    blocknr,
    problem: problem === Problem.None && !hasMagic ? "magic" : problem,
    values,
    bytes: buffer.bytes,
    storedChecksum: words[0]!,
  };
}

function superblockValues(words: Uint32Array): SuperblockValues {
  const u32 = (field: keyof typeof fields) => words[fields[field].offset / 4]!;
  const u64 = (field: keyof typeof fields) => numberAt(words, fields[field].offset / 4);
  return {
    flags: u32("flags"),
    needsCheck: (u32("flags") & FLAG_NEEDS_CHECK) !== 0,
    version: u32("version"),
    time: u32("time"),
    transactionId: u64("transId"),
    heldRoot: u64("heldRoot"),
    dataMap: mapRoot(words, fields.dataSpaceMapRoot.offset / 4),
    metadataMap: mapRoot(words, fields.metadataSpaceMapRoot.offset / 4),
    mappingRoot: u64("dataMappingRoot"),
    detailsRoot: u64("deviceDetailsRoot"),
    dataBlockSectors: u32("dataBlockSize"),
    metadataBlockSectors: u32("metadataBlockSize"),
    metadataNrBlocks: u64("metadataNrBlocks"),
    compatFlags: u32("compatFlags"),
    compatRoFlags: u32("compatRoFlags"),
    incompatFlags: u32("incompatFlags"),
    uuid: new Uint8Array(words.buffer, words.byteOffset + fields.uuid.offset, fields.uuid.size).slice(),
  };
}

function mapRoot(words: Uint32Array, word: number): MapRoot {
  const at = (field: keyof typeof SPACE_MAP_ROOT.fields) =>
    numberAt(words, word + SPACE_MAP_ROOT.fields[field].offset / 4);
  return {
    nrBlocks: at("nrBlocks"),
    nrAllocated: at("nrAllocated"),
    bitmapRoot: at("bitmapRoot"),
    refCountRoot: at("refCountRoot"),
  };
}

/** Whether the block is all zeros: nothing was ever formatted here. */
export function isBlankReading(reading: SuperblockReading): boolean {
  return reading.bytes.length === METADATA_BLOCK_BYTES && reading.bytes.every((byte) => byte === 0);
}
