/**
 * The library: pools and thin devices over anything that holds bytes, and the host that the commands speak to.
 * It prints nothing and reads neither arguments nor environment.
 */
export * from "./errors/index.js";
export * from "./host/index.js";
export {
  type BlockDevice,
  type Extent,
  FileDevice,
  type FileDeviceOptions,
  MemoryDevice,
  type MemoryDeviceOptions,
  SliceDevice,
  type SliceOptions,
  type SyncIo,
} from "./io/index.js";
export {
  NO_FEATURES,
  Pool,
  type PoolConfig,
  type PoolFeatures,
  type PoolMode,
  type PoolOptions,
  type PoolRuntime,
  type PoolStatus,
  ThinDevice,
  type ThinOptions,
} from "./thin/index.js";
export { formatBytes, parseSize, parseSizeChange, type Unit } from "./units/index.js";
export { VERSION } from "./version.js";
