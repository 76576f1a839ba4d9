/**
 * Pools whose metadata was damaged so that everything can be had back, made by the engine and by the kernel: the kernel
 * activates what repair made of them, finds every byte, goes on with it, and leaves what the model says.
 */
import { beforeAll, describe, expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import {
  applyDamage,
  BlockStore,
  type Candidate,
  findCandidates,
  Pace,
  planDamage,
  readSuperblock,
  repairMetadata,
} from "../../src/thin/index.js";
import { expectCleanMetadata, expectModelAnswers } from "../support/compare-runs.js";
import { type DumpModel, PoolModel } from "../support/pool-model.js";
import type { PoolScript, PoolShape } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { PoolScriptRecorder } from "../support/pool-script-recorder.js";
import { randomPoolScript } from "../support/random-pool-script.js";
import { type GuestPool, runScriptsInGuest } from "./guest/session.js";

/** A metadata snapshot would not be carried over. */
const MIX = { reserve: 0, release: 0, growData: 0, growMetadata: 0, sum: 0 } as const;
const SHAPE: PoolShape = {
  metadataBlocks: 1024,
  dataBlocks: 2400,
  blockSectors: 128,
  lowWaterBlocks: 0,
  features: [],
  thinBytes: 700 * 64 * 1024,
};

/** A device with inner nodes, and a snapshot that shares them. */
const LARGE = 900;

/** Damage that takes nothing that is not there twice. */
const DAMAGE: readonly (readonly string[])[] = [
  ["superblock-zeroed", "metadata-bitmap-zeroed"],
  ["details-root-zero"],
  ["internal-checksum"],
  ["data-bitmap-zeroed"],
];

interface Case {
  readonly maker: string;
  readonly damage: readonly string[];
  readonly repaired: { readonly metadata: MemoryDevice; readonly data: MemoryDevice; readonly dump: DumpModel };
  readonly candidate: Candidate;
  readonly script: PoolScript;
  readonly dump: DumpModel;
  done?: GuestPool;
}

function beginning(seed: number): { readonly script: PoolScript; readonly model: PoolModel } {
  const model = new PoolModel(SHAPE);
  const large = new PoolScriptRecorder(model);
  large.do({ kind: "create-thin", id: LARGE }, { kind: "activate", id: LARGE });
  large.write(LARGE, [...Array(model.virtualBlocks).keys()], { seed, pages: 1 });
  large.do({ kind: "create-snap", id: LARGE + 1, origin: LARGE }, { kind: "deactivate", id: LARGE });
  const { steps } = large.script("");
  const others = randomPoolScript({ seed, operations: 150, checkpointEvery: 150, model, mix: { ...MIX, delete: 0 } });
  return { script: { ...others, steps: [...steps, { kind: "reopen" }, ...others.steps, { kind: "reopen" }] }, model };
}

async function damageAndRepair(
  metadata: MemoryDevice,
  damage: readonly string[],
): Promise<{ readonly metadata: MemoryDevice; readonly candidate: Candidate }> {
  const broken = metadata.clone();
  const { dataBlockSectors, dataMap } = readSuperblock(new BlockStore(metadata)).values!;
  for (const id of damage.toReversed()) {
    applyDamage({ name: "copy", sync: broken.sync, resize: undefined }, planDamage(new BlockStore(broken), id));
  }
  const pace = new Pace();
  const overrides = { dataBlockSectors, nrDataBlocks: dataMap.nrBlocks };
  const { forest, candidates } = await findCandidates(new BlockStore(broken), { overrides, pace });
  const [candidate] = candidates;
  const repaired = new MemoryDevice({ name: "repaired", sizeBytes: metadata.sizeBytes });
  await repairMetadata(repaired, { forest, candidate: candidate!, pace });
  return { metadata: repaired, candidate: candidate! };
}

const cases: Case[] = [];

beforeAll(async () => {
  const theirs = DAMAGE.map((_, index) => beginning(1700 + index));
  const made = await runScriptsInGuest(theirs.map(({ script }) => ({ script, keepsData: true })));
  for (const [index, damage] of DAMAGE.entries()) {
    const ours = beginning(1600 + index);
    for (const [maker, devices, model, seed] of [
      ["the engine", await runScriptOnEngine(ours.script), ours.model, 1800 + index],
      ["the kernel", made[index]!, theirs[index]!.model, 1900 + index],
    ] as const) {
      const { metadata, candidate } = await damageAndRepair(devices.metadata, damage);
      const repaired = { metadata, data: devices.data, dump: model.dump() };
      const room = { operations: 40, checkpointEvery: 40, looksAtAll: "first and last", maxDevices: 40 } as const;
      const script = randomPoolScript({ seed, ...room, model, mix: MIX });
      cases.push({ maker, damage, repaired, candidate, script, dump: model.dump() });
    }
  }
  const done = await runScriptsInGuest(cases.map(({ script, repaired }) => ({ script, from: repaired })));
  for (const [index, each] of cases.entries()) each.done = done[index]!;
});

describe.each(DAMAGE.map((damage) => damage.join(", ")))("%s", (name) => {
  test.each(["the engine", "the kernel"])("made by %s, repaired, and gone on with by the kernel", (maker) => {
    const { repaired, candidate, script, dump, done } = cases.find(
      (each) => each.damage.join(", ") === name && each.maker === maker,
    )!;
    expect(candidate).toMatchObject({ isWhole: true, lostMappings: 0 });
    expectCleanMetadata("repaired", repaired.metadata.contents(), repaired.dump);
    expect(done!.opening.outcome).toBe("ok");
    expectModelAnswers(script, done!.run);
    expectCleanMetadata("afterwards", done!.metadata.contents(), dump);
  });
});
