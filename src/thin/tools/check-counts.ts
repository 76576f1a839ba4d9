/** Space maps held against what was counted: the index, the bitmaps, the overflow tree. */

import type { Run } from "./check.js";
import type { FindingList } from "./findings.js";
import type { Pace } from "./pace.js";
import { numberText, problemText } from "./problem-text.js";
import type { BlockStore } from "./reader/block-store.js";
import { keyOf, numberAt } from "./reader/node.js";
import { NodeSweep } from "./reader/node-sweep.js";
import { Kind, kindName, type Problem, problemName } from "./reader/problems.js";
import {
  type BitmapCounts,
  COUNT_BYTES,
  ENTRIES_PER_BITMAP,
  eachBitmap,
  INDEX_ENTRY_BYTES,
  RAW_OVERFLOW,
  readDataIndex,
  readMetadataIndex,
  type SpaceMapIndex,
} from "./reader/space-map.js";
import type { MapRoot } from "./reader/superblock.js";
import type { TreeDamage } from "./reader/tree-cursor.js";

export interface CountTotals {
  /** Blocks governed. */
  readonly blocks: number;
  /** Blocks with a stored count above 0. */
  readonly used: number;
  readonly leaked: number;
  readonly wrong: number;
}

interface Shared {
  readonly store: BlockStore;
  readonly references: Uint32Array;
  readonly pace: Pace;
  readonly findings: FindingList;
  readonly which: "data" | "metadata";
}

/** Reads the index of a space map and counts the pointers to its blocks. */
export async function countIndex(
  options: Shared & { readonly root: MapRoot },
): Promise<{ readonly index: SpaceMapIndex; readonly isWhole: boolean; readonly isOverflowWhole: boolean }> {
  const { store, references, pace, findings, which, root } = options;
  let isWhole = true;
  const tell = (blocknr: number, problem: Problem, kind: Kind, path: readonly number[]) => {
    isWhole = false;
    const text = problemText(store, blocknr, problem, kind, path);
    findings.add("space-map-damaged", `${text}: ${which} space map`, {
      block: blocknr,
      path,
      problem: problemName(problem),
      kind: kindName(kind),
    });
  };
  const quiet = () => {
    isWhole = false;
  };
  const count = (blocknr: number) => {
    if (blocknr > 0 && store.isInside(blocknr)) references[blocknr]!++;
  };
  let index: SpaceMapIndex;
  if (which === "data") {
    index = readDataIndex(store, root, ({ blocknr, problem, path }) => tell(blocknr, problem, Kind.Node, [0, ...path]));
    const sweep = new NodeSweep(store, { valueSize: INDEX_ENTRY_BYTES, references, pace, onDamage: quiet });
    sweep.addRoot(root.bitmapRoot);
    // Bitmaps behind the end of the map are in use too: freeing one as leaked would be worse than what is wrong.
    let behind = 0;
    await sweep.run((_blocknr, words, at, nr, values) => {
      for (let entry = 0; entry < nr; entry++) {
        count(numberAt(words, values + entry * (INDEX_ENTRY_BYTES / 4)));
        if (keyOf(words, at, entry) >= index.nrBitmaps) behind++;
      }
    });
    if (behind > 0) {
      findings.add("space-map-damaged", `${which} space map: its index has ${behind} bitmaps behind its end`);
    }
  } else {
    index = readMetadataIndex(store, root, (blocknr, problem) => tell(blocknr, problem, Kind.Index, [0, blocknr]));
    if (store.isInside(root.bitmapRoot)) references[root.bitmapRoot]!++;
  }
  const missing = isWhole ? index.blocknr.findIndex((blocknr) => Number.isNaN(blocknr)) : -1;
  if (missing >= 0) {
    isWhole = false;
    findings.add("space-map-damaged", `${which} space map: its index has no entry for bitmap ${missing}`);
  }
  if (which === "metadata") index.blocknr.forEach(count);
  let isOverflowWhole = true;
  const onDamage = () => {
    isOverflowWhole = false;
  };
  const overflow = new NodeSweep(store, { valueSize: COUNT_BYTES, references, pace, onDamage });
  overflow.addRoot(root.refCountRoot);
  await overflow.run(() => {});
  return { index, isWhole: isWhole && isOverflowWhole, isOverflowWhole };
}

/** Wrong counts next to each other that are wrong in the same way. */
interface WrongRun {
  begin: number;
  end: number;
  expected: number;
  found: number;
}

export async function checkSpaceMap(
  options: Shared & {
    readonly index: SpaceMapIndex;
    /** All owners were read: a count above what was found is wrong. */
    readonly isWhole: boolean;
    /** False: what the bitmaps leave to the overflow tree is not known. */
    readonly isOverflowWhole: boolean;
    /** Fills in what was counted for the blocks from `first` on. */
    readonly expected: (first: number, into: Uint32Array) => void;
    /** Bitmaps to look at; all unless given. */
    readonly fromBitmap?: number;
    readonly toBitmap?: number;
  },
): Promise<{ readonly totals: CountTotals; readonly leaks: readonly Run[] }> {
  const { store, findings, pace, which, index, isWhole, isOverflowWhole, expected } = options;
  const { fromBitmap = 0, toBitmap = index.nrBitmaps } = options;
  const isFirst = fromBitmap === 0;
  const owners = new Uint32Array(ENTRIES_PER_BITMAP);
  const leaks: Run[] = [];
  let used = 0;
  let leaked = 0;
  let wrong = 0;
  let isComplete = isFirst && toBitmap === index.nrBitmaps;
  let run: WrongRun | undefined;
  const flush = () => {
    if (run === undefined) return;
    tellRun(findings, which, run);
    if (isLeak(run.expected, run.found)) {
      leaks.push({ begin: run.begin, end: run.end });
      leaked += run.end - run.begin;
    } else wrong += run.end - run.begin;
    run = undefined;
  };
  const compare = (bitmap: BitmapCounts) => {
    const { counts, nr, first } = bitmap;
    expected(first, owners);
    let taken = 0;
    let firstFree = nr;
    for (let entry = 0; entry < nr; entry++) {
      const found = counts[entry]!;
      if (found > 0) taken++;
      else if (firstFree === nr) firstFree = entry;
      const wanted = owners[entry]!;
      if (found === wanted || (found > wanted && !isWhole)) continue;
      if (found === RAW_OVERFLOW && wanted > found && !isOverflowWhole) continue;
      if (run?.end === first + entry && run.expected === wanted && run.found === found) run.end++;
      else {
        flush();
        run = { begin: first + entry, end: first + entry + 1, expected: wanted, found };
      }
    }
    used += taken;
    if (!isOverflowWhole) bitmap.missingOverflow = 0;
    tellIndexEntry(findings, which, index, bitmap, taken, firstFree);
  };
  await eachBitmap(
    store,
    index,
    {
      pace,
      fromBitmap,
      toBitmap,
      onBitmapDamage: (bitmap, blocknr, problem) => {
        isComplete = false;
        flush();
        tellBitmap(store, findings, which, bitmap, blocknr, problem);
      },
      onOverflowDamage: (damage: TreeDamage) => {
        if (!isFirst) return;
        const path = [0, ...damage.path];
        findings.add(
          "space-map-damaged",
          `${problemText(store, damage.blocknr, damage.problem, Kind.Node, path)}: overflow tree of the ${which} space map`,
          { block: damage.blocknr, path, problem: problemName(damage.problem), kind: "Node" },
        );
      },
    },
    compare,
  );
  flush();
  if (isFirst) tellUngoverned(options);
  const stored = index.root.nrAllocated;
  const isTwice = which === "metadata" && stored === used + 1;
  if (isComplete && used !== stored && !isTwice) tellAllocated(findings, which, stored, used);
  return { totals: { blocks: index.root.nrBlocks, used, leaked, wrong }, leaks };
}

/** What the classic tools take for a leak too: a count of one, and no owner. */
function isLeak(expected: number, found: number): boolean {
  return expected === 0 && found === 1;
}

function tellRun(findings: FindingList, which: "data" | "metadata", run: WrongRun): void {
  const { begin, end, expected, found } = run;
  const blocks = end - begin === 1 ? `${which} block ${begin}` : `${which} blocks ${begin} to ${end - 1}`;
  const id = isLeak(expected, found) ? `${which}-leak` : `${which}-count`;
  findings.add(id as "data-leak", `${blocks}: counted ${found}, owners found ${expected}`, {
    blocks: { begin, end },
    stored: found,
    owners: expected,
  });
}

function tellIndexEntry(
  findings: FindingList,
  which: string,
  index: SpaceMapIndex,
  bitmap: BitmapCounts,
  taken: number,
  firstFree: number,
): void {
  const { bitmap: number, blocknr, missingOverflow, strayOverflow, nr } = bitmap;
  const name = `${which} space map, bitmap ${number} (metadata block ${blocknr})`;
  if (missingOverflow > 0) {
    findings.add("overflow-count", `${name}: ${missingOverflow} blocks say 3 or more, and have no count`, {
      block: blocknr,
    });
  }
  if (strayOverflow > 0) {
    findings.add("overflow-count", `${name}: ${strayOverflow} blocks have a count, and the bitmap says below 3`, {
      block: blocknr,
    });
  }
  const nrFree = index.nrFree[number]!;
  const surplus = ENTRIES_PER_BITMAP - taken - nrFree;
  const isShort = nr < ENTRIES_PER_BITMAP && nrFree === nr - taken;
  if (surplus !== 0 && !isShort && !isRestored(which, nr, taken, nrFree)) {
    findings.add("free-count", `${name}: ${nrFree} free by the index, wanted ${ENTRIES_PER_BITMAP - taken}`, {
      block: blocknr,
    });
  }
  const hint = Math.min(index.noneFreeBefore[number]!, nr);
  if (firstFree >= hint) return;
  const hidden = bitmap.counts.subarray(firstFree, hint).reduce((sum, count) => sum + (count === 0 ? 1 : 0), 0);
  if (hidden > HIDDEN_BY_RESTORE) {
    findings.add("free-hidden", `${name}: ${hidden} free blocks below ${hint}, where the index says is none`, {
      block: blocknr,
    });
  }
}

function tellBitmap(
  store: BlockStore,
  findings: FindingList,
  which: string,
  bitmap: number,
  blocknr: number,
  problem: Problem,
): void {
  const name = `bitmap ${bitmap} of the ${which} space map`;
  // The block that names it was damaged and told.
  if (Number.isNaN(blocknr)) return;
  const begin = bitmap * ENTRIES_PER_BITMAP;
  findings.add("space-map-damaged", `${problemText(store, blocknr, problem, Kind.Bitmap)}: ${name}`, {
    block: blocknr,
    problem: problemName(problem),
    kind: "Bitmap",
    blocks: { begin, end: begin + ENTRIES_PER_BITMAP },
  });
}

/** thin_restore 0.9 leaves a free block below the hint. */
const HIDDEN_BY_RESTORE = 8;

/** thin_restore 0.9 counts the superblock twice in the metadata map, and ends the last bitmap with the device. */
function isRestored(which: string, nr: number, taken: number, nrFree: number): boolean {
  return which === "metadata" && (nrFree === ENTRIES_PER_BITMAP - taken - 1 || nrFree === nr - taken - 1);
}

/** Blocks that are used, and that the map does not govern. */
function tellUngoverned(options: {
  readonly which: "data" | "metadata";
  readonly index: SpaceMapIndex;
  readonly findings: FindingList;
  readonly references: Uint32Array;
}): void {
  const { which, index, findings, references } = options;
  if (which === "data") return;
  const { nrBlocks } = index.root;
  let begin = -1;
  for (let block = Math.min(nrBlocks, references.length); block <= references.length; block++) {
    const isUsed = block < references.length && references[block]! > 0;
    if (isUsed && begin < 0) begin = block;
    if (isUsed || begin < 0) continue;
    const blocks = block - begin === 1 ? `block ${begin}` : `blocks ${begin} to ${block - 1}`;
    findings.add("metadata-count", `metadata ${blocks}: used, and not governed by the space map`, {
      blocks: { begin, end: block },
    });
    begin = -1;
  }
}

/** Of a map that is looked at in parts, or not in whole, the sum is not known here. */
export function tellAllocated(findings: FindingList, which: string, stored: number, used: number): void {
  findings.add(
    "allocated-count",
    `${which} space map: its root says ${numberText(stored)} blocks are used, ${used} are`,
  );
}
