import { expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { pattern, sameBytes } from "../support/block-device-contract.js";
import { crashStates } from "../support/crash.js";
import { RecordingDevice } from "../support/recording-device.js";

test("every crash state holds what was flushed, and of the rest only what was written", () => {
  const before = new MemoryDevice({ sizeBytes: 65536 });
  before.sync.write(0, pattern(65536, 1));
  const device = new RecordingDevice(before.clone());
  const { sync } = device;
  sync?.write(0, pattern(4096, 2));
  sync?.write(4096, pattern(4096, 3));
  sync?.flush();
  sync?.write(0, pattern(4096, 4));
  sync?.writeZeroes(8192, 4096);
  sync?.flush();
  expect(device.log.map((entry) => entry.kind)).toEqual(["write", "write", "flush", "write", "zeroes", "flush"]);
  const seen = new Set<string>();
  for (const { prefix, survival, device: after } of crashStates({ before, log: device.log, seedsPerPrefix: 5 })) {
    seen.add(survival);
    const found = after.contents();
    const [first, second, third] = [found.subarray(0, 4096), found.subarray(4096, 8192), found.subarray(8192, 12288)];
    for (let at = 0; at < 4096; at += 512) {
      const is = (part: Uint8Array, seed: number) =>
        sameBytes(part.subarray(at, at + 512), pattern(4096, seed).subarray(at, at + 512));
      const old = sameBytes(first.subarray(at, at + 512), pattern(65536, 1).subarray(at, at + 512));
      if (prefix < 3) expect(old || (prefix > 0 && is(first, 2))).toBe(true);
      else if (prefix < 6) expect(is(first, 2) || (prefix > 3 && is(first, 4))).toBe(true);
      else expect(is(first, 4)).toBe(true);
      if (prefix >= 3) expect(is(second, 3)).toBe(true);
      if (prefix === 6) expect(third.every((byte) => byte === 0)).toBe(true);
    }
    if (survival === "kept" && prefix === 2) expect(sameBytes(second, pattern(4096, 3))).toBe(true);
    expect(sameBytes(found.subarray(12288), pattern(65536, 1).subarray(12288))).toBe(true);
  }
  expect([...seen].sort()).toEqual(["kept", "lost", "reversed", "sectors", "some", "torn"]);
});

test("the same seed makes the same state", () => {
  const before = new MemoryDevice({ sizeBytes: 65536 });
  const device = new RecordingDevice(before.clone());
  for (let at = 0; at < 65536; at += 4096) device.sync?.write(at, pattern(4096, at / 4096));
  const states = () =>
    [...crashStates({ before, log: device.log, everyPrefix: 5 })].map(({ device: after }) => after.contents());
  const [first, second] = [states(), states()];
  expect(first.length).toBe(second.length);
  expect(first.every((bytes, index) => sameBytes(bytes, second[index]!))).toBe(true);
});
