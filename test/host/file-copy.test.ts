/** Copying with two threads: every byte, the holes, and what happens when one of them fails. */
import { closeSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FileCopy } from "../../src/host/file-copy.js";
import { ImageFile } from "../../src/host/image-file.js";
import { run } from "../../src/io/index.js";
import { temporaryFolder } from "../support/make-folder.js";
import { MIB, pattern } from "./make-host.js";

/** Enough for the second thread. */
const BYTES = 160 * MIB;
const EXTRA = 512;
/** Zeros that the source spells out, some as large as a file system's blocks, some as what threads take at a time. */
const ZEROS = [
  [0, 4096],
  [MIB + 512, MIB + 12_000],
  [5 * MIB - 4096, 9 * MIB + 8192],
  [BYTES - 8192, BYTES + EXTRA],
] as const;

function makeSource(path: string): { readonly fd: number; readonly bytes: Buffer } {
  const bytes = pattern(BYTES + EXTRA, 7);
  for (const [from, to] of ZEROS) bytes.fill(0, from, to);
  const fd = openSync(path, "w+");
  writeSync(fd, bytes, 0, bytes.length, 0);
  return { fd, bytes };
}

test("two threads copy every byte to its place, and leave holes where zeros were", async () => {
  const folder = temporaryFolder();
  const { fd, bytes } = makeSource(join(folder, "source"));
  const target = join(folder, "target");
  using file = new ImageFile(target, 3 * BYTES);
  const reports: number[] = [];
  await using copy = new FileCopy(file, (offset) => reports.push(offset));
  const half = 70 * MIB;
  // The second half lies first in the source, and far away in the target.
  await copy.add({ offset: BYTES, length: BYTES + EXTRA - half, fd, fileOffset: half });
  await copy.add({ offset: 2.5 * BYTES, length: half, fd, fileOffset: 0 });
  await copy.end();
  file.finish();
  closeSync(fd);

  const found = readFileSync(target);
  expect(found.length).toBe(3 * BYTES);
  expect(found.subarray(BYTES, 2 * BYTES + EXTRA - half).equals(bytes.subarray(half))).toBe(true);
  expect(found.subarray(2.5 * BYTES, 2.5 * BYTES + half).equals(bytes.subarray(0, half))).toBe(true);
  expect(found.subarray(0, BYTES).every((byte) => byte === 0)).toBe(true);
  expect(copy.dataBytes).toBeGreaterThan(BYTES - 5 * MIB);
  expect(statSync(target).blocks * 512).toBeLessThanOrEqual(copy.dataBytes + 65536);
  expect(reports.length).toBeGreaterThan(0);
});

test("a source that ends too early is an error, whichever thread meets it", async () => {
  const folder = temporaryFolder();
  const { fd } = makeSource(join(folder, "source"));
  using file = new ImageFile(join(folder, "target"), 2 * BYTES);
  await using copy = new FileCopy(file, () => {});
  await copy.add({ offset: 0, length: 2 * BYTES, fd, fileOffset: 0 });
  await expect(copy.end()).rejects.toThrow("what the device stands on cannot be read");
  closeSync(fd);
});

test.skipIf(process.getuid?.() !== 0)("a full file system is an error that says so (as root)", async () => {
  const folder = temporaryFolder();
  const { fd } = makeSource(join(folder, "source"));
  const small = temporaryFolder();
  await run("mount", ["-t", "tmpfs", "-o", "size=64m", "none", small], { timeoutMs: 10_000 });
  try {
    using file = new ImageFile(join(small, "target"), BYTES);
    await using copy = new FileCopy(file, () => {});
    await copy.add({ offset: 0, length: BYTES, fd, fileOffset: 0 });
    await expect(copy.end()).rejects.toMatchObject({ code: "ENOSPC" });
  } finally {
    await run("umount", [small], { timeoutMs: 10_000 });
    closeSync(fd);
  }
});
