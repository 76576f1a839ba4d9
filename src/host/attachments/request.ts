/** What is asked of the daemon when a device is attached, and what it tells of one that is. */
import { isAbsolute } from "node:path";
import { StateError } from "../../errors/index.js";
import type { ServiceInfo } from "../host.js";

export const ATTACH_KIND = "attach";

/** FUSE and a loop device, or the kernel's NBD. */
export type Via = "fuse" | "nbd";

export interface AttachRequest {
  /** Name of a mapped device. */
  readonly device: string;
  readonly readOnly?: boolean;
  /** Logical sector size; default 512. */
  readonly sectorBytes?: number;
  /** Where the link to the block device goes: `/dev/mapper`. */
  readonly devFolder: string;
  /** What makes the block device; default `fuse`. */
  readonly via?: Via;
}

export interface AttachmentInfo {
  readonly service: string;
  readonly device: string;
  /** `/dev/mapper/NAME` */
  readonly path: string;
  /** `/dev/loopN`, `/dev/nbdN` */
  readonly node: string;
  readonly via: Via;
  /** The image that the kernel's loop device stands on, or the socket. */
  readonly file: string;
  readonly readOnly: boolean;
  readonly sectorBytes: number;
  readonly sizeBytes: number;
  /** The loop device goes past the page cache of the image. */
  readonly directIo: boolean;
}

const SECTOR_CHOICES: readonly unknown[] = [512, 4096];

/** @throws StateError EINVAL */
export function parseAttachRequest(options: unknown): AttachRequest {
  const { device, readOnly, sectorBytes, devFolder, via } = (options ?? {}) as Readonly<Record<string, unknown>>;
  if (typeof device !== "string" || device === "") throw invalid("no device is named");
  if (typeof devFolder !== "string" || !isAbsolute(devFolder)) throw invalid("the folder for its link is no full path");
  if (readOnly !== undefined && typeof readOnly !== "boolean") throw invalid("'read-only' is neither true nor false");
  if (sectorBytes !== undefined && !SECTOR_CHOICES.includes(sectorBytes)) {
    throw new StateError("EINVAL", `sector size ${String(sectorBytes)} is not possible`, { hint: "512 or 4096" });
  }
  if (via !== undefined && via !== "fuse" && via !== "nbd") {
    throw new StateError("EINVAL", `devices are not attached via '${String(via)}'`, { hint: "fuse or nbd" });
  }
  return {
    device,
    devFolder,
    ...(via === undefined ? {} : { via }),
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(sectorBytes === undefined ? {} : { sectorBytes: sectorBytes as number }),
  };
}

function invalid(why: string): StateError {
  return new StateError("EINVAL", `attach: ${why}`, { hint: "udm attach NAME" });
}

/** What a service of this kind tells, as a typed value; undefined for one of another kind. */
export function attachmentOf(service: ServiceInfo): AttachmentInfo | undefined {
  if (service.kind !== ATTACH_KIND) return undefined;
  const of = service.details as Readonly<Record<string, never>>;
  return {
    service: service.name,
    device: of.device!,
    path: of.path!,
    node: of.node!,
    via: of.via!,
    file: of.file!,
    readOnly: of.readOnly!,
    sectorBytes: of.sectorBytes!,
    sizeBytes: of.sizeBytes!,
    directIo: of.directIo!,
  };
}
