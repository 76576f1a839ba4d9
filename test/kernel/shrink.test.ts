/**
 * Pools that were shrunk, made by the engine and by the kernel: the kernel activates them with the smaller data device,
 * finds every byte, goes on with them, and leaves what the model says, data block by data block.
 */
import { beforeAll, describe, expect, test } from "vitest";
import type { MemoryDevice } from "../../src/io/index.js";
import { BlockStore, Pace, planSoundShrink, shrinkPool } from "../../src/thin/index.js";
import { checkMetadata, deviceSource } from "../support/check-metadata.js";
import { expectCleanMetadata, expectModelAnswers } from "../support/compare-runs.js";
import { type DumpModel, PoolModel } from "../support/pool-model.js";
import type { PoolScript, PoolShape } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { PoolScriptRecorder } from "../support/pool-script-recorder.js";
import { randomPoolScript } from "../support/random-pool-script.js";
import { boundsOf } from "../support/shrink-pool.js";
import { type GuestPool, runScriptsInGuest } from "./guest/session.js";

const KIB = 1024;
/** Nothing grows the pool or holds its blocks. */
const MIX = { reserve: 0, release: 0, growData: 0, growMetadata: 0, sum: 0 } as const;

function shape(blockKiB: number, rest: Partial<PoolShape>): PoolShape {
  const blockSectors = blockKiB * 2;
  return {
    metadataBlocks: 1024,
    dataBlocks: 1200,
    blockSectors,
    lowWaterBlocks: 0,
    features: [],
    thinBytes: 96 * blockKiB * KIB,
    ...rest,
  };
}

const STORIES: readonly {
  readonly name: string;
  readonly shape: PoolShape;
  readonly operations: number;
  readonly fillers: number;
}[] = [
  {
    name: "64k, many snapshots",
    shape: shape(64, { dataBlocks: 2400, thinBytes: 400 * 64 * KIB }),
    operations: 200,
    fillers: 2,
  },
  { name: "192k", shape: shape(192, {}), operations: 120, fillers: 4 },
  {
    name: "1m, external origin",
    shape: shape(1024, { dataBlocks: 500, originBytes: (5 * 1024 + 12) * KIB, thinBytes: 40 * 1024 * KIB }),
    operations: 90,
    fillers: 2,
  },
];

interface Shrunk {
  readonly metadata: MemoryDevice;
  readonly data: MemoryDevice;
  readonly dump: DumpModel;
  readonly moved: number;
}

/** To a size with some room; the model follows. */
async function shrink(devices: { metadata: MemoryDevice; data: MemoryDevice }, model: PoolModel): Promise<Shrunk> {
  const metadata = devices.metadata.clone();
  const data = devices.data.clone();
  const { least } = boundsOf(checkMetadata(deviceSource(metadata)));
  const blocksAfter = Math.max(20, Math.ceil(least * 1.15));
  const pace = new Pace();
  const plan = await planSoundShrink(new BlockStore(metadata), { blocksAfter, mayHoldSnapshot: false, pace });
  const { relocation, figures } = plan;
  const batchBytes = Math.ceil(figures.bytesToMove / 3);
  const { movedBlocks } = await shrinkPool(metadata, plan, { data, pace, batchBytes });
  model.shrink(blocksAfter, (block) => (relocation.isMoved(block) ? relocation.target(block) : block));
  return {
    metadata,
    data: data.clone({ sizeBytes: blocksAfter * figures.blockBytes }),
    dump: model.dump(),
    moved: movedBlocks,
  };
}

/** Others take the first blocks; they and the older half of all devices are deleted in the end, so that much lies high. */
const FILLER = 900;

function beginning(index: number, seed: number): { readonly script: PoolScript; readonly model: PoolModel } {
  const { shape, operations } = STORIES[index]!;
  const model = new PoolModel(shape);
  const fillers = Array.from({ length: STORIES[index]!.fillers }, (_, at) => FILLER + at);
  const filler = new PoolScriptRecorder(model);
  for (const id of fillers) {
    filler.do({ kind: "create-thin", id }, { kind: "activate", id });
    filler.write(id, [...Array(model.virtualBlocks).keys()], { seed, pages: 1 });
  }
  const others = randomPoolScript({ seed, operations, checkpointEvery: operations, model, mix: { ...MIX, delete: 0 } });
  const end = new PoolScriptRecorder(model);
  const ids = [...model.thins.keys()];
  for (const id of ids.slice(0, Math.floor(ids.length / 2))) end.do({ kind: "delete", id });
  end.do({ kind: "status" });
  const steps = [filler, end].map((recorder) => recorder.script("").steps);
  return {
    script: { ...others, steps: [...steps[0]!, { kind: "reopen" }, ...others.steps, { kind: "reopen" }, ...steps[1]!] },
    model,
  };
}

interface Case {
  readonly maker: string;
  readonly story: string;
  readonly shrunk: Shrunk;
  readonly script: PoolScript;
  readonly dump: DumpModel;
  done?: GuestPool;
}

const cases: Case[] = [];

beforeAll(async () => {
  const theirs = STORIES.map((_, index) => beginning(index, 700 + index));
  const made = await runScriptsInGuest(theirs.map(({ script }) => ({ script, keepsData: true })));
  for (const [index, { name }] of STORIES.entries()) {
    const ours = beginning(index, 600 + index);
    for (const [maker, devices, model, seed] of [
      ["the engine", await runScriptOnEngine(ours.script), ours.model, 800 + index],
      ["the kernel", made[index]!, theirs[index]!.model, 900 + index],
    ] as const) {
      const shrunk = await shrink(devices, model);
      const room = { operations: 60, checkpointEvery: 60, looksAtAll: "first and last", maxDevices: 40 } as const;
      const script = randomPoolScript({ seed, ...room, model, mix: MIX });
      cases.push({ maker, story: name, shrunk, script, dump: model.dump() });
    }
  }
  const done = await runScriptsInGuest(cases.map(({ script, shrunk }) => ({ script, from: shrunk })));
  for (const [index, each] of cases.entries()) each.done = done[index]!;
});

describe.each(STORIES.map(({ name }) => name))("%s", (story) => {
  test.each(["the engine", "the kernel"])("made by %s, shrunk, and gone on with by the kernel", (maker) => {
    const { shrunk, script, dump, done } = cases.find((each) => each.story === story && each.maker === maker)!;
    expect(shrunk.moved).toBeGreaterThan(5);
    expectCleanMetadata("shrunk", shrunk.metadata.contents(), shrunk.dump);
    expect(done!.opening.outcome).toBe("ok");
    expectModelAnswers(script, done!.run);
    expectCleanMetadata("afterwards", done!.metadata.contents(), dump);
  });
});
