export { NbdDevice, type NbdDeviceOptions } from "./client/nbd-device.js";
export { DeviceExport, type DeviceExportOptions } from "./device-export.js";
export type { NbdExport, SharedExtent } from "./export.js";
export { NbdServer, type ServerOptions } from "./server.js";
export { openServerTls, type ServerTls, type TlsOptions } from "./tls.js";
export { formatNbdUri, isNbdUri, type NbdAddress, type NbdUri, parseNbdUri } from "./uri.js";
