/** The reader of the tools, held against the independent checker on metadata that a kernel wrote. */
import { describe, expect, test } from "vitest";
import { Pace } from "../../../src/thin/tools/pace.js";
import {
  type BlockStore,
  eachBitmap,
  MAPPING_BYTES,
  NodeSweep,
  Problem,
  RunCursor,
  readDataIndex,
  readDevices,
  readMetadataIndex,
  readSuperblock,
  TreeCursor,
} from "../../../src/thin/tools/reader/index.js";
import { storeOf } from "../../support/block-store.js";
import { checkMetadata, imageSource } from "../../support/check-metadata.js";
import { readGoldenRun } from "../../support/golden-images.js";
import type { DumpModel } from "../../support/pool-model.js";

const never = (damage: unknown) => expect.unreachable(JSON.stringify(damage));

function modelOf(store: BlockStore, blocknr = 0): DumpModel {
  const { values, problem } = readSuperblock(store, blocknr);
  expect(problem).toBe(Problem.None);
  const devices = readDevices(store, values!, never).map(({ id, root, details }) => {
    const mappings: [number, number, number][] = [];
    const runs = new RunCursor(store, root!, never);
    while (runs.next()) {
      for (let at = 0; at < runs.length; at++) mappings.push([runs.virtualBegin + at, runs.dataBegin + at, runs.time]);
    }
    return { id, ...details!, mappings };
  });
  return {
    time: values!.time,
    transactionId: values!.transactionId,
    dataBlockSectors: values!.dataBlockSectors,
    dataBlocks: values!.dataMap.nrBlocks,
    devices,
  };
}

const RUNS = ["kernel-trace/run.json.br", "kernel-random/run.json.br"].flatMap((name) => {
  try {
    return readGoldenRun(name).run.checkpoints.map(({ title, metadata }) => ({ title: `${name} ${title}`, metadata }));
  } catch {
    return [];
  }
});

test("there are golden images", () => expect(RUNS.length).toBeGreaterThan(5));

describe.each(RUNS)("$title", ({ metadata }) => {
  const report = checkMetadata(imageSource(metadata));

  test("devices and mappings are those that the independent checker finds", () => {
    const store = storeOf(metadata);
    expect(modelOf(store)).toEqual(report.pool);
    if (report.held !== undefined) {
      expect(modelOf(store, report.heldRoot).devices).toEqual(report.held.devices);
    }
  });

  test("every leaf is swept once, and pointers are counted", async () => {
    const store = storeOf(metadata);
    const { values } = readSuperblock(store);
    const references = new Uint32Array(store.nrBlocks);
    const leaves = new Map<number, number>();
    const sweep = new NodeSweep(store, { valueSize: MAPPING_BYTES, references, onDamage: never, pace: new Pace() });
    const expected = new Set<number>();
    for (const { root } of readDevices(store, values!, never)) {
      sweep.addRoot(root!);
      const cursor = new TreeCursor(store, root!, MAPPING_BYTES, never);
      while (cursor.next()) expected.add(cursor.blocknr);
    }
    await sweep.run((blocknr, _words, _at, nr) => leaves.set(blocknr, (leaves.get(blocknr) ?? 0) + nr));
    expect([...leaves].filter(([, nr]) => nr > 0).map(([blocknr]) => blocknr)).toEqual(
      [...expected].sort((a, b) => a - b),
    );
    const before = new Map(leaves);
    await sweep.revisitLeaves((blocknr, _words, _at, nr) => leaves.set(blocknr, leaves.get(blocknr)! - nr));
    expect(before.size).toBe(sweep.nrLeaves);
    expect([...leaves.values()].every((nr) => nr === 0)).toBe(true);
  });

  test("the space maps' counts add up to what their roots say", async () => {
    const store = storeOf(metadata);
    const { values } = readSuperblock(store);
    const pace = new Pace();
    const options = { onBitmapDamage: never, onOverflowDamage: never, pace };
    for (const index of [
      readDataIndex(store, values!.dataMap, never),
      readMetadataIndex(store, values!.metadataMap, never),
    ]) {
      let allocated = 0;
      await eachBitmap(store, index, options, (bitmap) => {
        expect([bitmap.missingOverflow, bitmap.strayOverflow]).toEqual([0, 0]);
        for (let entry = 0; entry < bitmap.nr; entry++) if (bitmap.counts[entry]! > 0) allocated++;
      });
      expect(allocated).toBe(index.root.nrAllocated);
    }
  });
});

test("damage is told with its path and keys, and the walk goes on behind it", () => {
  const { metadata } = RUNS.at(-1)!;
  const image = new Uint8Array(metadata);
  const whole = storeOf(image);
  const { values } = readSuperblock(whole);
  const device = readDevices(whole, values!, never).find(({ root }) => root !== undefined)!;
  image[device.root! * 4096 + 100]! ^= 1;
  const store = storeOf(image);
  const damages: unknown[] = [];
  const runs = new RunCursor(store, device.root!, (damage) => damages.push(damage));
  expect(runs.next()).toBe(false);
  expect(damages).toEqual([
    {
      problem: Problem.Checksum,
      blocknr: device.root,
      path: [device.root],
      low: 0,
      high: Number.POSITIVE_INFINITY,
    },
  ]);
});
