/** Copies data blocks to their new places. What reads as zeros is not copied but made to read as zeros. */
import type { BlockDevice } from "../../../io/index.js";
import type { Pace } from "../pace.js";
import type { Relocation } from "./relocation.js";

const PIECE_BYTES = 4 * 1024 * 1024;

/**
 * Copies what is moved among [begin, end), in order. An interrupt ends it between two pieces.
 * @param done bytes copied before, for progress
 * @returns behind the last block that was copied whole; the caller flushes
 */
export async function copyBlocks(
  data: BlockDevice,
  relocation: Relocation,
  options: {
    readonly begin: number;
    readonly end: number;
    readonly blockBytes: number;
    readonly pace: Pace;
    readonly done: number;
  },
): Promise<number> {
  const { begin, end, blockBytes, pace } = options;
  const pieceBlocks = Math.max(1, Math.floor(PIECE_BYTES / blockBytes));
  const buffer = new Uint8Array(Math.min(PIECE_BYTES, pieceBlocks * blockBytes));
  let done = options.done;
  for (const { from, to, length } of relocation.runs(begin, end)) {
    for (let at = 0; at < length; at += pieceBlocks) {
      if (pace.isInterrupted) return from + at;
      const bytes = Math.min(pieceBlocks, length - at) * blockBytes;
      await copyRange(data, (from + at) * blockBytes, (to + at) * blockBytes, bytes, buffer);
      done += bytes;
      await pace.breathe(done);
    }
  }
  return end;
}

async function copyRange(
  data: BlockDevice,
  from: number,
  to: number,
  length: number,
  buffer: Uint8Array,
): Promise<void> {
  for (const extent of await data.extents(from, length)) {
    const target = to + extent.offset - from;
    if (extent.kind === "zeros") {
      await data.writeZeroes(target, extent.length);
      continue;
    }
    // A block may be larger than the buffer.
    for (let at = 0; at < extent.length; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, extent.length - at));
      await data.read(extent.offset + at, piece);
      await data.write(target + at, piece);
    }
  }
}
