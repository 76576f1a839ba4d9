/**
 * The persistent objects behind a pool's metadata, as one transaction sees them: block manager, both space maps, the
 * trees and their roots. Made by formatting or by opening; thrown away and opened again when a transaction is aborted.
 */
import { getU64 } from "../bytes/index.js";
import { DamageError, StateError } from "../errors/index.js";
import {
  type BlockManager,
  DiskSpaceMap,
  deleteTree,
  eachRun,
  emptyTree,
  MAX_METADATA_BLOCKS,
  METADATA_BLOCK_BYTES,
  MetadataSpaceMap,
  TransactionManager,
  type Tree,
} from "../persistent-data/index.js";
import { BLOCK_TIME_BYTES, blockOf, eachBlockRun } from "./block-time.js";
import { DEVICE_DETAILS } from "./device-details.js";
import {
  checkFeatures,
  readSpaceMapRoot,
  SUPERBLOCK,
  SUPERBLOCK_LOCATION,
  SUPERBLOCK_VALIDATOR,
  THIN_MAGIC,
  THIN_VERSION,
  writeSpaceMapRoot,
} from "./superblock.js";

/** Below this many metadata blocks not even the space map's own blocks have a place. */
const TOO_SMALL_BLOCKS = 3;
/** Smallest metadata device on which one thin device can be made. */
const USEFUL_BLOCKS = 14;
const SECTORS_PER_METADATA_BLOCK = METADATA_BLOCK_BYTES / 512;

/** The trees of a pool; their roots are kept by the store. */
export interface Trees {
  /** Device id -> mapping tree; giving up a value gives up the whole tree. */
  readonly devices: Tree;
  /** The same tree as the upper level of a walk into a mapping tree: values are plain references. */
  readonly upper: Tree;
  /** Virtual block -> data block and time. */
  readonly mappings: Tree;
  /** Device id -> details. */
  readonly details: Tree;
}

export class MetadataStore {
  readonly transaction: TransactionManager;
  readonly metadataMap: MetadataSpaceMap;
  readonly dataMap: DiskSpaceMap;
  readonly trees: Trees;
  mappingRoot = 0;
  detailsRoot = 0;

  private constructor(transaction: TransactionManager, metadataMap: MetadataSpaceMap, dataMap: DiskSpaceMap) {
    this.transaction = transaction;
    this.metadataMap = metadataMap;
    this.dataMap = dataMap;
    this.trees = makeTrees(transaction, dataMap);
  }

  /** Lays out an empty pool and commits it. The device's first block is blank. */
  static format(blocks: BlockManager, dataBlockSectors: number): MetadataStore {
    const nrBlocks = usableBlocks(blocks.nrBlocks);
    if (nrBlocks < TOO_SMALL_BLOCKS) {
      throw new StateError(
        "EINVAL",
        `the metadata device has ${nrBlocks} blocks of 4 KiB, wanted at least ${USEFUL_BLOCKS}`,
        {
          hint: "give it 2 MiB or more",
        },
      );
    }
    const transaction = new TransactionManager(blocks);
    const metadataMap = MetadataSpaceMap.create(transaction, nrBlocks);
    const dataMap = DiskSpaceMap.create(transaction);
    const store = new MetadataStore(transaction, metadataMap, dataMap);
    store.mappingRoot = emptyTree(store.trees.devices);
    store.detailsRoot = emptyTree(store.trees.details);
    dataMap.commit();
    metadataMap.commit();
    blocks.commitFirst(SUPERBLOCK_VALIDATOR, ({ view }) => {
      SUPERBLOCK.set.magic(view, THIN_MAGIC);
      SUPERBLOCK.set.version(view, THIN_VERSION);
      writeSpaceMapRoot(view, "data", dataMap.root);
      writeSpaceMapRoot(view, "metadata", metadataMap.root);
      SUPERBLOCK.set.dataMappingRoot(view, store.mappingRoot);
      SUPERBLOCK.set.deviceDetailsRoot(view, store.detailsRoot);
      SUPERBLOCK.set.dataBlockSize(view, dataBlockSectors);
      SUPERBLOCK.set.metadataBlockSize(view, SECTORS_PER_METADATA_BLOCK);
      SUPERBLOCK.set.metadataNrBlocks(view, nrBlocks);
    });
    transaction.endTransaction();
    return store;
  }

  /** @param dataBlockSectors what the table asks for; undefined takes what is on disk */
  static open(blocks: BlockManager, dataBlockSectors: number | undefined, canWrite: boolean): MetadataStore {
    const { view } = blocks.read(SUPERBLOCK_LOCATION, SUPERBLOCK_VALIDATOR);
    checkFeatures(view, dataBlockSectors, canWrite);
    const transaction = new TransactionManager(blocks);
    const metadataRoot = readSpaceMapRoot(view, "metadata");
    if (metadataRoot.nrBlocks > MAX_METADATA_BLOCKS) {
      throw new DamageError(
        `superblock: metadata space map of ${metadataRoot.nrBlocks} blocks, the limit is ${MAX_METADATA_BLOCKS}`,
      );
    }
    const metadataMap = MetadataSpaceMap.open(transaction, metadataRoot);
    const dataMap = DiskSpaceMap.open(transaction, readSpaceMapRoot(view, "data"));
    const store = new MetadataStore(transaction, metadataMap, dataMap);
    store.mappingRoot = SUPERBLOCK.get.dataMappingRoot(view);
    store.detailsRoot = SUPERBLOCK.get.deviceDetailsRoot(view);
    return store;
  }
}

/** Metadata blocks of a device that the format can use. */
export function usableBlocks(deviceBlocks: number): number {
  return Math.min(deviceBlocks, MAX_METADATA_BLOCKS);
}

function makeTrees(transaction: TransactionManager, dataMap: DiskSpaceMap): Trees {
  const mappings: Tree = {
    transaction,
    value: {
      size: BLOCK_TIME_BYTES,
      inc: (view, offset, count) => eachBlockRun(view, offset, count, (begin, end) => dataMap.inc(begin, end)),
      dec: (view, offset, count) => eachBlockRun(view, offset, count, (begin, end) => dataMap.dec(begin, end)),
      equal: (a, aOffset, b, bOffset) => blockOf(a, aOffset) === blockOf(b, bOffset),
    },
  };
  const isSameRoot: Tree["value"]["equal"] = (a, aOffset, b, bOffset) => getU64(a, aOffset) === getU64(b, bOffset);
  const incRoots: Tree["value"]["inc"] = (view, offset, count) =>
    eachRun(view, offset, count, (begin, end) => transaction.inc(begin, end));
  return {
    mappings,
    devices: {
      transaction,
      value: {
        size: 8,
        inc: incRoots,
        dec: (view, offset, count) => {
          for (let index = 0; index < count; index++) deleteTree(mappings, getU64(view, offset + index * 8));
        },
        equal: isSameRoot,
      },
    },
    upper: {
      transaction,
      value: {
        size: 8,
        inc: incRoots,
        dec: (view, offset, count) => eachRun(view, offset, count, (begin, end) => transaction.dec(begin, end)),
        equal: isSameRoot,
      },
    },
    details: { transaction, value: { size: DEVICE_DETAILS.size } },
  };
}
