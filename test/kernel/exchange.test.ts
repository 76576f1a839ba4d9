/**
 * Pools that change hands: made by the engine, activated, read and changed by the kernel, opened again by the engine; and
 * the other way round. Every device's bytes are compared with a model at each change of hands.
 */
import { beforeAll, describe, expect, test } from "vitest";
import { expectCleanMetadata, expectModelAnswers } from "../support/compare-runs.js";
import type { DumpModel } from "../support/pool-model.js";
import { PoolModel } from "../support/pool-model.js";
import type { PoolScript, PoolShape } from "../support/pool-script.js";
import { type EngineRun, runScriptOnEngine } from "../support/pool-script-engine.js";
import { PoolScriptRecorder } from "../support/pool-script-recorder.js";
import { randomPoolScript } from "../support/random-pool-script.js";
import { type GuestPool, runScriptsInGuest } from "./guest/session.js";

const KIB = 1024;
const OPERATIONS = 150;

interface Story {
  readonly name: string;
  readonly shape: PoolShape;
  /** What the pool looks like before random operations begin. */
  readonly begin: (recorder: PoolScriptRecorder) => void;
}

function shape(blockKiB: number, rest: Partial<PoolShape> = {}): PoolShape {
  const blockSectors = blockKiB * 2;
  return {
    metadataBlocks: 2048,
    dataBlocks: 2048,
    blockSectors,
    lowWaterBlocks: 0,
    features: [],
    thinBytes: 6 * 1024 * KIB,
    ...rest,
  };
}

/** A chain of 200 snapshots, each changed before the next is taken of it; the middle one is held for readers. */
function deep(recorder: PoolScriptRecorder): void {
  recorder.do({ kind: "create-thin", id: 0 }, { kind: "activate", id: 0 });
  const blocks = recorder.model.virtualBlocks;
  recorder.write(0, [...Array(blocks).keys()], { seed: 9001 });
  for (let id = 1; id <= 200; id++) {
    recorder.do({ kind: "create-snap", id, origin: id - 1 }, { kind: "deactivate", id: id - 1 });
    recorder.do({ kind: "activate", id });
    recorder.write(id, [id % blocks, (id * 7) % blocks], { seed: 9001 + id, pages: 1 + (id % 3) });
    if (id === 100) recorder.do({ kind: "reserve" });
  }
  for (let id = 20; id < 200; id += 9) recorder.do({ kind: "delete", id });
}

/** A hundred snapshots of one device, some changed, discarded, deleted. */
function wide(recorder: PoolScriptRecorder): void {
  recorder.do({ kind: "create-thin", id: 0 }, { kind: "activate", id: 0 });
  const blocks = recorder.model.virtualBlocks;
  recorder.write(0, [...Array(blocks).keys()], { seed: 8001 });
  for (let id = 1; id <= 100; id++) {
    recorder.do({ kind: "create-snap", id, origin: 0 });
    recorder.write(0, [id % blocks], { seed: 8001 + id, pages: 2 });
    if (id % 4 !== 0) continue;
    const { blockBytes } = recorder.model;
    recorder.do({ kind: "activate", id });
    recorder.write(id, [(id * 3) % blocks], { seed: 8101 + id });
    recorder.do({ kind: "discard", id, offsetBytes: 0, lengthBytes: 5 * blockBytes }, { kind: "flush", id });
    recorder.do({ kind: "deactivate", id });
    if (id % 16 === 0) recorder.do({ kind: "delete", id });
  }
}

/** Devices on an external origin that ends in the middle of a block, written inside, across and beyond its end. */
function external(recorder: PoolScriptRecorder): void {
  recorder.do({ kind: "create-thin", id: 0 }, { kind: "activate", id: 0, external: true });
  recorder.write(0, [0, 2, 3], { seed: 7001, pages: 1 });
  recorder.write(0, [3, 4], { seed: 7002 });
  recorder.do({ kind: "create-snap", id: 1, origin: 0 }, { kind: "activate", id: 1, external: true });
  recorder.write(1, [1, 5, 7], { seed: 7003, pages: 1 });
  recorder.do({ kind: "sum", id: 0 }, { kind: "sum", id: 1 });
  const { blockBytes } = recorder.model;
  recorder.do({ kind: "discard", id: 0, offsetBytes: 0, lengthBytes: 4 * blockBytes }, { kind: "flush", id: 0 });
  recorder.do({ kind: "sum", id: 0 });
}

/** Starts small and grows both devices, several times, past what the first bitmap block would hold unaided. */
function growing(recorder: PoolScriptRecorder): void {
  recorder.do({ kind: "create-thin", id: 0 }, { kind: "activate", id: 0 });
  for (let round = 0; round < 6; round++) {
    recorder.write(0, [3 * round, 3 * round + 1, 3 * round + 2], { seed: 6001 + round });
    recorder.do({ kind: "create-snap", id: round + 1, origin: 0 });
    recorder.do({ kind: "grow-data", dataBlocks: recorder.model.dataBlocks + 1500 * (round + 1) });
    recorder.do({ kind: "grow-metadata", metadataBlocks: recorder.model.metadataBlocks + 3000 });
  }
}

const STORIES: readonly Story[] = [
  { name: "64k, deep snapshots, metadata snapshot held", shape: shape(64, { thinBytes: 3 * 1024 * KIB }), begin: deep },
  {
    name: "192k, wide snapshots, no passdown",
    shape: shape(192, { features: ["no_discard_passdown"], thinBytes: 24 * 192 * KIB }),
    begin: wide,
  },
  {
    name: "1m, external origin",
    shape: shape(1024, { thinBytes: 24 * 1024 * KIB, originBytes: (5 * 1024 + 12) * KIB, dataBlocks: 400 }),
    begin: external,
  },
  { name: "64k, growth", shape: shape(64, { metadataBlocks: 512, dataBlocks: 100 }), begin: growing },
];

function beginning({ begin, shape, name }: Story): { script: PoolScript; model: PoolModel } {
  const recorder = new PoolScriptRecorder(new PoolModel(shape));
  begin(recorder);
  recorder.do({ kind: "checkpoint", title: "at the end" });
  return { script: recorder.script(name), model: recorder.model };
}

/** Begins with a look at every byte, so it also tells whether whoever came before left the right ones. */
function continuation(model: PoolModel, seed: number, looksAtAll: "first" | "first and last" = "first"): PoolScript {
  const room = { seed, operations: OPERATIONS, checkpointEvery: OPERATIONS, looksAtAll, maxDevices: 220 };
  return randomPoolScript({ ...room, model, mix: { sum: 0, createSnap: 4 } });
}

/** What must be on the metadata device behind a script, and how it was made. */
interface Stage<Run> {
  readonly script: PoolScript;
  readonly dump: DumpModel;
  readonly done: Run;
}

interface Exchange {
  readonly first: Stage<EngineRun>;
  readonly second: Stage<GuestPool>;
  readonly third: Stage<EngineRun>;
  readonly kernelFirst: Stage<GuestPool>;
  readonly kernelSecond: Stage<EngineRun>;
  readonly kernelThird: Stage<GuestPool>;
}

let exchanges: readonly Exchange[];

beforeAll(async () => {
  // The engine makes a pool of each story.
  const ours = [];
  for (const [index, story] of STORIES.entries()) {
    const { script, model } = beginning(story);
    const first = { script, dump: model.dump(), done: await runScriptOnEngine(script) };
    const next = continuation(model, 100 + index);
    ours.push({ first, next, nextDump: model.dump(), model });
  }
  // The kernel goes on with them, and makes one of each itself.
  const theirs = STORIES.map(beginning);
  const theirDumps = theirs.map(({ model }) => model.dump());
  const guest = await runScriptsInGuest([
    ...ours.map(({ first, next }) => ({ script: next, from: first.done, keepsData: true })),
    ...theirs.map(({ script }) => ({ script, keepsData: true })),
  ]);
  // The engine takes over all of them.
  const back = [];
  for (const [index, { first, next, nextDump, model }] of ours.entries()) {
    const done = guest[index]!;
    const script = continuation(model, 200 + index, "first and last");
    const third = { script, done: await runScriptOnEngine(script, { from: copies(done) }), dump: model.dump() };
    const other = guest[STORIES.length + index]!;
    const otherModel = theirs[index]!.model;
    const otherScript = continuation(otherModel, 300 + index);
    const kernelSecond = {
      script: otherScript,
      done: await runScriptOnEngine(otherScript, { from: copies(other) }),
      dump: otherModel.dump(),
    };
    const last = continuation(otherModel, 400 + index, "first and last");
    back.push({
      first,
      second: { script: next, done, dump: nextDump },
      third,
      kernelFirst: { script: other.script, done: other, dump: theirDumps[index]! },
      kernelSecond,
      last,
      lastDump: otherModel.dump(),
    });
  }
  // And the kernel once more.
  const end = await runScriptsInGuest(
    back.map(({ last, kernelSecond }) => ({ script: last, from: kernelSecond.done })),
  );
  exchanges = back.map((exchange, index) => ({
    ...exchange,
    kernelThird: { script: exchange.last, done: end[index]!, dump: exchange.lastDump },
  }));
});

/** The engine changes what it starts from; what the guest left is looked at later. */
function copies({ metadata, data }: GuestPool): Pick<GuestPool, "metadata" | "data"> {
  return { metadata: metadata.clone(), data: data.clone() };
}

describe.each(STORIES.map(({ name }, index) => [name, index] as const))("%s", (_name, index) => {
  for (const [key, title] of [
    ["first", "made by the engine"],
    ["second", "then changed by the kernel"],
    ["third", "then changed by the engine"],
    ["kernelFirst", "made by the kernel"],
    ["kernelSecond", "made by the kernel, changed by the engine"],
    ["kernelThird", "made by the kernel, changed by the engine and by the kernel"],
  ] as const) {
    test(`${title}: bytes and metadata are what the model says`, () => {
      const { script, done, dump } = exchanges[index]![key];
      expect(done.opening.outcome).toBe("ok");
      expectModelAnswers(script, done.run);
      expectCleanMetadata(title, done.metadata.contents(), dump);
    });
  }
});
