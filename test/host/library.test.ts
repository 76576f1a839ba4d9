import { join } from "node:path";
import { expect, test } from "vitest";
import {
  BlockStore,
  checkMetadata,
  DeviceExport,
  deltaMetadata,
  dumpMetadata,
  listMetadata,
  MemoryDevice,
  NbdDevice,
  NbdServer,
  openMetadata,
  openPool,
  Pace,
  restoreMetadata,
  reverseMap,
} from "../../src/index.js";
import { temporaryFolder } from "../support/make-folder.js";
import { MIB, pattern } from "./make-host.js";

async function bytesOf(device: { read(offset: number, buffer: Uint8Array): Promise<void> }, length: number) {
  const buffer = Buffer.alloc(length);
  await device.read(0, buffer);
  return buffer;
}

test("a program makes a pool on files, and finds it again with its block size", async () => {
  const folder = temporaryFolder();
  const files = { metadata: join(folder, "meta"), data: join(folder, "data") };
  let id: number;
  let snapshot: number;
  {
    await using pool = await openPool({
      ...files,
      metadataBytes: 4 * MIB,
      dataBytes: 64 * MIB,
      blockBytes: 192 * 1024,
    });
    expect(pool.wasFormatted).toBe(true);
    id = await pool.createThin();
    await using disk = pool.openThin(id, { sizeBytes: 16 * MIB });
    await disk.write(0, pattern(MIB, 1));
    await disk.flush();
    snapshot = await pool.createSnapshot(id);
    await disk.write(0, pattern(MIB, 2));
    await expect(openPool(files)).rejects.toMatchObject({ code: "EBUSY" });
  }
  await using pool = await openPool(files);
  expect(pool.wasFormatted).toBe(false);
  expect(pool.blockBytes).toBe(192 * 1024);
  expect(pool.devices().map((device) => device.id)).toEqual([id, snapshot]);
  await using disk = pool.openThin(id, { sizeBytes: 16 * MIB });
  await using old = pool.openThin(snapshot, { sizeBytes: 16 * MIB });
  expect((await bytesOf(disk, MIB)).equals(pattern(MIB, 2))).toBe(true);
  expect((await bytesOf(old, MIB)).equals(pattern(MIB, 1))).toBe(true);
  await expect(pool.deleteThin(snapshot)).rejects.toMatchObject({ code: "EBUSY" });
  await old.close();
  await pool.deleteThin(snapshot);
  expect((await pool.status()).usedDataBlocks).toBe(6);
});

test("a pool stands on any devices, and leaves them to their owner", async () => {
  const metadata = new MemoryDevice({ sizeBytes: 4 * MIB });
  const data = new MemoryDevice({ sizeBytes: 8 * MIB });
  const pool = await openPool({ metadata, data });
  await pool.createThin(7);
  await pool.close();
  await pool.close();
  await using again = await openPool({ metadata, data });
  expect(again.devices()).toMatchObject([{ id: 7, mappedBlocks: 0 }]);
  await expect(openPool({ metadata, data: metadata })).rejects.toMatchObject({ code: "EINVAL" });
});

/** A pool in memory: device 0 with two blocks, its snapshot 1 with one of them written anew. */
async function poolInMemory() {
  const metadata = new MemoryDevice({ sizeBytes: 4 * MIB });
  const data = new MemoryDevice({ sizeBytes: 8 * MIB });
  const pool = await openPool({ metadata, data });
  await pool.createThin(0);
  const disk = pool.openThin(0, { sizeBytes: MIB });
  await disk.write(0, pattern(128 * 1024, 1));
  await disk.flush();
  await pool.createSnapshot(0, 1);
  await disk.write(0, pattern(4096, 2));
  await disk.close();
  return { metadata, pool };
}

test("a program looks at the metadata of a pool, dumps it and makes another one of it", async () => {
  const { metadata, pool } = await poolInMemory();
  await pool.close();
  const store = new BlockStore(metadata);
  const pace = () => new Pace();
  expect(await checkMetadata(store, { pace: pace() })).toMatchObject({ verdict: "clean", devices: 2, mappings: 4 });
  const { devices } = await listMetadata(store, { superblock: 0, exclusive: true, pace: pace() });
  expect(devices).toMatchObject([
    { id: 0, mappedBlocks: 2, exclusiveBlocks: 1 },
    { id: 1, mappedBlocks: 2, exclusiveBlocks: 1 },
  ]);
  const found = await reverseMap(store, { superblock: 0, regions: [{ begin: 1, end: 2 }], pace: pace() });
  expect(found.map(({ deviceId, virtualBegin }) => [deviceId, virtualBegin])).toEqual([
    [0, 1],
    [1, 1],
  ]);

  const dump = async (device: MemoryDevice) => {
    const pieces: Uint8Array[] = [];
    const write = (piece: Uint8Array) => void pieces.push(piece);
    await dumpMetadata(new BlockStore(device), { format: "xml", superblock: 0, pace: pace(), write });
    return Buffer.concat(pieces).toString();
  };
  const xml = await dump(metadata);
  const copy = new MemoryDevice({ sizeBytes: MIB });
  const text = (async function* () {
    yield Buffer.from(xml);
  })();
  const restored = await restoreMetadata(copy, {
    name: "dump",
    text,
    textBytes: xml.length,
    overrides: {},
    pace: pace(),
  });
  expect(restored).toMatchObject({ devices: 2, mappings: 4 });
  expect(await dump(copy)).toBe(xml);

  let delta = "";
  const sides = { left: { kind: "device", id: 0 }, right: { kind: "device", id: 1 } } as const;
  const write = (piece: Uint8Array) => {
    delta += Buffer.from(piece).toString();
  };
  await deltaMetadata(store, { superblock: 0, ...sides, format: "json", pace: pace(), write });
  expect(JSON.parse(delta).delta.runs).toMatchObject([{ kind: "different" }, { kind: "same", virtualBlock: 1 }]);
});

test("a program reads the metadata of a pool in use, and is told when it moved", async () => {
  const folder = temporaryFolder();
  const pool = await openPool({
    metadata: join(folder, "meta"),
    data: join(folder, "data"),
    metadataBytes: 4 * MIB,
    dataBytes: 8 * MIB,
  });
  await pool.createThin(0);
  const place = { name: "meta", path: join(folder, "meta"), offsetBytes: 0 };
  await using opened = await openMetadata(place, { forceReadOnly: true });
  expect(await checkMetadata(opened.store, { pace: new Pace() })).toMatchObject({ verdict: "clean", devices: 1 });
  opened.confirm();
  await pool.createThin(1);
  expect(() => opened.confirm()).toThrow(/changed while it was read/);
  await pool.close();
});

test("a program serves a thin device over NBD, and uses one that is served", async () => {
  const { pool } = await poolInMemory();
  await using disk = pool.openThin(0, { sizeBytes: MIB });
  await using server = await NbdServer.listen({
    address: { kind: "unix", path: join(temporaryFolder(), "nbd.sock") },
    exports: [new DeviceExport(disk, { name: "disk" })],
  });
  await using remote = await NbdDevice.connect(server.uri("disk"));
  expect(remote.sizeBytes).toBe(MIB);
  expect((await bytesOf(remote, 4096)).equals(pattern(4096, 2))).toBe(true);
  await remote.write(512 * 1024, pattern(8192, 3));
  await remote.flush();
  const buffer = Buffer.alloc(8192);
  await disk.read(512 * 1024, buffer);
  expect(buffer.equals(pattern(8192, 3))).toBe(true);
  await remote.close();
  await server.close();
  await disk.close();
  await pool.close();
});
