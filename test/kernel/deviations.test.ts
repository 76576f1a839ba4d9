/**
 * What only the engine leaves behind: pools whose machine stopped in the middle of a commit, transactions it dropped where
 * a kernel would have gone on, a flag it writes earlier (src/thin/DECISIONS.md). A kernel takes each, finds the last
 * commit, and goes on.
 */
import { beforeAll, describe, expect, test } from "vitest";
import type { MemoryDevice } from "../../src/io/index.js";
import { expectCleanMetadata, expectModelAnswers } from "../support/compare-runs.js";
import { PoolModel } from "../support/pool-model.js";
import type { PoolScript, PoolShape, PoolStep } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { PoolScriptRecorder, sumAll } from "../support/pool-script-recorder.js";
import { Random } from "../support/random.js";
import { randomPoolScript } from "../support/random-pool-script.js";
import { thinDump } from "../support/thin-tools.js";
import { type GuestPool, runScriptsInGuest } from "./guest/session.js";

const BLOCK_BYTES = 65536;
const CRASHES = 6;
const SHAPE: PoolShape = {
  metadataBlocks: 1024,
  dataBlocks: 512,
  blockSectors: 128,
  lowWaterBlocks: 0,
  features: [],
  thinBytes: 64 * BLOCK_BYTES,
};

interface Left {
  readonly name: string;
  readonly metadata: MemoryDevice;
  readonly data: MemoryDevice;
  /** The pool as it was at the last commit. */
  readonly model: PoolModel;
  readonly needsCheck: boolean;
}

/** Every change is committed before the next, so that each step is one state of the pool. */
function crashScript(): PoolScript {
  const recorder = new PoolScriptRecorder(new PoolModel(SHAPE));
  const random = new Random(77);
  recorder.do({ kind: "create-thin", id: 0 }, { kind: "activate", id: 0 });
  for (let round = 1; round <= 40; round++) {
    recorder.write(0, [random.between(0, 63)], { seed: round, pages: random.between(1, 16) });
    if (round % 5 === 0) recorder.do({ kind: "create-snap", id: round, origin: 0 });
    if (round % 9 === 0) {
      const offsetBytes = random.between(0, 50) * BLOCK_BYTES;
      recorder.do({ kind: "discard", id: 0, offsetBytes, lengthBytes: 6 * BLOCK_BYTES }, { kind: "flush", id: 0 });
    }
    if (round === 12) recorder.do({ kind: "reserve" });
    if (round % 15 === 0) recorder.do({ kind: "delete", id: round - 5 });
  }
  return recorder.script("crash");
}

async function crashed(): Promise<Left[]> {
  const script = crashScript();
  const { metadataWrites } = await runScriptOnEngine(script);
  const left: Left[] = [];
  for (let crash = 1; crash <= CRASHES; crash++) {
    const powerFailsAfter = Math.floor((metadataWrites * crash) / (CRASHES + 1));
    // The data device of the run goes on being written after the failure, as a write cache may; a block that is
    // overwritten in place by a later step would show it, so the run ends where the metadata does.
    let last = 0;
    const states = statesOf(script);
    const cut = await runScriptOnEngine(script, { powerFailsAfter });
    const found = JSON.stringify(thinDump(cut.metadata.contents()));
    for (const [index, state] of states.entries()) if (state === found) last = index + 1;
    const steps = script.steps.slice(0, last);
    const short = await runScriptOnEngine({ ...script, steps });
    left.push({
      name: `stopped after ${powerFailsAfter} of ${metadataWrites} metadata writes`,
      metadata: cut.metadata,
      data: short.data,
      model: new PoolModel(SHAPE).run({ ...script, steps }),
      needsCheck: false,
    });
  }
  return left;
}

/** thin_dump's words after every step. */
function statesOf(script: PoolScript): string[] {
  const model = new PoolModel(script.shape);
  return script.steps.map((step) => {
    model.apply(step);
    return JSON.stringify(model.dump());
  });
}

const BEGINNING: readonly PoolStep[] = [
  { kind: "create-thin", id: 0 },
  { kind: "activate", id: 0 },
  { kind: "write", id: 0, offsetBytes: 0, lengthBytes: 8 * BLOCK_BYTES, seed: 1 },
  { kind: "flush", id: 0 },
  { kind: "create-snap", id: 1, origin: 0 },
];

/** The metadata device refuses writes for a while: the transaction is dropped and the pool needs a check. */
async function aborted(): Promise<Left> {
  const steps: PoolStep[] = [
    ...BEGINNING,
    { kind: "metadata-fault", refuses: "writes" },
    { kind: "write", id: 0, offsetBytes: 20 * BLOCK_BYTES, lengthBytes: BLOCK_BYTES, seed: 2 },
    { kind: "write", id: 0, offsetBytes: 0, lengthBytes: BLOCK_BYTES, seed: 3 },
    { kind: "flush", id: 0 },
    { kind: "metadata-fault", refuses: "nothing" },
  ];
  const { metadata, data, run } = await runScriptOnEngine({ name: "aborted", shape: SHAPE, steps });
  expect(run.results.at(-2)?.outcome).toBe("EIO");
  const model = new PoolModel(SHAPE).run({ name: "", shape: SHAPE, steps: BEGINNING });
  return { name: "a dropped transaction", metadata, data, model, needsCheck: true };
}

let left: readonly Left[];
let guests: readonly GuestPool[];
const models: PoolModel[] = [];

beforeAll(async () => {
  left = [...(await crashed()), await aborted()];
  guests = await runScriptsInGuest(
    left.map(({ model, needsCheck, metadata, data }) => {
      models.push(model);
      const script = needsCheck
        ? new PoolScriptRecorder(model).do({ kind: "status" }, ...sumAll(model)).script("needs a check")
        : randomPoolScript({
            seed: 5,
            operations: 60,
            checkpointEvery: 60,
            looksAtAll: "first and last",
            model,
            mix: { growMetadata: 0, growData: 0 },
          });
      return { script, from: { metadata, data } };
    }),
  );
});

describe("a kernel goes on where the engine left off", () => {
  test("with crashed pools and a dropped transaction", () => {
    expect(left.length).toBe(CRASHES + 1);
    for (const [index, { name, needsCheck, metadata }] of left.entries()) {
      const guest = guests[index]!;
      if (!needsCheck) expectCleanMetadata(name, metadata.contents());
      expect(guest.opening.outcome, name).toBe("ok");
      if (needsCheck) expect(guest.run.results[0]?.text, name).toMatch(/ ro .* needs_check /);
      expectModelAnswers(guest.script, guest.run);
      expectCleanMetadata(name, guest.metadata.contents(), models[index]!.dump());
    }
  });
});
