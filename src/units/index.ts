export { formatBytes, formatSectors, type Unit } from "./format.js";
export { parseSize, parseSizeChange, type SizeChange } from "./parse.js";

/** A count of 512-byte sectors. */
export type Sectors = number & { readonly __unit?: "sectors" };
/** A count of bytes. */
export type Bytes = number & { readonly __unit?: "bytes" };

/** Bytes in a sector, always. */
export const SECTOR_BYTES = 512;

export function sectorsToBytes(sectors: Sectors): Bytes {
  return sectors * SECTOR_BYTES;
}

/** Whole sectors in a number of bytes; a tail shorter than a sector does not count. */
export function bytesToSectors(bytes: Bytes): Sectors {
  return Math.floor(bytes / SECTOR_BYTES);
}
