/** lsblk's JSON, to the blank: three blanks a level, `},{` between siblings, mount points always an array. */
import type { LsblkColumn, LsblkValue } from "./columns.js";
import type { Entry } from "./tree.js";

export interface JsonField {
  readonly column: LsblkColumn;
  readonly valueFor: (entry: Entry) => LsblkValue;
}

export function lsblkJson(entries: readonly Entry[], fields: readonly JsonField[]): string {
  return `{\n   "blockdevices": ${array(entries, fields, 1)}\n}`;
}

function array(entries: readonly Entry[], fields: readonly JsonField[], level: number): string {
  const indent = "   ".repeat(level);
  if (entries.length === 0) return `[\n\n${indent}]`;
  const items = entries.map((entry) => {
    const inner = `${indent}      `;
    const lines = fields.map(({ column, valueFor }) => {
      return `${inner}${JSON.stringify(column.heading.toLowerCase())}: ${valueText(valueFor(entry), inner)}`;
    });
    if (entry.children.length > 0) lines.push(`${inner}"children": ${array(entry.children, fields, level + 2)}`);
    return `{\n${lines.join(",\n")}\n${indent}   }`;
  });
  return `[\n${indent}   ${items.join(",")}\n${indent}]`;
}

function valueText(value: LsblkValue, indent: string): string {
  if (!Array.isArray(value)) return JSON.stringify(value === "" ? null : (value ?? null));
  const items = value.length === 0 ? ["null"] : value.map((item) => JSON.stringify(item));
  return `[\n${indent}    ${items.join(", ")}\n${indent}]`;
}
