/**
 * The file of packed metadata, as thin_metadata_pack and thin_metadata_unpack 1.x write and read it. All numbers are
 * little-endian.
 *
 *   head      magic u64, version u64 (3), bytes of a block u64 (4096), blocks of the device u64
 *   chunks    each: bytes u64, then a zlib stream of so many bytes; to the end of the file
 *   a stream  for each block in it: number u64, instructions that yield its 4096 bytes
 *
 * An instruction is a byte, tag * 16 + operand, and what the tag says; see `Tag`. There is one register, 0 at the start
 * of a block; "emit" appends its 8 bytes. Chunks and blocks come in any order. Only blocks whose checksum is right as one
 * of the kinds below are there, whatever they hold; all others read as zeros. Nothing tells where the file should end.
 *
 * What we add stands in a chunk behind the end of its zlib stream, where 1.x does not look: a trailer, by which a file that
 * was cut between two chunks is found out, and behind it a second stream with blocks whose checksum is wrong, as they are:
 * number u64 and 4096 bytes each.
 */
import { bytes, struct, u32, u64 } from "../../../bytes/index.js";

export const PACK_HEAD = struct("head of packed metadata", 32, {
  magic: bytes(0, 8, "0xa537a0aa6309ef77"),
  version: u64(8, "3"),
  blockBytes: u64(16, "4096"),
  nrBlocks: u64(24, "of the device; those that are not in the file are zeros"),
});

export const PACK_MAGIC = Uint8Array.of(0x77, 0xef, 0x09, 0x63, 0xaa, 0xa0, 0x37, 0xa5);
export const PACK_VERSION = 3;

/** Bytes of the length in front of a chunk, and of the number in front of a block. */
export const U64_BYTES = 8;

export const PACK_TRAILER = struct("trailer of a chunk", 16, {
  magic: bytes(0, 4, '"udm" and 1'),
  isLast: u32(4, "1 in the last chunk of the file, else 0"),
  ordinal: u32(8, "of the chunk, from 0"),
  rawBytes: u32(12, "of the stream behind it; 0: none"),
});

export const TRAILER_MAGIC = Uint8Array.of(0x75, 0x64, 0x6d, 1);

export enum Tag {
  /** Register = number of so many bytes (1, 2, 4, 8) behind it; emit. */
  Set = 0,
  /** Register += operand; emit. */
  Add,
  /** Register += number of so many bytes behind it; emit. */
  AddWide,
  Subtract,
  SubtractWide,
  /** Emit so many times. */
  Repeat,
  /** Emit operand * 256 + next byte times. */
  RepeatWide,
  /** The next instruction is done so many times. */
  Times,
  /** The next instruction is done operand * 256 + next byte times. */
  TimesWide,
  /** So many bytes behind it, as they are. */
  Literal,
  /** A number of so many bytes (1, 2, 4, 8), and then that many bytes, as they are. */
  LiteralWide,
  /** operand * 256 + next byte numbers: instructions for all of them above the lowest 24 bits, then for those 24 bits. */
  Shifted,
}

/** Most that a count in a wide instruction can say. */
export const MAX_COUNT = 4095;
/** Times are low bits of a mapping. */
export const SHIFT_BITS = 24;

/** Blocks in a chunk at most, ours and those of 1.x. */
export const CHUNK_BLOCKS = 1024;
/** Raw blocks in a chunk at most. */
export const CHUNK_RAW_BLOCKS = 256;
/** What a chunk may hold at most, packed or not: four times of what any writer makes. */
export const MAX_CHUNK_BYTES = 32 * 1024 * 1024;
/** A literal of a whole block: no block takes more. */
export const MAX_BLOCK_BYTES = 3 + 4096;
/** Devices larger than a tebibyte are none. */
export const MAX_PACKED_BLOCKS = 2 ** 28;
