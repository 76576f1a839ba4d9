/** Requests at the same time on a data device that takes its time: section 5.6 of the engine's specification. */
import { describe, expect, test } from "vitest";
import { IoError } from "../../src/errors/index.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { FaultyDevice } from "../support/faulty-device.js";
import {
  codeOfFailure,
  expectBytes,
  expectZeros,
  isPending,
  PoolBench,
  pattern,
  settle,
} from "../support/pool-bench.js";
import { Random } from "../support/random.js";
import { type DeviceLogEntry, RecordingDevice } from "../support/recording-device.js";

const BLOCK = 65536;

interface Slow {
  readonly bench: PoolBench;
  readonly data: DelayedDevice;
  readonly log: DeviceLogEntry[];
}

async function slowBench(seed: number, options: Parameters<typeof PoolBench.open>[0] = {}): Promise<Slow> {
  const log: DeviceLogEntry[] = [];
  let data: DelayedDevice | undefined;
  const bench = await PoolBench.open({
    ...options,
    wrapMetadata: (device) => new RecordingDevice(device, log),
    wrapData: (device) => {
      data = new DelayedDevice(new RecordingDevice(device, log), { seed });
      return data;
    },
  });
  return { bench, data: data!, log };
}

describe.each([1, 2, 3, 4, 5])("seed %i", (seed) => {
  test("writes to the sectors of one block provision it once, and none is lost", async () => {
    const { bench } = await slowBench(seed);
    const thin = await bench.create(0);
    await Promise.all(
      Array.from({ length: 32 }, (_, index) => thin.write(index * 2048, pattern(index * 2048, 1024, index + 1))),
    );
    expect(thin.mappedBlocks).toBe(1);
    for (let index = 0; index < 32; index++) {
      await expectBytes(thin, index * 2048, pattern(index * 2048, 1024, index + 1));
      await expectZeros(thin, index * 2048 + 1024, 1024);
    }
    await bench.pool.status();
    expect(bench.pool.statusNow().usedDataBlocks).toBe(1);
    await bench.close();
  });

  test("the same through two who have the device open", async () => {
    const { bench } = await slowBench(seed);
    const first = await bench.create(0);
    const second = bench.thin(0);
    await Promise.all(
      Array.from({ length: 24 }, (_, index) =>
        (index % 2 === 0 ? first : second).write(index * 2048, pattern(index * 2048, 1024, index + 1)),
      ),
    );
    for (let index = 0; index < 24; index++)
      await expectBytes(first, index * 2048, pattern(index * 2048, 1024, index + 1));
    await first.close();
    await second.write(BLOCK, pattern(BLOCK, 512, 99));
    expect(second.mappedBlocks).toBe(2);
    const report = await bench.close();
    expect(report.pool.devices[0]!.mappings.length).toBe(2);
  });

  test("both sides of a snapshot break the sharing of one block at once", async () => {
    const { bench } = await slowBench(seed);
    const origin = await bench.create(0);
    await origin.write(0, pattern(0, 8 * BLOCK, 1));
    await bench.message("create_snap 1 0");
    const snapshot = bench.thin(1);
    await Promise.all(
      Array.from({ length: 8 }, (_, block) => [
        origin.write(block * BLOCK + 512, pattern(block * BLOCK + 512, 512, 10 + block)),
        snapshot.write(block * BLOCK + 512, pattern(block * BLOCK + 512, 512, 30 + block)),
        origin.write(block * BLOCK + 4096, pattern(block * BLOCK + 4096, 512, 50 + block)),
      ]).flat(),
    );
    for (let block = 0; block < 8; block++) {
      const at = block * BLOCK;
      await expectBytes(origin, at, pattern(at, 512, 1));
      await expectBytes(origin, at + 512, pattern(at + 512, 512, 10 + block));
      await expectBytes(origin, at + 4096, pattern(at + 4096, 512, 50 + block));
      await expectBytes(snapshot, at + 512, pattern(at + 512, 512, 30 + block));
      await expectBytes(snapshot, at + 1024, pattern(at + 1024, BLOCK - 1024, 1));
    }
    await bench.pool.status();
    expect(bench.pool.statusNow().usedDataBlocks).toBe(16);
    await bench.close();
  });

  test("a discard that races with writes leaves each block whole: discarded or written", async () => {
    const { bench } = await slowBench(seed);
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, 16 * BLOCK, 1));
    const random = new Random(seed);
    const writes = Array.from({ length: 16 }, async (_, block) => {
      await settle(random.between(0, 6));
      await thin.write(block * BLOCK, pattern(block * BLOCK, BLOCK, 2));
    });
    const discards = [thin.discard(0, 6 * BLOCK), settle(3).then(() => thin.discard(4 * BLOCK, 8 * BLOCK))];
    await Promise.all([...writes, ...discards]);
    const zeros = new Uint8Array(BLOCK);
    for (let block = 0; block < 16; block++) {
      const found = new Uint8Array(BLOCK);
      await thin.read(block * BLOCK, found);
      const isZero = Buffer.compare(found, zeros) === 0;
      if (!isZero || block >= 12) expect(Buffer.compare(found, pattern(block * BLOCK, BLOCK, 2))).toBe(0);
    }
    await bench.close();
  });

  test("commits while writes run map nothing before its data is flushed", async () => {
    const { bench, log } = await slowBench(seed, { dataBlocks: 200 });
    const first = await bench.create(0);
    const second = await bench.create(1);
    log.length = 0;
    const work = Array.from({ length: 40 }, async (_, index) => {
      const thin = index % 2 === 0 ? first : second;
      await thin.write(index * BLOCK, pattern(index * BLOCK, 4096, index + 1));
      if (index % 5 === 0) await thin.flush();
      if (index % 11 === 0) await bench.pool.status();
    });
    await Promise.all(work);
    await Promise.all([first.flush(), second.flush()]);
    expectOrder(log);
    for (let index = 0; index < 40; index++) {
      await expectBytes(index % 2 === 0 ? first : second, index * BLOCK, pattern(index * BLOCK, 4096, index + 1));
    }
    await bench.close();
  });

  test("a suspend under load waits for what runs and holds what comes", async () => {
    const { bench, data } = await slowBench(seed);
    const thin = await bench.create(0);
    const running = Array.from({ length: 10 }, (_, index) => thin.write(index * BLOCK, pattern(index * BLOCK, 512, 1)));
    await settle(1);
    await bench.pool.suspend();
    expect(data.underWay).toBe(0);
    await Promise.all(running);
    const held = thin.write(20 * BLOCK, pattern(20 * BLOCK, 512, 2));
    const read = thin.read(0, new Uint8Array(512));
    expect(await isPending(held)).toBe(true);
    expect(await isPending(read)).toBe(true);
    expect(bench.pool.metadata.details(0).mappedBlocks).toBe(10);
    // Messages work meanwhile.
    await bench.message("create_snap 1 0");
    await bench.pool.resume();
    await Promise.all([held, read]);
    expect(bench.pool.metadata.details(0).mappedBlocks).toBe(11);
    await expectZeros(bench.thin(1), 20 * BLOCK, 512);
    await bench.close();
  });
});

/** Before every superblock: a flush of data behind all data written, all metadata, a flush; and a flush behind it. */
function expectOrder(log: readonly DeviceLogEntry[]): void {
  let lastFlushOfData = -1;
  let unflushedMetadata = false;
  for (const [index, { device, entry }] of log.entries()) {
    if (device === "data") {
      if (entry.kind === "flush") lastFlushOfData = index;
      continue;
    }
    if (entry.kind === "flush") unflushedMetadata = false;
    else if (entry.kind === "write" && entry.offset === 0) {
      expect(unflushedMetadata, `superblock at ${index} behind unflushed metadata`).toBe(false);
      const previous = log
        .slice(0, index)
        .findLastIndex((each) => each.device === "metadata" && each.entry.kind === "write" && each.entry.offset === 0);
      expect(lastFlushOfData, `superblock at ${index} without a flush of data`).toBeGreaterThan(previous);
      expect(log[index + 1]).toMatchObject({ device: "metadata", entry: { kind: "flush" } });
      unflushedMetadata = true;
    } else unflushedMetadata = true;
  }
}

test("the order of a commit: data flush, metadata, its flush, superblock, its flush", async () => {
  const log: DeviceLogEntry[] = [];
  const bench = await PoolBench.open({
    wrapMetadata: (device) => new RecordingDevice(device, log),
    wrapData: (device) => new RecordingDevice(device, log),
  });
  const thin = await bench.create(0);
  log.length = 0;
  await thin.write(5 * BLOCK, pattern(0, 4096, 1));
  await thin.flush();
  const words = log.map(({ device, entry }) =>
    entry.kind === "write"
      ? `${device} ${device === "data" ? "write" : entry.offset === 0 ? "superblock" : "blocks"}`
      : `${device} ${entry.kind}`,
  );
  const withoutRepeats = words.filter((word, index) => word !== words[index - 1]);
  expect(withoutRepeats).toEqual([
    "data write",
    "data flush",
    "metadata blocks",
    "metadata flush",
    "metadata superblock",
    "metadata flush",
  ]);
  // A clean device: only the data is flushed.
  log.length = 0;
  await thin.flush();
  expect(log.map(({ device, entry }) => `${device} ${entry.kind}`)).toEqual(["data flush"]);
  // With nothing dirty a commit still does all of it.
  log.length = 0;
  await bench.pool.status();
  expect(log.map(({ device, entry }) => `${device} ${entry.kind}`)).toEqual([
    "data flush",
    "metadata flush",
    "metadata write",
    "metadata flush",
  ]);
  log.length = 0;
  await bench.pool.status({ noflush: true });
  expect(log).toEqual([]);
  // FUA is durable when it is answered.
  await thin.write(9 * BLOCK, pattern(0, 512, 1), { fua: true });
  expect(log.at(-2)).toMatchObject({ device: "metadata", entry: { kind: "write", offset: 0 } });
  log.length = 0;
  await thin.write(9 * BLOCK, pattern(0, 512, 1), { fua: true });
  expect(log.map(({ device, entry }) => `${device} ${entry.kind}`)).toEqual(["data write", "data flush"]);
  await bench.close();
});

test("flushes that come together share a commit", async () => {
  const { bench, data, log } = await slowBench(1);
  const thin = await bench.create(0);
  await thin.write(0, pattern(0, 512, 1));
  log.length = 0;
  data.hold();
  const flushes = Array.from({ length: 20 }, () => thin.flush());
  await settle();
  data.release();
  await Promise.all(flushes);
  const commits = log.filter(
    ({ device, entry }) => device === "metadata" && entry.kind === "write" && entry.offset === 0,
  );
  expect(commits.length).toBe(1);
  await bench.close();
});

test("a device that is closed with a write under way does not lose its count", async () => {
  const { bench, data } = await slowBench(1);
  const thin = await bench.create(0);
  data.hold();
  const write = thin.write(0, pattern(0, 512, 1));
  await settle();
  await thin.close();
  expect(await codeOfFailure(() => bench.message("delete 0"))).toBe("EBUSY");
  data.release();
  await write;
  await bench.message("create_thin 1");
  const report = await bench.close();
  expect(report.pool.devices[0]).toMatchObject({ id: 0, mappedBlocks: 1 });
});

test("a write that fails half way leaks no block", async () => {
  let faulty: FaultyDevice | undefined;
  const bench = await PoolBench.open({
    wrapData: (device) => {
      faulty = new FaultyDevice(device);
      return faulty;
    },
  });
  const thin = await bench.create(0);
  await thin.write(0, pattern(0, 4 * BLOCK, 1));
  await bench.message("create_snap 1 0");
  for (let at = 1; at <= 3; at++) {
    faulty!.arm({ on: "write", at, code: "EIO" });
    await thin.write(512, pattern(512, 3 * BLOCK, 2)).catch((error: unknown) => expect(error).toBeInstanceOf(IoError));
    faulty!.arm(undefined);
    await bench.pool.status();
  }
  expect(bench.pool.mode).toBe("write");
  await bench.close();
});

test("an unfinished read of a shared block keeps its bytes while the sharing is broken and the block is freed", async () => {
  const { bench, data } = await slowBench(3, { dataBlocks: 6 });
  const origin = await bench.create(0);
  await origin.write(0, pattern(0, 2 * BLOCK, 1));
  await bench.message("create_snap 1 0");
  const found = new Uint8Array(BLOCK);
  data.hold();
  const read = origin.read(0, found);
  const write = origin.write(0, pattern(0, BLOCK, 2));
  await settle();
  data.release();
  await Promise.all([read, write]);
  const seeds = new Set([found[0], found[BLOCK - 512]]);
  expect(seeds.size).toBe(1);
  await expectBytes(bench.thin(1), 0, pattern(0, BLOCK, 1));
  await bench.close();
});
