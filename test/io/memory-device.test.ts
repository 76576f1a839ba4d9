import { expect, test } from "vitest";
import { MemoryDevice, SliceDevice } from "../../src/io/index.js";
import {
  codeThrown,
  describeBlockDevice,
  isZero,
  pattern,
  readAll,
  sameBytes,
} from "../support/block-device-contract.js";
import { FaultyDevice } from "../support/faulty-device.js";
import { RecordingDevice } from "../support/recording-device.js";

const nothing = async () => {};

describeBlockDevice("memory", {
  make: async (sizeBytes) => ({ device: new MemoryDevice({ sizeBytes }), dispose: nothing }),
});

describeBlockDevice("memory in pages of 64 KiB", {
  make: async (sizeBytes) => ({ device: new MemoryDevice({ sizeBytes, pageBytes: 65536 }), dispose: nothing }),
});

describeBlockDevice("a slice of memory", {
  make: async (sizeBytes) => {
    const below = new MemoryDevice({ sizeBytes: sizeBytes + 3 * 65536 });
    return {
      device: new SliceDevice(below, { offsetBytes: 512 * 7, lengthBytes: sizeBytes }),
      reopen: async () => new SliceDevice(below, { offsetBytes: 512 * 7, lengthBytes: sizeBytes }),
      dispose: nothing,
    };
  },
});

describeBlockDevice("a recording device", {
  make: async (sizeBytes) => ({ device: new RecordingDevice(new MemoryDevice({ sizeBytes })), dispose: nothing }),
});

describeBlockDevice("a faulty device without a fault", {
  make: async (sizeBytes) => ({ device: new FaultyDevice(new MemoryDevice({ sizeBytes })), dispose: nothing }),
});

test("a petabyte costs nothing until it is written", async () => {
  const sizeBytes = 2 ** 50;
  const device = new MemoryDevice({ sizeBytes });
  device.sync.write(sizeBytes - 4096, pattern(4096, 1));
  device.sync.write(2 ** 40, pattern(512, 1));
  expect(device.allocatedBytes).toBe(8192);
  expect(device.sync.knownZeroes(0, sizeBytes)).toBe(2 ** 40);
  expect(await device.extents(0, sizeBytes)).toEqual([
    { offset: 0, length: 2 ** 40, kind: "zeros" },
    { offset: 2 ** 40, length: 4096, kind: "data" },
    { offset: 2 ** 40 + 4096, length: sizeBytes - 2 ** 40 - 8192, kind: "zeros" },
    { offset: sizeBytes - 4096, length: 4096, kind: "data" },
  ]);
  device.sync.discard(0, sizeBytes);
  expect(device.allocatedBytes).toBe(0);
});

test("a device cut off and grown again reads as zeros where it was cut", async () => {
  const device = new MemoryDevice({ sizeBytes: 65536 });
  device.sync.write(0, pattern(65536, 1));
  device.resize(10240);
  device.resize(65536);
  const found = await readAll(device);
  expect(sameBytes(found.subarray(0, 10240), pattern(65536, 1).subarray(0, 10240))).toBe(true);
  expect(isZero(found.subarray(10240))).toBe(true);
});

test("a clone goes its own way", async () => {
  const device = new MemoryDevice({ sizeBytes: 65536 });
  device.sync.write(4096, pattern(4096, 1));
  const copy = device.clone();
  copy.sync.write(4096, pattern(4096, 2));
  device.sync.write(8192, pattern(4096, 3));
  expect(sameBytes(device.contents().subarray(4096, 8192), pattern(4096, 1))).toBe(true);
  expect(sameBytes(copy.contents().subarray(4096, 8192), pattern(4096, 2))).toBe(true);
  expect(isZero(copy.contents().subarray(8192))).toBe(true);
  const again = copy.clone({ sizeBytes: 6144 });
  copy.sync.writeZeroes(4096, 512);
  again.resize(65536);
  expect(sameBytes(again.contents().subarray(4096, 6144), pattern(4096, 2).subarray(0, 2048))).toBe(true);
  expect(isZero(again.contents().subarray(6144))).toBe(true);
  expect(isZero(copy.contents().subarray(4096, 4608))).toBe(true);
  expect(sameBytes(copy.contents().subarray(4608, 8192), pattern(4096, 2).subarray(512))).toBe(true);
  copy.sync.discard(4096, 4096);
  copy.sync.write(4096, pattern(4096, 5));
  expect(sameBytes(again.contents().subarray(4096, 6144), pattern(4096, 2).subarray(0, 2048))).toBe(true);
});

test("a read-only device refuses every change", () => {
  const { sync } = new MemoryDevice({ sizeBytes: 65536, readOnly: true });
  expect(codeThrown(() => sync.write(0, new Uint8Array(512)))).toBe("EROFS");
  expect(codeThrown(() => sync.discard(0, 512))).toBe("EROFS");
  expect(codeThrown(() => sync.writeZeroes(0, 512))).toBe("EROFS");
});

test("a slice outside its device, or not in whole sectors, is refused", () => {
  const below = new MemoryDevice({ sizeBytes: 65536 });
  expect(codeThrown(() => new SliceDevice(below, { offsetBytes: 4096, lengthBytes: 65536 }))).toBe("EINVAL");
  expect(codeThrown(() => new SliceDevice(below, { offsetBytes: 100, lengthBytes: 512 }))).toBe("EINVAL");
  const slice = new SliceDevice(below, { offsetBytes: 512, lengthBytes: 1024, readOnly: true });
  expect(slice.isReadOnly).toBe(true);
  expect(codeThrown(() => slice.sync?.write(0, new Uint8Array(512)))).toBe("EROFS");
});

test("a fault fires at its count, once or from then on", () => {
  const device = new FaultyDevice(new MemoryDevice({ sizeBytes: 65536 }), { on: "write", at: 2, code: "EIO" });
  const write = () => device.sync?.write(0, pattern(512, 1));
  expect([write, write, write].map(codeThrown)).toEqual(["none", "EIO", "none"]);
  device.arm({ on: ["flush", "read"], at: 2, code: "ENOSPC", fromThenOn: true });
  const flush = () => device.sync?.flush();
  const read = () => device.sync?.read(0, new Uint8Array(512));
  expect([read, flush, write, read].map(codeThrown)).toEqual(["none", "ENOSPC", "none", "ENOSPC"]);
});
