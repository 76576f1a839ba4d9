/**
 * Every case of damage as a golden folder: the generator makes the same image still, check finds what it found, thin_check
 * agrees or the folder says who is right, and what mends it leaves a clean pool. Where the tools say something new on purpose:
 * `npx tsx test/thin/tools/damage/make-goldens.ts`, and a look at what git shows.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DAMAGE_CASES } from "../../../../src/thin/index.js";
import { NODE_DAMAGE } from "../../../../src/thin/tools/damage/node-damage.js";
import { DAMAGE_BASES, type DamageBase } from "../../../support/damage-base.js";
import {
  baseModel,
  type CaseFiles,
  damageBase,
  goldenCases,
  makeGolden,
  makePatch,
  mappingsIn,
  outcomeOf,
  readBase,
  readGolden,
  reportOf,
  withoutThinCheck,
} from "../../../support/damage-golden.js";
import { inParallel } from "../../../support/in-parallel.js";
import { HAS_THIN_TOOLS, thinCheck } from "../../../support/thin-tools.js";

const BASES = Object.keys(DAMAGE_BASES) as DamageBase[];
/** Running all tools over all cases takes long; each run does some of them. */
const CASES =
  process.env.UDM_TEST_LONG === undefined ? DAMAGE_CASES.filter((_, index) => index % 8 === 0) : DAMAGE_CASES;
/** What is known of what can be lost at all: nothing but mappings of the damaged nodes. */
const LEAF_DAMAGE = DAMAGE_CASES.filter(({ id }) => /^(leaf|internal)-/.test(id) && isNodeDamage(id));
/** Notes at most: the pool works as it is. */
const NOTHING_TO_REPAIR = [
  ...["clock-behind", "details-time", "details-transaction", "device-larger", "mapping-time", "metadata-block-size"],
  ...["data-hint-high", "metadata-hint-high"],
  ...["superblock-flags", "superblock-read-only", "superblock-version", "superblock-version-zero"],
];
/** Repair says that there is nothing it could make a pool of. */
const NOTHING_LEFT = ["device-empty", "device-one-block", "region-all-but-superblock", "region-everything"];
let folder: string;
const made = new Map<string, CaseFiles>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "udm-goldens-"));
  for (const base of BASES) await baseModel(base, folder);
  await inParallel(CASES, async ({ id }) => {
    made.set(id, await makeGolden(id, mkdtempSync(join(folder, "case-"))));
  });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("there is a folder for each case, and no other", () => {
  expect(goldenCases()).toEqual(DAMAGE_CASES.map(({ id }) => id).sort());
});

test.each(BASES)("the base image '%s' is what the engine makes, and clean", (base) => {
  expect(Buffer.compare(readBase(base), DAMAGE_BASES[base]())).toBe(0);
  if (HAS_THIN_TOOLS) expect(thinCheck(readBase(base))).toBeUndefined();
});

function isNodeDamage(id: string): boolean {
  return Object.keys(NODE_DAMAGE).some((way) => id === `leaf-${way}` || id === `internal-${way}`);
}

test.each(DAMAGE_CASES)("$id: the generator and the folder are in step", ({ id }) => {
  const golden = readGolden(id);
  const damaged = damageBase(id);
  expect(makePatch(damaged.base, damaged.image)).toBe(golden["image.patch"]);
  expect(golden["README.md"]).not.toContain("UNEXPLAINED");
});

describe.each(CASES)("$id", ({ id }) => {
  test("the tools say what they said", () => {
    const golden = readGolden(id);
    const now = made.get(id)!;
    if (HAS_THIN_TOOLS) expect(now["README.md"]).toBe(golden["README.md"]);
    const expected = golden["expected.txt"];
    expect(now["expected.txt"]).toBe(HAS_THIN_TOOLS ? expected : withoutThinCheck(expected));
  });
});

describe("what is expected", () => {
  test.each(DAMAGE_CASES)("$id: what was mended or repaired is clean to check and to thin_check", ({ id }) => {
    const { "expected.txt": text } = readGolden(id);
    const second = text.split("\n\n").filter((part) => part.startsWith("$ udm metadata check repaired"));
    for (const part of second) expect(part).toMatch(/^clean\nexit status 0$/m);
    expect(text).not.toContain("$ thin_check repaired: damage");
    const mended = /--auto-repair\n[^$]*\$ udm metadata check image\n[^$]*/.exec(text)?.[0];
    if (mended !== undefined) expect(mended).toMatch(/^clean\nexit status 0$/m);
    if (!text.includes("check repaired")) expect([...NOTHING_TO_REPAIR, ...NOTHING_LEFT, ...mendedIds()]).toContain(id);
  });

  test.each(DAMAGE_CASES.filter(({ area }) => area === "data map" || area === "metadata map"))(
    "$id: damage of a space map loses nothing",
    ({ id }) => {
      const outcome = outcomeOf(readGolden(id)["expected.txt"]);
      if (outcome !== undefined) expect(outcome).toMatchObject({ lost: 0, isTrue: true });
      else expect(NOTHING_TO_REPAIR).toContain(id);
    },
  );

  test.each(DAMAGE_CASES.filter(({ id }) => /^((mapping|details)-root-|devices-internal-|roots-exchanged)/.test(id)))(
    "$id: the top of a tree of devices that is lost is found again, with all below it",
    ({ id }) => {
      const text = readGolden(id)["expected.txt"];
      expect(outcomeOf(text)).toMatchObject({ lost: 0, isTrue: true });
      expect(text).not.toMatch(/^device \d+: \w+ was/m);
    },
  );

  test.each(LEAF_DAMAGE)("$id: no more is lost than lies below the damage, and nothing is made up", async ({ id }) => {
    const { base, image } = damageBase(id);
    const report = (await reportOf(image))!;
    const outcome = outcomeOf(readGolden(id)["expected.txt"])!;
    expect(outcome.isTrue).toBe(true);
    expect(outcome.lost).toBeLessThanOrEqual(mappingsIn(base, report));
    if (id.startsWith("leaf-")) expect(outcome.lost).toBe(mappingsIn(base, report));
  });
});

/** Cases whose second check is that of the mended image. */
function mendedIds(): string[] {
  return DAMAGE_CASES.map(({ id }) => id).filter((id) => readGolden(id)["expected.txt"].includes("--auto-repair"));
}
