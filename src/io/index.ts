export { majorMinor } from "./backing.js";
export type { BlockDevice, Extent, Located, SyncIo } from "./block-device.js";
export { type Claim, type ClaimRequest, Claims } from "./claim.js";
export { codeForErrno, errnoError, errnoName, reasonForErrno, systemError } from "./errno.js";
export { FileDevice, type FileDeviceOptions } from "./file-device.js";
export {
  commandOf,
  describeHolders,
  deviceNumber,
  type FileIdentity,
  findHolders,
  type Holder,
  identityOf,
  isSameFile,
  type KernelLoop,
  kernelLoopsOver,
  kernelUse,
  listKernelLoops,
  mountPoints,
  swapPaths,
} from "./holders.js";
export { type FileLock, type LockOptions, lockFile, tryLockFile } from "./lock-file.js";
export { makeFolder } from "./make-folder.js";
export { MemoryDevice, type MemoryDeviceOptions } from "./memory-device.js";
export {
  type FileRange,
  LOOP_FLAG_AUTOCLEAR,
  LOOP_FLAG_DIRECT_IO,
  LOOP_FLAG_PARTSCAN,
  LOOP_FLAG_READ_ONLY,
  type LockKind,
  type LoopStatus,
  type Native,
  type NativeSupport,
  nativeCalls,
  nativeSupport,
} from "./native.js";
export { checkRange, refuseReadOnly } from "./range.js";
export { type ReplaceOptions, replaceFile, replaceFileInPool } from "./replace-file.js";
export { type RunOptions, type RunResult, run, runShell, runSync, type ShellOptions } from "./run.js";
export { SliceDevice, type SliceOptions } from "./slice-device.js";
export { createSparseFile, flushFolder, freeBytes, setFileSize } from "./sparse-file.js";
export { SyncBackedDevice } from "./sync-backed-device.js";
