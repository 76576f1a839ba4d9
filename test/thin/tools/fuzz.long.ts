/**
 * A hundred thousand damaged images (UDM_TEST_FUZZ=FROM:COUNT for others): our check never hangs, fails, or says clean
 * where thin_check finds damage; where the two differ a rule says who is right. The other tools on some of them.
 */
import { expect, test } from "vitest";
import { fuzzBases } from "../../support/fuzz-bases.js";
import { fuzzMetadata } from "../../support/metadata-fuzz.js";
import { HAS_THIN_TOOLS } from "../../support/thin-tools.js";

const [FROM = 0, COUNT = 100_000] = (process.env.UDM_TEST_FUZZ ?? "0:100000").split(":").map(Number);

test.skipIf(!HAS_THIN_TOOLS)(
  `${COUNT} damaged images from ${FROM} on: no wrong "clean", no hang, no failure`,
  async () => {
    const result = await fuzzMetadata({ bases: fuzzBases(), from: FROM, count: COUNT });
    expect(result.wrong).toEqual([]);
    expect(result.images).toBe(COUNT);
    expect(result.agreedClean).toBeGreaterThan(COUNT / 10);
    expect(result.agreedDamaged).toBeGreaterThan(COUNT / 2);
  },
);
