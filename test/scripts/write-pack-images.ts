/** Writes the devices whose packs lie in test/golden/packed: `npx tsx test/scripts/write-pack-images.ts FOLDER`. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PACK_IMAGES } from "../support/packed-metadata.js";

const folder = process.argv[2];
if (folder === undefined) throw new Error("name a folder");
mkdirSync(folder, { recursive: true });
for (const [name, image] of Object.entries(PACK_IMAGES)) writeFileSync(join(folder, `${name}.img`), image());
