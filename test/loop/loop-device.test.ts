import { chmodSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loopSizeBytes, loopWarnings, openLoop, takeUpLoop } from "../../src/loop/index.js";
import { codeThrown, describeBlockDevice, pattern, readAll, sameBytes } from "../support/block-device-contract.js";
import { makeFolder, temporaryFolder } from "../support/make-folder.js";

describeBlockDevice("a loop device", {
  make: async (sizeBytes) => {
    const folder = makeFolder();
    const file = join(folder, "disk.img");
    writeFileSync(file, "");
    truncateSync(file, sizeBytes + 65536 + 100);
    const loop = takeUpLoop({ number: 3, file, offsetBytes: 4096, sizeLimitBytes: sizeBytes });
    const device = openLoop(loop);
    return {
      device,
      reopen: async () => openLoop({ ...loop, readOnly: true }),
      dispose: async () => {
        await device.close();
        rmSync(folder, { recursive: true });
      },
    };
  },
  runs: 10,
});

// The captures of losetup: files of 1 MiB, 4 MiB, 1000 bytes, none.
test.each([
  [1048576, {}, 1048576],
  [4194304, { offsetBytes: 4096 }, 8184 * 512],
  [4194304, { offsetBytes: 1048576, sizeLimitBytes: 1048576 }, 1048576],
  [4194304, { offsetBytes: 8388608 }, 0],
  [1000, {}, 512],
  [0, {}, 0],
  [4194304, { sizeLimitBytes: 1000 }, 512],
  [4194304, { offsetBytes: 4193792, sizeLimitBytes: 4096 }, 512],
])("of a file of %i bytes, with %o, a loop device takes up %i", (fileBytes, options, wanted) => {
  expect(loopSizeBytes(fileBytes, options)).toBe(wanted);
  const file = join(temporaryFolder(), "f");
  writeFileSync(file, "");
  truncateSync(file, fileBytes);
  if ("sizeLimitBytes" in options && options.sizeLimitBytes % 512 !== 0) {
    expect(codeThrown(() => takeUpLoop({ number: 0, file, ...options }))).toBe("EINVAL");
  } else expect(takeUpLoop({ number: 0, file, ...options }).sizeBytes).toBe(wanted);
});

test("warnings are losetup's", () => {
  expect(loopWarnings("/tmp/odd", 1000)).toEqual([
    "/tmp/odd: Warning: file does not fit into a 512-byte sector; the end of the file will be ignored.",
  ]);
  expect(loopWarnings("/tmp/empty", 0)).toEqual([
    "/tmp/empty: Warning: file is smaller than 512 bytes; the loop device may be useless or invisible for system tools.",
  ]);
  expect(loopWarnings("/tmp/a", 4096)).toEqual([]);
});

test("the size taken up stays when the file grows, and a file cut off is refused with what was found and wanted", async () => {
  const file = join(temporaryFolder(), "data.img");
  writeFileSync(file, pattern(65536, 1));
  const loop = takeUpLoop({ number: 1, file });
  truncateSync(file, 131072);
  await using device = openLoop(loop);
  await device.refreshSize();
  expect(device.sizeBytes).toBe(65536);
  expect(sameBytes(await readAll(device), pattern(65536, 1))).toBe(true);
  truncateSync(file, 40000);
  expect(() => openLoop(loop)).toThrow(`7:1 (${file}): ${file} is truncated: found 40000 bytes, wanted 65536`);
  expect(codeThrown(() => openLoop(loop))).toBe("EIO");
  rmSync(file);
  expect(codeThrown(() => openLoop(loop))).toBe("ENOENT");
});

test("a read-only loop device leaves its file alone", async () => {
  const file = join(temporaryFolder(), "f");
  writeFileSync(file, pattern(4096, 1));
  const loop = takeUpLoop({ number: 1, file, readOnly: true });
  await using device = openLoop(loop);
  expect(device.isReadOnly).toBe(true);
  expect(codeThrown(() => device.sync?.write(0, new Uint8Array(512)))).toBe("EROFS");
  expect(sameBytes(readFileSync(file), pattern(4096, 1))).toBe(true);
});

const isRoot = process.getuid?.() === 0;
test.skipIf(isRoot)(
  `a file that may not be written is taken read-only${isRoot ? ": root may write everything" : ""}`,
  () => {
    const file = join(temporaryFolder(), "f");
    writeFileSync(file, new Uint8Array(4096));
    chmodSync(file, 0o400);
    expect(takeUpLoop({ number: 1, file }).readOnly).toBe(true);
  },
);

test("sector sizes are 512 to 4096, powers of two", () => {
  const file = join(temporaryFolder(), "f");
  writeFileSync(file, new Uint8Array(8192));
  for (const sectorBytes of [512, 1024, 2048, 4096]) {
    expect(takeUpLoop({ number: 1, file, sectorBytes }).sectorBytes).toBe(sectorBytes);
  }
  for (const sectorBytes of [0, 500, 3072, 8192]) {
    expect(codeThrown(() => takeUpLoop({ number: 1, file, sectorBytes }))).toBe("EINVAL");
  }
});
