/**
 * Who pays for which data blocks: exact, from the mapping trees alone. A block is exclusive to a set of devices when no
 * leaf entry outside the set maps it. The data space map does not tell: its counts are of leaf entries, and a leaf that
 * a thousand snapshots share is one.
 *
 * Every leaf is read once (mapping-forest), and marks its data blocks with the party that reaches it. Marks are 4 bytes a
 * data block; a pool of more than 2^25 blocks is done in windows of that many, each with a pass over the leaves.
 */
import { DamageError } from "../errors/index.js";
import { BLOCK_TIME_BYTES, blockOf } from "./block-time.js";
import { MANY_PARTIES, MappingForest, mergeParties, NO_PARTY } from "./mapping-forest.js";
import type { ThinMetadata } from "./metadata.js";

/** In data blocks. */
export interface BlockUsage {
  /** Mapped by nobody outside. */
  readonly exclusive: number;
  /** Mapped by somebody outside too. */
  readonly shared: number;
  /** Exclusive, and not held by the metadata snapshot: free after the commit that deletes the devices. */
  readonly freed: number;
}

/** Data blocks that are marked at a time. */
export const WINDOW_BLOCKS = 2 ** 25;
/** Beside the party in a mark; MANY_PARTIES lies below. */
const HELD = 0x40000000;

export interface AccountingOptions {
  /** Default WINDOW_BLOCKS. */
  readonly windowBlocks?: number;
}

/** Usage of each device on its own, by id. @throws DamageError, IoError */
export function usageByDevice(
  metadata: ThinMetadata,
  options: AccountingOptions = {},
): ReadonlyMap<number, BlockUsage> {
  const devices = metadata.listDevices();
  const partyOf = new Map(devices.map(({ id }, index) => [id, index + 1]));
  const tally = tallyOf(metadata, (id) => partyOf.get(id)!, devices.length, options);
  return new Map(
    devices.map(({ id, mappedBlocks }, index) => {
      const exclusive = tally.exclusive[index + 1]!;
      return [id, { exclusive, shared: mappedBlocks - exclusive, freed: tally.freed[index + 1]! }];
    }),
  );
}

/** Usage of a set of devices together. @throws DamageError, IoError */
export function usageOfSet(
  metadata: ThinMetadata,
  ids: ReadonlySet<number>,
  options: AccountingOptions = {},
): BlockUsage {
  const [INSIDE, OUTSIDE] = [1, 2];
  const tally = tallyOf(metadata, (id) => (ids.has(id) ? INSIDE : OUTSIDE), OUTSIDE, options);
  return { exclusive: tally.exclusive[INSIDE]!, shared: tally.ofMany, freed: tally.freed[INSIDE]! };
}

/**
 * Calls `visit` with the runs of used data blocks in order.
 * `mappings`: entries of live devices that map each block; 0 where only the metadata snapshot does.
 */
export function eachUsedRun(
  metadata: ThinMetadata,
  visit: (dataBlock: number, count: number, mappings: number, isHeld: boolean) => void,
  options: AccountingOptions = {},
): void {
  const forest = new MappingForest(metadata, () => 1);
  const { dataBlocks } = forest.trees;
  const size = Math.min(dataBlocks, options.windowBlocks ?? WINDOW_BLOCKS);
  const mappings = new Uint32Array(size);
  const held = new Uint8Array(size);
  for (let begin = 0; begin < dataBlocks; begin += size) {
    mappings.fill(0);
    held.fill(0);
    forest.forEachLeaf((view, nr, first, _party, devices, isHeld) => {
      for (let index = 0, offset = first; index < nr; index++, offset += BLOCK_TIME_BYTES) {
        const at = checkedBlock(blockOf(view, offset), dataBlocks) - begin;
        if (at < 0 || at >= size) continue;
        mappings[at]! += devices;
        if (isHeld) held[at] = 1;
      }
    });
    const end = Math.min(size, dataBlocks - begin);
    for (let from = 0; from < end; ) {
      let to = from + 1;
      while (to < end && mappings[to] === mappings[from] && held[to] === held[from]) to++;
      if (mappings[from] !== 0 || held[from] !== 0) visit(begin + from, to - from, mappings[from]!, held[from] === 1);
      from = to;
    }
  }
}

interface Tally {
  /** By party. */
  readonly exclusive: Float64Array;
  readonly freed: Float64Array;
  /** Blocks of more than one party. */
  readonly ofMany: number;
}

function tallyOf(
  metadata: ThinMetadata,
  partyOf: (id: number) => number,
  parties: number,
  options: AccountingOptions,
): Tally {
  const forest = new MappingForest(metadata, partyOf);
  const { dataBlocks } = forest.trees;
  const size = Math.min(dataBlocks, options.windowBlocks ?? WINDOW_BLOCKS);
  const marks = new Uint32Array(size);
  const exclusive = new Float64Array(parties + 1);
  const freed = new Float64Array(parties + 1);
  let ofMany = 0;
  for (let begin = 0; begin < dataBlocks; begin += size) {
    marks.fill(0);
    forest.forEachLeaf((view, nr, first, party, _devices, isHeld) => {
      const mark = isHeld ? party | HELD : party;
      for (let index = 0, offset = first; index < nr; index++, offset += BLOCK_TIME_BYTES) {
        const at = checkedBlock(blockOf(view, offset), dataBlocks) - begin;
        if (at < 0 || at >= size) continue;
        const before = marks[at]!;
        if (before !== mark) marks[at] = before === 0 ? mark : mergeMarks(before, mark);
      }
    });
    for (let at = 0; at < size; at++) {
      const mark = marks[at]!;
      const party = mark & ~HELD;
      if (party === NO_PARTY) continue;
      if (party === MANY_PARTIES) {
        ofMany++;
        continue;
      }
      exclusive[party]!++;
      if (mark === party) freed[party]!++;
    }
  }
  return { exclusive, freed, ofMany };
}

function mergeMarks(left: number, right: number): number {
  return mergeParties(left & ~HELD, right & ~HELD) | ((left | right) & HELD);
}

function checkedBlock(block: number, dataBlocks: number): number {
  if (block < dataBlocks) return block;
  throw new DamageError(`a mapping names data block ${block}, the pool has ${dataBlocks}`, {
    hint: "the metadata is damaged or belongs to a larger pool; check it with thin_check",
  });
}
