/** Words of the command line as typed values. Each parser throws UsageError naming the word and the form wanted. */
import { UsageError } from "../errors/index.js";
import type { LowWater, SizeTarget } from "../host/index.js";
import { parseSize, parseSizeChange } from "../units/index.js";

const MAX_THIN_ID = 2 ** 24 - 1;

/** For commander: a parser of one option that names what it parses. */
export function sizeOf(what: string): (text: string) => number {
  return (text) => parseSize(text, what);
}

export function positiveSizeOf(what: string): (text: string) => number {
  return (text) => {
    const bytes = parseSize(text, what);
    if (bytes === 0) throw new UsageError(`${what} is 0`, { hint: "give a size such as 128m or 10g" });
    return bytes;
  };
}

export function sizeChangeOf(what: string): (text: string) => SizeTarget {
  return (text) => parseSizeChange(text, what);
}

/** A whole number in decimal or 0x hexadecimal. */
export function countOf(what: string, range: { readonly min?: number; readonly max?: number } = {}) {
  return (text: string): number => {
    const { min = 0, max = Number.MAX_SAFE_INTEGER } = range;
    const value = /^(\d+|0x[\da-f]+)$/i.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value)) {
      throw new UsageError(`${what} '${text}' is not a whole number`, { hint: `a number from ${min} to ${max}` });
    }
    if (value < min || value > max) {
      throw new UsageError(`${what} ${text} is out of range`, { hint: `a number from ${min} to ${max}` });
    }
    return value;
  };
}

export const parseThinId = countOf("device id", { max: MAX_THIN_ID });

export function percentArgument(what: string): (text: string) => number {
  return (text) => {
    const match = /^(\d+(?:\.\d+)?)%?$/.exec(text.trim());
    const value = match === null ? Number.NaN : Number(match[1]);
    if (!(value >= 0 && value <= 100)) {
      throw new UsageError(`${what} '${text}' is not a percentage`, { hint: "a number from 0 to 100" });
    }
    return value;
  };
}

/** `N%`, a size with a unit, or a plain number of data blocks. */
export function parseLowWater(text: string): LowWater {
  const trimmed = text.trim();
  if (trimmed.endsWith("%")) return { kind: "percent", percent: percentArgument("low water")(trimmed) };
  if (/^\d+$/.test(trimmed)) return { kind: "blocks", blocks: countOf("low water")(trimmed) };
  return { kind: "bytes", bytes: parseSize(trimmed, "low water") };
}

export function parseSeconds(text: string): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isFinite(value)) throw new UsageError(`'${text}' is not a number of seconds`, { hint: "such as 30" });
  return value;
}
