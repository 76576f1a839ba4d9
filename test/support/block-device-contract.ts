/**
 * What every BlockDevice promises, as one suite. A test file calls `describeBlockDevice` with a way to make an empty
 * device; what cannot hold for it is listed in `exceptions` with the reason, which becomes the name of the skipped test.
 */
import { readSync } from "node:fs";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { codeOf } from "../../src/errors/index.js";
import type { BlockDevice } from "../../src/io/index.js";

export interface DeviceUnderTest {
  readonly device: BlockDevice;
  /** Opens what is stored a second time, to see what a reader would find. Absent: nothing outlives the device. */
  readonly reopen?: () => Promise<BlockDevice>;
  readonly dispose: () => Promise<void>;
}

export type ContractCase = "reads zeros at first" | "reopens" | "discards";

export interface ContractOptions {
  /** A new device of exactly so many bytes, a multiple of 64 KiB, reading as zeros. */
  readonly make: (sizeBytes: number) => Promise<DeviceUnderTest>;
  readonly exceptions?: Partial<Record<ContractCase, string>>;
  /** Runs of the random comparison with a plain array. */
  readonly runs?: number;
}

const SIZE = 1024 * 1024;
const SECTOR = 512;

export function describeBlockDevice(name: string, options: ContractOptions): void {
  describe(`${name} as a block device`, () => {
    let made: DeviceUnderTest;
    beforeEach(async () => {
      made = await options.make(SIZE);
    });
    afterEach(() => made.dispose());
    const unlessExcepted = (which: ContractCase, title: string, run: () => Promise<void>) => {
      const reason = options.exceptions?.[which];
      if (reason === undefined) test(title, run);
      else test.skip(`${title}: ${reason}`, run);
    };

    test("has the size asked for and a name", () => {
      expect(made.device.sizeBytes).toBe(SIZE);
      expect(made.device.name).not.toBe("");
      expect([512, 1024, 2048, 4096]).toContain(made.device.logicalBlockBytes);
    });

    unlessExcepted("reads zeros at first", "reads as zeros at first", async () => {
      expect(isZero(await readAll(made.device))).toBe(true);
    });

    test("where it tells in which files its bytes lie, they lie there", async () => {
      const { device } = made;
      await device.write(65536, pattern(3 * 65536 + SECTOR, 2));
      await device.write(12 * 65536 + SECTOR, pattern(SECTOR, 3));
      await device.discard(2 * 65536, 65536);
      const from = 65536 + 3 * SECTOR;
      const located = device.locate?.(from, SIZE - from - SECTOR);
      if (located === undefined) return;
      const found = Buffer.alloc(SIZE);
      let at = from;
      for (const { offset, length, fd, fileOffset } of located) {
        expect(offset).toBeGreaterThanOrEqual(at);
        expect(readSync(fd, found, offset, length, fileOffset)).toBe(length);
        at = offset + length;
      }
      expect(at).toBeLessThanOrEqual(SIZE - SECTOR);
      const wanted = await readAll(device);
      expect(found.subarray(from, SIZE - SECTOR).equals(wanted.subarray(from, SIZE - SECTOR))).toBe(true);
    });

    test("gives back what was written, and leaves the neighbours alone", async () => {
      const { device } = made;
      await device.write(0, pattern(SIZE, 1));
      for (const [offset, length] of [
        [0, SECTOR],
        [SECTOR, SECTOR],
        [4096 - SECTOR, 2 * SECTOR],
        [65536, 65536],
        [3 * SECTOR, 9 * SECTOR],
        [SIZE - SECTOR, SECTOR],
      ] as const) {
        await device.write(0, pattern(SIZE, 1));
        await device.write(offset, pattern(length, 99));
        const wanted = pattern(SIZE, 1);
        wanted.set(pattern(length, 99), offset);
        expect(sameBytes(await readAll(device), wanted)).toBe(true);
      }
    });

    test("reads into the middle of a larger buffer without touching the rest", async () => {
      await made.device.write(0, pattern(8192, 3));
      const large = new Uint8Array(16384).fill(0xee);
      await made.device.read(SECTOR, large.subarray(100, 100 + 4096));
      expect(sameBytes(large.subarray(100, 4196), pattern(8192, 3).subarray(SECTOR, SECTOR + 4096))).toBe(true);
      expect(large.subarray(0, 100).every((byte) => byte === 0xee)).toBe(true);
      expect(large.subarray(4196).every((byte) => byte === 0xee)).toBe(true);
    });

    test("refuses what leaves the device, and changes nothing", async () => {
      const { device } = made;
      await device.write(0, pattern(SIZE, 7));
      const before = await readAll(device);
      const wrong: [number, number][] = [
        [SIZE, SECTOR],
        [SIZE - SECTOR, 2 * SECTOR],
        [-SECTOR, SECTOR],
        [2 ** 52, SECTOR],
      ];
      for (const [offset, length] of wrong) {
        expect(await failureOf(device.read(offset, new Uint8Array(length)))).toBe("EINVAL");
        expect(await failureOf(device.write(offset, new Uint8Array(length)))).toBe("EINVAL");
        expect(await failureOf(device.discard(offset, length))).toBe("EINVAL");
        expect(await failureOf(device.writeZeroes(offset, length))).toBe("EINVAL");
        expect(await failureOf(device.extents(offset, length))).toBe("EINVAL");
      }
      expect(sameBytes(await readAll(device), before)).toBe(true);
    });

    test("refuses what is not in whole sectors", async () => {
      const { device } = made;
      for (const [offset, length] of [
        [1, SECTOR],
        [0, 100],
        [256, 256],
      ] as const) {
        expect(await failureOf(device.read(offset, new Uint8Array(length)))).toBe("EINVAL");
        expect(await failureOf(device.write(offset, new Uint8Array(length)))).toBe("EINVAL");
      }
    });

    test("a transfer of nothing does nothing", async () => {
      await made.device.write(SIZE, new Uint8Array(0));
      await made.device.read(SIZE, new Uint8Array(0));
      await made.device.writeZeroes(0, 0);
      await made.device.discard(0, 0);
      expect(await made.device.extents(SIZE, 0)).toEqual([]);
    });

    test("zeroed bytes read as zeros, and only they", async () => {
      const { device } = made;
      for (const [offset, length] of [
        [0, SIZE],
        [65536, 131072],
        [SECTOR, 3 * SECTOR],
        [4096 * 5 + SECTOR, 4096 * 3],
      ] as const) {
        await device.write(0, pattern(SIZE, 5));
        await device.writeZeroes(offset, length);
        const wanted = pattern(SIZE, 5).fill(0, offset, offset + length);
        expect(sameBytes(await readAll(device), wanted)).toBe(true);
      }
    });

    unlessExcepted("discards", "discarded bytes read as zeros or as before, and others stay", async () => {
      const { device } = made;
      await device.write(0, pattern(SIZE, 6));
      const [offset, length] = [65536 + SECTOR, 131072];
      await device.discard(offset, length);
      const found = await readAll(device);
      const before = pattern(SIZE, 6);
      expect(sameBytes(found.subarray(0, offset), before.subarray(0, offset))).toBe(true);
      expect(sameBytes(found.subarray(offset + length), before.subarray(offset + length))).toBe(true);
      const isOneOfTheTwo = found.every((byte, at) => byte === before[at] || byte === 0);
      expect(isOneOfTheTwo).toBe(true);
    });

    test("extents cover the range in order without gap, and what they call zeros reads as zeros", async () => {
      const { device } = made;
      await device.write(65536, pattern(65536, 8));
      await device.write(SIZE - 65536, pattern(SECTOR, 9));
      for (const [from, length] of [
        [0, SIZE],
        [SECTOR, SIZE - 2 * SECTOR],
        [65536, 65536],
        [70000 - (70000 % SECTOR), 131072],
      ] as const) {
        let at = from;
        let last = "";
        for (const extent of await device.extents(from, length)) {
          expect(extent.offset).toBe(at);
          expect(extent.length).toBeGreaterThan(0);
          expect(extent.kind).not.toBe(last);
          last = extent.kind;
          if (extent.kind === "zeros") expect(isZero(await readPart(device, at, extent.length))).toBe(true);
          at += extent.length;
        }
        expect(at).toBe(from + length);
      }
    });

    unlessExcepted("reopens", "what was flushed is there for the next who opens it", async () => {
      await made.device.write(4096, pattern(65536, 10));
      await made.device.write(SIZE - SECTOR, pattern(SECTOR, 11), { fua: true });
      await made.device.flush();
      if (made.reopen === undefined) return;
      const again = await made.reopen();
      expect(sameBytes(await readPart(again, 4096, 65536), pattern(65536, 10))).toBe(true);
      expect(sameBytes(await readPart(again, SIZE - SECTOR, SECTOR), pattern(SECTOR, 11))).toBe(true);
      await again.close();
    });

    test("a transfer larger than a megabyte's parts is whole", async () => {
      await made.device.write(0, pattern(SIZE, 12));
      expect(sameBytes(await readAll(made.device), pattern(SIZE, 12))).toBe(true);
    });

    test("both sides see the same bytes", async () => {
      const { device } = made;
      const { sync } = device;
      if (sync === undefined) return;
      sync.write(8192, pattern(4096, 13));
      expect(sameBytes(await readPart(device, 8192, 4096), pattern(4096, 13))).toBe(true);
      await device.write(16384, pattern(4096, 14));
      const buffer = new Uint8Array(4096);
      sync.read(16384, buffer);
      expect(sameBytes(buffer, pattern(4096, 14))).toBe(true);
      sync.writeZeroes(8192, 4096);
      expect(isZero(await readPart(device, 8192, 4096))).toBe(true);
      sync.discard(16384, 4096);
      sync.flush();
      for (const [offset, length] of [
        [SIZE, SECTOR],
        [100, SECTOR],
      ] as const) {
        expect(codeThrown(() => sync.read(offset, new Uint8Array(length)))).toBe("EINVAL");
        expect(codeThrown(() => sync.write(offset, new Uint8Array(length)))).toBe("EINVAL");
        expect(codeThrown(() => sync.writeZeroes(offset, length))).toBe("EINVAL");
        expect(codeThrown(() => sync.discard(offset, length))).toBe("EINVAL");
      }
    });

    test("random transfers leave what a plain array says, and known zeros are zeros", async () => {
      const { device } = made;
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
          await device.writeZeroes(0, SIZE);
          const model = new Uint8Array(SIZE);
          for (const each of steps) await apply(device, model, each);
          const found = await readAll(device);
          // A discard may leave either; the model took what was read then.
          expect(sameBytes(found, model)).toBe(true);
        }),
        { numRuns: options.runs ?? 20 },
      );
    });

    test("may be closed twice", async () => {
      await made.device.close();
      await made.device.close();
    });
  });
}

interface Step {
  readonly kind: "write" | "zero" | "discard" | "known" | "flush" | "syncWrite";
  readonly offset: number;
  readonly length: number;
  readonly seed: number;
}

const step: fc.Arbitrary<Step> = fc
  .record({
    kind: fc.constantFrom("write", "zero", "discard", "known", "flush", "syncWrite"),
    sector: fc.nat({ max: SIZE / SECTOR - 1 }),
    sectors: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 600 })),
    isAligned: fc.boolean(),
    seed: fc.integer({ min: 1, max: 250 }),
  })
  .map(({ kind, sector, sectors, isAligned, seed }) => {
    const offset = (isAligned ? sector - (sector % 128) : sector) * SECTOR;
    const length = Math.min((isAligned ? Math.ceil(sectors / 128) * 128 : sectors) * SECTOR, SIZE - offset);
    return { kind, offset, length, seed };
  });

async function apply(device: BlockDevice, model: Uint8Array, { kind, offset, length, seed }: Step): Promise<void> {
  switch (kind) {
    case "write":
      await device.write(offset, pattern(length, seed));
      model.set(pattern(length, seed), offset);
      break;
    case "syncWrite":
      if (device.sync === undefined) break;
      device.sync.write(offset, pattern(length, seed));
      model.set(pattern(length, seed), offset);
      break;
    case "zero":
      await device.writeZeroes(offset, length);
      model.fill(0, offset, offset + length);
      break;
    case "discard": {
      await device.discard(offset, length);
      const found = await readPart(device, offset, length);
      expect(found.every((byte, at) => byte === 0 || byte === model[offset + at])).toBe(true);
      model.set(found, offset);
      break;
    }
    case "known": {
      const known = device.sync?.knownZeroes(offset, length) ?? 0;
      expect(known).toBeLessThanOrEqual(length);
      expect(isZero(model.subarray(offset, offset + known))).toBe(true);
      break;
    }
    case "flush":
      await device.flush();
  }
}

/** Bytes that differ with position and seed, and are never zero. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at++) bytes[at] = ((at * 31 + (at >>> 9) * 17 + seed * 101) % 255) + 1;
  return bytes;
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

export async function readPart(device: BlockDevice, offset: number, length: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(length);
  await device.read(offset, buffer);
  return buffer;
}

export function readAll(device: BlockDevice): Promise<Uint8Array> {
  return readPart(device, 0, device.sizeBytes);
}

/** Code of the error a promise is rejected with; "none" when it is not. */
export async function failureOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    return codeOf(error) ?? String(error);
  }
}

/** Code of the error a function throws; "none" when it does not. */
export function codeThrown(run: () => unknown): string {
  try {
    run();
    return "none";
  } catch (error) {
    return codeOf(error) ?? String(error);
  }
}
