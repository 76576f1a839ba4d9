/** Metadata opened for tools while somebody else changes it: what was read is confirmed, or it is refused. */
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openMetadata, openPool } from "../../src/index.js";
import { temporaryFolder } from "../support/make-folder.js";
import { MIB, pattern } from "./make-host.js";

async function poolInUse() {
  const folder = temporaryFolder();
  const files = { metadata: join(folder, "meta"), data: join(folder, "data") };
  const pool = await openPool({ ...files, metadataBytes: 4 * MIB, dataBytes: 64 * MIB });
  await pool.createThin(0);
  return { pool, place: { name: "meta", path: files.metadata, offsetBytes: 0 } };
}

describe("a pool in use", () => {
  test("is refused, and named with its holder", async () => {
    const { pool, place } = await poolInUse();
    await expect(openMetadata(place)).rejects.toMatchObject({ code: "EBUSY" });
    await expect(openMetadata(place, { write: true })).rejects.toMatchObject({ code: "EBUSY" });
    await pool.close();
    await using opened = await openMetadata(place);
    expect(opened.isLive).toBe(false);
    await expect(openPool({ metadata: place.path, data: `${place.path}/../data` })).rejects.toMatchObject({
      code: "EBUSY",
    });
  });

  test("that is only looked at is confirmed until it commits", async () => {
    const { pool, place } = await poolInUse();
    await using opened = await openMetadata(place, { forceReadOnly: true });
    expect(opened.isLive).toBe(true);
    await using disk = pool.openThin(0, { sizeBytes: MIB });
    await disk.write(0, pattern(MIB, 1));
    opened.confirm();
    await disk.flush();
    expect(() => opened.confirm()).toThrow(/it changed while it was read/);
    await disk.close();
    await pool.close();
  });

  test("that is looked at is in nobody's way", async () => {
    const { pool, place } = await poolInUse();
    await pool.close();
    await using opened = await openMetadata(place, { forceReadOnly: true });
    const again = await openPool({ metadata: place.path, data: join(place.path, "../data") });
    await again.close();
    opened.confirm();
  });

  test("is confirmed by its metadata snapshot through commits, until that is released", async () => {
    const { pool, place } = await poolInUse();
    await pool.engine.message(["reserve_metadata_snap"]);
    await using opened = await openMetadata(place, { snapshot: true });
    expect(opened).toMatchObject({ isLive: true, mayBeOld: true });
    expect(opened.superblock).toBeGreaterThan(0);
    opened.confirmAll();
    await pool.createThin(1);
    opened.confirm();
    // What the pool's own superblock leads to is another thing.
    expect(() => opened.confirmAll()).toThrow(/it changed while it was read/);
    await pool.engine.message(["release_metadata_snap"]);
    expect(() => opened.confirm()).toThrow(/metadata snapshot was released/);
    // Another one is not the same, though it may lie in the same block.
    await pool.createThin(2);
    await pool.engine.message(["reserve_metadata_snap"]);
    expect(() => opened.confirm()).toThrow(/metadata snapshot was released/);
    await pool.close();
  });
});

test("a path is known again through links", async () => {
  const { pool, place } = await poolInUse();
  await pool.close();
  const link = `${place.path}.link`;
  symlinkSync(place.path, link);
  writeFileSync(`${place.path}.copy`, readFileSync(place.path));
  await using opened = await openMetadata(place);
  expect([link, `${place.path}.copy`, `${place.path}.none`].map((path) => opened.isFile(path))).toEqual([
    true,
    false,
    false,
  ]);
});
