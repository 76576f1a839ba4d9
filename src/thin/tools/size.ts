/**
 * How large metadata gets. The advice is the one of thin_metadata_size: leaves half full, a block for each device, one for
 * the superblock. Source: section on sizes of thin-engine.
 */
import { MAX_METADATA_BLOCKS, METADATA_BLOCK_BYTES } from "../../persistent-data/index.js";

/** Mappings in a leaf that is half full. */
const MAPPINGS_PER_BLOCK = 126;

export interface SizeRequest {
  readonly blockBytes: number;
  readonly poolBytes: number;
  /** Devices and snapshots in all. */
  readonly maxThins: number;
}

export interface SizeAdvice {
  readonly bytes: number;
  /** The format has no more; what is above is never used. */
  readonly isAboveLimit: boolean;
}

/** Arguments are whole numbers above 0. */
export function adviseMetadataSize({ blockBytes, poolBytes, maxThins }: SizeRequest): SizeAdvice {
  const mappings = Math.floor(poolBytes / blockBytes);
  const blocks = Math.floor(mappings / MAPPINGS_PER_BLOCK) + maxThins + 1;
  return { bytes: blocks * METADATA_BLOCK_BYTES, isAboveLimit: blocks > MAX_METADATA_BLOCKS };
}
