import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UsageError } from "../../src/errors/index.js";
import {
  bytesToSectors,
  formatBytes,
  formatSectors,
  parseSize,
  parseSizeChange,
  SECTOR_BYTES,
  sectorsToBytes,
} from "../../src/units/index.js";

describe("sizes people type", () => {
  test.each([
    ["512", 512],
    ["0", 0],
    ["8s", 4096],
    ["8S", 4096],
    ["12b", 12],
    ["64k", 65536],
    ["64K", 65536],
    ["64KiB", 65536],
    ["64kb", 65536],
    ["10g", 10 * 2 ** 30],
    ["200GB", 200 * 2 ** 30],
    ["1.5tib", 1.5 * 2 ** 40],
    ["0.5k", 512],
    [" 1m ", 2 ** 20],
    ["7p", 7 * 2 ** 50],
  ])("%s is %d bytes", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(["", "k", "-1", "1x", "1 k", "1.5", "1.5b", "0.3k", "1e3", "0x10", "1,5k", "8p", "1e", "٣k", "1sb"])(
    "%j is refused with a hint",
    (text) => {
      try {
        parseSize(text, "length");
        expect.unreachable();
      } catch (error) {
        expect(error).toBeInstanceOf(UsageError);
        expect((error as UsageError).message).toContain("length");
        expect((error as UsageError).hint).toBeTruthy();
      }
    },
  );

  test("a change is absolute, a number of bytes, or a share", () => {
    expect(parseSizeChange("10g")).toEqual({ kind: "absolute", bytes: 10 * 2 ** 30 });
    expect(parseSizeChange("+10g")).toEqual({ kind: "grow", bytes: 10 * 2 ** 30 });
    expect(parseSizeChange("+20%")).toEqual({ kind: "growPercent", percent: 20 });
    for (const wrong of ["20%", "-1g", "+", "+%", "++1"]) expect(() => parseSizeChange(wrong)).toThrow(UsageError);
  });
});

describe("sizes people read", () => {
  test.each([
    [0, "0B"],
    [1023, "1023B"],
    [1024, "1K"],
    [1536, "1.5K"],
    [10 * 2 ** 30, "10G"],
    [2 ** 40 - 1, "1T"],
  ])("%d bytes are %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test("fixed units have two places and name themselves", () => {
    expect(formatBytes(2 ** 30, "m")).toBe("1024.00m");
    expect(formatBytes(1e9, "G")).toBe("1.00G");
    expect(formatBytes(4096, "s")).toBe("8s");
    expect(formatBytes(4097, "b")).toBe("4097");
    expect(formatSectors(1023)).toBe("1s");
  });

  test("whole sectors, bytes and back", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 40), (sectors) => {
        expect(bytesToSectors(sectorsToBytes(sectors))).toBe(sectors);
        expect(bytesToSectors(sectors * SECTOR_BYTES + 511)).toBe(sectors);
        expect(parseSize(formatBytes(sectors * SECTOR_BYTES, "s"))).toBe(sectors * SECTOR_BYTES);
      }),
    );
  });
});
