/** The published schemas, and what they should hold; `npm run schema` writes them. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { NOUNS } from "../../src/commands/schema/documents.js";
import { schemaOf } from "../../src/commands/schema/json-schema.js";

const FOLDER = fileURLToPath(new URL("../../schema/", import.meta.url));

export function wantedFiles(): Readonly<Record<string, string>> {
  return Object.fromEntries(NOUNS.map((noun) => [`${noun}.json`, `${JSON.stringify(schemaOf(noun), undefined, 2)}\n`]));
}

export function presentFiles(): Readonly<Record<string, string>> {
  return Object.fromEntries(readdirSync(FOLDER).map((name) => [name, readFileSync(`${FOLDER}${name}`, "utf8")]));
}

export function writeFiles(): void {
  for (const [name, text] of Object.entries(wantedFiles())) writeFileSync(`${FOLDER}${name}`, text);
}
