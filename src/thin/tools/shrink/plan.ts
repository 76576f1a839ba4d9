/**
 * What shrinking a pool takes: which data blocks lie behind the new end, and whether there is room for them below it.
 * Nothing is changed. The counts of the data space map are believed, so the metadata must have been checked before.
 */
import { DamageError, SpaceError, StateError } from "../../../errors/index.js";
import { SECTOR_BYTES } from "../../../units/index.js";
import { type CheckReport, checkMetadata } from "../check.js";
import type { Pace } from "../pace.js";
import { problemText } from "../problem-text.js";
import type { BlockStore } from "../reader/block-store.js";
import { Kind } from "../reader/problems.js";
import { eachBitmap, readDataIndex } from "../reader/space-map.js";
import type { SuperblockValues } from "../reader/superblock.js";
import { damageError, soundSuperblock } from "../sound.js";
import { BitRank, MAX_BITS } from "./bit-rank.js";
import { Relocation } from "./relocation.js";

/** All in data blocks unless it says otherwise. */
export interface ShrinkFigures {
  readonly blockBytes: number;
  readonly blocksBefore: number;
  readonly blocksAfter: number;
  /** In use in all. */
  readonly usedBlocks: number;
  /** In use behind the new end. */
  readonly blocksToMove: number;
  /** Stretches they are moved in. */
  readonly runsToMove: number;
  readonly bytesToMove: number;
  /** Free below the new end. */
  readonly freeBelow: number;
}

export interface ShrinkPlan {
  readonly figures: ShrinkFigures;
  readonly superblock: SuperblockValues;
  readonly relocation: Relocation;
}

/** Checks all of the metadata, then plans. @throws as `refuseUnsound` and `planShrink` do */
export async function planSoundShrink(
  store: BlockStore,
  options: { readonly blocksAfter: number; readonly mayHoldSnapshot: boolean; readonly pace: Pace },
): Promise<ShrinkPlan> {
  refuseUnsound(store.name, await checkMetadata(store, { pace: options.pace }), options.mayHoldSnapshot);
  return planShrink(store, options);
}

/**
 * Only a pool in which every block has the owners that are counted can be moved without losing any.
 * @throws DamageError; StateError EUCLEAN (leaks, needs_check), EBUSY (a metadata snapshot)
 */
export function refuseUnsound(name: string, report: CheckReport, mayHoldSnapshot: boolean): void {
  if (report.verdict === "damaged") {
    const worst = report.findings.find(({ severity }) => severity === "damage");
    throw new DamageError(`${name}: the metadata is damaged (${worst?.message ?? "see the check"})`, {
      hint: "udm metadata check tells all of it; repair the pool before it is shrunk",
    });
  }
  if (report.leaks.data.length > 0 || report.leaks.metadata.length > 0) {
    throw new StateError("EUCLEAN", `${name}: blocks are counted that nobody uses`, {
      hint: "free them first: udm metadata check --auto-repair",
    });
  }
  if (report.superblock?.needsCheck === true) {
    throw new StateError("EUCLEAN", `${name}: the needs_check flag is set, so the pool is not to be written`, {
      hint: "the check is clean, so clear it: udm metadata check --clear-needs-check-flag",
    });
  }
  if (!mayHoldSnapshot && report.superblock?.heldRoot !== 0) {
    throw new StateError("EBUSY", `${name}: a metadata snapshot holds blocks where they are`, {
      hint: "somebody may be reading it; --release-metadata-snap gives it up",
    });
  }
}

/**
 * @param options.blocksAfter data blocks the pool is to have
 * @throws SpaceError with figures when what is in use does not fit; StateError EINVAL when it would grow; DamageError
 */
export async function planShrink(
  store: BlockStore,
  options: { readonly blocksAfter: number; readonly pace: Pace },
): Promise<ShrinkPlan> {
  const { blocksAfter, pace } = options;
  const superblock = soundSuperblock(store, 0);
  const blocksBefore = superblock.dataMap.nrBlocks;
  refuseSize(store.name, blocksBefore, blocksAfter);
  const sources = new BitRank(blocksBefore - blocksAfter);
  const targets = new BitRank(blocksAfter);
  const index = readDataIndex(store, superblock.dataMap, (damage) => {
    throw damageError(store, damage, "the index of the data space map");
  });
  let usedBlocks = 0;
  let freeBelow = 0;
  await eachBitmap(
    store,
    index,
    {
      onBitmapDamage: (bitmap, blocknr, problem) => {
        throw new DamageError(
          `${store.name}: bitmap ${bitmap} of the data space map: ${problemText(store, blocknr, problem, Kind.Bitmap)}`,
          { hint: "udm metadata check tells all that is damaged" },
        );
      },
      onOverflowDamage: (damage) => {
        throw damageError(store, damage, "the overflow tree of the data space map");
      },
      pace,
    },
    ({ first, nr, counts }) => {
      for (let entry = 0; entry < nr; entry++) {
        const block = first + entry;
        if (counts[entry] !== 0) {
          usedBlocks++;
          if (block >= blocksAfter) sources.add(block - blocksAfter);
        } else if (block < blocksAfter) {
          freeBelow++;
          targets.add(block);
        }
      }
    },
  );
  const blockBytes = superblock.dataBlockSectors * SECTOR_BYTES;
  return { superblock, ...relocate(store.name, { sources, targets, blockBytes, usedBlocks, freeBelow }) };
}

/** What is to be moved, and the blocks it may go to. @throws SpaceError */
export function relocate(
  name: string,
  found: {
    readonly sources: BitRank;
    readonly targets: BitRank;
    readonly blockBytes: number;
    readonly usedBlocks: number;
    readonly freeBelow: number;
  },
): Omit<ShrinkPlan, "superblock"> {
  const { sources, targets, blockBytes, usedBlocks, freeBelow } = found;
  const blocksAfter = targets.length;
  const blocksToMove = usedBlocks - (blocksAfter - freeBelow);
  if (blocksToMove > freeBelow) throw tooSmall(name, { usedBlocks, blocksAfter, blocksToMove, freeBelow });
  const relocation = new Relocation(sources, targets);
  let runsToMove = 0;
  for (const _ of relocation.runs(relocation.limit, relocation.end)) runsToMove++;
  const bytesToMove = blocksToMove * blockBytes;
  const blocksBefore = blocksAfter + sources.length;
  return {
    relocation,
    figures: {
      blockBytes,
      blocksBefore,
      blocksAfter,
      usedBlocks,
      blocksToMove,
      runsToMove,
      bytesToMove,
      freeBelow,
    },
  };
}

/** @throws StateError EINVAL, EOPNOTSUPP */
export function refuseSize(name: string, before: number, after: number): void {
  if (after < 1) {
    throw new StateError("EINVAL", `${name}: a pool has at least one data block, wanted ${after}`, {
      hint: "give a larger size",
    });
  }
  if (after > before) {
    throw new StateError("EINVAL", `${name}: the pool has ${before} data blocks, ${after} would be more`, {
      hint: "a pool grows with udm pool resize",
    });
  }
  if (before > MAX_BITS) {
    throw new StateError("EOPNOTSUPP", `${name}: ${before} data blocks, at most ${MAX_BITS} can be looked at`, {
      hint: "copy its devices into a smaller pool",
    });
  }
}

function tooSmall(
  name: string,
  figures: Pick<ShrinkFigures, "usedBlocks" | "blocksAfter" | "blocksToMove" | "freeBelow">,
): SpaceError {
  const { usedBlocks, blocksAfter, blocksToMove, freeBelow } = figures;
  return new SpaceError(
    `${name}: ${usedBlocks} data blocks are in use, ${blocksAfter} would be left (${blocksToMove} to move, ${freeBelow} free below)`,
    { hint: `${usedBlocks} blocks is the least; or delete devices, or discard what they do not need` },
  );
}
