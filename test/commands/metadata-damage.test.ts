/** `udm metadata damage`: names its victim, asks, and keeps its hands off pools. */
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { Claims } from "../../src/io/index.js";
import { DAMAGE_CASES } from "../../src/thin/index.js";
import { makeUsualPool } from "../support/damage-base.js";
import { faultsOf } from "../support/json-schema.js";
import { temporaryFolder } from "../support/make-folder.js";
import { type Ran, runMain } from "./run-main.js";

const POOL = makeUsualPool();

function scene(): { readonly image: string; readonly udm: (line: string) => Promise<Ran> } {
  const folder = temporaryFolder();
  const image = join(folder, "copy.img");
  writeFileSync(image, POOL);
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  const udm = (line: string) =>
    runMain(
      line.split(" ").map((word) => word.replace("@", `${folder}/`)),
      { environment },
    );
  return { image, udm };
}

test("a drill: listed, planned, asked for, done, found", async () => {
  const { image, udm } = scene();
  const listed = await udm("metadata damage --list");
  expect(listed.stdout.split("\n").filter((line) => line !== "")).toHaveLength(DAMAGE_CASES.length);
  const json = JSON.parse((await udm("metadata damage --list --json")).stdout);
  expect(faultsOf(schemaOf("cases"), json)).toEqual([]);
  const planned = await udm("metadata damage @copy.img --case data-leak --dry-run");
  expect(planned).toMatchObject({ status: 0, stderr: "" });
  expect(planned.stdout).toMatch(/^data block \d+: counted 1\n$/);
  const asked = await udm("metadata damage @copy.img --case data-leak");
  expect(asked).toMatchObject({ status: 1, stdout: "" });
  expect(asked.stderr).toMatch(
    /^udm: damage the pool metadata on '.*copy.img' \(data-leak: data block \d+: counted 1\): refused/,
  );
  expect(readFileSync(image).equals(POOL)).toBe(true);
  const done = await udm("metadata damage @copy.img --case data-leak --yes --json");
  expect(faultsOf(schemaOf("damage"), JSON.parse(done.stdout))).toEqual([]);
  expect((await udm("metadata check @copy.img")).status).toBe(4);
  expect((await udm("metadata check @copy.img --auto-repair")).status).toBe(0);
  expect((await udm("metadata check @copy.img")).status).toBe(0);
});

test("a file is cut off where the case says so", async () => {
  const { image, udm } = scene();
  const done = await udm("metadata damage @copy.img --case device-one-block --yes");
  expect(done).toMatchObject({ status: 0, stderr: "", stdout: expect.stringMatching(/^device-one-block: /) });
  expect(statSync(image).size).toBe(4096);
});

test.each([
  ["metadata damage", 2, /^udm: metadata damage: no copy is given\nhint: /],
  ["metadata damage @copy.img", 2, /^udm: metadata damage: no --case is given\nhint: /],
  ["metadata damage @copy.img --case nothing --yes", 2, /^udm: there is no case of damage 'nothing'\nhint: /],
  ["metadata damage @missing.img --case several --yes", 1, /^udm: .*missing.img: no such file or device\nhint: /],
  ["metadata damage @copy.img --case several --seed x", 2, /seed/],
])("%s: exit status %i, and nothing is touched", async (line, status, says) => {
  const { image, udm } = scene();
  const ran = await udm(line);
  expect(ran).toMatchObject({ status, stdout: "", stderr: expect.stringMatching(says) });
  expect(readFileSync(image).equals(POOL)).toBe(true);
});

test("a pool of udm's is refused, by its name and by its file; what somebody has open too", async () => {
  const { image, udm } = scene();
  expect((await udm("pool create pool --data @d --metadata @m --data-size 64m --metadata-size 2m")).status).toBe(0);
  for (const victim of ["pool", "@m"]) {
    const ran = await udm(`metadata damage ${victim} --case superblock-checksum --yes`);
    expect(ran).toMatchObject({ status: 1, stdout: "" });
    expect(ran.stderr).toMatch(/^udm: .*: holds the metadata of pool 'pool'\nhint: copy it into a file/);
  }
  const claim = new Claims().claim({ path: image, role: "metadata", readOnly: false });
  const ran = await udm("metadata damage @copy.img --case superblock-checksum --yes");
  claim.release();
  expect(ran).toMatchObject({ status: 1, stdout: "" });
  expect(readFileSync(image).equals(POOL)).toBe(true);
});
