/** Sizes as people read them, with the unit choices of LVM's `--units`. */
import { UsageError } from "../errors/index.js";

/** `h` human, `b` bytes, `s` sectors, `k m g t p e` powers of 1024, capitals powers of 1000. */
export type Unit = "h" | "H" | "b" | "s" | "k" | "m" | "g" | "t" | "p" | "e" | "K" | "M" | "G" | "T" | "P" | "E";

const PREFIXES = "kmgtpe";

/** `10.00g` for a fixed unit, `10G`/`1.5G` (as lsblk prints) for `h`. */
export function formatBytes(bytes: number, unit: Unit = "h"): string {
  if (unit === "b") return `${bytes}`;
  if (unit === "s") return formatSectors(bytes);
  if (unit === "h" || unit === "H") return human(bytes, unit === "h" ? 1024 : 1000);
  const lower = unit.toLowerCase();
  const power = PREFIXES.indexOf(lower) + 1;
  if (power === 0)
    throw new UsageError(`unit '${unit}' is unknown`, { hint: "one of h b s k m g t p e, or K M G T P E" });
  return `${(bytes / (unit === lower ? 1024 : 1000) ** power).toFixed(2)}${unit}`;
}

/** `2048S`, as LVM writes sectors. */
export function formatSectors(bytes: number): string {
  return `${Math.floor(bytes / 512)}s`;
}

function human(bytes: number, base: number): string {
  let power = 0;
  while (power < PREFIXES.length && bytes >= base ** (power + 1)) power++;
  if (power === 0) return `${bytes}B`;
  let tenths = Math.round((bytes / base ** power) * 10);
  if (tenths >= base * 10 && power < PREFIXES.length) {
    power++;
    tenths = Math.round((bytes / base ** power) * 10);
  }
  const number = tenths % 10 === 0 ? `${tenths / 10}` : (tenths / 10).toFixed(1);
  return `${number}${PREFIXES[power - 1]!.toUpperCase()}`;
}
