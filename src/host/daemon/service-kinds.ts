/**
 * The kinds of services a daemon has; each is a file of its own, as services.ts describes. Made anew for each daemon: what
 * the services of a kind share, they share in one daemon.
 */
import { attachmentKind } from "../attachments/index.js";
import { exportKind } from "../exports.js";
import { metadataSnapshotKind } from "../metadata-snapshot.js";
import { type AnyServiceKind, serviceKind } from "./services.js";

export function serviceKinds(): readonly AnyServiceKind[] {
  return [serviceKind(attachmentKind()), serviceKind(exportKind()), serviceKind(metadataSnapshotKind())];
}
