/** lsblk's columns that udm can fill, and our own. */
import type { BlockNode } from "../host/index.js";
import type { Column } from "./report.js";

export type LsblkColumn = Column<BlockNode>;

export const LSBLK_COLUMNS: readonly LsblkColumn[] = [
  { heading: "NAME", key: "name", kind: "text", value: (node) => node.name },
  // Numbers, but set on their colon: text to the table.
  { heading: "MAJ:MIN", key: "maj:min", kind: "text", value: (node) => node.majMin },
  { heading: "RM", key: "rm", kind: "flag", value: (node) => node.removable },
  { heading: "SIZE", key: "size", kind: "bytes", widthHint: 5, value: (node) => node.sizeBytes },
  { heading: "RO", key: "ro", kind: "flag", value: (node) => node.readOnly },
  { heading: "TYPE", key: "type", kind: "text", value: (node) => node.type },
  { heading: "MOUNTPOINTS", key: "mountpoints", kind: "list", value: (node) => node.mountpoints },
  { heading: "KNAME", key: "kname", kind: "text", isExtra: true, value: (node) => node.kname },
  { heading: "PATH", key: "path", kind: "text", isExtra: true, value: (node) => node.path },
  { heading: "STATE", key: "state", kind: "text", isExtra: true, value: (node) => node.state },
  { heading: "POOL", key: "pool", kind: "text", isExtra: true, value: (node) => node.pool },
  { heading: "ID", key: "id", kind: "number", isExtra: true, value: (node) => node.thinId },
  { heading: "MAPPED", key: "mapped", kind: "bytes", isExtra: true, value: (node) => node.mappedBytes },
  { heading: "DATA%", key: "data%", kind: "percent", isExtra: true, value: (node) => node.dataPercent },
  { heading: "META%", key: "meta%", kind: "percent", isExtra: true, value: (node) => node.metadataPercent },
  { heading: "ORIGIN", key: "origin", kind: "text", isExtra: true, value: (node) => node.origin },
  { heading: "BACK-FILE", key: "back-file", kind: "text", isExtra: true, value: (node) => node.backingFile },
  { heading: "OWNER", key: "owner", kind: "text", isExtra: true, value: (node) => node.owner },
];
