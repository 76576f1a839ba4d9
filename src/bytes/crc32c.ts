/**
 * CRC-32C (Castagnoli, reflected 0x82F63B78), eight bytes a step through eight tables. Without the final inversion, as
 * the kernel's persistent data uses it. Whole metadata blocks go through crc32c-wasm.
 */
import { makePieceChecksum, PIECE_BYTES, type PieceChecksum } from "./crc32c-wasm.js";
import type { ReadView } from "./u64.js";

const POLYNOMIAL = 0x82f63b78;
const TABLES = makeTables();

function makeTables(): Uint32Array[] {
  const first = new Uint32Array(256);
  for (let index = 0; index < 256; index++) {
    let value = index;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    first[index] = value >>> 0;
  }
  const tables = [first];
  for (let table = 1; table < 8; table++) {
    const previous = tables[table - 1]!;
    tables.push(Uint32Array.from(previous, (value) => (value >>> 8) ^ first[value & 0xff]!));
  }
  return tables;
}

const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES as [
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
];

/** Made when the first long piece comes; null where it cannot be. */
let long: PieceChecksum | undefined | null;

/**
 * Register after feeding view[start, end), beginning with all ones and not inverted at the end.
 * @returns an unsigned 32-bit number; crc32c("123456789") = 0x1cf96d7c
 */
export function crc32c(view: ReadView, start = 0, end = view.byteLength): number {
  let crc = 0xffffffff;
  let at = start;
  if (end - start >= PIECE_BYTES) {
    if (long === undefined) long = makePieceChecksum(TABLES) ?? null;
    if (long !== null) {
      long.piece.set(new Uint8Array(view.buffer, view.byteOffset + at, PIECE_BYTES));
      crc = long.feed(crc);
      at += PIECE_BYTES;
    }
  }
  for (; at + 8 <= end; at += 8) {
    const low = view.getUint32(at, true) ^ crc;
    const high = view.getUint32(at + 4, true);
    crc =
      T7[low & 0xff]! ^
      T6[(low >>> 8) & 0xff]! ^
      T5[(low >>> 16) & 0xff]! ^
      T4[low >>> 24]! ^
      T3[high & 0xff]! ^
      T2[(high >>> 8) & 0xff]! ^
      T1[(high >>> 16) & 0xff]! ^
      T0[high >>> 24]!;
  }
  for (; at < end; at++) crc = (crc >>> 8) ^ T0[(crc ^ view.getUint8(at)) & 0xff]!;
  return crc >>> 0;
}
