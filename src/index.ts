/**
 * The library: pools and thin devices over anything that holds bytes, their metadata, NBD in both directions, and the host
 * that the commands speak to. It prints nothing and reads neither arguments nor environment.
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
  DeviceExport,
  type DeviceExportOptions,
  formatNbdUri,
  type NbdAddress,
  NbdDevice,
  type NbdDeviceOptions,
  type NbdExport,
  NbdServer,
  type NbdUri,
  parseNbdUri,
  type ServerOptions,
  type TlsOptions,
} from "./nbd/index.js";
export {
  adviseMetadataSize,
  BlockStore,
  type CheckOptions,
  type CheckReport,
  checkMetadata,
  type DeltaOptions,
  type DumpOptions,
  deltaMetadata,
  dumpMetadata,
  FINDINGS,
  type Finding,
  type ListedDevice,
  type Listing,
  type ListOptions,
  listMetadata,
  mendMetadata,
  NO_FEATURES,
  Pace,
  type PaceOptions,
  Pool,
  type PoolConfig,
  type PoolFeatures,
  type PoolMode,
  type PoolOptions,
  type PoolRuntime,
  type PoolStatus,
  type Region,
  type Restored,
  type RestoreOptions,
  type ReverseRun,
  readSuperblock,
  restoreMetadata,
  reverseMap,
  type SizeAdvice,
  ThinDevice,
  type ThinOptions,
} from "./thin/index.js";
export { formatBytes, parseSize, parseSizeChange, type Unit } from "./units/index.js";
export { VERSION } from "./version.js";
