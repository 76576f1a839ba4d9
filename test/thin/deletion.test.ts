/** Deleting a large device goes in steps, between which others are served. */
import { expect, test } from "vitest";
import { FaultyDevice } from "../support/faulty-device.js";
import { codeOfFailure, expectBytes, PoolBench, pattern } from "../support/pool-bench.js";
import { Random } from "../support/random.js";

const BLOCK = 65536;
const LARGE = 20_000;
const DATA_BLOCKS = LARGE + 1000;

/** Device 0 with a few blocks, device 1 with many, in no order. */
async function openLarge(options: Parameters<typeof PoolBench.open>[0] = {}): Promise<PoolBench> {
  const bench = await PoolBench.open({ dataBlocks: DATA_BLOCKS, thinBlocks: LARGE, ...options });
  const { metadata } = bench.pool;
  await bench.message("create_thin 0");
  await bench.message("create_thin 1");
  const device = metadata.openDevice(1);
  const random = new Random(7);
  const order = Array.from({ length: LARGE }, (_, index) => index);
  for (let index = LARGE - 1; index > 0; index--) {
    const other = random.between(0, index);
    [order[index], order[other]] = [order[other]!, order[index]!];
  }
  for (const block of order) metadata.insertMapping(device, block, metadata.allocateDataBlock()!);
  device.isChanged = true;
  metadata.closeDevice(device);
  await bench.pool.commit();
  return bench;
}

test("others are read and written meanwhile; who changes anything waits for its end", async () => {
  const bench = await openLarge();
  const { pool } = bench;
  const small = bench.thin(0);
  await small.write(0, pattern(0, BLOCK, 1));
  const other = await bench.create(3);
  const done: string[] = [];
  const noted = (name: string, work: Promise<void>) => work.then(() => void done.push(name));
  const all = Promise.all([
    noted("delete", bench.message("delete 1")),
    noted("new block", other.write(2 * BLOCK, pattern(2 * BLOCK, BLOCK, 3))),
    noted("flush", other.flush()),
    noted("snapshot", bench.message("create_snap 2 0")),
  ]);
  // The tree has more than a hundred leaves: more steps than these.
  for (let turn = 0; turn < 10; turn++) {
    const offset = 4096 * (turn % 8);
    const bytes = pattern(offset, 4096, 50 + turn);
    expect(small.tryWrite(offset, bytes)).toBe(4096);
    const found = new Uint8Array(4096);
    expect(small.tryRead(offset, found)).toBe(4096);
    expect(found).toEqual(bytes);
    expect(small.tryWrite(5 * BLOCK, bytes)).toBe(0);
    expect(done).toEqual([]);
    expect(pool.isCommitting).toBe(true);
    await new Promise(setImmediate);
  }
  await all;
  expect(done.length).toBe(4);
  await expectBytes(other, 2 * BLOCK, pattern(2 * BLOCK, BLOCK, 3));
  const report = await bench.close();
  expect(report.pool.devices.map(({ id }) => id)).toEqual([0, 2, 3]);
});

test("what it leaves is what one step leaves, byte by byte", async () => {
  const [inSteps, atOnce] = [await openLarge(), await openLarge()];
  for (const { pool } of [inSteps, atOnce]) await pool.message(["create_snap", "2", "1"]);
  for (const id of [1, 2]) {
    await inSteps.message(`delete ${id}`);
    atOnce.pool.change("delete", () => atOnce.pool.metadata.deleteThin(id));
    await atOnce.pool.commit();
    const [left, right] = [inSteps, atOnce].map(({ metadata }) => {
      const bytes = new Uint8Array(metadata.sizeBytes);
      metadata.sync.read(0, bytes);
      return Buffer.from(bytes);
    });
    expect(left!.equals(right!)).toBe(true);
  }
  await inSteps.close();
  await atOnce.close();
});

test("one that fails half way deletes nothing", async () => {
  let faulty: FaultyDevice | undefined;
  const first = await openLarge();
  await first.close();
  const bench = await PoolBench.open({
    ...first.options,
    from: first,
    wrapMetadata: (device) => {
      faulty = new FaultyDevice(device);
      return faulty;
    },
  });
  const small = bench.thin(0);
  faulty!.arm({ on: "read", at: 60, code: "EIO" });
  const deleting = bench.message("delete 1");
  const writing = small.write(0, pattern(0, BLOCK, 1));
  expect(await codeOfFailure(() => deleting)).toBe("EIO");
  expect(await codeOfFailure(() => writing)).toBe("EIO");
  faulty!.arm(undefined);
  expect(bench.pool.mode).toBe("read-only");
  expect(bench.pool.metadata.details(1).mappedBlocks).toBe(LARGE);
  await bench.close();
  const again = await PoolBench.open({ ...first.options, from: first });
  expect(again.pool.metadata.needsCheck).toBe(true);
  expect(again.pool.metadata.details(1).mappedBlocks).toBe(LARGE);
  await again.close();
});

test("a device in use is not deleted, and nothing is to be committed for that", async () => {
  const bench = await openLarge({ pool: { holdsCommits: true } });
  await bench.pool.commitHeld();
  const large = bench.thin(1);
  expect(await codeOfFailure(() => bench.message("delete 1"))).toBe("EBUSY");
  expect(await codeOfFailure(() => bench.message("delete 7"))).toBe("ENODATA");
  expect(bench.pool.hasHeldChanges).toBe(false);
  await large.close();
  await bench.close();
});
