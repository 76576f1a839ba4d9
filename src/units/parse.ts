/**
 * Sizes as people type them: `512`, `8s`, `64k`, `10g`, `200GB`, `1.5tib`, and changes of a size: `+10g`, `+20%`.
 * Units are always powers of 1024. Source: udm-cli, section 1.
 */
import { UsageError } from "../errors/index.js";

const SHIFT: Record<string, number> = { k: 10, m: 20, g: 30, t: 40, p: 50, e: 60 };
const SIZE = /^(\d+(?:\.\d+)?)(?:(s|b)|([kmgtpe])(?:i?b)?)?$/i;

/** Bytes of a size such as `64k`. @throws UsageError that names `what`, the text and the form wanted. */
export function parseSize(text: string, what = "size"): number {
  const match = SIZE.exec(text.trim());
  if (match === null) throw wrong(text, what);
  const [, digits = "", plain, prefix] = match;
  let bytes = Number(digits);
  if (plain?.toLowerCase() === "s") bytes *= 512;
  if (prefix !== undefined) bytes *= 2 ** (SHIFT[prefix.toLowerCase()] ?? 0);
  if (!Number.isInteger(bytes)) throw wrong(text, what);
  if (!Number.isSafeInteger(bytes)) {
    throw new UsageError(`${what} '${text}' is too large: the limit is 8 PiB`, { hint: "give a smaller size" });
  }
  return bytes;
}

/** A new size: absolute, or relative to the present one. */
export type SizeChange =
  | { readonly kind: "absolute"; readonly bytes: number }
  | { readonly kind: "grow"; readonly bytes: number }
  | { readonly kind: "growPercent"; readonly percent: number };

/** `SIZE`, `+SIZE` or `+N%`. @throws UsageError */
export function parseSizeChange(text: string, what = "size"): SizeChange {
  const trimmed = text.trim();
  if (!trimmed.startsWith("+")) return { kind: "absolute", bytes: parseSize(trimmed, what) };
  const percent = /^\+(\d+(?:\.\d+)?)%$/.exec(trimmed);
  if (percent !== null) return { kind: "growPercent", percent: Number(percent[1]) };
  return { kind: "grow", bytes: parseSize(trimmed.slice(1), what) };
}

function wrong(text: string, what: string): UsageError {
  return new UsageError(`${what} '${text}' is not a size`, {
    hint: "a number with s (512-byte sectors), b, k, m, g, t, p or e, such as 128m or 10g; without a unit it is bytes",
  });
}
