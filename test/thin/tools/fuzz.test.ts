/** The first of the images of fuzz.long.ts. */
import { expect, test } from "vitest";
import { fuzzBases } from "../../support/fuzz-bases.js";
import { fuzzMetadata, mutatedImage } from "../../support/metadata-fuzz.js";
import { HAS_THIN_TOOLS } from "../../support/thin-tools.js";

const COUNT = 312;

test.skipIf(!HAS_THIN_TOOLS)(
  `${COUNT} damaged images: check agrees with thin_check, or a rule says why not`,
  async () => {
    const bases = fuzzBases();
    const result = await fuzzMetadata({ bases, from: 0, count: COUNT });
    expect(result.wrong).toEqual([]);
    expect(result.images).toBe(COUNT);
    expect(result.agreedClean).toBeGreaterThan(COUNT / 10);
    expect(result.agreedDamaged).toBeGreaterThan(COUNT / 2);
    expect(result.explained.size).toBeGreaterThan(4);
    expect(result.repaired).toBeGreaterThan(5);
  },
);

test.skipIf(!HAS_THIN_TOOLS)("an image can be made again by its number", () => {
  const bases = fuzzBases();
  for (const number of [200]) {
    const [one, other] = [mutatedImage(bases, number), mutatedImage(bases, number)];
    expect(other.what).toBe(one.what);
    expect(Buffer.compare(other.bytes, one.bytes)).toBe(0);
  }
});
