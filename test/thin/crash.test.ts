/**
 * Machines that stop at any moment. Metadata and data write into one log; every prefix of it is a crash, and of what was
 * not flushed each device keeps nothing, all, some, parts of sectors' length, or all in the wrong order. See pool-crash.ts
 * for what must hold in every state.
 */
import { afterAll, expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { checkMetadata, deviceSource } from "../support/check-metadata.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { ForkDevice } from "../support/fork-device.js";
import { crashEverywhere, type RecordedRun } from "../support/pool-crash.js";
import {
  PoolWorker,
  randomWorkload,
  WORKLOAD_BLOCK_BYTES,
  type WorkStep,
  workloadConfig,
} from "../support/pool-workload.js";
import { Random } from "../support/random.js";
import { type DeviceLogEntry, RecordingDevice } from "../support/recording-device.js";
import { SlowFlushDevice } from "../support/slow-flush-device.js";
import { WrittenHistory } from "../support/written-history.js";

interface Recipe {
  readonly seed: number;
  readonly steps: number;
  readonly thinBlocks: number;
  readonly dataBlocks: number;
  readonly metadataBlocks: number;
  /** Mappings made before the log begins, each in a block of its own. */
  readonly mappedBefore?: number;
  readonly parallel?: number;
  /** Devices that do all at once but flushes: requests go on while a commit is under way. */
  readonly slowFlushes?: boolean;
  readonly cacheBlocks?: number;
  readonly discards?: boolean;
  readonly work?: readonly WorkStep[];
}

/** Does the work on recording devices. */
async function record(recipe: Recipe): Promise<RecordedRun> {
  const { thinBlocks, dataBlocks, metadataBlocks, mappedBefore = 0 } = recipe;
  const log: DeviceLogEntry[] = [];
  const history = new WrittenHistory(() => log.length);
  const thinBytes = thinBlocks * WORKLOAD_BLOCK_BYTES;
  const spareDataBlocks = 5;
  const metadata = new ForkDevice("metadata", metadataBlocks * 4096);
  const data = new ForkDevice("data", (dataBlocks + spareDataBlocks) * WORKLOAD_BLOCK_BYTES);
  const first = new PoolWorker({ metadata, data, dataBlocks, history, thinBytes });
  await first.pool.resume();
  const before: WorkStep[] = [{ kind: "create", id: 0 }];
  for (let block = 0; block < mappedBefore; block++) {
    before.push({ kind: "write", id: 0, offset: block * WORKLOAD_BLOCK_BYTES, length: 512, seed: 7 });
  }
  await first.work([...before, { kind: "flush", id: 0 }, { kind: "snap", id: 1, origin: 0 }]);
  await first.close();

  const metadataFork = metadata.fork();
  const dataFork = data.fork();
  const recordedData = new RecordingDevice(dataFork, log);
  const recordedMetadata = new RecordingDevice(metadataFork, log);
  const slowData = new SlowFlushDevice(recordedData, { seed: recipe.seed });
  const slowDevices = {
    metadata: new SlowFlushDevice(recordedMetadata, { seed: recipe.seed + 1 }),
    data: slowData,
  };
  const usualDevices = {
    metadata: recordedMetadata,
    data: recipe.parallel === undefined ? recordedData : new DelayedDevice(recordedData, { seed: recipe.seed }),
  };
  const worker = new PoolWorker({
    ...(recipe.slowFlushes === true ? slowDevices : usualDevices),
    ...(recipe.slowFlushes === true ? { stagger: new Random(recipe.seed) } : {}),
    dataBlocks,
    history,
    thinBytes,
    ...(recipe.cacheBlocks === undefined ? {} : { cacheBlocks: recipe.cacheBlocks }),
  });
  await worker.pool.resume();
  const work =
    recipe.work ??
    randomWorkload({
      seed: recipe.seed,
      steps: recipe.steps,
      thinBytes,
      devices: [0, 1],
      dataBlocks,
      spareDataBlocks,
      ...(recipe.parallel === undefined ? {} : { parallel: recipe.parallel }),
      ...(recipe.discards === undefined ? {} : { discards: recipe.discards }),
    });
  await worker.work(recipe.slowFlushes === true ? work.map(withFlushes) : work);
  await worker.close();
  expect(checkMetadata(deviceSource(metadataFork)).damage).toEqual([]);
  if (recipe.slowFlushes === true) expect(slowData.writesMeanwhile).toBeGreaterThan(0);
  return {
    log,
    metadata,
    data,
    history,
    config: workloadConfig(dataBlocks),
    thinBytes,
    finalDataBytes: data.sizeBytes,
    finalMetadataBytes: metadata.sizeBytes,
  };
}

/** Requests that run at the same time have flushes of their devices among them. */
function withFlushes(step: WorkStep): WorkStep {
  if (step.kind !== "parallel") return step;
  const ids = new Set(step.steps.flatMap((each) => ("id" in each ? [each.id] : [])));
  return { ...step, steps: [...step.steps, ...[...ids].map((id): WorkStep => ({ kind: "flush", id }))] };
}

let total = 0;
const SIZE = { thinBlocks: 24, dataBlocks: 150, metadataBlocks: 96 };

test.each([1, 2, 3])("one request after the other, seed %i: no state leaks or loses anything", async (seed) => {
  const result = await crashEverywhere(await record({ seed, steps: 110, ...SIZE, discards: false }));
  expect(result.mostLeaked).toBe(0);
  expect(result.commits).toBeGreaterThan(15);
  total += result.states;
});

test.each([11, 12, 13])("with discards on their way, seed %i", async (seed) => {
  const run = await record({ seed, steps: 110, ...SIZE });
  total += (await crashEverywhere(run)).states;
});

test.each([21, 22])("many requests at once on a slow data device, seed %i", async (seed) => {
  const run = await record({ seed, steps: 90, ...SIZE, parallel: 8 });
  total += (await crashEverywhere(run)).states;
});

test.each([41, 42])("many requests at once, and on while the devices flush, seed %i", async (seed) => {
  const run = await record({ seed, steps: 90, ...SIZE, parallel: 8, slowFlushes: true });
  total += (await crashEverywhere(run)).states;
});

test.each([31])("trees of several levels and a cache that overflows into the device, seed %i", async (seed) => {
  const run = await record({
    seed,
    steps: 60,
    thinBlocks: 330,
    dataBlocks: 700,
    metadataBlocks: 160,
    mappedBefore: 300,
    cacheBlocks: 16,
  });
  total += (await crashEverywhere(run, { openEvery: 40, everyPrefix: 5 })).states;
});

test("states by the ten thousand were looked at", () => {
  expect(total).toBeGreaterThanOrEqual(10_000);
});

afterAll(() => {
  process.stdout.write(`crash states: ${total}\n`);
});

test("formatting: until its superblock is there a device is blank, and then it is a pool", async () => {
  const log: DeviceLogEntry[] = [];
  const metadata = new MemoryDevice({ name: "metadata", sizeBytes: 64 * 4096 });
  const worker = new PoolWorker({
    metadata: new RecordingDevice(metadata, log),
    data: new MemoryDevice({ sizeBytes: 10 * WORKLOAD_BLOCK_BYTES }),
    dataBlocks: 10,
    history: new WrittenHistory(() => log.length),
    thinBytes: WORKLOAD_BLOCK_BYTES,
  });
  const writes = log.map(({ entry }) => (entry.kind === "write" ? entry.offset : entry.kind));
  // The superblock comes last, between two flushes.
  expect(writes.indexOf(0)).toBe(writes.length - 2);
  expect(writes.slice(-3)).toEqual(["flush", 0, "flush"]);
  for (let prefix = 0; prefix <= log.length; prefix++) {
    const crashed = new ForkDevice("metadata", 64 * 4096);
    for (const { entry } of log.slice(0, prefix)) crashed.play(entry);
    const again = new PoolWorker({ ...worker.options, metadata: crashed });
    await again.pool.resume();
    await again.close();
    expect(checkMetadata(deviceSource(crashed)).damage).toEqual([]);
    expect(again.pool.formatted).toBe(prefix < writes.length - 1);
  }
});
