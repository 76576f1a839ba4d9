/**
 * Makes test/golden/damage: `npx tsx test/thin/tools/damage/make-goldens.ts [--bases]`. Run it when the catalogue, or
 * what the tools say, changes, and read what git shows of it. Wants thin_check. `--bases` makes the base images too, when
 * test/support/damage-base.ts has changed: every case changes with them.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { DAMAGE_CASES } from "../../../../src/thin/index.js";
import { DAMAGE_BASES, type DamageBase } from "../../../support/damage-base.js";
import { baseModel, basePath, GOLDEN_FOLDER, goldenCases, makeGolden } from "../../../support/damage-golden.js";
import { inParallel } from "../../../support/in-parallel.js";

mkdirSync(new URL("bases/", GOLDEN_FOLDER), { recursive: true });
const names = Object.keys(DAMAGE_BASES) as DamageBase[];
if (process.argv.includes("--bases")) {
  for (const base of names) writeFileSync(basePath(base), gzipSync(DAMAGE_BASES[base](), { level: 9 }));
}
const ids = DAMAGE_CASES.map(({ id }) => id);
for (const id of goldenCases()) if (!ids.includes(id)) rmSync(new URL(`${id}/`, GOLDEN_FOLDER), { recursive: true });
const models = mkdtempSync(join(tmpdir(), "udm-golden-"));
for (const base of names) await baseModel(base, models);
await inParallel(ids, async (id) => {
  const folder = mkdtempSync(join(models, "case-"));
  const files = await makeGolden(id, folder);
  mkdirSync(new URL(`${id}/`, GOLDEN_FOLDER), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(new URL(`${id}/${name}`, GOLDEN_FOLDER), text);
});
rmSync(models, { recursive: true });
