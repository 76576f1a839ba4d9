/** Formatting and opening: sections 1.3, 1.4 and the checklist's points 1 to 9 of the engine's specification. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import { MemoryDevice } from "../../src/io/index.js";
import { checkMetadata, deviceSource, expectCleanPool } from "../support/check-metadata.js";
import { codeOfFailure, expectBytes, PoolBench, pattern } from "../support/pool-bench.js";
import { RecordingDevice } from "../support/recording-device.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";

const BLOCK = 65536;
const SALTS = { superblock: 160774, node: 121107, bitmap: 240779, index: 160478 };

/** A pool with a device of four blocks and a snapshot, closed. */
async function usedPool(): Promise<PoolBench> {
  const bench = await PoolBench.open();
  const thin = await bench.create(0);
  await thin.write(0, pattern(0, 4 * BLOCK, 1));
  await bench.message("create_snap 1 0");
  await thin.write(0, pattern(0, 512, 2));
  await bench.close();
  return bench;
}

/** Changes u32 fields of a block. @param salt of its kind; undefined leaves the checksum wrong */
function change(device: MemoryDevice, number: number, fields: Readonly<Record<number, number>>, salt?: number): void {
  const bytes = new Uint8Array(4096);
  device.sync.read(number * 4096, bytes);
  const view = new DataView(bytes.buffer);
  for (const [offset, value] of Object.entries(fields)) view.setUint32(Number(offset), value, true);
  if (salt !== undefined) view.setUint32(0, (crc32c(view, 4) ^ salt) >>> 0, true);
  device.sync.write(number * 4096, bytes);
}

function blockOfRole(bench: PoolBench, role: string): number {
  const { blocks } = checkMetadata(deviceSource(bench.metadata));
  const found = [...blocks].find(([, block]) => block.role === role);
  expect(found, role).toBeDefined();
  return found![0];
}

const load = (bench: PoolBench) => codeOfFailure(() => PoolBench.load({ from: bench }));

describe("blank devices", () => {
  test("only 4 KiB of zeros are blank", async () => {
    for (const at of [512, 4088]) {
      const bench = {
        metadata: new MemoryDevice({ sizeBytes: 64 * 4096 }),
        data: new MemoryDevice({ sizeBytes: 64 * BLOCK }),
      };
      bench.metadata.sync.write(at - (at % 512), pattern(at, 512, 1));
      expect(await codeOfFailure(() => PoolBench.load({ from: bench, metadataBlocks: 64 }))).toBe("EILSEQ");
    }
    const old = {
      metadata: new MemoryDevice({ sizeBytes: 64 * 4096 }),
      data: new MemoryDevice({ sizeBytes: 64 * BLOCK }),
    };
    old.metadata.sync.write(4096, pattern(0, 63 * 4096, 3));
    const bench = await PoolBench.open({ from: old });
    expect(bench.pool.formatted).toBe(true);
    await bench.create(0);
    await bench.close();
  });

  test.each([
    [1, "EINVAL"],
    [2, "EINVAL"],
    [3, "ENOSPC"],
    [7, "ENOSPC"],
  ])("%i blocks are too few to format: %s", async (metadataBlocks, code) => {
    expect(await codeOfFailure(() => PoolBench.load({ metadataBlocks }))).toBe(code);
  });

  test.each([8, 9, 10, 11, 12, 13, 14, 15, 20])(
    "%i blocks: whatever they suffice for, what is left is sound",
    async (metadataBlocks) => {
      const bench = PoolBench.load({ metadataBlocks });
      const resumed = await codeOfFailure(() => bench.pool.resume());
      const created = await codeOfFailure(() => bench.message("create_thin 0"));
      if (metadataBlocks < 10) expect(resumed).not.toBe("ok");
      if (metadataBlocks < 14) expect(created).not.toBe("ok");
      if (metadataBlocks >= 14) expect([resumed, created]).toEqual(["ok", "ok"]);
      await bench.pool.close();
      expectCleanPool(bench.metadata);
    },
  );

  test("activating and removing an unused pool writes nothing", async () => {
    const bench = await usedPool();
    const recorders: RecordingDevice[] = [];
    const again = await PoolBench.open({
      from: bench,
      wrapMetadata: (device) => {
        recorders.push(new RecordingDevice(device));
        return recorders[0]!;
      },
    });
    await again.pool.status();
    await again.pool.suspend();
    await again.pool.resume();
    const thin = again.thin(0);
    await expectBytes(thin, BLOCK, pattern(BLOCK, BLOCK, 1));
    await thin.write(0, pattern(0, 512, 3));
    await thin.flush();
    await again.close();
    expect(recorders[0]!.log).toEqual([]);
  });
});

describe("what opening refuses", () => {
  test.each([
    ["a wrong checksum", { 0: 1 }, undefined, "EILSEQ"],
    ["another magic", { 32: 123 }, SALTS.superblock, "EILSEQ"],
    ["another block's number, before everything else", { 8: 1, 32: 123, 336: 256 }, undefined, "ENOTBLK"],
    ["another block size, before features", { 336: 256, 360: 1 }, SALTS.superblock, "EINVAL"],
    ["incompat flags", { 360: 1 }, SALTS.superblock, "EINVAL"],
    ["compat_ro flags", { 356: 16 }, SALTS.superblock, "EINVAL"],
    ["a version from the future", { 40: 3 }, SALTS.superblock, "EINVAL"],
    ["metadata beyond the format's limit", { 192: 4_161_601 }, SALTS.superblock, "EUCLEAN"],
    ["an index block outside the device", { 208: 2048 }, SALTS.superblock, "EUCLEAN"],
  ] as const)("%s", async (_name, fields, salt, code) => {
    const bench = await usedPool();
    change(bench.metadata, 0, fields, salt);
    const before = bench.metadata.contents();
    expect(await load(bench)).toBe(code);
    expect(Buffer.compare(bench.metadata.contents(), before)).toBe(0);
  });

  test("a damaged index block; damaged bitmaps, trees and details only when they are used", async () => {
    let bench = await usedPool();
    change(bench.metadata, blockOfRole(bench, "metadata index"), { 40: 1 });
    expect(await load(bench)).toBe("EILSEQ");
    for (const role of [
      "data bitmap",
      "metadata bitmap",
      "mapping",
      "details",
      "devices",
      "data index",
      "data overflow",
    ]) {
      bench = await usedPool();
      change(bench.metadata, blockOfRole(bench, role), { 4000: 1 });
      expect(await load(bench), role).toBe("ok");
    }
  });

  test("a failing look-up answers with an error and leaves the mode alone", async () => {
    const bench = await usedPool();
    const { blocks } = checkMetadata(deviceSource(bench.metadata));
    for (const [number, { role }] of blocks) if (role === "mapping") change(bench.metadata, number, { 4000: 1 });
    const again = await PoolBench.open({ from: bench });
    const thin = again.thin(0);
    expect(await codeOfFailure(() => thin.read(0, new Uint8Array(512)))).toBe("EILSEQ");
    expect(thin.statusParams()).toBe("Error");
    expect(again.pool.mode).toBe("write");
    await thin.close();
    await again.pool.close();
  });
});

describe("what opening accepts and commits keep", () => {
  test("uuid, version 1, unknown flags, compat flags, odd sizes", async () => {
    const bench = await usedPool();
    const odd = { 4: 0xf0, 16: 0x11223344, 28: 0x55667788, 40: 1, 340: 8, 344: 77, 352: 0xabcd };
    change(bench.metadata, 0, odd, SALTS.superblock);
    const again = await PoolBench.open({ from: bench });
    await again.message("create_thin 9");
    await again.close();
    const bytes = new Uint8Array(4096);
    again.metadata.sync.read(0, bytes);
    const view = new DataView(bytes.buffer);
    for (const [offset, value] of Object.entries(odd))
      expect([offset, view.getUint32(Number(offset), true)]).toEqual([offset, value]);
  });

  test("needs_check: opened read-only, nothing is changed", async () => {
    const bench = await usedPool();
    change(bench.metadata, 0, { 4: 1 }, SALTS.superblock);
    const again = await PoolBench.open({ from: bench });
    expect(again.pool.mode).toBe("read-only");
    expect(await codeOfFailure(() => again.message("create_thin 9"))).toBe("EOPNOTSUPP");
    await expectBytes(again.thin(1), 0, pattern(0, 4 * BLOCK, 1));
    await again.close();
  });

  test.skipIf(!HAS_THIN_TOOLS && process.env.CI !== "true")(
    "an image that thin_restore made, with its short free counts, opens, grows and is used up",
    async () => {
      const bench = await usedPool();
      const folder = mkdtempSync(join(tmpdir(), "udm-restore-"));
      try {
        const run = (tool: string, ...args: string[]) => {
          const { status, stderr } = spawnSync(tool, args, {
            env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
            encoding: "utf8",
          });
          expect(status, stderr).toBe(0);
        };
        const [from, xml, to] = ["from", "xml", "to"].map((name) => join(folder, name)) as [string, string, string];
        writeFileSync(from, bench.metadata.contents());
        writeFileSync(to, new Uint8Array(bench.metadata.sizeBytes));
        run("thin_dump", "-o", xml, from);
        run("thin_restore", "-i", xml, "-o", to);
        const restored = new MemoryDevice({ name: "metadata", sizeBytes: bench.metadata.sizeBytes });
        restored.sync.write(0, new Uint8Array(readFileSync(to)));
        const again = await PoolBench.open({ from: { metadata: restored, data: bench.data }, thinBlocks: 200 });
        const thin = again.thin(0);
        await expectBytes(thin, 512, pattern(512, 4 * BLOCK - 512, 1));
        await again.reload({ dataBlocks: 100 });
        await thin.write(10 * BLOCK, pattern(10 * BLOCK, 95 * BLOCK, 4));
        expect(again.pool.statusNow().usedDataBlocks).toBe(100);
        for (const each of [again.thin(1), thin]) await each.close();
        await again.pool.close();
        expect(thinCheck(restored.contents())).toBeUndefined();
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );
});
