/** Modes, messages, space and growth: sections 5.3, 6.3, 7.5, 7.6 and 9 of the engine's specification. */
import { describe, expect, test } from "vitest";
import { SUPERBLOCK, SUPERBLOCK_VALIDATOR } from "../../src/thin/index.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { FaultyDevice } from "../support/faulty-device.js";
import { codeOfFailure, expectBytes, expectZeros, isPending, PoolBench, pattern } from "../support/pool-bench.js";

const BLOCK = 65536;

/** A pool of 32 blocks, all of them taken by device 0. */
async function fullPool(options: Parameters<typeof PoolBench.open>[0] = {}) {
  const bench = await PoolBench.open({ dataBlocks: 32, ...options });
  const thin = await bench.create(0);
  await thin.write(0, pattern(0, 32 * BLOCK, 1));
  await thin.flush();
  return { bench, thin };
}

/** A pool whose metadata device can be made to fail. */
async function faultyPool() {
  let faulty: FaultyDevice | undefined;
  const bench = await PoolBench.open({
    wrapMetadata: (device) => {
      faulty = new FaultyDevice(device);
      return faulty;
    },
  });
  const thin = await bench.create(0);
  await thin.write(0, pattern(0, 4 * BLOCK, 1));
  await thin.flush();
  return { bench, thin, faulty: faulty! };
}

const events = (bench: PoolBench) => bench.pool.runtime().eventNr;

describe("messages", () => {
  test.each([
    ["create_thin", "EINVAL"],
    ["create_thin 1 2", "EINVAL"],
    ["create_thin x", "EINVAL"],
    ["create_thin -1", "EINVAL"],
    ["create_thin 16777216", "EINVAL"],
    ["create_thin 0", "EEXIST"],
    ["create_thin 16777215", "ok"],
    ["CREATE_THIN +7", "ok"],
    ["create_thin 010", "ok"],
    ["create_snap 5 0", "ok"],
    ["create_snap 0 0", "EEXIST"],
    ["create_snap 0 1", "EEXIST"],
    ["create_snap 5 99", "ENODATA"],
    ["create_snap 5", "EINVAL"],
    ["delete 99", "ENODATA"],
    ["delete 0", "EBUSY"],
    ["set_transaction_id 0 9007199254740991", "ok"],
    ["set_transaction_id 1 2", "EINVAL"],
    ["set_transaction_id x 2", "EINVAL"],
    ["set_transaction_id 0 y", "EINVAL"],
    ["release_metadata_snap", "EINVAL"],
    ["reserve_metadata_snap", "ok"],
    ["reserve_metadata_snap 1", "EINVAL"],
    ["nonsense", "EINVAL"],
    ["", "EINVAL"],
  ])("%j answers %s", async (text, code) => {
    const bench = await PoolBench.open();
    await bench.create(0);
    expect(await codeOfFailure(() => bench.message(text))).toBe(code);
    expect(bench.pool.mode).toBe("write");
    await bench.close();
  });

  test("an id may be used again at once, and nothing of the old device is seen", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(3);
    await thin.write(0, pattern(0, BLOCK, 1));
    await thin.close();
    await bench.message("delete 3");
    await expectZeros(await bench.create(3), 0, BLOCK);
    await bench.close();
  });

  test("the metadata snapshot stands still, survives a restart, and can be had once", async () => {
    let bench = await PoolBench.open();
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, 2 * BLOCK, 1));
    await bench.message("reserve_metadata_snap");
    expect(await codeOfFailure(() => bench.message("reserve_metadata_snap"))).toBe("EBUSY");
    await thin.write(9 * BLOCK, pattern(0, 512, 1));
    await thin.discard(0, BLOCK);
    await bench.message("create_snap 1 0");
    bench = await bench.reopen();
    const roots = bench.pool.metadata.heldRoots();
    expect(bench.pool.metadata.listDevices(roots).map(({ id, mappedBlocks }) => [id, mappedBlocks])).toEqual([[0, 2]]);
    expect(bench.pool.metadata.listDevices().map(({ id }) => id)).toEqual([0, 1]);
    const report = await bench.close();
    expect(report.held?.devices[0]?.mappings).toEqual([
      [0, 0, 0],
      [1, 1, 0],
    ]);
    const again = await PoolBench.open({ from: bench });
    await again.message("release_metadata_snap");
    expect(await codeOfFailure(() => again.message("release_metadata_snap"))).toBe("EINVAL");
    await again.close();
  });

  test("work while the pool is suspended, and commit", async () => {
    const bench = await PoolBench.open();
    await bench.pool.suspend();
    await bench.message("create_thin 5");
    await bench.message("set_transaction_id 0 8");
    const { pool } = await bench.close();
    expect([pool.transactionId, pool.devices.map(({ id }) => id)]).toEqual([8, [5]]);
  });
});

describe("data space", () => {
  test("low water is said once until the next resume", async () => {
    const bench = await PoolBench.open({ dataBlocks: 10, lowWaterBlocks: 7 });
    const thin = await bench.create(0);
    const seen: number[] = [];
    const write = async (block: number) => {
      await thin.write(block * BLOCK, pattern(0, 512, 1));
      seen.push(events(bench));
    };
    for (let block = 0; block < 6; block++) await write(block);
    expect(seen).toEqual([0, 0, 0, 1, 1, 1]);
    await bench.pool.suspend();
    await bench.pool.resume();
    await write(6);
    await write(7);
    expect(seen.slice(6)).toEqual([2, 2]);
    await bench.close();
  });

  test("a full pool queues writes that need room, serves all others, and growth lets it go on", async () => {
    const { bench, thin } = await fullPool();
    const write = thin.write(40 * BLOCK, pattern(40 * BLOCK, 512, 2));
    expect(await isPending(write)).toBe(true);
    expect(bench.pool.mode).toBe("out-of-data-space");
    expect(bench.pool.statusNow().errorIfNoSpace).toBe(false);
    await thin.write(3 * BLOCK, pattern(3 * BLOCK, 512, 3));
    await expectBytes(thin, 3 * BLOCK, pattern(3 * BLOCK, 512, 3));
    await bench.message("create_snap 1 0");
    const shared = thin.write(5 * BLOCK, pattern(5 * BLOCK, 512, 4));
    expect(await isPending(shared)).toBe(true);
    // Without a bigger table nothing changes.
    await bench.pool.suspend();
    await bench.pool.resume();
    expect(await isPending(write)).toBe(true);
    expect(bench.pool.mode).toBe("out-of-data-space");
    await bench.reload({ dataBlocks: 40 });
    await Promise.all([write, shared]);
    expect(bench.pool.mode).toBe("write");
    await expectBytes(thin, 40 * BLOCK, pattern(40 * BLOCK, 512, 2));
    await expectBytes(thin, 5 * BLOCK, pattern(5 * BLOCK, 512, 4));
    await expectBytes(bench.thin(1), 5 * BLOCK, pattern(5 * BLOCK, 512, 1));
    expect(events(bench)).toBe(3);
    await bench.close();
  });

  test.each(["discard", "delete"])("a %s ends it at the next commit", async (how) => {
    const { bench, thin } = await fullPool({ features: { noDiscardPassdown: true } });
    const write = thin.write(40 * BLOCK, pattern(40 * BLOCK, 512, 2));
    expect(await isPending(write)).toBe(true);
    if (how === "discard") await thin.discard(0, 2 * BLOCK);
    else {
      await bench.message("create_snap 1 0");
      await bench.message("delete 1");
      expect(await isPending(write)).toBe(true);
      await thin.discard(31 * BLOCK, BLOCK);
    }
    await bench.pool.status();
    await write;
    expect(bench.pool.mode).toBe("write");
    await bench.close();
  });

  test("after the timeout queued and new writes get ENOSPC, until there is room", async () => {
    const { bench, thin } = await fullPool({ pool: { noSpaceTimeoutMs: 20 } });
    const write = thin.write(40 * BLOCK, pattern(0, 512, 2));
    expect(await codeOfFailure(() => write)).toBe("ENOSPC");
    expect(bench.pool.mode).toBe("out-of-data-space");
    expect(bench.pool.runtime().errorsNow).toBe(true);
    expect((await bench.pool.statusParams()).split(" ").slice(4, 8)).toEqual([
      "out_of_data_space",
      "discard_passdown",
      "error_if_no_space",
      "-",
    ]);
    expect(await codeOfFailure(() => thin.write(41 * BLOCK, pattern(0, 512, 2)))).toBe("ENOSPC");
    await thin.discard(0, BLOCK);
    await bench.pool.status();
    expect([bench.pool.mode, bench.pool.errorsIfNoSpace]).toEqual(["write", false]);
    await thin.write(41 * BLOCK, pattern(0, 512, 2));
    await bench.close();
  });

  test("error_if_no_space answers at once; what fits of a long write is there", async () => {
    const { bench, thin } = await fullPool({ features: { errorIfNoSpace: true }, dataBlocks: 40 });
    expect(await codeOfFailure(() => thin.write(32 * BLOCK, pattern(32 * BLOCK, 20 * BLOCK, 5)))).toBe("ENOSPC");
    await expectBytes(thin, 32 * BLOCK, pattern(32 * BLOCK, 8 * BLOCK, 5));
    expect(bench.pool.mode).toBe("out-of-data-space");
    await bench.close();
  });

  test("a closed pool answers the writes it had queued", async () => {
    const { bench, thin } = await fullPool();
    const failure = codeOfFailure(() => thin.write(40 * BLOCK, pattern(0, 512, 2)));
    expect(await isPending(failure)).toBe(true);
    await bench.close();
    expect(await failure).toBe("EIO");
  });

  test("grows inside a bitmap, over its border, and not below what it has", async () => {
    const bench = await PoolBench.open({ dataBlocks: 16_319 });
    for (const dataBlocks of [16_320, 16_321, 40_000]) {
      await bench.reload({ dataBlocks });
      expect(bench.pool.statusNow().totalDataBlocks).toBe(dataBlocks);
    }
    await bench.pool.suspend();
    expect(await codeOfFailure(() => bench.pool.resume(bench.config({ dataBlocks: 39_999 })))).toBe("EINVAL");
    expect(bench.pool.isSuspended).toBe(true);
    await bench.pool.resume(bench.config({ dataBlocks: 40_000 }));
    await bench.message("create_thin 0");
    await bench.close();
  });

  test("a data device smaller than the table is refused", async () => {
    const bench = PoolBench.load({ dataBlocks: 64 });
    bench.data.resize(63 * BLOCK);
    expect(await codeOfFailure(() => bench.pool.resume())).toBe("EINVAL");
    await bench.pool.close();
  });
});

describe("metadata space", () => {
  test("full metadata makes the pool read-only without needs_check; growth returns it to work", async () => {
    const bench = await PoolBench.open({ metadataBlocks: 64, dataBlocks: 2048 });
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, BLOCK, 1));
    let id = 1;
    while (bench.pool.mode === "write") await bench.message(`create_thin ${id++}`);
    expect(bench.pool.mode).toBe("out-of-metadata-space");
    expect(bench.pool.metadata.needsCheck).toBe(false);
    expect((await bench.pool.statusParams()).split(" ").slice(4, 8)).toEqual([
      "ro",
      "discard_passdown",
      "queue_if_no_space",
      "-",
    ]);
    expect(await codeOfFailure(() => bench.message("create_thin 99"))).toBe("EOPNOTSUPP");
    expect(await codeOfFailure(() => thin.write(BLOCK, pattern(0, 512, 1)))).toBe("EIO");
    expect(await codeOfFailure(() => thin.discard(0, BLOCK))).toBe("ok");
    await thin.write(0, pattern(0, 512, 2));
    await expectBytes(thin, 0, pattern(0, 512, 2));
    await expectBytes(thin, 512, pattern(512, BLOCK - 512, 1));
    await bench.pool.suspend();
    bench.metadata.resize(128 * 4096);
    await bench.pool.resume();
    expect(bench.pool.mode).toBe("write");
    await thin.write(BLOCK, pattern(BLOCK, 512, 1));
    await bench.message("create_thin 99");
    await bench.close();
  });

  test("full metadata that is met by writes under way is not a failed operation", async () => {
    const bench = await PoolBench.open({
      metadataBlocks: 400,
      dataBlocks: 4000,
      thinBlocks: 4000,
      wrapData: (device) => new DelayedDevice(device, { seed: 5 }),
    });
    const thin = await bench.create(0);
    let id = 1;
    while (bench.pool.metadata.freeMetadataBlocks > 20) await bench.message(`create_thin ${id++}`);
    const codes = new Map<string | undefined, number>();
    for (let round = 0; round < 60 && bench.pool.mode === "write"; round++) {
      const writes = Array.from({ length: 10 }, (_, index) => {
        const offset = (((round * 10 + index) * 37) % 4000) * BLOCK;
        return codeOfFailure(() => thin.write(offset, pattern(offset, 512, 1)));
      });
      const others = [
        codeOfFailure(() => thin.flush()),
        codeOfFailure(() => bench.message(`create_thin ${id++}`)),
        codeOfFailure(() => thin.discard(round * 37 * BLOCK, BLOCK)),
      ];
      for (const code of await Promise.all([...writes, ...others])) codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    expect(bench.pool.mode).toBe("out-of-metadata-space");
    expect(bench.pool.metadata.needsCheck).toBe(false);
    expect([...codes.keys()].every((code) => code === "ok" || code === "EIO" || code === "EOPNOTSUPP")).toBe(true);
    expect(codes.get("EIO")).toBeGreaterThan(0);
    await bench.close();
  });

  test("a metadata device that was cut off is refused", async () => {
    const bench = await PoolBench.open();
    await bench.message("create_thin 0");
    await bench.pool.suspend();
    bench.metadata.resize(1000 * 4096);
    expect(await codeOfFailure(() => bench.pool.resume())).toBe("EINVAL");
    await bench.close();
  });

  test("low water of the metadata is an event", async () => {
    const bench = await PoolBench.open({ metadataBlocks: 100 });
    expect(bench.pool.statusNow().metadataLowWaterBlocks).toBe(25);
    for (let id = 0; id < 75 && bench.pool.mode === "write"; id++) await bench.message(`create_thin ${id}`);
    expect(bench.log.some((line) => line.includes("reached low water mark for metadata device"))).toBe(true);
    await bench.close();
  });
});

describe("read-only", () => {
  test("by feature: reads and exclusive overwrites work, the metadata stands still; and back", async () => {
    const { bench, thin } = await faultyPool();
    await bench.reload({ features: { readOnly: true } });
    expect(bench.pool.mode).toBe("read-only");
    const before = bench.metadata.contents();
    expect(await codeOfFailure(() => thin.write(9 * BLOCK, pattern(0, 512, 1)))).toBe("EIO");
    expect(await codeOfFailure(() => thin.discard(0, BLOCK))).toBe("ok");
    expect(await codeOfFailure(() => bench.message("create_thin 1"))).toBe("EOPNOTSUPP");
    expect(await codeOfFailure(() => bench.message("nonsense"))).toBe("EOPNOTSUPP");
    await thin.write(BLOCK, pattern(BLOCK, 512, 2));
    await thin.flush();
    await bench.pool.status();
    await expectBytes(thin, 0, pattern(0, BLOCK, 1));
    expect(Buffer.compare(bench.metadata.contents(), before)).toBe(0);
    await bench.reload({ features: { readOnly: false } });
    expect(bench.pool.mode).toBe("write");
    await thin.write(9 * BLOCK, pattern(9 * BLOCK, 512, 1));
    await bench.close();
  });

  test("a blank device is not formatted with read_only", async () => {
    expect(await codeOfFailure(() => PoolBench.load({ features: { readOnly: true } }))).toBe("EPERM");
  });

  test("metadata that cannot be written: read-only, needs_check on disk, lost writes say so", async () => {
    const { bench, thin, faulty } = await faultyPool();
    await thin.write(9 * BLOCK, pattern(9 * BLOCK, 512, 1));
    faulty.arm({ on: "write", at: 1, code: "EIO" });
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    expect(bench.pool.mode).toBe("read-only");
    expect((await bench.pool.statusParams()).split(" ").slice(4, 8)).toEqual([
      "ro",
      "discard_passdown",
      "queue_if_no_space",
      "needs_check",
    ]);
    // What was not committed is gone, and a flush does not claim otherwise.
    await expectZeros(thin, 9 * BLOCK, BLOCK);
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    expect(thin.mappedBlocks).toBe(4);
    await expectBytes(thin, 0, pattern(0, 4 * BLOCK, 1));
    await thin.write(0, pattern(0, 512, 2));
    const again = await bench.reopen({ wrapMetadata: (device) => device });
    expect(again.pool.mode).toBe("read-only");
    expect(again.pool.metadata.needsCheck).toBe(true);
    expect(await codeOfFailure(() => again.message("create_thin 1"))).toBe("EOPNOTSUPP");
    await again.reload({ dataBlocks: 80 });
    expect(again.pool.statusNow()).toMatchObject({ totalDataBlocks: 64, mode: "read-only" });
    const other = again.thin(0);
    await other.write(0, pattern(0, 512, 3));
    await expectBytes(other, 0, pattern(0, 512, 3));
    const report = await again.close();
    expect(report.flags).toBe(1);
  });

  test("needs_check that cannot be written at once is written at the end", async () => {
    const { bench, thin, faulty } = await faultyPool();
    await thin.write(9 * BLOCK, pattern(0, 512, 1));
    faulty.arm({ on: "write", at: 1, code: "EIO", fromThenOn: true });
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    faulty.arm(undefined);
    expect((await bench.close()).flags).toBe(1);
  });

  test("the flag taken away by whoever checked the metadata: the pool writes again when it is opened", async () => {
    const { bench, thin, faulty } = await faultyPool();
    await thin.write(9 * BLOCK, pattern(9 * BLOCK, 512, 1));
    faulty.arm({ on: "write", at: 1, code: "EIO" });
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    const flagged = await bench.reopen({ wrapMetadata: (device) => device, pool: { runtime: bench.pool.runtime() } });
    expect(flagged.pool.mode).toBe("read-only");
    const again = await flagged.reopen({
      pool: { runtime: flagged.pool.runtime() },
      wrapMetadata: (device) => {
        const superblock = new Uint8Array(4096);
        device.sync!.read(0, superblock);
        const view = new DataView(superblock.buffer);
        SUPERBLOCK.set.flags(view, 0);
        SUPERBLOCK_VALIDATOR.prepare(view, 0);
        device.sync!.write(0, superblock);
        return device;
      },
    });
    expect(again.pool.mode).toBe("write");
    await again.thin(0).write(9 * BLOCK, pattern(9 * BLOCK, 512, 1));
    await again.close();
  });

  test("a flag that could not be written is not taken for one that was taken away", async () => {
    const { bench, thin, faulty } = await faultyPool();
    await thin.write(9 * BLOCK, pattern(9 * BLOCK, 512, 1));
    faulty.arm({ on: "write", at: 1, code: "EIO", fromThenOn: true });
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    const runtime = bench.pool.runtime();
    expect(runtime).toMatchObject({ mode: "read-only", needsCheckUnsaved: true });
    const again = await bench.reopen({ wrapMetadata: (device) => device, pool: { runtime } });
    expect(again.pool.mode).toBe("read-only");
    expect((await again.close()).flags).toBe(1);
  });

  test("an abort is every open device's: one without changes goes on", async () => {
    const { bench, thin, faulty } = await faultyPool();
    const other = await bench.create(1);
    await other.write(0, pattern(0, BLOCK, 5));
    await other.flush();
    await thin.write(9 * BLOCK, pattern(0, 512, 1));
    faulty.arm({ on: "flush", at: 1, code: "EIO" });
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    expect(await codeOfFailure(() => other.flush())).toBe("ok");
    await expectBytes(other, 0, pattern(0, BLOCK, 5));
    expect(bench.pool.metadata.details(0).mappedBlocks).toBe(4);
    await bench.close();
  });
});

describe("fail", () => {
  test("metadata that can neither be written nor read ends everything but removal", async () => {
    const { bench, thin, faulty } = await faultyPool();
    await thin.write(9 * BLOCK, pattern(0, 512, 1));
    faulty.arm({ on: ["read", "write", "flush"], at: 1, code: "EIO", fromThenOn: true });
    expect(await codeOfFailure(() => thin.flush())).toBe("EIO");
    expect(bench.pool.mode).toBe("fail");
    expect(await bench.pool.statusParams()).toBe("Fail");
    expect(thin.statusParams()).toBe("Fail");
    for (const run of [
      () => thin.read(0, new Uint8Array(512)),
      () => thin.write(0, new Uint8Array(512)),
      () => thin.write(20 * BLOCK, new Uint8Array(512)),
      () => thin.discard(0, BLOCK),
      () => thin.flush(),
    ]) {
      expect(await codeOfFailure(run)).toBe("EIO");
    }
    expect(await codeOfFailure(() => bench.message("create_thin 7"))).toBe("EOPNOTSUPP");
    expect(await codeOfFailure(() => bench.pool.openThin(0, { name: "thin", sizeBytes: BLOCK }))).toBe("EINVAL");
    faulty.arm(undefined);
    await bench.pool.suspend();
    await bench.pool.resume();
    expect(bench.pool.mode).toBe("fail");
    const report = await bench.close();
    expect(report.pool.devices[0]?.mappedBlocks).toBe(4);
  });
});

describe("the clock of snapshots", () => {
  test("the snapshot that would make it 2^24 is refused, and changes nothing", async () => {
    const bench = await PoolBench.open();
    await bench.create(0);
    const { metadata } = bench;
    await bench.close();
    setSuperblockTime(metadata, 2 ** 24 - 2);
    const again = await PoolBench.open({ from: bench });
    await again.message("create_snap 1 0");
    expect(again.pool.metadata.time).toBe(2 ** 24 - 1);
    expect(await codeOfFailure(() => again.message("create_snap 2 0"))).toBe("ENOSPC");
    expect(again.pool.mode).toBe("write");
    const thin = again.thin(0);
    await thin.write(0, pattern(0, 512, 1));
    const report = await again.close();
    expect(report.pool.devices[0]?.mappings).toEqual([[0, 0, 2 ** 24 - 1]]);
  });

  test("a pool that is beyond it maps nothing new, and leaks nothing", async () => {
    const bench = await PoolBench.open();
    await bench.create(0);
    await bench.close();
    setSuperblockTime(bench.metadata, 2 ** 24);
    const again = await PoolBench.open({ from: bench });
    const thin = again.thin(0);
    expect(await codeOfFailure(() => thin.write(0, pattern(0, 512, 1)))).toBe("EINVAL");
    await again.pool.status();
    expect(again.pool.statusNow().usedDataBlocks).toBe(0);
    await again.close();
  });
});

function setSuperblockTime(
  device: { readonly sync: { read(o: number, b: Uint8Array): void; write(o: number, b: Uint8Array): void } },
  time: number,
): void {
  const bytes = new Uint8Array(4096);
  device.sync.read(0, bytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(44, time, true);
  SUPERBLOCK_VALIDATOR.prepare(view, 0);
  device.sync.write(0, bytes);
}
