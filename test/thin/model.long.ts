/** A million operations against the models, in long histories. The seed of a failing history is in its name. */

import fc from "fast-check";
import { expect, test } from "vitest";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { METADATA_OPERATION, MetadataModelRun } from "../support/metadata-model.js";
import { PoolModel } from "../support/pool-model.js";
import { firstSurprise } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { randomPoolScript } from "../support/random-pool-script.js";

const METADATA_OPERATIONS = 500_000;
const POOL_OPERATIONS = 500_000;
const PER_HISTORY = 2_000;

test(`${METADATA_OPERATIONS} operations on metadata`, async () => {
  let done = 0;
  for (let seed = 1; done < METADATA_OPERATIONS; seed++) {
    const operations = fc.sample(METADATA_OPERATION, { numRuns: PER_HISTORY, seed });
    const run = new MetadataModelRun({
      metadataBlocks: 4096,
      dataBlocks: 60_000,
      maxRun: 40,
      ...(seed % 2 === 0 ? { cacheBlocks: 24 } : {}),
    });
    try {
      for (const operation of operations) run.apply(operation);
      run.commit();
    } catch (error) {
      throw new Error(`history ${seed}`, { cause: error });
    }
    done += run.operations;
    // The test runner wants to hear from us now and then.
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(done).toBeGreaterThanOrEqual(METADATA_OPERATIONS);
});

test(`${POOL_OPERATIONS} operations on pools`, async () => {
  let done = 0;
  for (let seed = 1; done < POOL_OPERATIONS; seed++) {
    const script = randomPoolScript({
      seed,
      operations: PER_HISTORY,
      checkpointEvery: PER_HISTORY / 4,
      shape: { metadataBlocks: 512, dataBlocks: 400, thinBytes: 200 * 65536, blockSectors: [128, 384, 256][seed % 3]! },
      maxDevices: 20,
    });
    const { run } = await runScriptOnEngine(script);
    expect(firstSurprise(script, run)).toBeUndefined();
    const model = new PoolModel(script.shape);
    let next = 0;
    for (const { step, metadata } of run.checkpoints) {
      for (; next <= step; next++) model.apply(script.steps[next]!);
      const { damage } = checkMetadata(imageSource(metadata));
      expect(damage, `seed ${seed}, step ${step}`).toEqual([]);
    }
    done += PER_HISTORY;
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(done).toBeGreaterThanOrEqual(POOL_OPERATIONS);
});
