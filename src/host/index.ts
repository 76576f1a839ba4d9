import type * as Attachments from "./attachments/index.js";
import type * as Exports from "./exports.js";

/** Attaching, mounting and back; loaded when it is wanted. */
export const attachments = (): Promise<typeof Attachments> => import("./attachments/index.js");
/** Serving devices over NBD; loaded when it is wanted. */
export const nbdExports = (): Promise<typeof Exports> => import("./exports.js");
export { type AnyHostOptions, openAnyHost } from "./any-host.js";
export type { AttachmentFolders, AttachmentInfo, AttachRequest, Via } from "./attachments/index.js";
export { Daemon, type DaemonOptions } from "./daemon/daemon.js";
export { errorToPlain } from "./daemon/protocol.js";
export { type ConnectOptions, connectHost, DaemonSilent } from "./daemon/rpc-host.js";
export { daemonPaths } from "./daemon/socket-path.js";
export { daemonHost, endDaemon, type Readiness, removeStale, type StartOptions } from "./daemon/start-daemon.js";
export type { ExportInfo, ExportRequest } from "./exports.js";
export type * from "./host.js";
export { readLvmProfile } from "./lvm-profile.js";
export {
  isSamePlace,
  type MetadataAccess,
  type OpenedMetadata,
  type OpenedPlace,
  openMetadata,
  openPlace,
} from "./metadata-tools.js";
export { NewDeviceFile } from "./new-device-file.js";
export { type HostOptions, openHost } from "./open-host.js";
export { type OpenedPool, type OpenPoolOptions, openPool } from "./open-pool.js";
export { OutputFile } from "./output-file.js";
export { isAmongDevices, placeOf } from "./part-file.js";
export * as poolShrink from "./pool-shrink.js";
