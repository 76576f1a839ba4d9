/**
 * Every case of damage as a golden folder: the generator makes the same image still, check finds what it found, thin_check
 * agrees or the folder says who is right, and what mends it leaves a clean pool.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DAMAGE_CASES } from "../../../../src/thin/index.js";
import { DAMAGE_BASES, type DamageBase } from "../../../support/damage-base.js";
import {
  applyPatch,
  baseModel,
  type CaseFiles,
  goldenCases,
  makeGolden,
  readBase,
  readGolden,
  withoutThinCheck,
} from "../../../support/damage-golden.js";
import { inParallel } from "../../../support/in-parallel.js";
import { HAS_THIN_TOOLS, thinCheck } from "../../../support/thin-tools.js";

const BASES = Object.keys(DAMAGE_BASES) as DamageBase[];
let folder: string;
const made = new Map<string, CaseFiles>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "udm-goldens-"));
  for (const base of BASES) await baseModel(base, folder);
  await inParallel(DAMAGE_CASES, async ({ id }) => {
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

describe.each(DAMAGE_CASES)("$id", ({ id }) => {
  test("the generator and the folder are in step, and the tools say what they said", () => {
    const golden = readGolden(id);
    const now = made.get(id)!;
    expect(now["image.patch"]).toBe(golden["image.patch"]);
    expect(applyPatch(golden["image.patch"]).length % 4096).toBe(0);
    if (HAS_THIN_TOOLS) expect(now["README.md"]).toBe(golden["README.md"]);
    expect(golden["README.md"]).not.toContain("UNEXPLAINED");
    const expected = golden["expected.txt"];
    expect(now["expected.txt"]).toBe(HAS_THIN_TOOLS ? expected : withoutThinCheck(expected));
  });
});
