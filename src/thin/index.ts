export { MAX_DEVICE_ID } from "./device-details.js";
export { Lookup, type MetadataRoots, metadataBlocksOf, type OpenDevice, ThinMetadata } from "./metadata.js";
export { formatPoolStatus, Pool, type PoolOptions } from "./pool.js";
export { hasThinMagic, isBlank, SUPERBLOCK, SUPERBLOCK_VALIDATOR } from "./superblock.js";
export { ThinDevice, type ThinOptions } from "./thin-device.js";
export * from "./types.js";
