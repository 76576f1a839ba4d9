export type { ImageFile, ImageOptions } from "./image-file.js";
export {
  abortConnection,
  FuseMount,
  type FuseMountInfo,
  type FuseMountOptions,
  listFuseMounts,
  stateOfFuseMount,
  unmountFuse,
} from "./mount.js";
export type { FuseServer } from "./server.js";
