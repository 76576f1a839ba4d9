import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { PIECE_BYTES } from "../../src/bytes/crc32c-wasm.js";
import { bytes, crc32c, getU64, MAX_U64_NUMBER, setU64, struct, u32, u64 } from "../../src/bytes/index.js";
import { DamageError, InvariantError } from "../../src/errors/index.js";
import { Random } from "../support/random.js";

function viewOf(data: Uint8Array | string): DataView {
  const all = typeof data === "string" ? new TextEncoder().encode(data) : data;
  return new DataView(all.buffer, all.byteOffset, all.byteLength);
}

/** Bit by bit, as the polynomial says. */
function slowCrc(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return crc >>> 0;
}

describe("crc32c", () => {
  test("gives the known register for 123456789", () => {
    expect(crc32c(viewOf("123456789"))).toBe(0x1cf96d7c);
    expect((crc32c(viewOf("123456789")) ^ 0xffffffff) >>> 0).toBe(0xe3069283);
  });

  test("gives the known register for a block of zeros behind its checksum", () => {
    expect(crc32c(viewOf(new Uint8Array(4096)), 4)).toBe(0x58cda791);
  });

  test("equals the definition on both sides of the length that is worked on in streams", () => {
    const data = new Uint8Array(3 * PIECE_BYTES);
    const random = new Random(3);
    for (let index = 0; index < data.length; index++) data[index] = random.between(0, 255);
    for (const length of [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 4092, 4096, 2 * PIECE_BYTES + 5]) {
      for (const start of [0, 3, 4]) {
        const expected = slowCrc(data.subarray(start, start + length));
        expect(crc32c(viewOf(data), start, start + length)).toBe(expected);
        expect(crc32c(viewOf(data.subarray(start)), 0, length)).toBe(expected);
      }
    }
  });

  test("is the same where there is no WebAssembly", async () => {
    const data = Uint8Array.from({ length: 8192 }, (_, index) => (index * 131) & 0xff);
    const { WebAssembly: runtime } = globalThis as { WebAssembly?: unknown };
    vi.resetModules();
    Object.defineProperty(globalThis, "WebAssembly", { value: undefined, configurable: true, writable: true });
    try {
      const without = await import("../../src/bytes/crc32c.js");
      expect(without.crc32c(viewOf(data), 4)).toBe(slowCrc(data.subarray(4)));
    } finally {
      Object.defineProperty(globalThis, "WebAssembly", { value: runtime, configurable: true, writable: true });
    }
  });

  test("equals the definition for every length, start and end", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(10), fc.nat(10), (data, cutStart, cutEnd) => {
        const start = Math.min(cutStart, data.length);
        const end = Math.max(start, data.length - cutEnd);
        expect(crc32c(viewOf(data), start, end)).toBe(slowCrc(data.subarray(start, end)));
      }),
    );
  });
});

describe("u64", () => {
  test("round trips every number up to 2^53 - 1, low byte first", () => {
    const view = new DataView(new ArrayBuffer(16));
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.nat(8), (number, offset) => {
        setU64(view, offset, number);
        expect(getU64(view, offset)).toBe(number);
        expect(view.getBigUint64(offset, true)).toBe(BigInt(number));
      }),
    );
    setU64(view, 0, MAX_U64_NUMBER);
    expect(getU64(view, 0)).toBe(MAX_U64_NUMBER);
  });

  test("refuses what a number cannot hold, in both directions", () => {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, 2n ** 53n, true);
    expect(() => getU64(view, 0)).toThrow(DamageError);
    view.setBigUint64(0, 2n ** 64n - 1n, true);
    expect(() => getU64(view, 0)).toThrow(/above 2\^53/);
    for (const wrong of [-1, 1.5, 2 ** 53, Number.NaN]) expect(() => setU64(view, 0, wrong)).toThrow(InvariantError);
  });
});

describe("struct", () => {
  test("refuses gaps, overlaps and a wrong total", () => {
    expect(() => struct("gap", 12, { a: u32(0, ""), b: u32(8, "") })).toThrow(/gap\.b starts at 8, wanted 4/);
    expect(() => struct("overlap", 8, { a: u64(0, ""), b: u32(4, "") })).toThrow(/overlap\.b starts at 4, wanted 8/);
    expect(() => struct("total", 9, { a: u64(0, "") })).toThrow(/covers 8 bytes, wanted 9/);
  });

  test("writes what it reads, at any base, and leaves the neighbours alone", () => {
    const layout = struct("sample", 20, { a: u32(0, ""), b: u64(4, ""), c: bytes(12, 8, "") });
    fc.assert(
      fc.property(
        fc.nat(0xffffffff),
        fc.maxSafeNat(),
        fc.uint8Array({ minLength: 8, maxLength: 8 }),
        fc.nat(12),
        (a, b, c, base) => {
          const around = new Uint8Array(40).fill(0xee);
          const view = viewOf(around);
          layout.write(view, { a, b, c }, base);
          expect(layout.read(view, base)).toEqual({ a, b, c });
          expect([layout.get.a(view, base), layout.get.b(view, base)]).toEqual([a, b]);
          expect(around.subarray(0, base).every((byte) => byte === 0xee)).toBe(true);
          expect(around.subarray(base + 20).every((byte) => byte === 0xee)).toBe(true);
        },
      ),
    );
  });

  test("gives byte fields as copies", () => {
    const layout = struct("sample", 4, { a: bytes(0, 4, "") });
    const view = viewOf(new Uint8Array([1, 2, 3, 4]));
    const read = layout.read(view).a;
    view.setUint32(0, 0, true);
    expect([...read]).toEqual([1, 2, 3, 4]);
  });
});
