/** Random operations by the kernel and by the engine: the same answers, the same commits, the same metadata. */
import { beforeAll, describe, expect, test } from "vitest";
import {
  expectCleanMetadata,
  expectModelAnswers,
  expectSameAnswers,
  expectSameImages,
} from "../support/compare-runs.js";
import { KERNEL_TRACE } from "../support/kernel-trace.js";
import { deepTreeScript, longScripts } from "../support/long-scripts.js";
import { PoolModel } from "../support/pool-model.js";
import type { PoolScript } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { randomPoolScript } from "../support/random-pool-script.js";
import { type GuestPool, runScriptsInGuest } from "./guest/session.js";

const OPERATIONS = 2000;
const CHECKPOINT_EVERY = 200;
const LONG_ROUNDS = process.env.UDM_TEST_LONG === undefined ? 0 : 4;

const plain = (seed: number): PoolScript =>
  randomPoolScript({ seed, operations: OPERATIONS, checkpointEvery: CHECKPOINT_EVERY });

const SCRIPTS: readonly PoolScript[] = [
  KERNEL_TRACE,
  plain(1),
  randomPoolScript({
    seed: 2,
    operations: OPERATIONS,
    checkpointEvery: CHECKPOINT_EVERY,
    shape: {
      blockSectors: 384,
      metadataBlocks: 1000,
      features: ["no_discard_passdown"],
      originBytes: 100 * 196608 + 8192,
      thinBytes: 400 * 196608 + 12288,
    },
  }),
  // Thousands of mappings: trees of several leaves, two data bitmaps, overflow counts of whole leaves.
  randomPoolScript({
    seed: 3,
    operations: OPERATIONS,
    checkpointEvery: CHECKPOINT_EVERY,
    shape: {
      metadataBlocks: 4096,
      dataBlocks: 20000,
      features: ["skip_block_zeroing"],
      thinBytes: 100_000 * 65536,
    },
    mix: { sequential: 25, group: 20, sum: 0, delete: 2, discard: 8 },
    maxDevices: 12,
  }),
  ...(LONG_ROUNDS === 0 ? [] : [deepTreeScript(1)]),
  ...Array.from({ length: LONG_ROUNDS }, (_, round) => longScripts(round + 1)).flat(),
];

let pools: readonly GuestPool[];

beforeAll(async () => {
  const done: GuestPool[] = [];
  for (let first = 0; first < SCRIPTS.length; first += 4) {
    const part = SCRIPTS.slice(first, first + 4);
    done.push(
      ...(await runScriptsInGuest(
        part.map((script) => ({ script })),
        { allowsNoStrayCommit: true },
      )),
    );
  }
  pools = done;
});

describe.each(SCRIPTS.map((script, index) => [script.name, index] as const))("%s", (_name, index) => {
  test("the kernel does what the model says", () => {
    const { script, run } = pools[index]!;
    expectModelAnswers(script, run);
    const model = new PoolModel(script.shape);
    let next = 0;
    for (const { title, step, metadata } of run.checkpoints) {
      for (; next <= step; next++) model.apply(script.steps[next]!);
      expectCleanMetadata(`${script.name}: ${title}`, metadata, model.dump());
    }
  });

  test("the engine answers the same and leaves the same metadata", async () => {
    const { script, run, opening } = pools[index]!;
    const ours = await runScriptOnEngine(script);
    expectSameImages(script, ours.run, run);
    expectSameAnswers(script, ours.run, run);
    expect(ours.opening).toEqual(opening);
  });
});
