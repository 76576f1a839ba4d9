export { BlockManager, DEFAULT_CACHE_BLOCKS, hasCode, type ReadBlock, type WriteBlock } from "./block-manager.js";
export * from "./btree/index.js";
export type { SpaceMap } from "./space-map.js";
export { BITMAP, ENTRIES_PER_BITMAP, INDEX_ENTRY, SPACE_MAP_ROOT, type SpaceMapRoot } from "./space-map-core.js";
export { DiskSpaceMap } from "./space-map-disk.js";
export { MAX_METADATA_BLOCKS, METADATA_INDEX, MetadataSpaceMap } from "./space-map-metadata.js";
export { type Shadow, TransactionManager } from "./transaction-manager.js";
export { damaged, METADATA_BLOCK_BYTES, makeValidator, type Validator } from "./validator.js";
