/** lsblk's JSON, to the blank: three blanks a level, `},{` between siblings, mount points always an array. */
import type { BlockNode } from "../host/index.js";
import { formatBytes, type Unit } from "../units/index.js";
import type { LsblkColumn } from "./lsblk-columns.js";

export interface JsonView {
  readonly columns: readonly LsblkColumn[];
  readonly unit: Unit;
  readonly nameOf: (node: BlockNode) => string;
}

export function lsblkJson(
  roots: readonly BlockNode[],
  childrenOf: (node: BlockNode) => readonly BlockNode[],
  view: JsonView,
): string {
  return `{\n   "blockdevices": ${array(roots, childrenOf, view, 1)}\n}`;
}

function array(
  nodes: readonly BlockNode[],
  childrenOf: (node: BlockNode) => readonly BlockNode[],
  view: JsonView,
  level: number,
): string {
  const indent = "   ".repeat(level);
  if (nodes.length === 0) return `[\n\n${indent}]`;
  const items = nodes.map((node) => {
    const fields = view.columns.map((column) => field(node, column, view, level + 2));
    const children = childrenOf(node);
    if (children.length > 0) {
      fields.push(`${"   ".repeat(level + 2)}"children": ${array(children, childrenOf, view, level + 2)}`);
    }
    return `{\n${fields.join(",\n")}\n${indent}   }`;
  });
  return `[\n${indent}   ${items.join(",")}\n${indent}]`;
}

function field(node: BlockNode, column: LsblkColumn, view: JsonView, level: number): string {
  const indent = "   ".repeat(level);
  return `${indent}${JSON.stringify(column.key)}: ${fieldValue(node, column, view, indent)}`;
}

function fieldValue(node: BlockNode, column: LsblkColumn, view: JsonView, indent: string): string {
  if (column.heading === "NAME") return JSON.stringify(view.nameOf(node));
  const value = column.value(node);
  if (Array.isArray(value)) {
    const items = value.length === 0 ? ["null"] : value.map((item) => JSON.stringify(item));
    return `[\n${items.map((item) => `${indent}    ${item}`).join(",\n")}\n${indent}]`;
  }
  if (column.kind === "bytes" && typeof value === "number" && view.unit !== "b") {
    return JSON.stringify(formatBytes(value, view.unit));
  }
  return JSON.stringify(value ?? null);
}
