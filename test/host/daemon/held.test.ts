/** Devices that are in use while commands work on them: nothing waits for ever, nothing is lost, nothing is mixed up. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Hold } from "../../../src/device-registry/index.js";
import type { Host } from "../../../src/index.js";
import { checkMetadata, imageSource } from "../../support/check-metadata.js";
import { MIB, pattern, read } from "../make-host.js";
import { makeDaemon, type TestDaemon } from "./make-daemon.js";

const KIB = 1024;
const BLOCK = 64 * KIB;

async function prepared(): Promise<{ readonly it: TestDaemon; readonly host: Host; readonly hold: Hold }> {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({
    name: "pool",
    source: {
      kind: "devices",
      data: "data.img",
      metadata: "meta.img",
      dataSizeBytes: 64 * MIB,
      metadataSizeBytes: 8 * MIB,
    },
  });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
  return { it, host, hold: await it.hold(host, "a") };
}

/** Writes counters to the blocks of a device, one write at a time on each, until it is told to stop. */
class Load {
  readonly acknowledged: number[] = [];
  #isOver = false;
  readonly #running: Promise<void>[];

  constructor(
    readonly hold: Hold,
    readonly blocks = 64,
    lanes = 4,
  ) {
    for (let block = 0; block < blocks; block++) this.acknowledged.push(0);
    this.#running = Array.from({ length: lanes }, (_, lane) => this.#run(lane, lanes));
  }

  get count(): number {
    return this.acknowledged.reduce((sum, each) => sum + each, 0);
  }

  /** So many more writes have been acknowledged. */
  async progress(count = 50): Promise<void> {
    const wanted = this.count + count;
    while (this.count < wanted) await new Promise<void>((resolve) => setImmediate(resolve));
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#running);
  }

  async #run(lane: number, lanes: number): Promise<void> {
    for (let counter = 1; !this.#isOver; counter++) {
      for (let block = lane; block < this.blocks && !this.#isOver; block += lanes) {
        await write(this.hold, block, counter);
        this.acknowledged[block] = counter;
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
    }
  }
}

async function write(hold: Hold, block: number, counter: number): Promise<void> {
  const bytes = Buffer.alloc(4 * KIB);
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(counter, at);
  const done = hold.device.tryWrite(block * BLOCK, bytes);
  if (done < bytes.length) await hold.device.write(block * BLOCK + done, bytes.subarray(done));
}

function expectClean({ folder }: TestDaemon): void {
  expect(checkMetadata(imageSource(readFileSync(join(folder, "meta.img")))).damage).toEqual([]);
}

/** What each block holds; every one must be of one write. */
async function counters(host: Host, name: string, blocks: number): Promise<number[]> {
  const bytes = await read(host, name, 0, blocks * BLOCK);
  return Array.from({ length: blocks }, (_, block) => {
    const words = new Set<number>();
    for (let at = 0; at < 4 * KIB; at += 4) words.add(bytes.readUInt32LE(block * BLOCK + at));
    expect(words.size).toBe(1);
    return [...words][0]!;
  });
}

test("a snapshot of a busy device holds a point in time, and stays what it is", async () => {
  const { it, host, hold } = await prepared();
  const load = new Load(hold);
  await load.progress();
  for (let round = 0; round < 8; round++) {
    const before = [...load.acknowledged];
    await host.snapThin({ origin: "a", name: `s${round}` });
    const after = [...load.acknowledged];
    const seen = await counters(host, `s${round}`, load.blocks);
    for (const [block, counter] of seen.entries()) {
      expect(counter).toBeGreaterThanOrEqual(before[block]!);
      expect(counter).toBeLessThanOrEqual(after[block]! + 1);
    }
    await load.progress();
    expect(await counters(host, `s${round}`, load.blocks)).toEqual(seen);
  }
  await load.stop();
  expect(await counters(host, "a", load.blocks)).toEqual(load.acknowledged);
  await it.daemon.stop();
  expectClean(it);
});

test("suspend flushes and holds requests, resume lets them go", async () => {
  const { host, hold } = await prepared();
  const load = new Load(hold);
  await load.progress();
  await host.suspend("a");
  const atRest = load.count;
  await host.listThins();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(load.count).toBe(atRest);
  expect(hold.device.tryRead(0, Buffer.alloc(512))).toBe(0);
  await host.resume("a");
  await load.progress();
  await host.suspend("pool");
  const again = load.count;
  await new Promise((resolve) => setTimeout(resolve, 20));
  // What needs no new block passes the pool only when it runs.
  expect(load.count).toBe(again);
  await host.resume("pool");
  await load.progress();
  await load.stop();
  expect(await counters(host, "a", load.blocks)).toEqual(load.acknowledged);
});

test("tables are loaded and pools grow under load, and the device is told its new size", async () => {
  const { it, host, hold } = await prepared();
  const sizes: number[] = [];
  const stopWatching = hold.device.onTable(() => void sizes.push(hold.device.sizeBytes));
  const load = new Load(hold, 200);
  await load.progress();
  for (let round = 1; round <= 5; round++) {
    await host.resizeThin("a", { kind: "grow", bytes: MIB });
    await host.resizePool({ name: "pool", data: { kind: "grow", bytes: 8 * MIB } });
    await host.resizePool({ name: "pool", metadata: { kind: "grow", bytes: MIB } });
    await host.setPool("pool", { features: { skipBlockZeroing: round % 2 === 0 } });
    await load.progress();
  }
  await host.renameThin("a", "b");
  expect(hold.name).toBe("b");
  expect([...new Set(sizes)]).toEqual([17, 18, 19, 20, 21].map((mib) => mib * MIB));
  stopWatching();
  await load.progress();
  await load.stop();
  expect(await counters(host, "b", load.blocks)).toEqual(load.acknowledged);
  const { status } = await host.poolStatus("pool");
  expect(status.totalDataBlocks).toBe(((64 + 40) * MIB) / BLOCK);
  expect(status.totalMetadataBlocks).toBe((13 * MIB) / 4096);
  await it.daemon.stop();
  expectClean(it);
});

test("a pool on linear devices grows under load, and waits while one of them is suspended", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.attachLoop({ file: "disk.img", sizeBytes: 256 * MIB });
  await host.createPool({
    name: "pool",
    source: { kind: "device", device: "7:0", thinpPercent: 50, thinpMetaPercent: 5 },
  });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
  const hold = await it.hold(host, "a");
  const load = new Load(hold, 300);
  await load.progress();
  await host.resizePool({ name: "pool", data: { kind: "grow", bytes: 32 * MIB } });
  await load.progress();
  for (const below of ["pool_tdata", "pool_tmeta"]) {
    await host.suspend(below);
    const atRest = load.count;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(load.count).toBe(atRest);
    await host.resume(below);
    await load.progress();
  }
  await load.stop();
  expect((await host.poolStatus("pool")).status.mode).toBe("write");
  expect(await counters(host, "a", load.blocks)).toEqual(load.acknowledged);
});

test("what fails leaves a busy device as it was", async () => {
  const { host, hold } = await prepared();
  const load = new Load(hold);
  await load.progress();
  await expect(host.snapThin({ origin: "a", name: "a" })).rejects.toMatchObject({ code: "EEXIST" });
  await expect(host.resizePool({ name: "pool", data: { kind: "absolute", bytes: MIB } })).rejects.toMatchObject({
    code: "EINVAL",
  });
  await expect(host.deleteThin("a")).rejects.toMatchObject({ code: "EBUSY", message: /held by a test/ });
  await expect(host.removeDevice("a")).rejects.toMatchObject({ code: "EBUSY", hint: "stop the test" });
  await expect(host.deactivateThin("a")).rejects.toMatchObject({ code: "EBUSY" });
  await expect(host.removePool("pool")).rejects.toMatchObject({ code: "EBUSY" });
  // The table is good, what it asks of the pool is not: loaded, and refused when it is to be taken up.
  await host.loadTable("pool", [
    { startSectors: 0, lengthSectors: 65536, type: "thin-pool", args: ["7:0", "7:1", "128", "0"] },
  ]);
  await expect(host.resume("pool")).rejects.toMatchObject({ code: "EINVAL", message: /too small/ });
  await host.loadTable("pool", [
    { startSectors: 0, lengthSectors: 131072, type: "thin-pool", args: ["7:0", "7:1", "128", "0"] },
  ]);
  await host.resume("pool");
  await load.progress();
  await load.stop();
  expect(await counters(host, "a", load.blocks)).toEqual(load.acknowledged);
  expect((await host.deviceInfo("a")).openCount).toBe(1);
});

test("a group is all or nothing for a busy pool too, and what was written meanwhile is kept", async () => {
  const { it, host, hold } = await prepared();
  const load = new Load(hold);
  await load.progress();
  await host.begin("batch");
  await host.snapThin({ origin: "a", name: "never" });
  await host.createThin({ pool: "pool", name: "nor-this", sizeBytes: MIB });
  await host.undo();
  await load.progress();
  expect((await host.listThins()).map(({ name }) => name)).toEqual(["a"]);
  await host.begin("batch");
  await host.snapThin({ origin: "a", name: "s1" });
  await host.snapThin({ origin: "s1", name: "s2" });
  await host.commit();
  await load.progress();
  expect((await host.listThins()).map(({ name }) => name)).toEqual(["a", "s1", "s2"]);
  expect(await counters(host, "s1", load.blocks)).toEqual(await counters(host, "s2", load.blocks));
  // One that goes away in the middle is undone.
  const other = await it.connect();
  await other.begin("batch");
  await other.snapThin({ origin: "a", name: "s3" });
  const waiting = host.createThin({ pool: "pool", name: "after", sizeBytes: MIB });
  await other.close();
  await waiting;
  expect((await host.listThins()).map(({ name }) => name)).toEqual(["a", "s1", "s2", "after"]);
  await load.progress();
  await load.stop();
  expect(await counters(host, "a", load.blocks)).toEqual(load.acknowledged);
  await it.daemon.stop();
  expectClean(it);
});

test("a device that is removed by force answers with errors, and is deleted with its last user", async () => {
  const { it, host, hold } = await prepared();
  await write(hold, 0, 1);
  await host.deleteThin("a", { deferred: true });
  expect((await host.listThins()).map(({ name }) => name)).toEqual(["a"]);
  await write(hold, 1, 1);
  const [service] = await host.listServices();
  await host.stopService(service!.name);
  expect(await host.listThins()).toEqual([]);
  await host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
  const other = await it.hold(host, "b");
  await expect(host.removeDevice("b", { force: true })).rejects.toMatchObject({
    code: "EBUSY",
    message: expect.stringMatching(/it stays, and fails all I\/O from now on$/),
  });
  await expect(other.device.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EIO" });
});

test("pools that nobody uses are closed after each command, and free for others", async () => {
  const { it, host, hold } = await prepared();
  expect((await host.daemonInfo())?.openPools).toEqual(["pool"]);
  const bytes = pattern(BLOCK, 7);
  await hold.device.write(0, bytes);
  const [service] = await host.listServices();
  expect(service).toMatchObject({ kind: "hold", lasts: "connection", details: { device: "a" } });
  await host.stopService(service!.name);
  expect((await host.daemonInfo())?.openPools).toEqual([]);
  expect((await read(host, "a", 0, BLOCK)).equals(bytes)).toBe(true);
  expect((await host.daemonInfo())?.openPools).toEqual([]);
  expectClean(it);
});

test("one pool that fails does not take another down", async () => {
  const { it, host, hold } = await prepared();
  await host.createPool({
    name: "bad",
    source: {
      kind: "devices",
      data: "bad-data.img",
      metadata: "bad-meta.img",
      dataSizeBytes: 4 * MIB,
      metadataSizeBytes: 4 * MIB,
    },
  });
  await host.createThin({ pool: "bad", name: "c", sizeBytes: 8 * MIB });
  const broken = await it.hold(host, "c");
  const load = new Load(hold);
  const full = (async () => {
    for (let block = 0; block < 128; block++) await write(broken, block, 1);
  })();
  await expect(full).rejects.toMatchObject({ code: "ENOSPC" });
  await load.progress();
  expect((await host.poolStatus("bad")).status.mode).toBe("out-of-data-space");
  expect((await host.poolStatus("pool")).status.mode).toBe("write");
  await load.stop();
  expect(await counters(host, "a", load.blocks)).toEqual(load.acknowledged);
});

test("writes that wait for room keep nobody from making room", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({
    name: "pool",
    source: {
      kind: "devices",
      data: "data.img",
      metadata: "meta.img",
      dataSizeBytes: 4 * MIB,
      metadataSizeBytes: 4 * MIB,
    },
    features: { errorIfNoSpace: false },
  });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
  const hold = await it.hold(host, "a");
  const bytes = pattern(8 * MIB, 3);
  const writing = hold.device.write(0, bytes);
  await expect.poll(async () => (await host.poolStatus("pool")).status.mode).toBe("out-of-data-space");
  await expect(host.snapThin({ origin: "a", name: "s" })).rejects.toMatchObject({
    code: "EBUSY",
    message: "'a' has writes that wait for room in pool 'pool'",
  });
  await expect(host.begin("batch")).rejects.toMatchObject({ code: "EBUSY" });
  await host.suspend("pool");
  await host.resume("pool");
  await host.resizePool({ name: "pool", data: { kind: "absolute", bytes: 16 * MIB } });
  await writing;
  await host.snapThin({ origin: "a", name: "s" });
  expect((await read(host, "s", 0, bytes.length)).equals(bytes)).toBe(true);
  await it.daemon.stop();
  expectClean(it);
});
