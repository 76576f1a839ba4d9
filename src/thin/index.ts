export { type AccountingOptions, type BlockUsage, eachUsedRun, usageByDevice, usageOfSet } from "./accounting.js";
export { MAX_DEVICE_ID } from "./device-details.js";
export { type DiffKind, diffDevices } from "./diff.js";
export { findSharers, findWriter, type Location, locateMapping, type PathStep, type Sharers } from "./locate.js";
export { Lookup, type MetadataRoots, metadataBlocksOf, type OpenDevice, ThinMetadata } from "./metadata.js";
export { formatPoolStatus, Pool, type PoolOptions } from "./pool.js";
export { hasThinMagic, isBlank, SUPERBLOCK, SUPERBLOCK_VALIDATOR } from "./superblock.js";
export { ThinDevice, type ThinOptions } from "./thin-device.js";
export * from "./types.js";
