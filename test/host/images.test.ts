/** Whole images in and out: what is written, what is left out, and what shows in between. */
import { closeSync, ftruncateSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs";
import { expect, test } from "vitest";
import { MIB, makeHost, makePool, pattern, read, type TestHost, write } from "./make-host.js";

const BLOCK = 65536;

/** An image whose named stretches hold a pattern; the rest is a hole. */
function sparseImage(path: string, bytes: number, stretches: readonly (readonly [number, number])[]): Buffer {
  const fd = openSync(path, "w");
  for (const [index, [from, to]] of stretches.entries())
    writeSync(fd, pattern(to - from, index + 1), 0, to - from, from);
  ftruncateSync(fd, bytes);
  closeSync(fd);
  return readFileSync(path);
}

async function mappedBytes(host: TestHost, name: string): Promise<number | undefined> {
  return (await host.listThins()).find((thin) => thin.name === name)?.mappedBytes;
}

test("zeros that an image spells out take no room, neither in a pool nor in an exported file", async () => {
  const host = await makeHost();
  await makePool(host);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
  const bytes = Buffer.alloc(16 * MIB);
  const data = [
    [0, 1],
    [5 * BLOCK + 4096, 5 * BLOCK + 8192],
    [100 * BLOCK, 131 * BLOCK],
    [256 * BLOCK - 1, 256 * BLOCK],
  ] as const;
  for (const [from, to] of data) bytes.fill(0xaa, from, to);
  writeFileSync(host.path("image"), bytes);
  await host.importDevice("a", host.path("image"), { verify: true });
  expect(await mappedBytes(host, "a")).toBe((1 + 1 + 31 + 1) * BLOCK);

  await host.exportDevice("a", host.path("out"), { verify: true });
  expect(readFileSync(host.path("out")).equals(bytes)).toBe(true);
  expect(statSync(host.path("out")).blocks * 512).toBeLessThanOrEqual((1 + 1 + 31 * 16 + 1) * 4096);
});

test("what an import leaves out gives its blocks back, also where the pool had no others", async () => {
  const host = await makeHost();
  await makePool(host);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 64 * MIB });
  await write(host, "a", pattern(64 * MIB, 9));
  const image = sparseImage(host.path("image"), 64 * MIB, [[40 * MIB, 44 * MIB]]);
  await host.importDevice("a", host.path("image"), { verify: true });
  expect((await read(host, "a")).equals(image)).toBe(true);
  expect(await mappedBytes(host, "a")).toBe(4 * MIB);
});

test.each([
  ["zeroes new blocks", []],
  ["leaves what was in them", ["skip_block_zeroing"]],
  ["leaves what was in them and takes no discards", ["skip_block_zeroing", "ignore_discard"]],
])("holes read as zeros in a pool of large blocks that %s", async (_, features) => {
  const host = await makeHost();
  writeFileSync(host.path("meta.img"), Buffer.alloc(8 * MIB));
  writeFileSync(host.path("data.img"), Buffer.alloc(64 * MIB, 0xee));
  await host.attachLoop({ file: host.path("meta.img") });
  await host.attachLoop({ file: host.path("data.img") });
  const words = ["0", (64 * MIB) / 512, "thin-pool", "7:0", "7:1", "2048", "0", features.length, ...features];
  await host.createPool({ name: "pool", source: { kind: "table", table: words.join(" ") } });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
  const image = sparseImage(host.path("image"), 30 * MIB, [
    [MIB + 3 * BLOCK, MIB + 4 * BLOCK],
    [MIB + 9 * BLOCK, MIB + 9 * BLOCK + 512],
    [7 * MIB - BLOCK, 7 * MIB + BLOCK],
    [20 * MIB, 25 * MIB + 512],
  ]);
  await host.importDevice("a", host.path("image"), { verify: true });
  const found = await read(host, "a");
  expect(found.subarray(0, image.length).equals(image)).toBe(true);
  expect(found.subarray(image.length).every((byte) => byte === 0)).toBe(true);
});

test("an image that shrinks while it is read is an error, and nothing of it is under way afterwards", async () => {
  const host = await makeHost();
  await makePool(host);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
  writeFileSync(host.path("image"), pattern(16 * MIB, 1));
  let isCut = false;
  const importing = host.importDevice("a", host.path("image"), {
    progress: () => {
      if (isCut) return;
      isCut = true;
      const fd = openSync(host.path("image"), "r+");
      ftruncateSync(fd, 4 * MIB);
      closeSync(fd);
    },
  });
  await expect(importing).rejects.toMatchObject({ code: "EIO" });
  await host.importDevice("a", host.path("image"), { verify: true });
});
