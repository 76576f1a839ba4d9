import { join } from "node:path";
import { expect, test } from "vitest";
import { MemoryDevice, openPool } from "../../src/index.js";
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
