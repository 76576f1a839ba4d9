import {
  closeSync,
  ftruncateSync,
  linkSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { digest, MIB, makeHost, makePool, pattern, read, write } from "./make-host.js";

describe("the main job", () => {
  test("a pool, a device, a snapshot, writes on both sides, growth: bytes and numbers are right", async () => {
    const host = await makeHost();
    expect((await host.attachLoop({ file: host.path("meta.img"), sizeBytes: 16 * MIB })).dev).toBe("7:0");
    expect((await host.attachLoop({ file: host.path("data.img"), sizeBytes: 64 * MIB })).dev).toBe("7:1");
    const created = await host.createPool({
      name: "pool",
      source: { kind: "table", table: "0 131072 thin-pool 7:0 7:1 128 16" },
    });
    expect(created).toEqual({ name: "pool", formatted: true, thinIds: [] });
    await host.createThin({ pool: "pool", name: "base", sizeBytes: 32 * MIB });
    const first = pattern(3 * MIB, 1);
    await write(host, "base", first, 1000);
    await host.snapThin({ origin: "base", name: "layer1" });
    const patch = pattern(300000, 2);
    await write(host, "layer1", patch, MIB);
    await write(host, "base", pattern(4096, 3), 8 * MIB);

    const expected = Buffer.alloc(32 * MIB);
    first.copy(expected, 1000);
    const snapshot = Buffer.from(expected);
    patch.copy(snapshot, MIB);
    pattern(4096, 3).copy(expected, 8 * MIB);
    expect((await read(host, "base")).equals(expected)).toBe(true);
    expect((await read(host, "layer1")).equals(snapshot)).toBe(true);

    await host.suspend("pool");
    await host.resizePool({ name: "pool", data: { kind: "absolute", bytes: 128 * MIB } });
    expect((await host.poolStatus("pool")).status.totalDataBlocks).toBe(1024);
    await host.resume("pool");
    const { status, raw, activeCount, thinCount } = await host.poolStatus("pool");
    expect(status.totalDataBlocks).toBe(2048);
    expect(raw).toBe(
      `0 262144 thin-pool 0 ${status.usedMetadataBlocks}/4096 55/2048 - rw discard_passdown queue_if_no_space - 1024 `,
    );
    expect({ activeCount, thinCount }).toEqual({ activeCount: 2, thinCount: 2 });
    expect((await read(host, "base")).equals(expected)).toBe(true);

    const [base, layer] = await host.listThins("pool");
    expect(base).toMatchObject({
      name: "base",
      id: 0,
      active: true,
      mappedBytes: 50 * 65536,
      exclusiveBytes: 6 * 65536,
    });
    expect(layer).toMatchObject({ name: "layer1", id: 1, origin: "base", mappedBytes: 49 * 65536 });
    expect(layer!.sharedBytes).toBe(base!.sharedBytes);
    expect(await host.thinDiff("base", "layer1")).toEqual([
      { offsetBytes: MIB, lengthBytes: 5 * 65536, kind: "differ" },
      { offsetBytes: 8 * MIB, lengthBytes: 65536, kind: "left-only" },
    ]);
    expect(await host.thinMap("base", 0)).toEqual([
      {
        virtualBlock: 0,
        dataBlock: 0,
        count: 1,
        time: 0,
        sharers: [
          { id: 0, name: "base", virtualBlock: 0 },
          { id: 1, name: "layer1", virtualBlock: 0 },
        ],
        held: false,
        writer: { id: 0, name: "base" },
        path: [
          { tree: "devices", metadataBlock: expect.any(Number), entry: 0 },
          { tree: "mappings", metadataBlock: expect.any(Number), entry: 0 },
        ],
      },
    ]);
    const usage = await host.thinUsage(["base", "layer1"]);
    expect(usage).toEqual({
      exclusiveBytes: 55 * 65536,
      sharedBytes: 0,
      freedIfDeletedBytes: 55 * 65536,
      mappedBytes: 55 * 65536,
    });
    if (HAS_THIN_TOOLS) expect(thinCheck(readFileSync(host.path("meta.img")))).toBeUndefined();
  });

  test("metadata grows with its file", async () => {
    const host = await makeHost();
    await makePool(host);
    const sizes = await host.resizePool({ name: "pool", metadata: { kind: "grow", bytes: 4 * MIB } });
    expect(sizes).toMatchObject({ metadataBytesBefore: 8 * MIB, metadataBytesAfter: 12 * MIB });
    expect((await host.poolStatus("pool")).status.totalMetadataBlocks).toBe(3072);
  });

  test("one device is cut in two and grows into what is left", async () => {
    const host = await makeHost();
    await host.attachLoop({ file: host.path("disk.img"), sizeBytes: 800 * MIB });
    await host.createPool({
      name: "docker",
      source: { kind: "device", device: "7:0", thinpPercent: 50, thinpMetaPercent: 1 },
    });
    const names = (await host.listDevices()).map(({ name }) => name);
    expect(names).toEqual(["docker", "docker_tdata", "docker_tmeta"]);
    await host.createThin({ pool: "docker", name: "t", sizeBytes: 16 * MIB });
    await write(host, "t", pattern(MIB, 4));
    await host.resizePool({
      name: "docker",
      data: { kind: "grow", bytes: 100 * MIB },
      metadata: { kind: "grow", bytes: 4 * MIB },
    });
    const { status } = await host.poolStatus("docker");
    expect(status.totalDataBlocks).toBe((500 * MIB) / 65536);
    expect(status.totalMetadataBlocks).toBe((12 * MIB) / 4096);
    expect((await read(host, "t", 0, MIB)).equals(pattern(MIB, 4))).toBe(true);
    await expect(host.resizePool({ name: "docker", data: { kind: "grow", bytes: 900 * MIB } })).rejects.toMatchObject({
      code: "ENOSPC",
    });
    await host.deactivateThin("t");
    await host.removePool("docker", { destroy: true });
    expect(await host.listDevices()).toEqual([]);
  });

  test("metadata that is there is opened as it is, and its devices are listed and activated", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 8 * MIB, id: 7 });
    await write(host, "a", pattern(MIB, 5), 2 * MIB);
    await host.deactivateThin("a");
    await host.removePool("pool");
    expect(await host.listLoops()).toEqual([]);
    const again = await host.createPool({
      name: "p2",
      source: { kind: "devices", data: host.path("pool-data.img"), metadata: host.path("pool-meta.img") },
    });
    expect(again).toEqual({ name: "p2", formatted: false, thinIds: [7] });
    await host.activateThin("p2:7", "b");
    expect((await host.deviceInfo("b")).sizeBytes).toBe(3 * MIB);
    expect((await read(host, "b", 2 * MIB, MIB)).equals(pattern(MIB, 5))).toBe(true);
  });
});

describe("thin devices", () => {
  test("a device goes back to a snapshot, which stays", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 8 * MIB });
    await write(host, "a", pattern(MIB, 1));
    await host.snapThin({ origin: "a", name: "s" });
    const then = await digest(host, "a");
    await write(host, "a", pattern(2 * MIB, 2));
    await host.rollbackThin("a", "s");
    expect(await digest(host, "a")).toBe(then);
    await write(host, "a", pattern(4096, 3));
    expect(await digest(host, "s")).toBe(then);
    expect((await host.listThins()).map(({ name }) => name).sort()).toEqual(["a", "s"]);
  });

  test("rename, resize, deactivate, activate, delete; ids are used again", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 8 * MIB });
    await host.renameThin("a", "b");
    await host.resizeThin("b", { kind: "growPercent", percent: 50 });
    await write(host, "b", pattern(4096, 1), 12 * MIB - 4096);
    await host.deactivateThin("b");
    expect((await host.listThins())[0]).toMatchObject({ name: "b", active: false, sizeBytes: 12 * MIB });
    await host.activateThin("b", "c");
    expect((await read(host, "c", 12 * MIB - 4096)).equals(pattern(4096, 1))).toBe(true);
    await host.deleteThin("c");
    expect(await host.listThins()).toEqual([]);
    await host.createThin({ pool: "pool", name: "d", sizeBytes: MIB });
    expect((await host.listThins())[0]!.id).toBe(0);
    expect((await host.poolStatus("pool")).status.usedDataBlocks).toBe(0);
  });

  test("a deferred deletion happens when the last user goes", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 8 * MIB });
    await host.loadTable("over", [{ startSectors: 0, lengthSectors: 2048, type: "linear", args: ["a", "0"] }]);
    await host.resume("over");
    await expect(host.deleteThin("a")).rejects.toMatchObject({
      code: "EBUSY",
      message: expect.stringContaining("over"),
    });
    await host.deleteThin("a", { deferred: true });
    expect((await host.deviceInfo("a")).deferredRemove).toBe(true);
    await host.removeDevice("over");
    expect((await host.listDevices()).map(({ name }) => name)).toEqual(["pool"]);
    expect(await host.listThins()).toEqual([]);
  });

  test("the size of an activated device is that of the file system on it", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
    const superblock = Buffer.alloc(4096);
    superblock.writeUInt16LE(0xef53, 1024 + 0x38);
    superblock.writeUInt32LE(2, 1024 + 0x18);
    superblock.writeUInt32LE((20 * MIB) / 4096, 1024 + 4);
    await write(host, "a", superblock);
    await host.removeDevice("a");
    await host.removePool("pool");
    await host.createPool({
      name: "pool",
      source: { kind: "devices", data: host.path("pool-data.img"), metadata: host.path("pool-meta.img") },
    });
    await host.activateThin("pool:0", "a");
    expect((await host.deviceInfo("a")).sizeBytes).toBe(20 * MIB);
  });

  test("a snapshot of a deleted device is not taken for one of the device that gets its id", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    await host.snapThin({ origin: "a", name: "s" });
    expect((await host.listThins()).map(({ name, id, origin }) => [name, id, origin])).toEqual([
      ["a", 0, undefined],
      ["s", 1, "a"],
    ]);
    await host.deleteThin("a");
    await host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
    expect((await host.listThins()).map(({ name, id, origin }) => [name, id, origin])).toEqual([
      ["b", 0, undefined],
      ["s", 1, undefined],
    ]);
  });

  test("a device whose external origin cannot be opened leaves nothing behind", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "before", sizeBytes: MIB });
    linkSync(host.path("pool-data.img"), host.path("same.img"));
    const same = await host.attachLoop({ file: host.path("same.img"), readOnly: true });
    const request = { pool: "pool", name: "a", sizeBytes: MIB, externalOrigin: same.dev };
    await expect(host.createThin(request)).rejects.toMatchObject({ code: "EBUSY" });
    expect((await host.listDevices()).map(({ name }) => name).sort()).toEqual(["before", "pool"]);
    expect((await host.listThins("pool")).map(({ id }) => id)).toEqual([0]);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    expect((await host.listThins("pool")).map(({ name, id }) => [name, id])).toEqual([
      ["before", 0],
      ["a", 1],
    ]);
  });

  test("an external origin shows through where nothing was written, in snapshots too", async () => {
    const host = await makeHost();
    await makePool(host);
    writeFileSync(host.path("origin.img"), pattern(MIB, 9));
    const origin = await host.attachLoop({ file: host.path("origin.img"), readOnly: true });
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 2 * MIB, externalOrigin: origin.dev });
    await write(host, "a", pattern(4096, 1), 65536);
    await host.snapThin({ origin: "a", name: "s" });
    const expected = Buffer.alloc(2 * MIB);
    pattern(MIB, 9).copy(expected);
    pattern(4096, 1).copy(expected, 65536);
    expect((await read(host, "a")).equals(expected)).toBe(true);
    expect((await read(host, "s")).equals(expected)).toBe(true);
    await expect(host.detachLoop(origin.dev)).rejects.toMatchObject({ code: "EBUSY" });
  });

  test("a full pool shows so in the next operation, and is well again once there is room", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 128 * MIB });
    await expect(write(host, "a", pattern(65 * MIB, 1))).rejects.toMatchObject({ code: "ENOSPC" });
    const full = await host.poolStatus("pool");
    expect(full.status).toMatchObject({ mode: "out-of-data-space", usedDataBlocks: 1024, totalDataBlocks: 1024 });
    expect((await host.deviceInfo("pool")).eventNr).toBe(2);
    expect((await read(host, "a", 0, MIB)).equals(pattern(MIB, 1))).toBe(true);
    await write(host, "a", pattern(4096, 2));
    await host.resizePool({ name: "pool", data: { kind: "grow", bytes: 8 * MIB } });
    expect((await host.poolStatus("pool")).status.mode).toBe("write");
    await write(host, "a", pattern(MIB, 3), 64 * MIB);
    const waited = await host.waitDevice("pool", { eventNr: 0 });
    expect(waited).toBeGreaterThanOrEqual(3);
  });
});

describe("bytes", () => {
  test("an image comes in and goes out with its holes, whatever its length", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 40 * MIB });
    await write(host, "a", pattern(40 * MIB, 8));
    const fd = openSync(host.path("image"), "w");
    writeSync(fd, pattern(100_000, 1), 0, 100_000, 3 * MIB + 512);
    writeSync(fd, pattern(1_000, 2), 0, 1_000, 20 * MIB);
    ftruncateSync(fd, 30 * MIB + 77);
    closeSync(fd);
    const seen: number[] = [];
    const result = await host.importDevice("a", host.path("image"), {
      verify: true,
      progress: (done, total) => seen.push(done / total),
    });
    expect(result).toMatchObject({ bytes: 30 * MIB + 77, verified: true });
    expect(seen.at(-1)).toBe(1);
    const expected = Buffer.alloc(40 * MIB);
    readFileSync(host.path("image")).copy(expected);
    expect((await read(host, "a")).equals(expected)).toBe(true);
    const { mappedBytes } = (await host.listThins())[0]!;
    expect(mappedBytes).toBeLessThanOrEqual(5 * 65536);

    await host.exportDevice("a", host.path("out"), { verify: true });
    expect(readFileSync(host.path("out")).equals(expected)).toBe(true);
    expect(statSync(host.path("out")).blocks * 512).toBeLessThanOrEqual(6 * 65536);
  });

  test("a stream in small and odd pieces arrives whole", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
    const bytes = pattern(9 * MIB + 4, 6);
    const pieces: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += 77_777) pieces.push(bytes.subarray(at, at + 77_777));
    expect(await host.writeDevice("a", Readable.from(pieces), { offsetBytes: 123 })).toBe(bytes.length);
    expect((await read(host, "a", 123, bytes.length)).equals(bytes)).toBe(true);
    expect((await read(host, "a", 0, 123)).every((byte) => byte === 0)).toBe(true);
  });

  test("trim frees blocks: a range, or what holds only zeros", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
    await write(host, "a", pattern(4 * MIB, 1));
    await write(host, "a", Buffer.alloc(2 * MIB), MIB);
    const before = await digest(host, "a");
    expect(await host.trimDevice("a", { zeroes: true })).toEqual({ trimmedBytes: 2 * MIB });
    expect(await digest(host, "a")).toBe(before);
    expect(await host.trimDevice("a", { offsetBytes: 0, lengthBytes: MIB })).toEqual({ trimmedBytes: MIB });
    expect((await read(host, "a", 0, MIB)).every((byte) => byte === 0)).toBe(true);
    expect((await host.poolStatus("pool")).status.usedDataBlocks).toBe(16);
  });
});

describe("tables", () => {
  test("saved tables are restored in dependency order", async () => {
    const host = await makeHost();
    await host.attachLoop({ file: host.path("disk.img"), sizeBytes: 8 * MIB });
    await host.loadTable("z", [{ startSectors: 0, lengthSectors: 4096, type: "linear", args: ["7:0", "0"] }]);
    await host.resume("z");
    await host.loadTable(
      "a",
      [
        { startSectors: 0, lengthSectors: 2048, type: "linear", args: ["z", "1024"] },
        { startSectors: 2048, lengthSectors: 8, type: "zero", args: [] },
      ],
      { readOnly: true, uuid: "U-1" },
    );
    await host.resume("a");
    const saved = await host.saveTables();
    expect(saved).toBe("z,,0,rw,0 4096 linear 7:0 0;a,U-1,1,ro,0 2048 linear 253:0 1024,2048 8 zero ");
    await host.removeDevice("a");
    await host.removeDevice("z");
    expect(await host.restoreTables(saved.split(";").reverse().join(";"))).toEqual(["z", "a"]);
    expect(await host.saveTables()).toBe(saved);
  });

  test("linear, striped and zero lines carry bytes to the right places", async () => {
    const host = await makeHost();
    for (const name of ["x.img", "y.img"]) await host.attachLoop({ file: host.path(name), sizeBytes: MIB });
    await host.loadTable("m", [
      { startSectors: 0, lengthSectors: 96, type: "striped", args: ["2", "3", "7:0", "8", "7:1", "16"] },
      { startSectors: 96, lengthSectors: 8, type: "linear", args: ["7:0", "200"] },
      { startSectors: 104, lengthSectors: 8, type: "zero", args: [] },
    ]);
    await host.resume("m");
    const bytes = pattern(112 * 512, 1);
    await write(host, "m", bytes);
    const [x, y] = [readFileSync(host.path("x.img")), readFileSync(host.path("y.img"))];
    const sector = (at: number) => bytes.subarray(at * 512, (at + 1) * 512);
    for (let at = 0; at < 96; at++) {
      const chunk = Math.floor(at / 3);
      const below = Math.floor(chunk / 2) * 3 + (at % 3);
      const found = chunk % 2 === 0 ? x.subarray((8 + below) * 512) : y.subarray((16 + below) * 512);
      expect(found.subarray(0, 512).equals(sector(at))).toBe(true);
    }
    expect(x.subarray(200 * 512, 208 * 512).equals(bytes.subarray(96 * 512, 104 * 512))).toBe(true);
    const back = await read(host, "m");
    expect(back.subarray(0, 104 * 512).equals(bytes.subarray(0, 104 * 512))).toBe(true);
    expect(back.subarray(104 * 512).every((byte) => byte === 0)).toBe(true);
  });

  test("a removed device that others stand on is refused, forced leaves errors", async () => {
    const host = await makeHost();
    await host.attachLoop({ file: host.path("x.img"), sizeBytes: MIB });
    await host.loadTable("a", [{ startSectors: 0, lengthSectors: 64, type: "linear", args: ["7:0", "0"] }]);
    await host.resume("a");
    await host.loadTable("b", [{ startSectors: 0, lengthSectors: 64, type: "linear", args: ["a", "0"] }]);
    await host.resume("b");
    await expect(host.removeDevice("a")).rejects.toMatchObject({ code: "EBUSY", message: "'a' is in use by b" });
    await expect(host.removeDevice("a", { force: true })).rejects.toMatchObject({
      code: "EBUSY",
      message: expect.stringMatching(/it stays, and fails all I\/O from now on$/),
    });
    expect(await host.showTables({ name: "a" })).toMatchObject([{ type: "error", lengthSectors: 64 }]);
    await expect(read(host, "b")).rejects.toMatchObject({ code: "EIO" });
    await host.removeDevice("a", { deferred: true });
    await host.removeDevice("b");
    expect(await host.listDevices()).toEqual([]);
    await host.detachLoop("loop0");
  });

  test("a pool that cannot be opened does not hide the status of others", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.loadTable("z", [{ startSectors: 0, lengthSectors: 8, type: "zero", args: [] }]);
    await host.resume("z");
    truncateSync(host.path("pool-meta.img"), 4096);
    expect((await host.tableStatus()).map(({ device, params }) => [device, params])).toEqual([
      ["pool", "Error"],
      ["z", ""],
    ]);
    await expect(host.tableStatus({ name: "pool" })).rejects.toMatchObject({ code: "EIO" });
  });

  test("a file that was cut off below a device is told, not read as zeros", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 8 * MIB });
    truncateSync(host.path("pool-data.img"), MIB);
    await expect(read(host, "a")).rejects.toMatchObject({
      message: expect.stringContaining("truncated"),
      hint: expect.any(String),
    });
  });
});
