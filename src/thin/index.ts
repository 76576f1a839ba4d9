export { MAX_DEVICE_ID } from "./device-details.js";
export { Lookup, type MetadataRoots, metadataBlocksOf, type OpenDevice, ThinMetadata } from "./metadata.js";
export { hasThinMagic, isBlank, SUPERBLOCK, SUPERBLOCK_VALIDATOR } from "./superblock.js";
export * from "./types.js";
