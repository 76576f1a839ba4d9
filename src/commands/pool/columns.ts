/** What reports say about a pool. */
import type { PoolInfo } from "../../host/index.js";
import { percentOf } from "../../ui/index.js";
import type { Column } from "../report.js";

export const METADATA_BLOCK_BYTES = 4096;

/** Sizes of a pool in bytes, from its status line. */
export function poolSpace(pool: PoolInfo) {
  const { status } = pool;
  const blockBytes = status.dataBlockSectors * 512;
  return {
    blockBytes,
    dataUsed: status.usedDataBlocks * blockBytes,
    dataTotal: status.totalDataBlocks * blockBytes,
    metadataUsed: status.usedMetadataBlocks * METADATA_BLOCK_BYTES,
    metadataTotal: status.totalMetadataBlocks * METADATA_BLOCK_BYTES,
  };
}

/** The features that are on, in the words of the table line. */
export function featureWords(pool: PoolInfo): readonly string[] {
  const { features } = pool.status;
  const words: [boolean, string][] = [
    [features.skipBlockZeroing, "skip_block_zeroing"],
    [features.ignoreDiscard, "ignore_discard"],
    [features.noDiscardPassdown, "no_discard_passdown"],
    [features.readOnly, "read_only"],
    [features.errorIfNoSpace, "error_if_no_space"],
  ];
  return words.filter(([isOn]) => isOn).map(([, word]) => word);
}

export const POOL_COLUMNS = [
  { heading: "NAME", key: "name", kind: "text", value: (pool) => pool.name },
  { heading: "STATE", key: "state", kind: "text", value: (pool) => pool.state },
  { heading: "MODE", key: "mode", kind: "text", value: (pool) => pool.status.mode },
  { heading: "SIZE", key: "size", kind: "bytes", value: (pool) => poolSpace(pool).dataTotal },
  { heading: "USED", key: "used", kind: "bytes", value: (pool) => poolSpace(pool).dataUsed },
  {
    heading: "DATA%",
    key: "dataPercent",
    kind: "percent",
    value: (pool) => percentOf(pool.status.usedDataBlocks, pool.status.totalDataBlocks),
  },
  { heading: "META-SIZE", key: "metadataSize", kind: "bytes", value: (pool) => poolSpace(pool).metadataTotal },
  { heading: "META-USED", key: "metadataUsed", kind: "bytes", value: (pool) => poolSpace(pool).metadataUsed },
  {
    heading: "META%",
    key: "metadataPercent",
    kind: "percent",
    value: (pool) => percentOf(pool.status.usedMetadataBlocks, pool.status.totalMetadataBlocks),
  },
  { heading: "THINS", key: "thinCount", kind: "number", value: (pool) => pool.thinCount },
  { heading: "ACTIVE", key: "activeCount", kind: "number", isExtra: true, value: (pool) => pool.activeCount },
  {
    heading: "BLOCK-SIZE",
    key: "blockSize",
    kind: "bytes",
    isExtra: true,
    value: (pool) => poolSpace(pool).blockBytes,
  },
  {
    heading: "FREE",
    key: "free",
    kind: "bytes",
    isExtra: true,
    value: (pool) => poolSpace(pool).dataTotal - poolSpace(pool).dataUsed,
  },
  {
    heading: "LOW-WATER",
    key: "lowWater",
    kind: "bytes",
    isExtra: true,
    value: (pool) => pool.status.lowWaterBlocks * poolSpace(pool).blockBytes,
  },
  {
    heading: "META-ALLOCATED",
    key: "metadataAllocated",
    kind: "bytes",
    isExtra: true,
    value: (pool) => pool.status.allocatedMetadataBlocks * METADATA_BLOCK_BYTES,
  },
  {
    heading: "TRANSACTION",
    key: "transactionId",
    kind: "number",
    isExtra: true,
    value: (pool) => pool.status.transactionId,
  },
  {
    heading: "HELD-ROOT",
    key: "heldRoot",
    kind: "number",
    mayBeUnknown: true,
    isExtra: true,
    value: (pool) => pool.status.heldRoot,
  },
  { heading: "NEEDS-CHECK", key: "needsCheck", kind: "flag", isExtra: true, value: (pool) => pool.status.needsCheck },
  { heading: "FEATURES", key: "features", kind: "list", isExtra: true, value: featureWords },
  { heading: "DATA-DEV", key: "dataDevice", kind: "text", isExtra: true, value: (pool) => pool.dataDevice },
  { heading: "META-DEV", key: "metadataDevice", kind: "text", isExtra: true, value: (pool) => pool.metadataDevice },
  {
    heading: "DATA-FILE",
    key: "dataFile",
    kind: "text",
    mayBeUnknown: true,
    isExtra: true,
    value: (pool) => pool.dataFile,
  },
  {
    heading: "META-FILE",
    key: "metadataFile",
    kind: "text",
    mayBeUnknown: true,
    isExtra: true,
    value: (pool) => pool.metadataFile,
  },
  { heading: "RAW", key: "raw", kind: "text", isExtra: true, value: (pool) => pool.raw },
] as const satisfies readonly Column<PoolInfo>[];
