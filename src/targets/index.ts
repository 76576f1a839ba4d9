export { FixedDevice } from "./fixed-device.js";
export { type Stripe, StripedDevice } from "./striped-device.js";
export type {
  Area,
  FoundDevice,
  KnownPool,
  OpenContext,
  OpenPool,
  ParseContext,
  StatusOptions,
  Target,
  TargetLine,
  TargetType,
} from "./target.js";
export { findTargetType, TARGET_TYPES } from "./target-types.js";
export { MAX_DEVICE_ID } from "./thin.js";
export { MAX_DATA_BLOCK_SECTORS, MIN_DATA_BLOCK_SECTORS, poolArgs, poolConfigOf } from "./thin-pool.js";
