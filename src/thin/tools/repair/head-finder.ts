/** Clock, sizes and transaction of a candidate: from its superblock, or from what the trees need where it is lost or wrong. */
import { DATA_BLOCK_LIMIT, TIME_LIMIT } from "../../block-time.js";
import { MAX_DATA_BLOCK_SECTORS_ON_DISK, MIN_DATA_BLOCK_SECTORS_ON_DISK } from "../limits.js";
import { BlockBuffer } from "../reader/block-store.js";
import { entriesOf, keyOf, valuesAt } from "../reader/node.js";
import { ENTRIES_PER_BITMAP, INDEX_ENTRY_BYTES } from "../reader/space-map.js";
import type { SuperblockValues } from "../reader/superblock.js";
import { TreeCursor } from "../reader/tree-cursor.js";
import type { CandidateHead, HeadOverrides } from "./candidate.js";
import { type Draft, treesOf } from "./draft.js";
import type { Forest } from "./forest.js";

export class HeadFinder {
  readonly #forest: Forest;
  readonly #overrides: HeadOverrides;
  /** The superblock, and its copies: sizes and transaction hardly change. */
  readonly #superblocks: readonly SuperblockValues[];
  readonly #buffer = new BlockBuffer(1);

  constructor(forest: Forest, overrides: HeadOverrides, superblocks: readonly SuperblockValues[]) {
    this.#forest = forest;
    this.#overrides = overrides;
    this.#superblocks = superblocks;
  }

  /** @param values of the candidate's own superblock */
  head(values: SuperblockValues | undefined, drafts: readonly Draft[]): CandidateHead {
    const all = values === undefined ? this.#superblocks : [values, ...this.#superblocks];
    const overrides = this.#overrides;
    const created = drafts.map(({ details }) => details?.transactionId ?? 0).filter(Number.isFinite);
    const time = this.#clock(values?.time, drafts);
    return {
      time,
      transactionId:
        overrides.transactionId ??
        all.map(({ transactionId }) => transactionId).find(Number.isFinite) ??
        Math.max(0, ...created),
      dataBlockSectors: overrides.dataBlockSectors ?? all.find(isSized)?.dataBlockSectors,
      ...this.#nrDataBlocks(all, drafts),
      timeLimit: time + 1,
    };
  }

  /** Mappings of a device that lead behind the data device. */
  outside(draft: Draft, nrDataBlocks: number): number {
    let count = 0;
    this.#eachLeaf(draft, this.#forest.survey.maxData, nrDataBlocks, (leaf) => {
      this.#eachValue(leaf, (data) => {
        if (data >= nrDataBlocks) count++;
      });
    });
    return count;
  }

  /**
   * The superblock's clock, unless it ran over or most of what it should be ahead of is later: then the latest time that
   * anything names.
   */
  #clock(told: number | undefined, drafts: readonly Draft[]): number {
    const { maxTime, total } = this.#forest.survey;
    const clock = told ?? TIME_LIMIT;
    let latest = 0;
    let laterDevices = 0;
    for (const { details } of drafts) {
      if (details === undefined) continue;
      const times = [details.creationTime, details.snapshottedTime].filter((time) => time < TIME_LIMIT);
      if (times.some((time) => time > clock)) laterDevices++;
      latest = Math.max(latest, ...times);
    }
    let entries = 0;
    let laterEntries = 0;
    for (const draft of drafts) {
      this.#eachLeaf(draft, maxTime, clock + 1, (leaf) => {
        this.#eachValue(leaf, (_data, time) => {
          if (time > clock) laterEntries++;
        });
      });
      for (const root of treesOf(draft)) {
        entries += total[root]!;
        latest = Math.max(latest, maxTime[root]!);
      }
    }
    const isBehind = laterDevices * 2 > drafts.length || laterEntries * 2 > entries;
    return clock >= TIME_LIMIT || isBehind ? latest : clock;
  }

  /**
   * The size in the superblock; larger when mappings lead behind it to where the data space map still governs blocks; and
   * where no superblock tells it, what the mappings need.
   */
  #nrDataBlocks(
    superblocks: readonly SuperblockValues[],
    drafts: readonly Draft[],
  ): Pick<CandidateHead, "nrDataBlocks" | "isInferredSize"> {
    const given = this.#overrides.nrDataBlocks;
    if (given !== undefined) return { nrDataBlocks: given, isInferredSize: false };
    const values = superblocks.find(({ dataMap }) => dataMap.nrBlocks > 0);
    const told = values?.dataMap.nrBlocks;
    const governed = values === undefined ? DATA_BLOCK_LIMIT : this.#governedBlocks(values);
    const isTold = told !== undefined && told <= governed + ENTRIES_PER_BITMAP;
    let needed = isTold ? told : 0;
    const behind = Math.max(governed, needed);
    for (const draft of drafts) {
      this.#eachLeaf(draft, this.#forest.survey.maxData, needed, (leaf) => {
        this.#eachValue(leaf, (data) => {
          if (data >= needed && data < behind) needed = data + 1;
        });
      });
    }
    return { nrDataBlocks: needed, isInferredSize: !isTold || needed !== told };
  }

  /** Blocks for which the index of the data space map has bitmaps; the size it should have where that is damaged. */
  #governedBlocks({ dataMap }: SuperblockValues): number {
    let isDamaged = false;
    let nr = 0;
    const cursor = new TreeCursor(this.#forest.survey.store, dataMap.bitmapRoot, INDEX_ENTRY_BYTES, () => {
      isDamaged = true;
    });
    while (cursor.next()) nr = Math.max(nr, keyOf(cursor.words, cursor.at, cursor.nr - 1) + 1);
    return isDamaged ? dataMap.nrBlocks : nr * ENTRIES_PER_BITMAP;
  }

  /** Leaves of a device that name something of `least` or more. */
  #eachLeaf(
    draft: Draft,
    most: { readonly [blocknr: number]: number },
    least: number,
    visit: (leaf: number) => void,
  ): void {
    for (const root of treesOf(draft)) {
      if (most[root]! < least || this.#forest.survey.total[root] === 0) continue;
      const look = (leaf: number): void => {
        if (most[leaf]! >= least) visit(leaf);
      };
      this.#forest.walk(root, Number.POSITIVE_INFINITY, look, () => {});
    }
  }

  #eachValue(leaf: number, visit: (data: number, time: number) => void): void {
    this.#forest.survey.store.loadOne(leaf, this.#buffer);
    const { words } = this.#buffer;
    const values = valuesAt(words, 0);
    const nr = entriesOf(words, 0);
    for (let index = 0; index < nr; index++) {
      const low = words[values + index * 2]!;
      visit(words[values + index * 2 + 1]! * 256 + (low >>> 24), low & 0xffffff);
    }
  }
}

function isSized({ dataBlockSectors }: SuperblockValues): boolean {
  return (
    dataBlockSectors >= MIN_DATA_BLOCK_SECTORS_ON_DISK &&
    dataBlockSectors <= MAX_DATA_BLOCK_SECTORS_ON_DISK &&
    dataBlockSectors % MIN_DATA_BLOCK_SECTORS_ON_DISK === 0
  );
}
