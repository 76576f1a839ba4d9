import { expect, test } from "vitest";
import { COMMANDS, FAMILIES } from "../../src/commands/index.js";
import { DOCUMENTS, NOUNS } from "../../src/commands/schema/documents.js";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { faultsOf } from "../support/json-schema.js";
import { runMain } from "./run-main.js";
import { presentFiles, wantedFiles } from "./schema-files.js";

/** Print bytes, not documents. */
const RAW = ["thin read", "device read"];
/** Families whose documents are described with them. */
const ELSEWHERE = ["loop", "pool", "thin", "table", "device", "metadata", "daemon"];
/** Draws on a terminal. */
const DRAWN = ["metadata explore"];

test("the published schemas are those of the commands: `npm run schema` changes nothing", () => {
  expect(presentFiles()).toEqual(wantedFiles());
});

test("every command has a document", () => {
  const told = new Set(NOUNS.flatMap((noun) => DOCUMENTS[noun].commands));
  const own = COMMANDS.filter(({ family }) => family === undefined || ELSEWHERE.includes(family));
  const titles = own.map(({ family, name }) => (family === undefined ? name : `${family} ${name}`));
  expect(titles.filter((title) => !told.has(title) && !DRAWN.includes(title))).toEqual(RAW);
  expect(FAMILIES.map(({ name }) => name)).toEqual(expect.arrayContaining(ELSEWHERE));
});

test("udm schema prints each of them, and lists them", async () => {
  for (const noun of NOUNS) {
    const ran = await runMain(["schema", noun]);
    expect(ran).toMatchObject({ status: 0, stderr: "" });
    expect(JSON.parse(ran.stdout)).toEqual(JSON.parse(JSON.stringify(schemaOf(noun))));
  }
  const listed = JSON.parse((await runMain(["schema", "--json"])).stdout);
  expect(faultsOf(schemaOf("schemas"), listed)).toEqual([]);
  expect(listed.schemas.map(({ noun }: { noun: string }) => noun)).toEqual(NOUNS);
  const unknown = await runMain(["schema", "pool5"]);
  expect(unknown).toMatchObject({ status: 2, stdout: "" });
  expect(unknown.stderr).toMatch(/^udm: schema: no document 'pool5'\nhint: did you mean pools\? one of loops /);
});

test("a value that is not of the shape has faults", () => {
  const event = schemaOf("event");
  expect(faultsOf(event, { version: 1, event: 3 })).toEqual([]);
  expect(faultsOf(event, { version: 2, event: 3 })).toHaveLength(1);
  expect(faultsOf(event, { version: 1, event: -1 })).toHaveLength(1);
  expect(faultsOf(event, { version: 1, event: "3" })).toHaveLength(1);
  expect(faultsOf(event, { version: 1 })).toEqual(["$: no event"]);
  expect(faultsOf(event, { version: 1, event: 1, more: 1 })).toEqual(["$: unknown key more"]);
  expect(faultsOf(schemaOf("answer"), { version: 1, answer: null })).toEqual([]);
});
