/** Pools that grow by themselves, what is told of it, and devices that are refused while too little is free. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { planExtension } from "../../src/host/autoextend.js";
import { NO_FEATURES, type PoolStatus } from "../../src/index.js";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { makeDaemon } from "./daemon/make-daemon.js";
import { MIB, makeHost, pattern, read, type TestHost, write } from "./make-host.js";

const BLOCK = 65536;
const EXTENT = 4 * MIB;

function statusOf(numbers: Partial<PoolStatus>): PoolStatus {
  return {
    lengthSectors: 131072,
    transactionId: 0,
    usedMetadataBlocks: 100,
    totalMetadataBlocks: 2048,
    allocatedMetadataBlocks: 20,
    usedDataBlocks: 0,
    totalDataBlocks: 1024,
    heldRoot: undefined,
    mode: "write",
    features: NO_FEATURES,
    discardPassdown: true,
    errorIfNoSpace: false,
    needsCheck: false,
    metadataLowWaterBlocks: 512,
    dataBlockSectors: 128,
    lowWaterBlocks: 0,
    ...numbers,
  };
}

describe("how much LVM's policy adds", () => {
  const sizes = { dataBytes: 64 * MIB, metadataBytes: 8 * MIB };
  const policy = { thresholdPercent: 80, percent: 20, maxSizeBytes: undefined };

  // The first four: what LVM itself did, 41-lvm-convert-profile.
  test.each([
    ["half full", { usedDataBlocks: 512 }, policy, undefined],
    ["a block past the threshold", { usedDataBlocks: 820 }, policy, { dataBytes: 80 * MIB }],
    [
      "below it after growing",
      { usedDataBlocks: 822, totalDataBlocks: 1280, lengthSectors: 163840 },
      policy,
      undefined,
    ],
    ["just at the threshold", { usedDataBlocks: 819, totalDataBlocks: 1024 }, policy, undefined],
    [
      "full, with a low threshold",
      { usedDataBlocks: 1024 },
      { ...policy, thresholdPercent: 50 },
      { dataBytes: 128 * MIB },
    ],
    [
      "no further than the largest size",
      { usedDataBlocks: 1024 },
      { ...policy, maxSizeBytes: 66 * MIB },
      { dataBytes: 66 * MIB },
    ],
    ["not at all at the largest size", { usedDataBlocks: 1024 }, { ...policy, maxSizeBytes: 64 * MIB }, undefined],
    ["metadata by a percent more", { usedMetadataBlocks: 1600 }, policy, { metadataBytes: 12 * MIB }],
    // 4 MiB of 8 MiB is more than a quarter, so three quarters are the threshold.
    ["metadata earlier than data", { usedMetadataBlocks: 1537 }, policy, { metadataBytes: 12 * MIB }],
    ["metadata just at its threshold", { usedMetadataBlocks: 1536 }, policy, undefined],
  ])("%s", (_, numbers, chosen, wanted) => {
    expect(planExtension(statusOf(numbers), sizes, chosen)).toEqual(wanted);
  });

  test("metadata grows along when the data would be too much for it", () => {
    const status = statusOf({ usedDataBlocks: 900_000, totalDataBlocks: 1_000_000, lengthSectors: 128_000_000 });
    const planned = planExtension(status, { dataBytes: 65_536_000_000, metadataBytes: 8 * MIB }, policy);
    expect(planned).toEqual({ dataBytes: 3125 * 6 * EXTENT, metadataBytes: 76 * MIB });
  });

  test("metadata never grows beyond what the format takes", () => {
    const status = statusOf({ usedMetadataBlocks: 4_000_000, totalMetadataBlocks: 4_161_600 });
    const metadataBytes = 4_161_600 * 4096;
    expect(planExtension(status, { dataBytes: 64 * MIB, metadataBytes }, policy)).toBeUndefined();
  });
});

async function makeSmallPool(host: Pick<TestHost, "createPool" | "setPool" | "createThin">): Promise<void> {
  await host.createPool({
    name: "pool",
    source: {
      kind: "devices",
      data: "data.img",
      metadata: "meta.img",
      dataSizeBytes: 16 * MIB,
      metadataSizeBytes: 8 * MIB,
    },
    lowWater: { kind: "blocks", blocks: 16 },
  });
  await host.setPool("pool", { autoextendThresholdPercent: 80, autoextendPercent: 50 });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 256 * MIB });
}

function inFolder(host: TestHost): TestHost {
  const createPool: TestHost["createPool"] = (request) => {
    const { source } = request;
    if (source.kind !== "devices") return host.createPool(request);
    const devices = { ...source, data: host.path(source.data), metadata: host.path(source.metadata) };
    return host.createPool({ ...request, source: devices });
  };
  return { ...host, createPool };
}

function expectClean(folder: string): void {
  expect(checkMetadata(imageSource(readFileSync(join(folder, "meta.img")))).damage).toEqual([]);
}

test("a write far beyond the pool's size finds it grown, in the command that writes", async () => {
  const host = inFolder(await makeHost());
  await makeSmallPool(host);
  const bytes = pattern(150 * MIB, 1);
  await write(host, "a", bytes);
  expect((await read(host, "a", 0, bytes.length)).equals(bytes)).toBe(true);
  const { status } = await host.poolStatus("pool");
  expect(status.mode).toBe("write");
  expect(status.totalDataBlocks * BLOCK).toBeGreaterThan(150 * MIB);
  expect(status.usedDataBlocks / status.totalDataBlocks).toBeLessThanOrEqual(0.8);
  const { events } = await host.poolEvents();
  expect(events.map(({ event }) => event)).toEqual(expect.arrayContaining(["extended", "resized"]));
  expect(events.filter(({ event }) => event === "extend-failed")).toEqual([]);
  await host.close();
  expectClean(host.folder);
});

test("and so does a device that is in use in a daemon", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await makeSmallPool(host);
  const { device } = await it.hold(host, "a");
  for (let at = 0; at < 150 * MIB; at += MIB) await device.write(at, pattern(MIB, at));
  await device.flush();
  const { status } = await host.poolStatus("pool");
  expect(status.usedDataBlocks).toBe((150 * MIB) / BLOCK);
  expect(status.usedDataBlocks / status.totalDataBlocks).toBeLessThanOrEqual(0.8);
  for (let at = 0; at < 150 * MIB; at += 10 * MIB) {
    expect((await read(host, "a", at, MIB)).equals(pattern(MIB, at))).toBe(true);
  }
  await it.daemon.stop();
  expectClean(it.folder);
});

test("a pool at its largest size answers that it is full, and goes on when it may grow again", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await makeSmallPool(host);
  await host.setPool("pool", { maxSizeBytes: 20 * MIB });
  const { device } = await it.hold(host, "a");
  const full = (async () => {
    for (let at = 0; at < 64 * MIB; at += MIB) await device.write(at, pattern(MIB, at));
  })();
  await expect(full).rejects.toMatchObject({ code: "ENOSPC" });
  expect((await host.poolStatus("pool")).status).toMatchObject({ mode: "out-of-data-space", totalDataBlocks: 320 });
  const { events } = await host.poolEvents();
  expect(events.map(({ event }) => event)).toEqual(
    expect.arrayContaining(["extended", "low-water", "out-of-data-space", "extend-failed"]),
  );
  await host.setPool("pool", { maxSizeBytes: 0 });
  expect((await host.poolStatus("pool")).status.mode).toBe("write");
  await device.write(40 * MIB, pattern(MIB, 9));
  const later = await host.poolEvents({ after: (await host.poolEvents()).position });
  expect(later.events).toEqual([]);
});

test("a pool is extended when asked, as far as its policy goes", async () => {
  const host = inFolder(await makeHost());
  await makeSmallPool(host);
  expect(await host.extendPool("pool")).toBeUndefined();
  await host.setPool("pool", { autoextendThresholdPercent: 100 });
  await write(host, "a", pattern(14 * MIB, 1));
  expect(await host.extendPool("pool")).toBeUndefined();
  await host.setPool("pool", { autoextendThresholdPercent: 80 });
  expect(await host.extendPool("pool")).toMatchObject({ dataBytesBefore: 16 * MIB, dataBytesAfter: 24 * MIB });
  expect((await host.poolStatus("pool")).status.totalDataBlocks * BLOCK).toBe(24 * MIB);
});

test("events are remembered in order, and read on from where one was", async () => {
  const host = inFolder(await makeHost());
  await makeSmallPool(host);
  await host.setPool("pool", { autoextendThresholdPercent: 100 });
  const start = await host.poolEvents({ end: true });
  expect(start.events).toEqual([]);
  await write(host, "a", pattern(15.5 * MIB, 1));
  const first = await host.poolEvents({ after: start.position });
  expect(first.events).toMatchObject([{ event: "low-water", pool: "pool", freeBlocks: 16, totalBlocks: 256 }]);
  await expect(write(host, "a", pattern(2 * MIB, 1), 16 * MIB)).rejects.toMatchObject({ code: "ENOSPC" });
  await host.resizePool({ name: "pool", data: { kind: "absolute", bytes: 32 * MIB } });
  const second = await host.poolEvents({ after: first.position });
  expect(second.events.map(({ event }) => event)).toEqual(["out-of-data-space", "writable", "resized"]);
  expect((await host.poolEvents({ after: second.position })).events).toEqual([]);
  expect((await host.poolEvents()).events).toHaveLength(first.events.length + second.events.length);
});

test("new devices are refused while less than the minimum is free, to the block as Docker does", async () => {
  const host = inFolder(await makeHost());
  await makeSmallPool(host);
  await host.setPool("pool", { autoextendThresholdPercent: 100, minFreeSpacePercent: 10 });
  // 10 percent of 256 blocks are 25: that many free are enough, one fewer is not.
  await write(host, "a", pattern(231 * BLOCK, 1));
  await host.snapThin({ origin: "a", name: "s1" });
  await write(host, "a", pattern(BLOCK, 1), 240 * BLOCK);
  await expect(host.snapThin({ origin: "a", name: "s2" })).rejects.toMatchObject({
    code: "ENOSPC",
    message: "pool 'pool' has 24 free data blocks, 25 are needed for a new device (10%)",
    hint: expect.stringContaining("--min-free-space"),
  });
  await expect(host.createThin({ pool: "pool", name: "b", sizeBytes: MIB })).rejects.toMatchObject({ code: "ENOSPC" });
  expect((await host.poolStatus("pool")).settings.minFreeSpacePercent).toBe(10);
  await host.setPool("pool", { minFreeSpacePercent: 0 });
  await host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
});
