/** Counts, allocation and growth: section 3 of the engine's specification, each rule by name. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import { codeOf } from "../../src/errors/index.js";
import {
  DiskSpaceMap,
  ENTRIES_PER_BITMAP,
  MetadataSpaceMap,
  TransactionManager,
} from "../../src/persistent-data/index.js";
import { BENCH_SUPERBLOCK, type Bench, makeBench } from "../support/metadata-bench.js";

/** A data space map on a bench, committed with it. */
class DataMap {
  map: DiskSpaceMap;

  constructor(
    readonly bench: Bench,
    blocks: number,
  ) {
    this.map = DiskSpaceMap.create(bench.transaction);
    this.map.extend(blocks);
    this.commit();
  }

  commit(): void {
    this.map.commit();
    this.bench.commit();
  }

  /** Index entry of a bitmap, read by its offsets: block, free, none free before. */
  entry(index = 0): number[] {
    return this.entries()[index]!;
  }

  entries(): number[][] {
    const found: number[][] = [];
    const visit = (blocknr: number): void => {
      const bytes = this.bench.blocks.readRaw(blocknr);
      const view = new DataView(bytes.buffer);
      for (let at = 0; at < view.getUint32(16, true); at++) {
        if (view.getUint32(4, true) === 1) visit(view.getUint32(2048 + 8 * at, true));
        else found.push([0, 8, 12].map((offset) => view.getUint32(1376 + 16 * at + offset, true)));
      }
    };
    visit(this.map.root.bitmapRoot);
    return found;
  }

  bitmapOf(index: number): number {
    return this.entries()[index]![0]!;
  }

  /** The bytes of a committed bitmap behind its header. */
  bits(index = 0): Uint8Array {
    return this.bench.blocks.readRaw(this.bitmapOf(index)).subarray(16);
  }
}

function dataMap(blocks: number, metadataBlocks = 2048): DataMap {
  return new DataMap(makeBench(metadataBlocks), blocks);
}

function times<T>(count: number, run: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => run(index));
}

describe("counts", () => {
  test("two bits each, high bit first: 2 1 2 2 1 is 59 02", () => {
    const data = dataMap(100);
    for (const [block, count] of [2, 1, 2, 2, 1].entries())
      for (let at = 0; at < count; at++) data.map.inc(block, block + 1);
    data.commit();
    expect([...data.bits().subarray(0, 3)]).toEqual([0x59, 0x02, 0]);
  });

  test("1 2 3 0 1 1 2 is 36 1a, with the 3 in the overflow tree", () => {
    const data = dataMap(100);
    for (const [block, count] of [1, 2, 3, 0, 1, 1, 2].entries())
      for (let at = 0; at < count; at++) data.map.inc(block, block + 1);
    data.commit();
    expect([...data.bits().subarray(0, 2)]).toEqual([0x36, 0x1a]);
    const overflow = new DataView(data.bench.blocks.readRaw(data.map.root.refCountRoot).buffer);
    expect([16, 32, 2720].map((at) => overflow.getUint32(at, true))).toEqual([1, 2, 3]);
  });

  test("2, 3, 4, 3, 2 goes through the overflow tree and out of it", () => {
    const data = dataMap(100);
    const entries = () => {
      data.commit();
      return new DataView(data.bench.blocks.readRaw(data.map.root.refCountRoot).buffer).getUint32(16, true);
    };
    const seen: number[][] = [];
    for (const change of ["inc", "inc", "inc", "inc", "dec", "dec", "dec", "dec"] as const) {
      data.map[change](7, 8);
      seen.push([data.map.count(7), entries()]);
    }
    expect(seen).toEqual([
      [1, 0],
      [2, 0],
      [3, 1],
      [4, 1],
      [3, 1],
      [2, 0],
      [1, 0],
      [0, 0],
    ]);
  });

  test("a count below zero, and blocks behind the end, are refused", () => {
    const data = dataMap(100);
    for (const wrong of [
      () => data.map.dec(5, 6),
      () => data.map.inc(99, 101),
      () => data.map.count(100),
      () => data.map.dec(100, 101),
    ]) {
      let code: string | undefined;
      try {
        wrong();
      } catch (error) {
        code = codeOf(error);
      }
      expect(code).toBe("EUCLEAN");
    }
  });
});

describe("allocation", () => {
  test("goes upward, does not return to holes before it wraps, and then does", () => {
    const data = dataMap(10);
    expect(times(6, () => data.map.allocate())).toEqual([0, 1, 2, 3, 4, 5]);
    data.commit();
    data.map.dec(1, 3);
    data.commit();
    expect(times(7, () => data.map.allocate())).toEqual([6, 7, 8, 9, 1, 2, undefined]);
  });

  test("a block freed in this transaction is not given out before the commit", () => {
    const data = dataMap(3);
    times(3, () => data.map.allocate());
    data.commit();
    data.map.dec(1, 2);
    expect(data.map.count(1)).toBe(0);
    expect(data.map.nrFree).toBe(1);
    expect(data.map.allocate()).toBeUndefined();
    data.commit();
    expect(data.map.allocate()).toBe(1);
  });

  test("a block allocated and freed in one transaction may be had again", () => {
    const data = dataMap(2);
    expect(data.map.allocate()).toBe(0);
    data.map.dec(0, 1);
    expect(times(3, () => data.map.allocate())).toEqual([1, 0, undefined]);
  });

  test("the cursor outlives commits and starts at the bottom when opened", () => {
    const data = dataMap(10);
    times(4, () => data.map.allocate());
    data.map.dec(0, 4);
    data.commit();
    expect(data.map.allocate()).toBe(4);
    data.commit();
    data.map = DiskSpaceMap.open(data.bench.transaction, data.map.root);
    expect(data.map.allocate()).toBe(0);
  });

  test("the metadata map gives out nothing twice, and says when it is full", () => {
    const bench = makeBench(64);
    const got = new Set<number>();
    for (;;) {
      const block = bench.map.allocate();
      if (block === undefined) break;
      expect(got.has(block)).toBe(false);
      got.add(block);
    }
    expect(bench.map.nrFree).toBe(0);
    // One block was freed by the first shadow of the bitmap, and waits for a commit.
    expect(bench.map.root.nrAllocated).toBe(63);
  });

  test("the metadata map's free count falls with allocations and rises only with commits", () => {
    const bench = makeBench(64);
    bench.commit();
    const before = bench.map.nrFree;
    const block = bench.map.allocate()!;
    const after = bench.map.nrFree;
    expect(after).toBeLessThan(before);
    bench.map.dec(block, block + 1);
    expect(bench.map.nrFree).toBe(after);
    bench.commit();
    bench.commit();
    expect(bench.map.nrFree).toBe(before);
  });
});

describe("the index", () => {
  test("free counts are out of a whole bitmap, also in the last one", () => {
    const data = dataMap(ENTRIES_PER_BITMAP + 5);
    times(3, () => data.map.allocate());
    data.map.inc(ENTRIES_PER_BITMAP + 4, ENTRIES_PER_BITMAP + 5);
    data.commit();
    expect(data.entries().map(([, ...rest]) => rest)).toEqual([
      [ENTRIES_PER_BITMAP - 3, 3],
      [ENTRIES_PER_BITMAP - 1, 0],
    ]);
    expect(data.map.root).toMatchObject({ nrBlocks: ENTRIES_PER_BITMAP + 5, nrAllocated: 4 });
  });

  test("none free before rises with allocations that touch it and falls with frees", () => {
    const data = dataMap(100);
    times(5, () => data.map.allocate());
    data.commit();
    expect(data.entry().slice(1)).toEqual([ENTRIES_PER_BITMAP - 5, 5]);
    data.map.inc(7, 8);
    data.map.dec(2, 3);
    data.commit();
    expect(data.entry().slice(1)).toEqual([ENTRIES_PER_BITMAP - 5, 2]);
    data.map.inc(2, 3);
    data.commit();
    // A bound, not the truth: 3 is in use as well.
    expect(data.entry().slice(1)).toEqual([ENTRIES_PER_BITMAP - 6, 3]);
  });

  test("a short free count in the last bitmap, as old tools write it, is mended by growth", () => {
    const data = dataMap(100);
    times(100, () => data.map.allocate());
    data.commit();
    // As thin_restore 0.9 leaves it: 100 entries, none free.
    const leaf = data.map.root.bitmapRoot;
    const bytes = data.bench.blocks.readRaw(leaf);
    new DataView(bytes.buffer).setUint32(1376 + 8, 0, true);
    data.bench.device.sync.write(leaf * 4096, checksummed(bytes, 121107));
    data.bench.blocks.forget();
    data.map = DiskSpaceMap.open(data.bench.transaction, data.map.root);
    expect(data.map.allocate()).toBeUndefined();
    data.map.extend(150);
    data.commit();
    expect(data.map.allocate()).toBe(100);
    data.commit();
    expect(data.entry()[1]).toBe(ENTRIES_PER_BITMAP - 101);
  });
});

function checksummed(bytes: Uint8Array, salt: number): Uint8Array {
  const view = new DataView(bytes.buffer);
  view.setUint32(0, (crc32c(view, 4) ^ salt) >>> 0, true);
  return bytes;
}

describe("growth of data", () => {
  test("inside a bitmap writes nothing but the root, and is real after the commit", () => {
    const data = dataMap(10);
    const before = { ...data.map.root };
    data.map.extend(20);
    expect(data.map.nrBlocks).toBe(10);
    expect(data.map.nrLiveBlocks).toBe(20);
    data.commit();
    expect(data.map.nrBlocks).toBe(20);
    expect(data.map.root).toEqual({ ...before, nrBlocks: 20 });
    expect(times(21, () => data.map.allocate())).toEqual([...times(20, (index) => index), undefined]);
  });

  test("over borders adds zeroed bitmaps, past 168 the index gets a second leaf", () => {
    const data = dataMap(ENTRIES_PER_BITMAP - 1);
    for (const blocks of [
      ENTRIES_PER_BITMAP,
      ENTRIES_PER_BITMAP + 1,
      3 * ENTRIES_PER_BITMAP,
      201 * ENTRIES_PER_BITMAP - 20,
    ]) {
      data.map.extend(blocks);
      data.commit();
      expect(data.entries().length).toBe(Math.ceil(blocks / ENTRIES_PER_BITMAP));
      const last = blocks - 1;
      data.map.inc(last, last + 1);
      expect(data.map.count(last)).toBe(1);
      data.commit();
    }
    expect(data.entries().length).toBe(201);
    expect(new DataView(data.bench.blocks.readRaw(data.map.root.bitmapRoot).buffer).getUint32(4, true)).toBe(1);
    const reopened = DiskSpaceMap.open(data.bench.transaction, data.map.root);
    for (const block of [ENTRIES_PER_BITMAP - 1, ENTRIES_PER_BITMAP, 201 * ENTRIES_PER_BITMAP - 21])
      expect(reopened.count(block)).toBe(1);
  });
});

describe("shrinking of data", () => {
  test("bitmaps behind the new end and their entries in the index are given up, over leaves of the index", () => {
    const blocks = 2 * ENTRIES_PER_BITMAP + 100;
    const data = dataMap(blocks);
    data.map.inc(5, 8);
    data.commit();
    const allocated = data.bench.map.root.nrAllocated;
    const entries = data.entries().map(([, ...rest]) => rest);
    data.map.extend(201 * ENTRIES_PER_BITMAP - 20);
    data.commit();
    data.map.shrink(blocks);
    expect(data.map.nrLiveBlocks).toBe(blocks);
    data.commit();
    expect(data.bench.map.root.nrAllocated).toBe(allocated);
    expect(data.entries().map(([, ...rest]) => rest)).toEqual(entries);
    const reopened = DiskSpaceMap.open(data.bench.transaction, data.map.root);
    expect([reopened.nrBlocks, reopened.nrFree]).toEqual([blocks, blocks - 3]);
    expect(times(9, (block) => reopened.count(block))).toEqual([0, 0, 0, 0, 0, 1, 1, 1, 0]);
    expect(() => reopened.count(blocks)).toThrow();
  });

  test("in the transaction that grew it, it is as if it had never grown", () => {
    const data = dataMap(100);
    const before = data.map.root;
    data.map.extend(5 * ENTRIES_PER_BITMAP);
    data.map.shrink(100);
    data.commit();
    expect(data.map.root).toEqual({ ...before, bitmapRoot: data.map.root.bitmapRoot });
    expect(data.entries().length).toBe(1);
  });

  test.each([[50], [ENTRIES_PER_BITMAP - 1], [ENTRIES_PER_BITMAP], [2 * ENTRIES_PER_BITMAP]])(
    "a block with an owner behind the new end %i is in the way, and nothing is changed",
    (blocks) => {
      const data = dataMap(3 * ENTRIES_PER_BITMAP);
      data.map.inc(2 * ENTRIES_PER_BITMAP + 7, 2 * ENTRIES_PER_BITMAP + 8);
      data.commit();
      const before = data.map.root;
      expect(() => data.map.shrink(blocks)).toThrow(/block 32647 is in use/);
      expect(data.map.root).toEqual(before);
    },
  );
});

describe("moving counts", () => {
  test("any counts move between any places, over borders of bitmaps and through the overflow tree", () => {
    const size = 3 * ENTRIES_PER_BITMAP;
    const place = fc.oneof(
      fc.integer({ min: 0, max: 300 }),
      fc.integer({ min: ENTRIES_PER_BITMAP - 40, max: ENTRIES_PER_BITMAP + 40 }),
      fc.integer({ min: 2 * ENTRIES_PER_BITMAP - 40, max: size - 60 }),
    );
    const counts = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 50 });
    fc.assert(
      fc.property(place, place, counts, (from, to, wanted) => {
        fc.pre(Math.abs(from - to) >= wanted.length);
        const data = dataMap(size);
        for (const [at, count] of wanted.entries())
          for (let n = 0; n < count; n++) data.map.inc(from + at, from + at + 1);
        data.commit();
        const before = { root: data.map.root, free: data.entries().map(([, free]) => free!) };
        data.map.move(from, to, wanted.length);
        data.commit();
        expect(wanted.map((_, at) => data.map.count(to + at))).toEqual(wanted);
        expect(wanted.map((_, at) => data.map.count(from + at))).toEqual(wanted.map(() => 0));
        expect(data.map.root.nrAllocated).toBe(before.root.nrAllocated);
        const free = data.entries().map(([, each]) => each!);
        expect(free.reduce((sum, each) => sum + each)).toBe(before.free.reduce((sum, each) => sum + each));
        // No free block below what the index says.
        for (const [index, [, , none]] of data.entries().entries()) {
          for (let at = 0; at < Math.min(none!, 60); at++) {
            expect(data.map.count(index * ENTRIES_PER_BITMAP + at)).toBeGreaterThan(0);
          }
        }
        data.map.move(to, from, wanted.length);
        expect(wanted.map((_, at) => data.map.count(from + at))).toEqual(wanted);
      }),
      { numRuns: 60 },
    );
  });

  test("a block without an owner, and a place that has one, are refused", () => {
    const data = dataMap(100);
    data.map.inc(10, 12);
    for (const [from, to] of [
      [20, 30],
      [10, 11],
      [10, 100],
    ] as const) {
      expect(() => data.map.move(from, to, 1)).toThrow();
    }
    expect(() => data.map.move(10, 40, 2)).not.toThrow();
  });
});

describe("growth of metadata", () => {
  const grow = (bench: Bench, blocks: number) => {
    bench.device.resize(blocks * 4096);
    bench.blocks.nrBlocks = blocks;
    bench.map.extend(blocks);
    bench.commit();
  };

  /** Every count of the committed map, read by the offsets of the format; and that the index is right. */
  const countsOf = (bench: Bench): Map<number, number> => {
    const { nrBlocks, bitmapRoot } = bench.map.root;
    const index = new DataView(bench.blocks.readRaw(bitmapRoot).buffer);
    const counts = new Map<number, number>();
    for (let bitmap = 0; bitmap * ENTRIES_PER_BITMAP < nrBlocks; bitmap++) {
      const bits = bench.blocks.readRaw(index.getUint32(16 + 16 * bitmap, true));
      let used = 0;
      for (let entry = 0; entry < ENTRIES_PER_BITMAP; entry++) {
        const raw = (bits[16 + (entry >> 2)]! >> (2 * (entry & 3))) & 3;
        if (raw === 0) continue;
        used++;
        counts.set(bitmap * ENTRIES_PER_BITMAP + entry, [0, 2, 1, 3][raw]!);
      }
      expect(index.getUint32(16 + 16 * bitmap + 8, true)).toBe(ENTRIES_PER_BITMAP - used);
    }
    return counts;
  };

  test.each([
    ["inside a bitmap", 100, 200],
    ["up to a border", 100, ENTRIES_PER_BITMAP],
    ["over one border", 100, ENTRIES_PER_BITMAP + 10],
    ["over many borders", ENTRIES_PER_BITMAP - 1, 5 * ENTRIES_PER_BITMAP + 3],
    ["to the format's limit", 16, 4_161_600],
  ])("%s: the map's own blocks are all that is in use", (_name, from, to) => {
    const bench = makeBench(from);
    bench.commit();
    grow(bench, to);
    const bitmaps = Math.ceil(to / ENTRIES_PER_BITMAP);
    expect(bench.map.nrBlocks).toBe(to);
    // Superblock, index, overflow root, bitmaps.
    expect([...countsOf(bench).values()]).toEqual(times(3 + bitmaps, () => 1));
    expect(bench.map.root.nrAllocated).toBe(3 + bitmaps);
    const reopened = MetadataSpaceMap.open(new TransactionManager(bench.blocks), bench.map.root);
    expect(reopened.count(0)).toBe(1);
    // Without a new bitmap nothing moves; else the index went to the new area.
    expect(reopened.allocate()).toBe(bitmaps === 1 ? 4 : 1);
  });

  test("past 255 bitmaps is refused", () => {
    const bench = makeBench(100);
    expect(() => bench.map.extend(4_161_601)).toThrow(/too large/);
  });
});

describe("changes that come up while one is made", () => {
  test("hundreds of metadata blocks with counts above two, up and down again, leave nothing behind", () => {
    const bench = makeBench(4096);
    bench.commit();
    const before = bench.map.root.nrAllocated;
    const owned = times(800, () => bench.map.allocate()!);
    for (let round = 0; round < 4; round++) {
      for (const block of owned) bench.map.inc(block, block + 1);
      expect(owned.map((block) => bench.map.count(block))).toEqual(owned.map(() => round + 2));
      bench.commit();
    }
    for (let round = 0; round < 5; round++) {
      for (const block of owned) bench.map.dec(block, block + 1);
      bench.commit();
      expect(owned.slice(0, 50).every((block) => bench.map.count(block) >= 4 - round)).toBe(true);
    }
    bench.commit();
    expect(bench.map.root.nrAllocated).toBe(before);
  });
});

describe("a random history equals a plain array of counts", () => {
  const step = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant("allocate" as const),
        at: fc.nat(),
        count: fc.integer({ min: 1, max: 30 }),
      }),
    },
    {
      weight: 5,
      arbitrary: fc.record({ kind: fc.constant("inc" as const), at: fc.nat(), count: fc.integer({ min: 1, max: 30 }) }),
    },
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant("dec" as const), at: fc.nat(), count: fc.integer({ min: 1, max: 30 }) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("commit" as const), at: fc.nat(), count: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("reopen" as const), at: fc.nat(), count: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("abort" as const), at: fc.nat(), count: fc.nat(1) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("grow" as const),
        at: fc.nat(),
        count: fc.integer({ min: 1, max: 90 }),
      }),
    },
  );

  test("data map, reopened to the last commit", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const fresh = new DataMap(makeBench(512), 300);
        let data = fresh.map;
        let live = fresh.bench.transaction;
        let metadata = fresh.bench.map;
        let counts = new Array<number>(300).fill(0);
        let saved = { counts: counts.slice(), data: data.root, metadata: metadata.root };
        const save = () => {
          data.commit();
          metadata.commit();
          fresh.bench.blocks.commit(BENCH_SUPERBLOCK, () => {});
          live.endTransaction();
          saved = { counts: counts.slice(), data: data.root, metadata: metadata.root };
        };
        for (const { kind, at, count } of steps) {
          const block = at % counts.length;
          const end = Math.min(counts.length, block + count);
          switch (kind) {
            case "allocate": {
              const got = data.allocate();
              const free = counts.findIndex((owners, index) => owners === 0 && (saved.counts[index] ?? 0) === 0);
              if (free < 0) expect(got).toBeUndefined();
              else {
                expect(counts[got!]).toBe(0);
                expect(saved.counts[got!] ?? 0).toBe(0);
                counts[got!] = 1;
              }
              break;
            }
            case "inc":
              data.inc(block, end);
              for (let index = block; index < end; index++) counts[index]!++;
              break;
            case "dec":
              for (let index = block; index < end && counts[index]! > 0; index++) {
                data.dec(index, index + 1);
                counts[index]!--;
              }
              break;
            case "commit":
              save();
              break;
            case "reopen":
            case "abort":
              if (kind === "reopen") save();
              fresh.bench.blocks.forget();
              live = new TransactionManager(fresh.bench.blocks);
              metadata = MetadataSpaceMap.open(live, saved.metadata);
              data = DiskSpaceMap.open(live, saved.data);
              counts = saved.counts.slice();
              break;
            case "grow":
              data.extend(counts.length + count);
              counts.push(...new Array<number>(count).fill(0));
              break;
          }
        }
        expect(counts.map((_, index) => data.count(index))).toEqual(counts);
        expect(data.root.nrAllocated).toBe(counts.filter((owners) => owners > 0).length);
        save();
        const reopened = DiskSpaceMap.open(live, saved.data);
        expect(counts.map((_, index) => reopened.count(index))).toEqual(counts);
      }),
      { numRuns: 150 },
    );
  });
});
