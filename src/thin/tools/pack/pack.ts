/**
 * Metadata to a packed file. The device is read once, from front to back, holes are passed over; nothing on it is followed,
 * so that it does not matter how damaged it is.
 */
import { StateError } from "../../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../../io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import type { Pace } from "../pace.js";
import { BLOCK_WORDS, BlockBuffer } from "../reader/block-store.js";
import { ChunkWriter, type PackSink } from "./chunk-writer.js";
import { MAX_PACKED_BLOCKS, PACK_HEAD, PACK_MAGIC, PACK_VERSION } from "./format.js";
import { Standing, standingOf } from "./recognise.js";

/** Which blocks with a wrong checksum are kept: none, those that look like metadata, or all that are not zeros. */
export type KeepDamaged = "none" | "metadata" | "all";

export interface PackOptions {
  readonly pace: Pace;
  /** Gets the file piece by piece, in order. */
  readonly write: PackSink;
  /** Default "metadata". */
  readonly keep?: KeepDamaged;
}

export interface Packed {
  /** Blocks of the device. */
  readonly blocks: number;
  /** Blocks that are sound as metadata, and packed. */
  readonly sound: number;
  /** Blocks that are not, and were kept as they are. */
  readonly damaged: number;
  /** Blocks that hold something and were left out. */
  readonly leftOut: number;
  /** Blocks that could not be read. */
  readonly unreadable: readonly number[];
}

/** Blocks read at once. */
const SPAN_BLOCKS = 256;

/**
 * Packs all blocks of a device that are metadata. What it reads is of one moment only when nobody writes to it.
 * @throws StateError EINVAL, EOPNOTSUPP: no metadata device; what `write` throws; UdmError EINTR
 */
export async function packMetadata(
  device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">,
  options: PackOptions,
): Promise<Packed> {
  const blocks = Math.floor(device.sizeBytes / METADATA_BLOCK_BYTES);
  const io = checkDevice(device, blocks);
  const { pace, write, keep = "metadata" } = options;
  const counts = { sound: 0, damaged: 0, leftOut: 0 };
  const unreadable: number[] = [];
  pace.total = blocks;
  await write(headOf(blocks));
  const chunks = new ChunkWriter(write);
  const buffer = new BlockBuffer(SPAN_BLOCKS);
  for (let first = 0; first < blocks; ) {
    const hole = io.knownZeroes(first * METADATA_BLOCK_BYTES, (blocks - first) * METADATA_BLOCK_BYTES);
    if (hole >= METADATA_BLOCK_BYTES) {
      first += Math.floor(hole / METADATA_BLOCK_BYTES);
      continue;
    }
    const count = Math.min(SPAN_BLOCKS, blocks - first);
    readSpan(io, first, count, buffer, unreadable);
    for (let index = 0; index < count; index++) {
      take(chunks, first + index, buffer, index * BLOCK_WORDS);
      if (chunks.isFull) await chunks.next();
    }
    first += count;
    if (pace.isDue) await pace.rest(first);
    pace.check();
  }
  await chunks.finish();
  return { blocks, ...counts, unreadable };

  function take(target: ChunkWriter, blocknr: number, { words, view }: BlockBuffer, at: number): void {
    const standing = standingOf(blocknr, words, view, at);
    if (standing === Standing.Empty) return;
    if (standing === Standing.Node) target.node(blocknr, words, at);
    else if (standing === Standing.Other) target.other(blocknr, words, at);
    else if (keep === "all" || (keep === "metadata" && standing === Standing.Damaged)) {
      target.raw(blocknr, words, at);
      counts.damaged++;
      return;
    } else {
      counts.leftOut++;
      return;
    }
    counts.sound++;
  }
}

function checkDevice(device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">, blocks: number): SyncIo {
  if (device.sync === undefined) {
    throw new StateError("EOPNOTSUPP", `${device.name}: metadata must lie on a file or block device`);
  }
  if (blocks === 0 || blocks > MAX_PACKED_BLOCKS) {
    const wanted = blocks === 0 ? "4096 or more" : "at most a tebibyte";
    throw new StateError("EINVAL", `${device.name}: ${device.sizeBytes} bytes, wanted ${wanted}`, {
      hint: "this is no metadata device; name the pool's metadata, not its data",
    });
  }
  return device.sync;
}

function headOf(nrBlocks: number): Uint8Array {
  const head = new DataView(new ArrayBuffer(PACK_HEAD.size));
  PACK_HEAD.write(head, { magic: PACK_MAGIC, version: PACK_VERSION, blockBytes: METADATA_BLOCK_BYTES, nrBlocks });
  return new Uint8Array(head.buffer);
}

/** Blocks that cannot be read are zeros, and told. */
function readSpan(io: SyncIo, first: number, count: number, buffer: BlockBuffer, unreadable: number[]): void {
  try {
    io.read(first * METADATA_BLOCK_BYTES, buffer.bytes.subarray(0, count * METADATA_BLOCK_BYTES));
  } catch {
    for (let index = 0; index < count; index++) {
      try {
        io.read((first + index) * METADATA_BLOCK_BYTES, buffer.slot(index));
      } catch {
        buffer.slot(index).fill(0);
        unreadable.push(first + index);
      }
    }
  }
}
