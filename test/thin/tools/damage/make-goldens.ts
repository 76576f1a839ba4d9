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
import {
  baseModel,
  basePath,
  comparedWithThinCheck,
  damageBase,
  GOLDEN_FOLDER,
  goldenCases,
  makePatch,
  readmeOf,
  transcriptOf,
} from "../../../support/damage-golden.js";

mkdirSync(new URL("bases/", GOLDEN_FOLDER), { recursive: true });
const names = Object.keys(DAMAGE_BASES) as DamageBase[];
if (process.argv.includes("--bases")) {
  for (const base of names) writeFileSync(basePath(base), gzipSync(DAMAGE_BASES[base](), { level: 9 }));
}
const ids = DAMAGE_CASES.map(({ id }) => id);
for (const id of goldenCases()) if (!ids.includes(id)) rmSync(new URL(`${id}/`, GOLDEN_FOLDER), { recursive: true });
for (const id of ids) {
  const folder = mkdtempSync(join(tmpdir(), "udm-golden-"));
  for (const base of names) await baseModel(base, folder);
  const damaged = damageBase(id);
  const files = {
    "README.md": readmeOf(damaged, await comparedWithThinCheck(damaged.image)),
    "image.patch": makePatch(damaged.base, damaged.image),
    "expected.txt": await transcriptOf(damaged, folder),
  };
  mkdirSync(new URL(`${id}/`, GOLDEN_FOLDER), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(new URL(`${id}/${name}`, GOLDEN_FOLDER), text);
  rmSync(folder, { recursive: true });
}
