/**
 * A reader of pool metadata that trusts nothing, for tools. How to use it:
 *
 * - `new BlockStore(device)` stands on a device that can be read at once (file, block device, memory). It reads in
 *   large pieces, checks number and checksum of a block once, and remembers the outcome in a byte for each block.
 * - `readSuperblock(store)`, or `readSuperblock(store, heldRoot)` for the metadata snapshot, gives plain values.
 * - `readDevices(store, superblock)` puts the two trees of devices together: id, root of the mapping tree, details.
 * - `RunCursor(store, root, onDamage)` pulls the mappings of one device as runs, in order: `while (runs.next())` look at
 *   `runs.virtualBegin, dataBegin, length, time`. Two of them side by side compare two devices.
 * - `TreeCursor(store, root, valueSize, onDamage)` pulls any tree leaf by leaf; entries lie in `cursor.words`.
 * - `NodeSweep` visits each node of many trees once, by block number, whoever shares it, and counts the pointers: for
 *   what does not depend on the order of keys. `revisitLeaves` reads the leaves again.
 * - `readDataIndex`, `readMetadataIndex` and `eachBitmap` give the counts of the space maps.
 *
 * Damage is data: `onDamage` gets a problem, the block, the path to it and the keys [low, high) that are lost with it;
 * the walk goes on behind it. Nothing here throws for what stands on the device. Numbers above 2^53 read as Infinity.
 * Long loops take a `Pace`: they give way several times a second, tell how far they are, and end on a signal.
 */
export {
  BLOCK_WORDS,
  BlockBuffer,
  BlockStore,
  type BlockVisitor,
  checkHead,
  checksumAs,
} from "./block-store.js";
export {
  DETAILS_BYTES,
  type DetailsValues,
  type DeviceReading,
  detailsAt,
  eachDeviceDetails,
  eachDeviceRoot,
  ROOT_BYTES,
  readDevices,
} from "./devices.js";
export {
  capacityOf,
  checkNode,
  childOf,
  entriesOf,
  isLeafNode,
  isUnderfull,
  KEYS,
  keyOf,
  MAX_CHILDREN,
  MAX_NODE_ENTRIES,
  MAX_TREE_DEPTH,
  nodeValueSize,
  numberAt,
  valuesAt,
} from "./node.js";
export { type LeafVisitor, NodeSweep, type SweepOptions } from "./node-sweep.js";
export { KIND_NAME, KIND_SALT, Kind, Problem } from "./problems.js";
export { MAPPING_BYTES, RunCursor } from "./run-cursor.js";
export {
  type BitmapCounts,
  bitmapsFor,
  COUNT_BYTES,
  type CountsOptions,
  ENTRIES_PER_BITMAP,
  eachBitmap,
  INDEX_ENTRY_BYTES,
  OverflowCursor,
  readDataIndex,
  readMetadataIndex,
  type SpaceMapIndex,
} from "./space-map.js";
export {
  isBlankReading,
  type MapRoot,
  readSuperblock,
  type SuperblockReading,
  type SuperblockValues,
} from "./superblock.js";
export { TreeCursor, type TreeDamage } from "./tree-cursor.js";
