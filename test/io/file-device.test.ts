import { existsSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { SpaceError } from "../../src/errors/index.js";
import { FileDevice, nativeCalls, nativeSupport, run, setFileSize } from "../../src/io/index.js";
import {
  codeThrown,
  describeBlockDevice,
  failureOf,
  isZero,
  pattern,
  readAll,
  readPart,
  sameBytes,
} from "../support/block-device-contract.js";
import { attachLoop, detachLoop, whyNoKernelLoops } from "../support/kernel-loops.js";
import { makeFolder, temporaryFolder } from "../support/make-folder.js";

const native = nativeCalls();
const noLoops = whyNoKernelLoops();

function onFile(options: Parameters<typeof FileDevice.open>[1] = {}) {
  return async (sizeBytes: number) => {
    const folder = makeFolder();
    const path = join(folder, "disk.img");
    const file = { ...options, offsetBytes: options.offsetBytes ?? 0 };
    const device = FileDevice.open(path, { ...file, createBytes: file.offsetBytes + sizeBytes });
    return {
      device,
      reopen: async () => FileDevice.open(path, { ...file, readOnly: true }),
      dispose: async () => {
        await device.close();
        rmSync(folder, { recursive: true });
      },
    };
  };
}

describeBlockDevice("a file", { make: onFile() });
describeBlockDevice("a part of a file", { make: onFile({ offsetBytes: 512 * 13 }) });
describeBlockDevice("a file that is served to others", { make: onFile({ isServing: true, offsetBytes: 512 * 13 }) });
describeBlockDevice("a file without koffi", { make: onFile({ native: "none" }), runs: 5 });
describeBlockDevice("a file past the page cache", { make: onFile({ direct: true }) });
describeBlockDevice("a part of a file past the page cache", { make: onFile({ direct: true, offsetBytes: 512 * 5 }) });

test("a long write to a file that is served has all its bytes, wherever it begins", async () => {
  const folder = temporaryFolder();
  await using device = FileDevice.open(join(folder, "disk.img"), { createBytes: 256 * 1024, isServing: true });
  const model = new Uint8Array(256 * 1024);
  for (const [offset, length] of [
    [0, 16384],
    [512, 16384],
    [15872, 1024],
    [16384, 65536],
    [66048, 131072],
    [0, 262144],
  ] as const) {
    const bytes = new Uint8Array(length).map((_, index) => (index * 31 + offset / 512 + length) % 251);
    device.sync.write(offset, bytes);
    model.set(bytes, offset);
    const found = new Uint8Array(model.length);
    device.sync.read(0, found);
    expect(found).toEqual(model);
  }
});

function onLoop(options: Parameters<typeof FileDevice.open>[1] = {}, ...losetup: string[]) {
  return async (sizeBytes: number) => {
    const folder = makeFolder();
    const file = join(folder, "disk.img");
    writeFileSync(file, "");
    truncateSync(file, sizeBytes);
    const loop = await attachLoop(file, ...losetup);
    const device = FileDevice.open(loop, options);
    return {
      device,
      reopen: async () => FileDevice.open(loop, { ...options, readOnly: true }),
      dispose: async () => {
        await device.close();
        await detachLoop(loop);
        rmSync(folder, { recursive: true });
      },
    };
  };
}

describe.skipIf(noLoops !== undefined)(`block devices${noLoops === undefined ? "" : `: ${noLoops}`}`, () => {
  describeBlockDevice("a block device", { make: onLoop(), runs: 10 });
  describeBlockDevice("a block device of 4096-byte sectors", { make: onLoop({}, "--sector-size", "4096"), runs: 10 });
  describeBlockDevice("a block device of 4096-byte sectors past the page cache", {
    make: onLoop({ direct: true }, "--sector-size", "4096"),
    runs: 10,
  });
  describeBlockDevice("a block device without koffi", { make: onLoop({ native: "none" }), runs: 3 });

  test("size, sector size and discard unit are the device's", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "disk.img");
    writeFileSync(file, "");
    truncateSync(file, 1048576);
    const loop = await attachLoop(file, "--sector-size", "4096");
    try {
      for (const calls of [{}, { native: "none" as const }]) {
        await using device = FileDevice.open(loop, calls);
        expect(device.isBlockDevice).toBe(true);
        expect(device.sizeBytes).toBe(1048576);
        expect(device.logicalBlockBytes).toBe(4096);
        expect(device.discardGranularityBytes).toBeGreaterThan(0);
        expect(device.sync.knownZeroes(0, 65536)).toBe(0);
      }
    } finally {
      await detachLoop(loop);
    }
  });

  test("a discard of a block device frees the file below", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "disk.img");
    writeFileSync(file, pattern(1048576, 1));
    const loop = await attachLoop(file);
    try {
      await using device = FileDevice.open(loop);
      await device.discard(0, 1048576);
      await device.flush();
      expect(isZero(await readAll(device))).toBe(true);
      expect(statSync(file).blocks).toBeLessThan(64);
    } finally {
      await detachLoop(loop);
    }
  });

  test("a read-only block device is refused for writing, and taken read-only where that is allowed", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "disk.img");
    writeFileSync(file, new Uint8Array(65536));
    const loop = await attachLoop(file, "--read-only");
    try {
      expect(codeThrown(() => FileDevice.open(loop))).toBe("EROFS");
      await using device = FileDevice.open(loop, { fallBackToReadOnly: true });
      expect(device.isReadOnly).toBe(true);
      expect(device.discardGranularityBytes).toBe(0);
    } finally {
      await detachLoop(loop);
    }
  });

  test("an exclusive opening keeps out the next one, and ends with its close", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "disk.img");
    writeFileSync(file, new Uint8Array(65536));
    const loop = await attachLoop(file);
    try {
      const first = FileDevice.open(loop, { exclusive: true });
      expect(codeThrown(() => FileDevice.open(loop, { exclusive: true }))).toBe("EBUSY");
      await first.close();
      await FileDevice.open(loop, { exclusive: true }).close();
    } finally {
      await detachLoop(loop);
    }
  });
});

describe("size of a file device", () => {
  test("is what lies behind the offset, within the limit, in whole sectors", async () => {
    const path = join(temporaryFolder(), "f");
    writeFileSync(path, new Uint8Array(10000));
    const sizes = [
      [{}, 9728],
      [{ offsetBytes: 4096 }, 5632],
      [{ sizeLimitBytes: 4096 }, 4096],
      [{ offsetBytes: 8192, sizeLimitBytes: 4096 }, 1536],
      [{ sizeLimitBytes: 1000 }, 512],
      [{ offsetBytes: 16384 }, 0],
      [{ sizeLimitBytes: 0 }, 9728],
    ] as const;
    for (const [options, wanted] of sizes) {
      await using device = FileDevice.open(path, options);
      expect(device.sizeBytes).toBe(wanted);
    }
  });

  test("follows the file only when asked to", async () => {
    const path = join(temporaryFolder(), "f");
    await using device = FileDevice.open(path, { createBytes: 65536 });
    setFileSize(path, 131072);
    expect(device.sizeBytes).toBe(65536);
    await device.refreshSize();
    expect(device.sizeBytes).toBe(131072);
  });

  test("a promised size holds when the file grew, and is refused when it was cut off", async () => {
    const path = join(temporaryFolder(), "f");
    writeFileSync(path, new Uint8Array(65536));
    const device = FileDevice.open(path, { fixedSizeBytes: 32768, offsetBytes: 8192 });
    expect(device.sizeBytes).toBe(32768);
    await device.close();
    truncateSync(path, 40000);
    expect(() => FileDevice.open(path, { fixedSizeBytes: 32768, offsetBytes: 8192, name: "7:1" })).toThrow(
      `7:1: ${path} is truncated: found 40000 bytes, wanted 40960`,
    );
  });
});

describe("what cannot be opened", () => {
  test("is refused with the system's code", () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "f"), new Uint8Array(4096));
    symlinkSync("loop", join(folder, "loop"));
    expect(codeThrown(() => FileDevice.open(join(folder, "nothing")))).toBe("ENOENT");
    expect(codeThrown(() => FileDevice.open(join(folder, "f", "below")))).toBe("ENOENT");
    expect(codeThrown(() => FileDevice.open(folder))).toBe("EINVAL");
    expect(codeThrown(() => FileDevice.open(join(folder, "loop")))).toBe("EINVAL");
    expect(codeThrown(() => FileDevice.open("/dev/null"))).toBe("ENOTBLK");
    expect(codeThrown(() => FileDevice.open(join(folder, "f"), { offsetBytes: 100 }))).toBe("EINVAL");
    expect(codeThrown(() => FileDevice.open(join(folder, "f"), { sectorBytes: 8192 }))).toBe("EINVAL");
    expect(codeThrown(() => FileDevice.open(join(folder, "f"), { sectorBytes: 500 }))).toBe("EINVAL");
  });

  test("a file that is there is opened, not made again", async () => {
    const path = join(temporaryFolder(), "f");
    writeFileSync(path, pattern(8192, 1));
    await using device = FileDevice.open(path, { createBytes: 65536 });
    expect(device.sizeBytes).toBe(8192);
    expect(sameBytes(await readAll(device), pattern(8192, 1))).toBe(true);
  });

  test("a file larger than the file system allows leaves nothing behind", () => {
    const path = join(temporaryFolder(), "f");
    expect(codeThrown(() => FileDevice.open(path, { createBytes: 2 ** 60 }))).not.toBe("none");
    expect(existsSync(path)).toBe(false);
  });
});

describe("holes", () => {
  test("a sparse file stays sparse under zeroing and discards", async () => {
    const path = join(temporaryFolder(), "f");
    await using device = FileDevice.open(path, { createBytes: 64 * 1048576 });
    await device.writeZeroes(0, 64 * 1048576);
    await device.flush();
    expect(statSync(path).blocks).toBeLessThan(64);
    await device.write(1048576, pattern(1048576, 1));
    await device.discard(1048576, 1048576);
    await device.flush();
    expect(statSync(path).blocks).toBeLessThan(64);
    expect(statSync(path).size).toBe(64 * 1048576);
  });

  test.skipIf(native === undefined)(
    "known zeros are asked for once, and our own writes and discards keep them true",
    async () => {
      const path = join(temporaryFolder(), "f");
      writeFileSync(path, "");
      truncateSync(path, 1048576);
      let questions = 0;
      const counting = {
        ...native!,
        seekData: (fd: number, offset: number) => {
          questions++;
          return native!.seekData(fd, offset);
        },
      };
      await using device = FileDevice.open(path, { native: counting });
      const { sync } = device;
      expect(sync.knownZeroes(0, 65536)).toBe(65536);
      for (let offset = 0; offset < 1048576; offset += 65536) {
        expect(sync.knownZeroes(offset, 65536)).toBe(65536);
        sync.write(offset, pattern(65536, 1));
        expect(sync.knownZeroes(offset, 65536)).toBe(0);
      }
      const afterWriting = questions;
      expect(afterWriting).toBeLessThanOrEqual(18);
      sync.discard(131072, 65536);
      expect(sync.knownZeroes(131072, 131072)).toBe(65536);
      sync.discard(196608, 65536);
      expect(sync.knownZeroes(131072, 131072)).toBe(131072);
      sync.write(135168, pattern(4096, 2));
      expect(sync.knownZeroes(131072, 131072)).toBe(4096);
      expect(sync.knownZeroes(139264, 65536)).toBe(65536);
      expect(questions).toBeLessThanOrEqual(afterWriting + 1);
      expect(isZero(await readPart(device, 139264, 65536))).toBe(true);
    },
  );

  test.skipIf(native === undefined)("extents tell holes from data", async () => {
    const path = join(temporaryFolder(), "f");
    await using device = FileDevice.open(path, { createBytes: 1048576 });
    await device.write(262144, pattern(65536, 1));
    expect(await device.extents(0, 1048576)).toEqual([
      { offset: 0, length: 262144, kind: "zeros" },
      { offset: 262144, length: 65536, kind: "data" },
      { offset: 327680, length: 720896, kind: "zeros" },
    ]);
    expect(await device.extents(266240, 8192)).toEqual([{ offset: 266240, length: 8192, kind: "data" }]);
  });

  test("without system calls everything is data, and nothing is known", async () => {
    const path = join(temporaryFolder(), "f");
    await using device = FileDevice.open(path, { createBytes: 65536, native: "none" });
    expect(await device.extents(0, 65536)).toEqual([{ offset: 0, length: 65536, kind: "data" }]);
    expect(device.sync.knownZeroes(0, 65536)).toBe(0);
    expect(codeThrown(() => FileDevice.open(path, { direct: true, native: "none" }))).toBe("EOPNOTSUPP");
  });
});

describe("failures", () => {
  test("a file cut off while it is open reads as an error that says where", async () => {
    const path = join(temporaryFolder(), "f");
    await using device = FileDevice.open(path, { createBytes: 4 * 1048576 });
    truncateSync(path, 1048576 + 512);
    expect(() => device.sync.read(1048576, new Uint8Array(4096))).toThrow(
      `${path}: truncated: wanted 4096 bytes at 1048576, ${path} ends at 1049088`,
    );
    expect(await failureOf(device.read(0, new Uint8Array(2 * 1048576)))).toBe("EIO");
    expect(await failureOf(device.extents(0, 4 * 1048576))).toBe(native === undefined ? "none" : "EIO");
    expect(device.sync.knownZeroes(2 * 1048576, 65536)).toBe(0);
  });

  test.skipIf(native === undefined)("a discard that finds no room says so", async () => {
    const path = join(temporaryFolder(), "f");
    const failing = {
      ...native!,
      punchHole: () => {
        throw new SpaceError("punching a hole: no space left on device");
      },
    };
    await using device = FileDevice.open(path, { createBytes: 65536, native: failing });
    expect(() => device.sync.discard(0, 4096)).toThrow(`${path}: discard of 4096 bytes at 0: no space left on device`);
  });

  const noRoot = process.getuid?.() === 0 ? "" : ": needs root";
  test.skipIf(noRoot !== "")(
    `a full disk under a sparse file is ENOSPC with the room that is left${noRoot}`,
    async () => {
      const folder = temporaryFolder();
      await run("mount", ["-t", "tmpfs", "-o", "size=1m", "udm-test", folder]);
      try {
        const path = join(folder, "f");
        await using device = FileDevice.open(path, { createBytes: 64 * 1048576 });
        const fill = async (write: (offset: number) => Promise<void>) => {
          for (let offset = 0; offset < 64 * 1048576; offset += 2097152) await write(offset);
        };
        for (const size of [65536, 2097152]) {
          const failure = await fill((offset) => device.write(offset, new Uint8Array(size).fill(1))).then(
            () => undefined,
            (error: unknown) => error,
          );
          expect(failure).toBeInstanceOf(SpaceError);
          expect((failure as SpaceError).message).toContain("no space left on device");
          expect((failure as SpaceError).hint).toMatch(
            /^the file system of .* is full: \d+ bytes are free there; make room/,
          );
        }
        // What is there can still be read, and room comes back with a discard.
        await device.discard(0, 64 * 1048576);
        await device.write(0, pattern(65536, 1));
        expect(sameBytes(await readPart(device, 0, 65536), pattern(65536, 1))).toBe(true);
      } finally {
        await run("umount", [folder]);
      }
    },
  );

  test("a read-only device refuses every change on both sides", async () => {
    const path = join(temporaryFolder(), "f");
    writeFileSync(path, pattern(65536, 1));
    await using device = FileDevice.open(path, { readOnly: true });
    expect(device.isReadOnly).toBe(true);
    expect(await failureOf(device.write(0, new Uint8Array(512)))).toBe("EROFS");
    expect(await failureOf(device.write(0, new Uint8Array(0)))).toBe("EROFS");
    expect(await failureOf(device.discard(0, 512))).toBe("EROFS");
    expect(await failureOf(device.writeZeroes(0, 512))).toBe("EROFS");
    await device.flush();
    expect(sameBytes(readFileSync(path), pattern(65536, 1))).toBe(true);
  });

  test("large transfers go through the thread pool and are whole", async () => {
    const path = join(temporaryFolder(), "f");
    await using device = FileDevice.open(path, { createBytes: 16 * 1048576 });
    const bytes = pattern(5 * 1048576 + 512, 3);
    const other = pattern(3 * 1048576, 4);
    await Promise.all([device.write(512, bytes), device.write(8 * 1048576, other)]);
    await device.flush();
    expect(sameBytes(await readPart(device, 512, bytes.length), bytes)).toBe(true);
    expect(sameBytes(await readPart(device, 8 * 1048576, other.length), other)).toBe(true);
  });
});

test("a closed device refuses everything, whoever has its descriptor's number now", async () => {
  const folder = temporaryFolder();
  for (const options of native === undefined ? [{}] : [{}, { direct: true }]) {
    const device = FileDevice.open(join(folder, "f"), { createBytes: 65536, ...options });
    await device.close();
    await using other = FileDevice.open(join(folder, "other"), { createBytes: 65536 });
    expect(() => device.sync.write(0, pattern(4096, 1))).toThrow("write of 4096 bytes at 0: it is closed");
    expect(await failureOf(device.read(0, new Uint8Array(512)))).toBe("EIO");
    expect(isZero(await readAll(other))).toBe(true);
  }
});

test("flushes that meet wait for each other, and none is lost", async () => {
  const path = join(temporaryFolder(), "f");
  await using device = FileDevice.open(path, { createBytes: 65536 });
  const done: string[] = [];
  device.sync.write(0, pattern(4096, 1));
  const first = device.flush().then(() => done.push("first"));
  const second = device.flush().then(() => done.push("second"));
  device.sync.write(4096, pattern(4096, 2));
  const third = device.flush().then(() => done.push("third"));
  device.sync.flush();
  await Promise.all([second, third]);
  expect(done[0]).toBe("first");
  await first;
  expect(done.length).toBe(3);
});

test("a flush that failed stays failed", async () => {
  const path = join(temporaryFolder(), "f");
  const device = FileDevice.open(path, { createBytes: 65536 });
  await device.close();
  expect(await failureOf(device.flush())).toBe("EIO");
  await expect(device.flush()).rejects.toThrow(`${path}: an earlier flush failed, writes before it may be lost`);
  expect(codeThrown(() => device.sync.flush())).toBe("EIO");
});

test("the system calls are there on this machine, or it is said why not", () => {
  const { available, reason } = nativeSupport();
  expect(available).toBe(native !== undefined);
  expect(reason === undefined).toBe(available);
});
