/** A block of metadata as lines. */
import type { DescribedBlock, Step } from "../../thin/index.js";

const BYTES_PER_LINE = 16;

/** `block 12: leaf, mappings of device 7, 20 of 252 entries (path 0 > 7 > 12)`. */
export function headingOf({ block, title }: DescribedBlock, steps: readonly Step[]): string {
  const way = steps.length < 2 ? "" : ` (path ${steps.map((step) => step.block).join(" > ")})`;
  return `block ${block}: ${title}${way}`;
}

/** Entries as lines, and `->` before those that lead somewhere. */
export function listOf(entries: DescribedBlock["entries"]): readonly string[] {
  const width = Math.max(0, ...entries.map(({ label }) => label.length));
  return entries.map(
    ({ label, text, target }) => `  ${label.padEnd(width)} ${target === undefined ? "  " : "->"} ${text}`,
  );
}

/** Offset, bytes, and characters where they are printable; lines that repeat are one `*`. */
export function hexLines(bytes: Uint8Array): readonly string[] {
  const lines: string[] = [];
  let before = "";
  for (let at = 0; at < bytes.length; at += BYTES_PER_LINE) {
    const row = bytes.subarray(at, at + BYTES_PER_LINE);
    const numbers = [...row].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    if (numbers === before && at + BYTES_PER_LINE < bytes.length) {
      if (lines.at(-1) !== "*") lines.push("*");
      continue;
    }
    before = numbers;
    const text = [...row].map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${numbers}  ${text}`);
  }
  return lines;
}
