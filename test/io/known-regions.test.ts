import fc from "fast-check";
import { expect, test } from "vitest";
import { KnownRegions } from "../../src/io/known-regions.js";

const SIZE = 64;

test("what is known never differs from a map of single bytes", () => {
  const step = fc.record({
    kind: fc.constantFrom("zeros", "data", "written"),
    start: fc.nat({ max: SIZE - 1 }),
    length: fc.integer({ min: 0, max: 20 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const known = new KnownRegions();
      const model: ("zeros" | "data" | undefined)[] = new Array(SIZE + 20).fill(undefined);
      for (const { kind, start, length } of steps) {
        const end = start + length;
        if (kind === "written") {
          known.written(start, end);
          for (let at = start; at < end; at++) if (model[at] === "zeros") model[at] = undefined;
        } else {
          known.note(start, end, kind);
          model.fill(kind, start, end);
        }
        for (let at = 0; at < model.length; at++) {
          const region = known.find(at);
          expect(region?.kind).toBe(model[at]);
          if (region === undefined) continue;
          expect(region.end).toBeGreaterThan(at);
          expect(model[region.end]).not.toBe(region.kind);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("more stretches than the bound are forgotten, the last one stays", () => {
  const known = new KnownRegions();
  for (let at = 0; at < 3000; at++) known.note(at * 10, at * 10 + 5, "zeros");
  expect(known.find(2999 * 10)).toMatchObject({ kind: "zeros" });
  expect(known.find(0)).toBeUndefined();
});
