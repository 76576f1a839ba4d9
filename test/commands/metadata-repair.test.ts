/** `udm metadata repair`: tells before it writes, keeps the input, packs a backup, and opens what it made. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { Claims } from "../../src/io/index.js";
import { makeUsualPool } from "../support/damage-base.js";
import { faultsOf } from "../support/json-schema.js";
import { temporaryFolder } from "../support/make-folder.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { type Ran, runMain } from "./run-main.js";

const POOL = makeUsualPool();

async function scene(damage?: string): Promise<{
  readonly folder: string;
  readonly bad: Buffer;
  readonly udm: (line: string, more?: Parameters<typeof runMain>[1]) => Promise<Ran>;
}> {
  const folder = temporaryFolder();
  writeFileSync(join(folder, "bad.img"), POOL);
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  const udm = (line: string, more: Parameters<typeof runMain>[1] = {}) =>
    runMain(
      line.split(" ").map((word) => word.replace("@", `${folder}/`)),
      { environment, ...more },
    );
  if (damage !== undefined) expect((await udm(`metadata damage @bad.img --case ${damage} --yes`)).status).toBe(0);
  return { folder, bad: readFileSync(join(folder, "bad.img")), udm };
}

test("tells what each candidate would keep and lose, and writes nothing for it", async () => {
  const { folder, bad, udm } = await scene("leaf-checksum");
  const told = await udm("metadata repair -i @bad.img --dry-run");
  expect(told).toMatchObject({ status: 0, stderr: "" });
  expect(told.stdout).toMatch(/^candidate 1: the superblock\n {2}transaction 7, time 5, 40000 data blocks of 64K\n/);
  expect(told.stdout).toMatch(/\n {2}device \d+: loses \d+ of \d+ mappings, of virtual blocks \d+ to \d+\n/);
  expect(told.stdout).toMatch(/\ncandidate 2: /);
  const document = JSON.parse((await udm("metadata repair -i @bad.img --dry-run --json")).stdout);
  expect(faultsOf(schemaOf("repair"), document)).toEqual([]);
  expect(document.repair).toMatchObject({ chosen: null, made: null });
  expect(document.repair.candidates[0]).toMatchObject({ number: 1, from: "superblock", whole: false });
  expect(readFileSync(join(folder, "bad.img")).equals(bad)).toBe(true);
});

test("writes a new file that is clean, beside a pack of what was there; the input stays", async () => {
  const { folder, bad, udm } = await scene("metadata-bitmap-zeroed");
  const done = await udm("metadata repair -i @bad.img -o @new.img --json");
  expect(done).toMatchObject({ status: 0, stderr: "" });
  const document = JSON.parse(done.stdout);
  expect(faultsOf(schemaOf("repair"), document)).toEqual([]);
  expect(document.repair.made).toMatchObject({ backup: join(folder, "new.img.before.pack") });
  expect(readFileSync(join(folder, "bad.img")).equals(bad)).toBe(true);
  expect((await udm("metadata check @new.img")).status).toBe(0);
  const repaired = readFileSync(join(folder, "new.img"));
  expect(repaired.length).toBe(bad.length);
  if (HAS_THIN_TOOLS) expect(thinCheck(repaired)).toBeUndefined();
  expect((await udm("metadata unpack -i @new.img.before.pack -o @again.img")).status).toBe(0);
  const findings = async (file: string) => JSON.parse((await udm(`metadata check ${file} --json`)).stdout);
  const [before, after] = [await findings("@bad.img"), await findings("@again.img")];
  expect(JSON.stringify(after).replaceAll("again.img", "bad.img")).toBe(JSON.stringify(before));
});

test("asks before it writes over a pool, and does not over what somebody has open", async () => {
  const { folder, udm } = await scene("leaf-checksum");
  writeFileSync(join(folder, "old.img"), POOL);
  const asked = await udm("metadata repair -i @bad.img -o @old.img");
  expect(asked).toMatchObject({ status: 1, stdout: "" });
  expect(asked.stderr).toMatch(/^udm: overwrite the pool metadata on '.*old.img' \(transaction 7\): refused without/);
  expect(existsSync(join(folder, "old.img.before.pack"))).toBe(false);
  expect(readFileSync(join(folder, "old.img")).equals(POOL)).toBe(true);
  const claim = new Claims().claim({ path: join(folder, "old.img"), role: "somebody's", readOnly: false });
  try {
    const held = await udm("metadata repair -i @bad.img -o @old.img --yes");
    expect(held).toMatchObject({ status: 1, stdout: "" });
    expect(held.stderr).toMatch(/^udm: .*old.img: .*\nhint: /);
  } finally {
    claim.release();
  }
  expect((await udm("metadata repair -i @bad.img -o @old.img --yes")).status).toBe(0);
  expect((await udm("metadata check @old.img")).status).toBe(0);
});

test("a candidate that holds more than the one that was taken is told", async () => {
  const { udm } = await scene("superblock-older");
  const done = await udm("metadata repair -i @bad.img -o @new.img --no-backup");
  expect(done).toMatchObject({ status: 0 });
  expect(done.stderr).toMatch(
    /^udm: candidate 2 holds more: \d+ mappings of another time; --dry-run tells them all\n$/,
  );
  const { candidates } = JSON.parse((await udm("metadata repair -i @bad.img --dry-run --json")).stdout).repair;
  expect(candidates[1].mappings).toBeGreaterThan(candidates[0].mappings);
});

test("another candidate is taken when it is asked for", async () => {
  const { udm } = await scene("leaf-checksum");
  const done = JSON.parse(
    (await udm("metadata repair -i @bad.img -o @second.img --candidate 2 --no-backup --json")).stdout,
  );
  expect(done.repair).toMatchObject({ chosen: 2, made: { backup: null } });
  expect(done.repair.made.mappings).toBe(done.repair.candidates[1].mappings);
  expect((await udm("metadata check @second.img")).status).toBe(0);
});

test("a superblock that is lost costs the size of data blocks, nothing else; dump --repair finds the same", async () => {
  const { udm } = await scene("superblock-and-space-maps-gone");
  const told = JSON.parse((await udm("metadata repair -i @bad.img --dry-run --json")).stdout);
  const [first] = told.repair.candidates;
  const size = first.dataBlockSectors === null ? " --data-block-size 128" : "";
  const done = await udm(`metadata repair -i @bad.img -o @new.img --nr-data-blocks 40000${size}`);
  expect(done).toMatchObject({ status: 0, stderr: "" });
  const dumped = await udm(`metadata dump --repair @bad.img --nr-data-blocks 40000${size}`);
  expect(dumped.status).toBe(0);
  expect(dumped.stderr).toMatch(/its superblock is lost/);
  expect(dumped.stdout).toBe((await udm("metadata dump @new.img")).stdout);
});

test("opens what it made as a read-only pool, to look at the data", async () => {
  const { folder, udm } = await scene("details-checksum");
  writeFileSync(join(folder, "data.img"), "");
  const { truncateSync } = await import("node:fs");
  truncateSync(join(folder, "data.img"), 40000 * 65536);
  const done = await udm("metadata repair -i @bad.img -o @look.img --open look --data @data.img");
  expect(done.status).toBe(0);
  expect(done.stderr).toMatch(/^udm: pool 'look' is open read-only; ids /);
  const status = JSON.parse((await udm("pool status look --json")).stdout);
  expect(status.pools[0]).toMatchObject({ name: "look" });
  expect(JSON.stringify(status)).toMatch(/read_only/);
  const before = readFileSync(join(folder, "look.img"));
  expect((await udm("thin create look new --size 1m")).status).toBe(1);
  expect(readFileSync(join(folder, "look.img")).equals(before)).toBe(true);
});

test("what can be foreseen is refused before anything is written", async () => {
  const { folder, udm } = await scene("leaf-checksum");
  expect((await udm("pool create p --metadata @m.img --metadata-size 4m --data @d.img --data-size 16m")).status).toBe(
    0,
  );
  for (const [more, status, what] of [
    ["--open p --data @d.img", 1, /^udm: repair: there is a device 'p'\nhint: /],
    ["--open look --data @none.img", 1, /^udm: .*none\.img: no such file or device\nhint: /],
    ["--data-block-size 130", 2, /^udm: data block size 130 is no multiple of 128 sectors\nhint: /],
    ["--data-block-size 3", 2, /^udm: data block size 3 is out of range\nhint: a number from 128 to 2097152\n/],
  ] as const) {
    const ran = await udm(`metadata repair -i @bad.img -o @new.img ${more}`);
    expect({ more, status: ran.status, stdout: ran.stdout }).toEqual({ more, status, stdout: "" });
    expect(ran.stderr).toMatch(what);
    expect(
      readdirSync(folder).filter((name) => name.startsWith("new")),
      more,
    ).toEqual([]);
  }
});

test("a new file that comes to nothing leaves no backup in the way of the next try", async () => {
  const { folder, udm } = await scene();
  // Without another copy of the superblock nothing tells the size of data blocks.
  for (const line of [
    "pool create p --metadata @m.img --metadata-size 4m --data @d.img --data-size 16m",
    "thin create p a --size 8m",
  ]) {
    expect((await udm(line)).status).toBe(0);
  }
  writeFileSync(join(folder, "bad.img"), readFileSync(join(folder, "m.img")).fill(0, 0, 4096));
  const failed = await udm("metadata repair -i @bad.img -o @new.img");
  expect(failed).toMatchObject({ status: 1, stdout: "" });
  expect(readdirSync(folder).filter((name) => name.startsWith("new"))).toEqual([]);
  const again = await udm("metadata repair -i @bad.img -o @new.img --data-block-size 128");
  expect(again).toMatchObject({ status: 0, stderr: "" });
  expect(existsSync(join(folder, "new.img.before.pack"))).toBe(true);
});

test("an interrupt leaves no file", async () => {
  const { folder, udm } = await scene("leaf-checksum");
  const stopped = await udm("metadata repair -i @bad.img -o @new.img", { interrupt: AbortSignal.abort() });
  expect(stopped.status).toBe(130);
  expect(existsSync(join(folder, "new.img"))).toBe(false);
  expect(existsSync(join(folder, "new.img.before.pack"))).toBe(false);
});

test("a device that is too small is told the size that is wanted, and stays no pool", async () => {
  const { folder, udm } = await scene("leaf-checksum");
  writeFileSync(join(folder, "small.img"), new Uint8Array(65536));
  const done = await udm("metadata repair -i @bad.img -o @small.img --no-backup");
  expect(done).toMatchObject({ status: 1, stdout: "" });
  expect(done.stderr).toMatch(/^udm: .*small.img: 16 blocks of 4 KiB, wanted \d+ \(\d+ bytes\)\nhint: make it larger/);
  expect((await udm("metadata check @small.img")).status).toBe(3);
  expect(statSync(join(folder, "small.img")).size).toBe(65536);
});

test.each([
  ["metadata repair -i @bad.img", 2, /^udm: repair: no --output is given\nhint: /],
  ["metadata repair -o @new.img", 2, /^udm: .*--input.*\nhint: /],
  ["metadata repair -i @bad.img -o @bad.img", 2, /^udm: repair: input and output are the same\nhint: /],
  ["metadata repair -i @bad.img -o @link.img", 2, /^udm: repair: input and output are the same\nhint: /],
  ["metadata repair -i @bad.img -o @new.img --candidate 99", 2, /^udm: repair: no candidate 99, there are \d+\nhint: /],
  [
    "metadata repair -i @bad.img -o @new.img --backup -",
    2,
    /^udm: repair: the backup cannot go to standard output\nhint: /,
  ],
  ["metadata repair -i @bad.img -o @new.img --open x", 2, /^udm: repair: --open and --data go together\nhint: /],
  [
    "metadata repair -i @bad.img -o @new.img --backup @bad.img",
    1,
    /^udm: .*bad.img: is there, and may be an earlier backup\nhint: /,
  ],
  ["metadata repair -i @none.img -o @new.img", 1, /^udm: .*none.img: no such file or device\nhint: /],
  ["metadata repair -i @zeros.img -o @new.img", 1, /^udm: .*: no trees of a thin pool are left in it\nhint: /],
  ["metadata repair -i @bad.img -o @no/such/folder", 1, /^udm: .*\nhint: /],
  ["metadata repair -i @bad.img -o @folder", 1, /^udm: .*folder: not a file or block device\nhint: /],
])("%s exits %i with one line and a hint", async (line, status, wanted) => {
  const { folder, bad, udm } = await scene();
  symlinkSync(join(folder, "bad.img"), join(folder, "link.img"));
  writeFileSync(join(folder, "zeros.img"), new Uint8Array(1 << 20));
  mkdirSync(join(folder, "folder"));
  const ran = await udm(line);
  expect(ran).toMatchObject({ status, stdout: "" });
  expect(ran.stderr).toMatch(wanted);
  expect(ran.stderr.trimEnd().split("\n")).toHaveLength(2);
  expect(readFileSync(join(folder, "bad.img")).equals(bad)).toBe(true);
  expect(existsSync(join(folder, "new.img"))).toBe(false);
});
