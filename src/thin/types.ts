/** Plain values that a pool takes and gives. Words and defaults as in the table line of the thin-pool target. */

/** Features of a thin-pool table line; all false by default. */
export interface PoolFeatures {
  readonly skipBlockZeroing: boolean;
  readonly ignoreDiscard: boolean;
  readonly noDiscardPassdown: boolean;
  readonly readOnly: boolean;
  readonly errorIfNoSpace: boolean;
}

export const NO_FEATURES: PoolFeatures = {
  skipBlockZeroing: false,
  ignoreDiscard: false,
  noDiscardPassdown: false,
  readOnly: false,
  errorIfNoSpace: false,
};

/** Modes of a pool, from healthy to lost. */
export type PoolMode = "write" | "out-of-data-space" | "out-of-metadata-space" | "read-only" | "fail";

/** What one table line of the pool asks for; applied by resume. */
export interface PoolConfig {
  /** Length of the pool target; the pool uses floor(length / block) data blocks. */
  readonly lengthSectors: number;
  readonly dataBlockSectors: number;
  /** In data blocks. */
  readonly lowWaterBlocks: number;
  readonly features: PoolFeatures;
}

/**
 * What a pool knows beyond its metadata and its table while it is active. A kernel keeps it in memory; a pool that is
 * opened by one command after another takes it along.
 */
export interface PoolRuntime {
  readonly mode: PoolMode;
  /** A full pool answers ENOSPC now although its table asks to queue: the no-space timeout passed. */
  readonly errorsNow: boolean;
  readonly lowWaterTriggered: boolean;
  readonly eventNr: number;
  /** The metadata needs a check, and could not be made to say so. */
  readonly needsCheckUnsaved?: boolean;
}

/** Something that whoever looks after pools wants to know. */
export type PoolNote =
  /** No more data blocks than the table's mark are free; told once until the pool grows. */
  | { readonly kind: "low-water"; readonly freeBlocks: number; readonly totalBlocks: number }
  | { readonly kind: "metadata-low-water"; readonly freeBlocks: number; readonly totalBlocks: number }
  | { readonly kind: "mode"; readonly from: PoolMode; readonly mode: PoolMode; readonly errorIfNoSpace: boolean }
  | { readonly kind: "needs-check" }
  | {
      readonly kind: "resized";
      readonly area: "data" | "metadata";
      readonly fromBlocks: number;
      readonly toBlocks: number;
    };

/** Numbers of a status line. Blocks are data blocks, metadata blocks are 4 KiB. */
export interface PoolStatus {
  readonly lengthSectors: number;
  readonly transactionId: number;
  /** Used as reported: includes the reserve. */
  readonly usedMetadataBlocks: number;
  readonly totalMetadataBlocks: number;
  /** Blocks with a count above 0, without the reserve. */
  readonly allocatedMetadataBlocks: number;
  readonly usedDataBlocks: number;
  readonly totalDataBlocks: number;
  readonly heldRoot: number | undefined;
  readonly mode: PoolMode;
  readonly features: PoolFeatures;
  readonly discardPassdown: boolean;
  readonly errorIfNoSpace: boolean;
  readonly needsCheck: boolean;
  readonly metadataLowWaterBlocks: number;
  readonly dataBlockSectors: number;
  readonly lowWaterBlocks: number;
}

/** A thin device as the metadata describes it. */
export interface ThinDetails {
  readonly id: number;
  readonly mappedBlocks: number;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}
