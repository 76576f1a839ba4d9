/**
 * A packed file to a device. The device holds no pool from the first write on until all of it is there: block 0 is wiped
 * first and written last. What is not in the file reads as zeros afterwards, to the end of the device.
 */
import { invariant, StateError } from "../../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../../io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { formatBytes } from "../../../units/index.js";
import { SUPERBLOCK_LOCATION } from "../../superblock.js";
import type { Pace } from "../pace.js";
import type { PackReader } from "./pack-reader.js";

export interface Unpacked {
  /** Blocks of the device that was packed. */
  readonly blocks: number;
  /** Blocks that are sound, and those that were packed although their checksum is wrong. */
  readonly sound: number;
  readonly damaged: number;
}

/** Zeros are written in stretches of so many blocks, so that others get their turn. */
const ZERO_BLOCKS = 16384;

/** Reads all of a file and writes nothing. @throws DamageError */
export async function verifyPack(reader: PackReader, pace: Pace): Promise<Unpacked> {
  pace.check();
  while (await reader.nextChunk(() => undefined)) await pace.rest(reader.bytesRead);
  return { blocks: reader.nrBlocks, ...reader.counts };
}

/** @throws StateError EINVAL when the device is too small */
export function checkRoom(reader: PackReader, device: Pick<BlockDevice, "name" | "sizeBytes">): void {
  const wanted = reader.nrBlocks * METADATA_BLOCK_BYTES;
  if (device.sizeBytes >= wanted) return;
  const has = `${formatBytes(device.sizeBytes)} (${device.sizeBytes} bytes)`;
  throw new StateError(
    "EINVAL",
    `${device.name}: ${has}, the packed metadata has ${formatBytes(wanted)} (${wanted} bytes)`,
    {
      hint: "unpack it to a file, or to a device that is as large",
    },
  );
}

/**
 * Writes all of a file to a device, durably. When it throws after it began to write, the device holds no pool.
 * @throws StateError EINVAL when the device is too small; DamageError; IoError, SpaceError; UdmError EINTR
 */
export async function unpackMetadata(reader: PackReader, device: BlockDevice, pace: Pace): Promise<Unpacked> {
  checkRoom(reader, device);
  const io = device.sync;
  invariant(io !== undefined, "metadata is unpacked to a file or block device");
  zero(io, 0, METADATA_BLOCK_BYTES);
  io.flush();
  let superblock: Uint8Array | undefined;
  const visit = (blocknr: number, bytes: Uint8Array): void => {
    if (blocknr === SUPERBLOCK_LOCATION) superblock = bytes.slice();
    else io.write(blocknr * METADATA_BLOCK_BYTES, bytes);
  };
  while (await reader.nextChunk(visit)) {
    await pace.rest(reader.bytesRead);
    pace.check();
  }
  await zeroTheRest(reader, device, io, pace);
  io.flush();
  if (superblock !== undefined) {
    io.write(SUPERBLOCK_LOCATION * METADATA_BLOCK_BYTES, superblock);
    io.flush();
  }
  return { blocks: reader.nrBlocks, ...reader.counts };
}

async function zeroTheRest(reader: PackReader, device: BlockDevice, io: SyncIo, pace: Pace): Promise<void> {
  const { nrBlocks } = reader;
  for (let first = 1; first < nrBlocks; ) {
    if (reader.hasBlock(first)) {
      first++;
      continue;
    }
    let end = first + 1;
    while (end < nrBlocks && end - first < ZERO_BLOCKS && !reader.hasBlock(end)) end++;
    zero(io, first * METADATA_BLOCK_BYTES, (end - first) * METADATA_BLOCK_BYTES);
    first = end;
    if (pace.isDue) await pace.rest(reader.bytesRead);
  }
  for (let at = nrBlocks * METADATA_BLOCK_BYTES; at < device.sizeBytes; ) {
    const length = Math.min(ZERO_BLOCKS * METADATA_BLOCK_BYTES, device.sizeBytes - at);
    zero(io, at, length);
    at += length;
    await pace.rest(reader.bytesRead);
  }
}

/** Holes stay holes. */
function zero(io: SyncIo, offset: number, length: number): void {
  const known = io.knownZeroes(offset, length);
  if (known < length) io.writeZeroes(offset + known, length - known);
}
