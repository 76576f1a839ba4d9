/** u64 fields as numbers: two 32-bit halves, safe to 2^53. What is larger is refused, never rounded. */
import { DamageError, invariant } from "../errors/index.js";

/** A view that can be read only: what a cached block hands out to those who may not change it. */
export type ReadView = Pick<DataView, "getUint8" | "getUint32" | "buffer" | "byteOffset" | "byteLength">;

const TWO_32 = 4294967296;
/** Largest high half of a u64 that a number holds exactly. */
const MAX_HIGH = 0x1fffff;

export const MAX_U64_NUMBER = Number.MAX_SAFE_INTEGER;

/** Little-endian u64 at `offset`. @throws DamageError when it exceeds 2^53 - 1 */
export function getU64(view: ReadView, offset: number): number {
  const high = view.getUint32(offset + 4, true);
  if (high > MAX_HIGH) {
    throw new DamageError(
      `number at byte ${offset} is 0x${high.toString(16)}${view.getUint32(offset, true).toString(16).padStart(8, "0")}, above 2^53`,
    );
  }
  return high * TWO_32 + view.getUint32(offset, true);
}

/** Stores a number below 2^53 as little-endian u64. */
export function setU64(view: DataView, offset: number, value: number): void {
  invariant(Number.isSafeInteger(value) && value >= 0, `u64 out of range: ${value}`);
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, Math.floor(value / TWO_32), true);
}
