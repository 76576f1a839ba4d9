export type { BlockDevice, Extent, SyncIo } from "./block-device.js";
