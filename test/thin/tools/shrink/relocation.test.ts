/** Sets of blocks with rank and select, and where blocks go, against plain arrays. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { BitRank } from "../../../../src/thin/tools/shrink/bit-rank.js";
import { Relocation } from "../../../../src/thin/tools/shrink/relocation.js";
import "../../../support/seed.js";

const MEMBERS = fc.array(fc.tuple(fc.integer({ min: 0, max: 3000 }), fc.integer({ min: 1, max: 200 }), fc.boolean()), {
  maxLength: 30,
});

/** Runs that are in or out, over [0, length). */
function listOf(length: number, runs: readonly (readonly [number, number, boolean])[]): boolean[] {
  const list = new Array<boolean>(length).fill(false);
  for (const [begin, count, isIn] of runs) list.fill(isIn, begin, Math.min(length, begin + count));
  return list;
}

function setOf(list: readonly boolean[]): BitRank {
  const set = new BitRank(list.length);
  for (const [block, isIn] of list.entries()) if (isIn) set.add(block);
  set.index();
  return set;
}

test("rank, select and neighbours are those of the list", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2000 }), MEMBERS, (length, runs) => {
      const list = listOf(length, runs);
      const set = setOf(list);
      const members = [...list.keys()].filter((block) => list[block]);
      expect(set.count).toBe(members.length);
      for (const [place, member] of members.entries()) expect(set.select(place)).toBe(member);
      expect(set.select(members.length)).toBe(length);
      const blocks = [...list.keys()];
      expect(blocks.map((block) => set.rank(block))).toEqual(
        blocks
          .map((block) => members.findIndex((member) => member >= block))
          .map((at) => (at < 0 ? members.length : at)),
      );
      expect(set.rank(length)).toBe(members.length);
      expect(blocks.filter((block) => set.has(block))).toEqual(members);
      const nextOf = (isIn: boolean) =>
        blocks.map((block) => list.indexOf(isIn, block)).map((at) => (at < 0 ? length : at));
      expect(blocks.map((block) => set.nextIn(block, length))).toEqual(nextOf(true));
      expect(blocks.map((block) => set.nextOut(block, length))).toEqual(nextOf(false));
    }),
    { numRuns: 15 },
  );
});

test("every block in use behind the end goes to a free block of its own, in order, in as few runs as they say", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 3000 }),
      MEMBERS,
      fc.integer({ min: 0, max: 3000 }),
      MEMBERS,
      (limit, below, above, used) => {
        const free = listOf(limit, below);
        const nrFree = free.filter((isFree) => isFree).length;
        // No more than there is room for.
        let left = nrFree;
        const moved = listOf(above, used).map((isUsed) => isUsed && left-- > 0);
        const relocation = new Relocation(setOf(moved), setOf(free));
        const sources = [...moved.keys()].filter((block) => moved[block]).map((block) => limit + block);
        expect(relocation.count).toBe(sources.length);
        let last = -1;
        for (const source of sources) {
          const target = relocation.target(source);
          expect(free[target]).toBe(true);
          expect(target).toBeGreaterThan(last);
          last = target;
        }
        const visited: number[] = [];
        for (const { from, to, length } of relocation.runs(limit, limit + above)) {
          for (let step = 0; step < length; step++) {
            visited.push(from + step);
            expect(relocation.target(from + step)).toBe(to + step);
          }
        }
        expect(visited).toEqual(sources);
        for (let at = limit, count = 0; count < sources.length; ) {
          const end = relocation.endOf(at, 7);
          const inside = sources.filter((source) => source >= at && source < end);
          expect(relocation.countIn(at, end)).toBe(inside.length);
          expect(inside.length).toBe(Math.min(7, sources.length - count));
          expect([...relocation.runs(at, end)].length).toBeGreaterThan(0);
          count += inside.length;
          at = end;
        }
      },
    ),
    { numRuns: 30 },
  );
});

test("short free runs are left alone where long ones suffice", () => {
  const free = listOf(1000, [
    [3, 1, true],
    [10, 2, true],
    [100, 64, true],
    [300, 1, true],
    [500, 70, true],
  ]);
  const relocation = new Relocation(setOf(listOf(200, [[0, 100, true]])), setOf(free));
  expect(Array.from(relocation.runs(1000, 1200), (run) => ({ ...run }))).toEqual([
    { from: 1000, to: 100, length: 64 },
    { from: 1064, to: 500, length: 36 },
  ]);
});
