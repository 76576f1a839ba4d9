/** Differences of devices that share subtrees, held against the mappings one by one; and what is shared is read once. */
import { describe, expect, test } from "vitest";
import { type DeltaFormat, deltaMetadata } from "../../../src/thin/index.js";
import { Pace } from "../../../src/thin/tools/pace.js";
import {
  type BlockStore,
  MAPPING_BYTES,
  RunCursor,
  readDevices,
  readSuperblock,
  TreeCursor,
} from "../../../src/thin/tools/reader/index.js";
import { storeOf } from "../../support/block-store.js";
import { PoolMaker } from "../../support/damage-base.js";
import { Random } from "../../support/random.js";
import { HAS_THIN_TOOLS, thinDelta } from "../../support/thin-tools.js";

const VIRTUAL_BLOCKS = 40_000;
const never = (damage: unknown) => expect.unreachable(JSON.stringify(damage));

/** Three generations of snapshots, each written, and trimmed, here and there: at boundaries of leaves as well. */
function makeRelatives(seed: number): Uint8Array {
  const random = new Random(seed);
  const maker = new PoolMaker(1200, 120_000);
  maker.metadata.createThin(1);
  maker.write(1, random.between(0, 100), 9000, random.between(1, 4));
  for (let id = 2; id <= 6; id++) {
    maker.snap(id, random.between(1, id - 1));
    for (let change = 0; change < 4; change++) {
      const device = random.between(1, id);
      const first = random.between(0, VIRTUAL_BLOCKS);
      if (random.oneIn(3)) maker.trim(device, first, first + random.pick([1, 126, 2000, 12_000]));
      else maker.write(device, first, random.pick([1, 3, 252, 600]), random.between(1, 2));
    }
  }
  return maker.image();
}

interface Seen {
  readonly roots: ReadonlyMap<number, number>;
  readonly mappings: ReadonlyMap<number, ReadonlyMap<number, number>>;
}

function look(store: BlockStore): Seen {
  const roots = new Map<number, number>();
  const mappings = new Map<number, Map<number, number>>();
  for (const { id, root } of readDevices(store, readSuperblock(store).values!, never)) {
    roots.set(id, root!);
    const known = new Map<number, number>();
    const runs = new RunCursor(store, root!, never);
    while (runs.next()) {
      for (let at = 0; at < runs.length; at++) known.set(runs.virtualBegin + at, runs.dataBegin + at);
    }
    mappings.set(id, known);
  }
  return { roots, mappings };
}

function nodesOf(store: BlockStore, root: number) {
  const leaves = new Set<number>();
  const internal = new Set<number>();
  const cursor = new TreeCursor(store, root, MAPPING_BYTES, never);
  while (cursor.next()) {
    leaves.add(cursor.blocknr);
    for (const block of cursor.path().slice(0, -1)) internal.add(block);
  }
  return { leaves, internal };
}

async function delta(store: BlockStore, left: number, right: number, format: DeltaFormat): Promise<string> {
  const pieces: Uint8Array[] = [];
  await deltaMetadata(store, {
    superblock: 0,
    left: { kind: "device", id: left },
    right: { kind: "device", id: right },
    format,
    pace: new Pace(),
    write: (piece) => void pieces.push(piece),
  });
  return Buffer.concat(pieces).toString("latin1");
}

/** Every block that one of them has, with what becomes of it, "kind left right". */
function expected({ mappings }: Seen, left: number, right: number): Map<number, string> {
  const [lefts, rights] = [mappings.get(left)!, mappings.get(right)!];
  const kinds = new Map<number, string>();
  for (const block of new Set([...lefts.keys(), ...rights.keys()])) {
    const [before, after] = [lefts.get(block), rights.get(block)];
    if (before === undefined) kinds.set(block, `right-only ${after}`);
    else if (after === undefined) kinds.set(block, `left-only ${before}`);
    else kinds.set(block, before === after ? `same ${before}` : `different ${before} ${after}`);
  }
  return kinds;
}

function told(json: string): Map<number, string> {
  const kinds = new Map<number, string>();
  for (const run of JSON.parse(json).delta.runs) {
    for (let at = 0; at < run.count; at++) {
      const data =
        run.kind === "different" ? `${run.leftDataBlock + at} ${run.rightDataBlock + at}` : `${run.dataBlock + at}`;
      kinds.set(run.virtualBlock + at, `${run.kind} ${data}`);
    }
  }
  return kinds;
}

describe.each([1, 2, 3, 4])("relatives, seed %i", (seed) => {
  const image = makeRelatives(seed);
  const seen = look(storeOf(image));
  const ids = [...seen.roots.keys()];
  const pairs = ids.flatMap((left) => ids.map((right) => [left, right] as const));

  test("every pair differs where its mappings do", async () => {
    for (const [left, right] of pairs) {
      const found = told(await delta(storeOf(image), left, right, "json"));
      expect([...found].sort(([a], [b]) => a - b)).toEqual([...expected(seen, left, right)].sort(([a], [b]) => a - b));
    }
  });

  test("what both have is read once", async () => {
    for (const [left, right] of pairs) {
      const store = storeOf(image);
      const [lefts, rights] = [nodesOf(store, seen.roots.get(left)!), nodesOf(store, seen.roots.get(right)!)];
      const before = storeOf(image);
      readDevices(before, readSuperblock(before).values!, never);
      const counted = storeOf(image);
      await delta(counted, left, right, "xml");
      const read = counted.blocksRead - before.blocksRead;
      if (left === right) expect(read).toBe(lefts.leaves.size + lefts.internal.size);
      // Where two nodes differ, the first leaf below them may be met from both sides.
      const inside = lefts.internal.size + rights.internal.size;
      expect(read).toBeLessThanOrEqual(new Set([...lefts.leaves, ...rights.leaves]).size + 2 * inside);
    }
  });

  test.skipIf(!HAS_THIN_TOOLS)("thin_delta tells the same, with places and without", async () => {
    for (const [left, right] of pairs.filter(([left, right]) => right === (left % ids.length) + 1).slice(0, 3)) {
      expect(await delta(storeOf(image), left, right, "xml")).toBe(thinDelta(image, left, right));
      expect(await delta(storeOf(image), left, right, "verbose-xml")).toBe(
        thinDelta(image, left, right, ["--verbose"]),
      );
    }
  });
});
