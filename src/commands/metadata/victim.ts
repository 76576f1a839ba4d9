/** What writing over a device would destroy. */
import type { BlockDevice } from "../../io/index.js";
import { BlockStore, isBlankReading, readSuperblock } from "../../thin/index.js";

const METADATA_BLOCK_BYTES = 4096;

/** @returns the deed that wants to be confirmed; undefined for a device that holds no pool */
export function victimOf(device: BlockDevice, name: string): string | undefined {
  if (device.sizeBytes < METADATA_BLOCK_BYTES) return undefined;
  const reading = readSuperblock(new BlockStore(device));
  if (reading.problem !== 0 || reading.values === undefined || isBlankReading(reading)) return undefined;
  return `overwrite the pool metadata on '${name}' (transaction ${reading.values.transactionId})`;
}
