/** Shrinking: what comes out is the same pool in fewer data blocks, for any pool and any size it fits. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UdmError } from "../../../../src/errors/index.js";
import type { BlockDevice } from "../../../../src/io/index.js";
import {
  BlockStore,
  Pace,
  planSoundShrink,
  releaseMetadataSnapshot,
  shrinkPool,
  ThinMetadata,
} from "../../../../src/thin/index.js";
import "../../../support/seed.js";
import { checkMetadata, deviceSource } from "../../../support/check-metadata.js";
import { type Fault, FaultyDevice } from "../../../support/faulty-device.js";
import { crashedPairs } from "../../../support/pool-crash.js";
import { type DeviceLogEntry, RecordingDevice } from "../../../support/recording-device.js";
import {
  boundsOf,
  expectSamePool,
  makeShrinkPool,
  nodesOf,
  type ShrinkPool,
  usedBlocks,
} from "../../../support/shrink-pool.js";
import { HAS_THIN_TOOLS, thinCheck } from "../../../support/thin-tools.js";

const IS_LONG = process.env.UDM_TEST_LONG !== undefined;

interface Wanted {
  readonly metadata: BlockDevice;
  readonly data: BlockDevice;
  readonly blocksAfter: number;
  readonly batchBytes?: number;
  readonly signal?: AbortSignal;
}

async function shrink({ metadata, data, blocksAfter, batchBytes, signal }: Wanted) {
  const pace = new Pace({ signal });
  const plan = await planSoundShrink(new BlockStore(metadata), { blocksAfter, mayHoldSnapshot: false, pace });
  const batch = batchBytes === undefined ? {} : { batchBytes };
  const done = await shrinkPool(metadata, plan, { data, pace, cacheBlocks: 64, ...batch });
  return { plan, done };
}

async function failureOf(promise: Promise<unknown>): Promise<UdmError> {
  const error = await promise.then(
    () => undefined,
    (failure: unknown) => failure,
  );
  if (error instanceof UdmError) return error;
  throw error ?? new Error("it did not fail");
}

function expectShrunk(
  pool: ShrinkPool,
  devices: { metadata: BlockDevice; data: BlockDevice },
  blocksAfter: number,
  title = "",
) {
  const after = expectSamePool(pool, devices, title);
  expect(after.pool.dataBlocks, title).toBe(blocksAfter);
  expect(boundsOf(after).highest, title).toBeLessThanOrEqual(blocksAfter);
}

/** The pool as it is now. */
function recaptured(pool: ShrinkPool): ShrinkPool {
  return { ...pool, before: checkMetadata(deviceSource(pool.metadata)) };
}

const SHAPE = fc.record({
  seed: fc.integer({ min: 1, max: 1_000_000 }),
  dataBlocks: fc.oneof(fc.integer({ min: 20, max: 200 }), fc.integer({ min: 1500, max: 3000 })),
  devices: fc.integer({ min: 1, max: 3 }),
  snapshots: fc.integer({ min: 0, max: 8 }),
  thinning: fc.double({ min: 0, max: 0.6, noNaN: true }),
  run: fc.integer({ min: 1, max: 20 }),
  blockSectors: fc.constantFrom(128, 384, 2048),
});

test("any pool, shrunk to any size it fits, holds what it held", async () => {
  const share = fc.double({ min: 0, max: 0.4, noNaN: true });
  await fc.assert(
    fc.asyncProperty(SHAPE, share, fc.integer({ min: 0, max: 3 }), async (shape, at, batches) => {
      const pool = makeShrinkPool({ ...shape, metadataBlocks: 1024 });
      const least = Math.max(1, boundsOf(pool.before).least);
      const blocksAfter = least + Math.floor((shape.dataBlocks - least) * at);
      const moving = [...usedBlocks(pool.before)].filter((block) => block >= blocksAfter).length;
      const batchBytes = batches === 0 ? 2 ** 30 : Math.ceil((moving * pool.blockBytes) / batches);
      const { plan, done } = await shrink({ ...pool, blocksAfter, batchBytes });
      expect(plan.figures.blocksToMove).toBe(moving);
      expect(done.movedBlocks).toBe(moving);
      expectShrunk(pool, pool, blocksAfter);
    }),
    { numRuns: IS_LONG ? 400 : 8 },
  );
});

/** Several levels of trees, bitmaps and index; blocks shared more than twice. */
const LARGE = { seed: 5, dataBlocks: 33_000, metadataBlocks: 2048, devices: 2, snapshots: 6, run: 3 } as const;

test("a pool of several bitmaps loses those behind the new end", async () => {
  const pool = makeShrinkPool(LARGE);
  // Most nodes are of several devices.
  const mapped = pool.before.pool.devices.reduce((sum, { mappedBlocks }) => sum + mappedBlocks, 0);
  expect(mapped).toBeGreaterThan(nodesOf(pool.before) * 252);
  const blocksAfter = boundsOf(pool.before).least + 100;
  const { done } = await shrink({ ...pool, blocksAfter, batchBytes: 500 * pool.blockBytes });
  expect(done.commits).toBeGreaterThan(1);
  expectShrunk(pool, pool, blocksAfter);
  // It grows again, from where it ends now.
  const engine = ThinMetadata.open(pool.metadata.sync, LARGE.metadataBlocks, {
    dataBlockSectors: 128,
    mayFormat: false,
    isDeviceReadOnly: false,
  });
  engine.resizeData(LARGE.dataBlocks);
  engine.commit();
  expectSamePool(pool, pool);
  expect(engine.freeDataBlocks).toBe(LARGE.dataBlocks - boundsOf(pool.before).least);
});

test.skipIf(!HAS_THIN_TOOLS)("thin_check finds nothing wrong", async () => {
  const pool = makeShrinkPool({ ...LARGE, dataBlocks: 17_000 });
  await shrink({ ...pool, blocksAfter: boundsOf(pool.before).least });
  expect(thinCheck(pool.metadata.contents())).toBeUndefined();
});

test("less than what is in use is refused with figures, and nothing is changed", async () => {
  const pool = makeShrinkPool({ seed: 3, dataBlocks: 300, metadataBlocks: 256 });
  const { least } = boundsOf(pool.before);
  const before = pool.metadata.contents();
  const failure = await failureOf(shrink({ ...pool, blocksAfter: least - 1 }));
  expect(failure.code).toBe("ENOSPC");
  expect(failure.message).toContain(`${least} data blocks are in use, ${least - 1} would be left`);
  expect(Buffer.compare(pool.metadata.contents(), before)).toBe(0);
});

describe("a pool that is not sound is refused", () => {
  test("a metadata snapshot holds blocks where they are, until it is released", async () => {
    const pool = makeShrinkPool({ seed: 4, dataBlocks: 500, metadataBlocks: 512, holdsSnapshot: true });
    const blocksAfter = 450;
    expect((await failureOf(shrink({ ...pool, blocksAfter }))).code).toBe("EBUSY");
    releaseMetadataSnapshot(pool.metadata);
    const released = recaptured(pool);
    expect(released.before.held).toBeUndefined();
    expect(released.before.pool).toEqual(pool.before.pool);
    await shrink({ ...pool, blocksAfter });
    expectShrunk(released, pool, blocksAfter);
  });

  test("a leaked data block", async () => {
    const pool = makeShrinkPool({ seed: 4, dataBlocks: 500, metadataBlocks: 512 });
    const engine = ThinMetadata.open(pool.metadata.sync, 512, {
      dataBlockSectors: undefined,
      mayFormat: false,
      isDeviceReadOnly: false,
    });
    engine.allocateDataBlock();
    engine.commit();
    const failure = await failureOf(shrink({ ...pool, blocksAfter: 450 }));
    expect([failure.code, failure.hint]).toEqual(["EUCLEAN", "free them first: udm metadata check --auto-repair"]);
  });

  test("the needs_check flag", async () => {
    const pool = makeShrinkPool({ seed: 4, dataBlocks: 500, metadataBlocks: 512 });
    ThinMetadata.open(pool.metadata.sync, 512, {
      dataBlockSectors: undefined,
      mayFormat: false,
      isDeviceReadOnly: false,
    }).setNeedsCheck();
    expect((await failureOf(shrink({ ...pool, blocksAfter: 450 }))).code).toBe("EUCLEAN");
  });
});

test("where the metadata has room for few copies at a time it takes more commits", async () => {
  const made = makeShrinkPool({ seed: 9, dataBlocks: 8000, metadataBlocks: 1024, run: 2 });
  const engine = ThinMetadata.open(made.metadata.sync, 1024, {
    dataBlockSectors: undefined,
    mayFormat: false,
    isDeviceReadOnly: false,
  });
  // A device without mappings takes one block.
  for (let id = 1000; engine.metadataBlocks - engine.allocatedMetadataBlocks > 30; id++) {
    engine.createThin(id);
    if (id % 3 === 0) engine.commit();
  }
  engine.commit();
  const pool = recaptured(made);
  const blocksAfter = boundsOf(pool.before).least;
  const { done } = await shrink({ ...pool, blocksAfter });
  expect(done.commits).toBeGreaterThan(1);
  expectShrunk(pool, pool, blocksAfter);
});

test("after an interrupt what was copied is committed, and the same again goes on", async () => {
  const pool = makeShrinkPool({ seed: 11, dataBlocks: 2000, metadataBlocks: 512, run: 5 });
  const blocksAfter = boundsOf(pool.before).least + 10;
  const abort = new AbortController();
  const data = new RecordingDevice(pool.data);
  const write = data.write.bind(data);
  data.write = async (...args) => {
    if (data.log.length === 30) abort.abort();
    return write(...args);
  };
  const failure = await failureOf(shrink({ metadata: pool.metadata, data, blocksAfter, signal: abort.signal }));
  expect(failure.code).toBe("EINTR");
  const moved = Number(/interrupted: (\d+) of/.exec(failure.message)?.[1]);
  expect(moved).toBeGreaterThan(30);
  expectSamePool(pool, pool);
  const { plan } = await shrink({ ...pool, blocksAfter });
  const all = [...usedBlocks(pool.before)].filter((block) => block >= blocksAfter).length;
  expect(plan.figures.blocksToMove).toBe(all - moved);
  expectShrunk(pool, pool, blocksAfter);
});

/** Few blocks, several batches, trees of two levels. */
const SMALL = { seed: 21, dataBlocks: 700, metadataBlocks: 200, devices: 1, snapshots: 3, run: 4 } as const;

test("a crash at any write of either device leaves the pool whole, and the same again ends it", async () => {
  const pool = makeShrinkPool(SMALL);
  const blocksAfter = boundsOf(pool.before).least;
  const log: DeviceLogEntry[] = [];
  const moving = [...usedBlocks(pool.before)].filter((block) => block >= blocksAfter).length;
  const { metadata, data } = pool;
  // What is forked must not change, so the run has forks of its own.
  await shrink({
    metadata: new RecordingDevice(metadata.fork(), log),
    data: new RecordingDevice(data.fork(), log),
    blocksAfter,
    batchBytes: Math.ceil(moving / 4) * pool.blockBytes,
  });
  const sizes = { finalMetadataBytes: metadata.sizeBytes, finalDataBytes: data.sizeBytes };
  let states = 0;
  for (const { title, ...after } of crashedPairs({ log, metadata, data, ...sizes }, IS_LONG ? 1 : 2)) {
    expectSamePool(pool, after, title);
    if (states++ % 40 === 0) {
      await shrink({ ...after, blocksAfter });
      expectShrunk(pool, after, blocksAfter, title);
    }
  }
  expect(states).toBeGreaterThan(200);
});

describe.each([false, true])("a failure of any I/O, from then on: %s", (fromThenOn) => {
  test.each(["metadata", "data"] as const)("of %s leaves the pool whole, and the same again ends it", async (which) => {
    const pool = makeShrinkPool(SMALL);
    const blocksAfter = boundsOf(pool.before).least;
    const attempt = async (fault: Fault | undefined) => {
      const forks = { metadata: pool.metadata.fork(), data: pool.data.fork() };
      const faulty = new FaultyDevice(forks[which], fault);
      const failure = await shrink({ ...forks, [which]: faulty, blocksAfter, batchBytes: 40 * pool.blockBytes }).catch(
        (error: unknown) => error,
      );
      return { forks, faulty, failure };
    };
    const clean = await attempt(undefined);
    const total = Object.values(clean.faulty.counts).reduce((sum, count) => sum + count, 0);
    for (let at = 1; at <= total; at += IS_LONG ? 1 : 1 + Math.floor(total / 12)) {
      const fault: Fault = { on: ["read", "write", "flush", "zeroes"], at, code: "EIO", fromThenOn };
      const { forks, faulty, failure } = await attempt(fault);
      const title = `${which}, ${at} of ${total}`;
      expect(faulty.fired, title).toBeGreaterThan(0);
      expectSamePool(pool, forks, title);
      // A read of several blocks that fails once is tried again, block by block.
      if (failure instanceof Error) expect(failure, title).toBeInstanceOf(UdmError);
      else expectShrunk(pool, forks, blocksAfter, title);
      await shrink({ ...forks, blocksAfter });
      expectShrunk(pool, forks, blocksAfter, title);
    }
  });
});
