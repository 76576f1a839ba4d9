/** lsblk's columns, and our own. Names, order, alignment and least widths are those of lsblk; captures check them. */
import type { BlockNode } from "../../host/index.js";

/** What JSON makes of a value, and how it is printed: `size` is human text unless bytes are asked for. */
export type LsblkKind = "text" | "number" | "size" | "flag" | "list" | "percent" | "whole-percent";

export type LsblkValue = string | number | boolean | readonly string[] | undefined;

export interface LsblkColumn {
  readonly heading: string;
  readonly kind: LsblkKind;
  readonly summary: string;
  readonly isRight?: boolean;
  /** Printed without being asked for. */
  readonly isUsual?: boolean;
  /** What the host must be asked for. */
  readonly needs?: "usage" | "details";
  /** Width taken once a value is as wide as the heading. */
  readonly leastWidth?: number;
  readonly value: (node: BlockNode, drawnUnder: BlockNode | undefined) => LsblkValue;
}

type Details = NonNullable<BlockNode["details"]>;

function detail(
  heading: string,
  kind: LsblkKind,
  summary: string,
  pick: (details: Details) => LsblkValue,
  more: Pick<LsblkColumn, "leastWidth" | "isRight"> = {},
): LsblkColumn {
  const isRight = kind !== "text" && kind !== "list";
  return {
    heading,
    kind,
    summary,
    isRight,
    needs: "details",
    value: (node) => (node.details === undefined ? undefined : pick(node.details)),
    ...more,
  };
}

function usedPercent({ fsBytes, fsUsedBytes }: Details): number | undefined {
  if (fsBytes === undefined || fsUsedBytes === undefined || fsBytes === 0) return undefined;
  return (fsUsedBytes / fsBytes) * 100;
}

export const LSBLK_COLUMNS: readonly LsblkColumn[] = [
  { heading: "NAME", kind: "text", isUsual: true, summary: "name", value: (node) => node.name },
  {
    heading: "MAJ:MIN",
    kind: "text",
    isUsual: true,
    summary: "device number",
    leastWidth: 6,
    value: (node) => node.majMin,
  },
  { heading: "RM", kind: "flag", isRight: true, isUsual: true, summary: "removable", value: (node) => node.removable },
  {
    heading: "SIZE",
    kind: "size",
    isRight: true,
    isUsual: true,
    summary: "size",
    leastWidth: 5,
    value: (node) => node.sizeBytes,
  },
  { heading: "RO", kind: "flag", isRight: true, isUsual: true, summary: "read-only", value: (node) => node.readOnly },
  { heading: "TYPE", kind: "text", isUsual: true, summary: "type", leastWidth: 4, value: (node) => node.type },
  {
    heading: "MOUNTPOINTS",
    kind: "list",
    isUsual: true,
    summary: "where it is mounted",
    // The last mount is the one that is seen.
    value: (node) => node.mountpoints.toReversed(),
  },
  { heading: "POOL", kind: "text", summary: "thin pool of a thin device", value: (node) => node.pool },
  { heading: "ID", kind: "number", isRight: true, summary: "its id in that pool", value: (node) => node.thinId },
  {
    heading: "MAPPED",
    kind: "size",
    isRight: true,
    needs: "usage",
    summary: "bytes mapped in the pool",
    leastWidth: 5,
    value: (node) => node.mappedBytes,
  },
  {
    heading: "DATA%",
    kind: "percent",
    isRight: true,
    needs: "usage",
    summary: "share of a pool's data space, or of a thin device's size, that is mapped",
    value: (node) => node.dataPercent,
  },
  {
    heading: "META%",
    kind: "percent",
    isRight: true,
    needs: "usage",
    summary: "share of a pool's metadata in use",
    value: (node) => node.metadataPercent,
  },
  { heading: "ORIGIN", kind: "text", summary: "what it is a snapshot of", value: (node) => node.origin },
  {
    heading: "STATE",
    kind: "text",
    summary: "running or suspended",
    leastWidth: 7,
    value: (node) => node.state,
  },
  { heading: "BACK-FILE", kind: "text", summary: "file of a loop device", value: (node) => node.backingFile },
  { heading: "SOURCE", kind: "text", summary: "udm or machine", value: (node) => node.owner },
  { heading: "KNAME", kind: "text", summary: "kernel name", value: (node) => node.kname },
  {
    heading: "PKNAME",
    kind: "text",
    summary: "kernel name of the device it is drawn under",
    value: (_node, drawnUnder) => drawnUnder?.kname,
  },
  { heading: "PATH", kind: "text", summary: "path of its node", value: (node) => node.path },
  {
    heading: "MOUNTPOINT",
    kind: "text",
    summary: "where it was mounted last",
    value: (node) => node.mountpoints.at(-1),
  },
  detail("FSAVAIL", "size", "room left in its file system", (of) => of.fsAvailableBytes, { leastWidth: 5 }),
  detail("FSSIZE", "size", "size of its file system", (of) => of.fsBytes, { leastWidth: 5 }),
  detail("FSUSED", "size", "room used in its file system", (of) => of.fsUsedBytes, { leastWidth: 5 }),
  detail("FSUSE%", "whole-percent", "share of its file system in use", usedPercent, { leastWidth: 3 }),
  detail("FSTYPE", "text", "type of its file system", (of) => of.fsType),
  detail("FSVER", "text", "version of its file system", (of) => of.fsVersion),
  detail("LABEL", "text", "label of its file system", (of) => of.label),
  detail("UUID", "text", "uuid of its file system", (of) => of.uuid, { leastWidth: 36 }),
  detail("PTTYPE", "text", "type of its partition table", (of) => of.partTableType),
  detail("PTUUID", "text", "identifier of its partition table", (of) => of.partTableUuid, { leastWidth: 36 }),
  detail("PARTTYPE", "text", "type code of a partition", (of) => of.partType, { leastWidth: 36 }),
  detail("PARTLABEL", "text", "label of a partition", (of) => of.partLabel),
  detail("PARTUUID", "text", "uuid of a partition", (of) => of.partUuid, { leastWidth: 36 }),
  detail("PARTFLAGS", "text", "flags of a partition", (of) => of.partFlags, { leastWidth: 36 }),
  detail("RA", "number", "read-ahead in KiB", (of) => of.readAheadKib, { leastWidth: 3 }),
  detail("MODEL", "text", "model", (of) => of.model),
  detail("SERIAL", "text", "serial number", (of) => of.serial),
  detail("OWNER", "text", "user that owns its node", (of) => of.user),
  detail("GROUP", "text", "group of its node", (of) => of.group),
  detail("MODE", "text", "permissions of its node", (of) => of.mode),
  detail("ALIGNMENT", "number", "alignment offset", (of) => of.alignmentBytes, { leastWidth: 6 }),
  detail("MIN-IO", "number", "least size of good I/O", (of) => of.minimumIoBytes, { leastWidth: 6 }),
  detail("OPT-IO", "number", "best size of I/O", (of) => of.optimalIoBytes, { leastWidth: 6 }),
  detail("PHY-SEC", "number", "physical sector size", (of) => of.physicalSectorBytes, { leastWidth: 7 }),
  detail("LOG-SEC", "number", "logical sector size", (of) => of.logicalSectorBytes, { leastWidth: 7 }),
  detail("ROTA", "flag", "rotates", (of) => of.rotational),
  detail("SCHED", "text", "I/O scheduler", (of) => of.scheduler),
  detail("RQ-SIZE", "number", "length of the request queue", (of) => of.queueRequests, { leastWidth: 5 }),
  detail("DISC-ALN", "number", "alignment of discards", (of) => of.discardAlignmentBytes, { leastWidth: 6 }),
  detail("DISC-GRAN", "size", "granularity of discards", (of) => of.discardGranularityBytes, { leastWidth: 6 }),
  detail("DISC-MAX", "size", "longest discard", (of) => of.discardMaxBytes, { leastWidth: 6 }),
  detail("DISC-ZERO", "flag", "discarded blocks read as zeros", (of) => of.discardZeroes),
  detail("WSAME", "size", "longest write-same", (of) => of.writeSameBytes, { leastWidth: 6 }),
  detail("WWN", "text", "unique identifier", (of) => of.wwn, { leastWidth: 18 }),
  detail("RAND", "flag", "adds randomness", (of) => of.addsRandomness),
  detail("HCTL", "text", "host:channel:target:lun of SCSI", (of) => of.hctl, { leastWidth: 10 }),
  detail("TRAN", "text", "transport", (of) => of.transport, { leastWidth: 6 }),
  detail("SUBSYSTEMS", "text", "the buses it hangs on", (of) => of.subsystems),
  detail("REV", "text", "revision", (of) => of.revision, { leastWidth: 4, isRight: true }),
  detail("VENDOR", "text", "vendor", (of) => of.vendor),
  detail("ZONED", "text", "zone model", (of) => of.zoned),
  detail("DAX", "flag", "direct access", (of) => of.dax),
  detail("HOTPLUG", "flag", "may come and go", (of) => of.hotplug),
  detail("START", "number", "first sector of a partition", (of) => of.startSectors, { leastWidth: 5 }),
];

/** Columns of -t, -f, -m and -D, behind the name. */
export const LSBLK_SETS: Readonly<Record<string, readonly string[]>> = {
  topology: "ALIGNMENT MIN-IO OPT-IO PHY-SEC LOG-SEC ROTA SCHED RQ-SIZE RA WSAME".split(" "),
  fs: "FSTYPE FSVER LABEL UUID FSAVAIL FSUSE% MOUNTPOINTS".split(" "),
  perms: "SIZE OWNER GROUP MODE".split(" "),
  discard: "DISC-ALN DISC-GRAN DISC-MAX DISC-ZERO".split(" "),
};
