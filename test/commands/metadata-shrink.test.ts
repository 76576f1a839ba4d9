/** `udm metadata shrink`: pools with a name and without, their tables and files, and the form of thin_shrink. */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FileDevice } from "../../src/io/index.js";
import { BlockStore, Pace, planSoundShrink, shrinkPool } from "../../src/thin/index.js";
import { temporaryFolder } from "../support/make-folder.js";
import { fillPattern } from "../support/pool-script.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { type Ran, runMain } from "./run-main.js";

const MIB = 2 ** 20;
const BLOCK = 65536;
/** In use of the pool's 384 data blocks: 128 to 287. */
const USED = 160;

class Scene {
  readonly folder = temporaryFolder();
  /** What devices b and s hold. */
  sums: readonly string[] = [];

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Words that end in .img or .xml are files of the folder. */
  udm(line: string, options: { readonly interrupt?: AbortSignal } = {}): Promise<Ran> {
    const environment = { UDM_STATE_DIR: this.path("state"), UDM_RUN_DIR: this.path("run") };
    const words = line.split(" ").map((word) => (/\.(img|xml)$/.test(word) ? this.path(word) : word));
    return runMain(words, { environment, ...options });
  }

  async ok(line: string): Promise<string> {
    const { status, stdout, stderr } = await this.udm(line);
    expect({ line, status, stderr }).toEqual({ line, status: 0, stderr: expect.not.stringContaining("hint:") });
    return stdout;
  }

  /** 24 MiB: two devices behind each other, a snapshot that differs, the first device deleted. */
  async makePool(): Promise<void> {
    await this.ok(
      "pool create p --metadata meta.img --metadata-size 4m --data data.img --data-size 24m --block-size 64k",
    );
    for (const [seed, name] of ["a", "b"].entries()) {
      await this.ok(`thin create p ${name} --size 8m`);
      await this.import(name, 8 * MIB, seed + 1);
    }
    await this.ok("thin snap b s");
    await this.ok("thin create p c --size 8m");
    await this.ok("thin delete c --yes");
    await this.import("s", 2 * MIB, 3);
    await this.ok("thin delete a --yes");
    this.sums = await this.sumsNow();
  }

  async import(name: string, bytes: number, seed: number): Promise<void> {
    const content = new Uint8Array(bytes);
    fillPattern(content, 0, seed);
    writeFileSync(this.path("import.img"), content);
    await this.ok(`thin import ${name} import.img`);
  }

  async sumsNow(): Promise<readonly string[]> {
    const sums: string[] = [];
    for (const name of ["b", "s"]) {
      await this.ok(`thin export ${name} export.img`);
      sums.push(
        createHash("sha256")
          .update(readFileSync(this.path("export.img")))
          .digest("hex"),
      );
    }
    return sums;
  }

  async expectSameData(): Promise<void> {
    expect(await this.sumsNow()).toEqual(this.sums);
  }

  async removePool(name: string): Promise<void> {
    for (const thin of ["b", "s"]) await this.ok(`thin deactivate ${thin}`);
    await this.ok(`pool remove ${name}`);
  }

  async openPool(metadata: string): Promise<void> {
    await this.ok(`pool create q --metadata ${metadata} --data data.img --block-size 64k`);
    await this.ok("thin activate q:1 b --size 8m");
    await this.ok("thin activate q:2 s --size 8m");
  }

  get dataBytes(): number {
    return statSync(this.path("data.img")).size;
  }
}

async function makeScene(): Promise<Scene> {
  const scene = new Scene();
  await scene.makePool();
  return scene;
}

test("a pool with a name gets a shorter table, its file is cut, and it can grow again", async () => {
  const scene = await makeScene();
  const plan = await scene.ok("metadata shrink p --size 11m --truncate --dry-run");
  expect(plan.split("\n").slice(0, 3)).toEqual([
    "160 of 384 data blocks are in use, 128 are free below block 176",
    "move 112 data blocks in 1 run, 7M to copy",
    "end the pool at 176 data blocks",
  ]);
  expect(plan).toContain("dmsetup reload p --table '0 22528 thin-pool ");
  expect(plan).toContain(`truncate -s ${11 * MIB} ${scene.path("data.img")}\n`);
  expect(scene.dataBytes).toBe(24 * MIB);
  expect(await scene.ok("metadata shrink p --size 11m --truncate --yes")).toBe(
    "moved 112 data blocks, 7M, in 1 commit\n384 data blocks before, 176 now, 11M\n",
  );
  expect(scene.dataBytes).toBe(11 * MIB);
  expect(await scene.ok("table show p")).toMatch(/^0 22528 thin-pool /);
  await scene.expectSameData();
  expect(await scene.ok("metadata check p")).toMatch(/data: 160 of 176 blocks used\nclean\n$/);
  expect(await scene.ok("metadata shrink p --size 11m --truncate --yes")).toBe(
    "nothing to move: 176 data blocks, 11M\n",
  );
  await scene.ok("pool resize p 20m");
  await scene.expectSameData();
});

test("a pool that was cut off behind its metadata's commit grows back, and the same command does what is left", async () => {
  const scene = await makeScene();
  await using metadata = FileDevice.open(scene.path("meta.img"));
  await using data = FileDevice.open(scene.path("data.img"));
  const pace = new Pace();
  const plan = await planSoundShrink(new BlockStore(metadata), { blocksAfter: USED, mayHoldSnapshot: false, pace });
  await shrinkPool(metadata, plan, { data, pace });
  // Neither table nor file followed.
  await scene.expectSameData();
  expect(await scene.ok("pool status p --json")).toContain(" 160/384 ");
  expect(await scene.ok(`metadata shrink p --nr-blocks ${USED} --truncate --yes`)).toBe(
    "384 data blocks before, 160 now, 10M\n",
  );
  expect(scene.dataBytes).toBe(USED * BLOCK);
  await scene.expectSameData();
});

test("a suspended pool stays suspended", async () => {
  const scene = await makeScene();
  for (const name of ["b", "s", "p"]) await scene.ok(`table suspend ${name}`);
  await scene.ok("metadata shrink p --size 12m --truncate --yes");
  expect(await scene.ok("device info p --json")).toContain(`"state": "SUSPENDED"`);
  for (const name of ["p", "b", "s"]) await scene.ok(`table resume ${name}`);
  await scene.expectSameData();
  expect(scene.dataBytes).toBe(12 * MIB);
});

test("what does not fit, is asked for twice or not at all is refused, and nothing is changed", async () => {
  const scene = await makeScene();
  writeFileSync(scene.path("other.img"), new Uint8Array(24 * MIB));
  const files = ["meta.img", "data.img"];
  const before = files.map((name) => readFileSync(scene.path(name)));
  const refusals: readonly (readonly [words: string, status: number, what: RegExp])[] = [
    ["p --size 9m --yes", 1, /p: 160 data blocks are in use, 144 would be left \(144 to move, 128 free below\)/],
    ["p --size 11m", 1, /shrink 'p' from 384 to 176 data blocks.*--yes/s],
    ["p --yes", 2, /the new size is missing/],
    ["p --size 11m --nr-blocks 176", 2, /two sizes are given/],
    ["p --size 48m --yes", 1, /the pool has 384 data blocks, 768 would be more/],
    ["p --size 1 --yes", 1, /a pool has at least one data block/],
    ["p --nr-blocks 200 --metadata-dev meta.img", 2, /one of them is enough/],
    ["meta.img --nr-blocks 200 --binary", 2, /--binary belongs to --input/],
    ["--nr-blocks 200 --metadata-dev meta.img", 2, /no pool is named/],
    ["--nr-blocks 200 --metadata-dev meta.img --data-dev other.img --yes", 1, /are not the devices of one pool/],
    [
      "--nr-blocks 200 --metadata-dev other.img --data-dev other.img --yes",
      2,
      /is the metadata, and cannot be the data/,
    ],
    ["--nr-blocks 200 --input in.xml", 2, /belong together/],
    ["--nr-blocks 200 --input in.xml --output out.xml", 2, /--data is missing/],
    ["--nr-blocks 200 --input meta.img --output meta.img --data data.img", 2, /input and output are the same/],
    ["--nr-blocks 200 --input none.xml --output out.xml --data other.img", 1, /none\.xml: no such file/],
  ];
  for (const [words, status, what] of refusals) {
    const ran = await scene.udm(`metadata shrink ${words}`);
    expect({ words, status: ran.status, stdout: ran.stdout }).toEqual({ words, status, stdout: "" });
    expect(ran.stderr, words).toMatch(what);
    expect(ran.stderr, words).toMatch(/\nhint: .+\n$/);
  }
  for (const [index, name] of files.entries()) {
    expect(Buffer.compare(readFileSync(scene.path(name)), before[index]!), name).toBe(0);
  }
});

test("a metadata snapshot is given up only when that is asked for", async () => {
  const scene = await makeScene();
  await scene.ok("pool message p reserve_metadata_snap");
  const held = await scene.udm("metadata shrink p --size 11m --yes");
  expect(held.status).toBe(1);
  expect(held.stderr).toContain("p: a metadata snapshot holds blocks where they are\nhint: ");
  const words = "metadata shrink p --size 11m --release-metadata-snap";
  expect(await scene.ok(`${words} --dry-run`)).toMatch(/^release the metadata snapshot/);
  await scene.ok(`${words} --yes`);
  await scene.expectSameData();
});

test("an interrupt ends it with 130 at a whole pool", async () => {
  const scene = await makeScene();
  const ran = await scene.udm("metadata shrink p --size 11m --yes", { interrupt: AbortSignal.abort() });
  expect(ran.status).toBe(130);
  expect(ran.stderr).toMatch(/interrupted/);
  await scene.expectSameData();
  await scene.ok("metadata shrink p --size 11m --yes");
  await scene.expectSameData();
});

test("devices without a pool's name, and the document of --json", async () => {
  const scene = await makeScene();
  await scene.removePool("p");
  const words = `metadata shrink --metadata-dev meta.img --data-dev data.img --nr-blocks ${USED} --truncate --yes`;
  expect(JSON.parse(await scene.ok(`${words} --json`))).toEqual({
    version: 1,
    shrunk: {
      pool: null,
      blockBytes: BLOCK,
      blocksBefore: 384,
      blocksAfter: USED,
      movedBlocks: 128,
      movedBytes: 128 * BLOCK,
      commits: 1,
      fileBytes: USED * BLOCK,
    },
  });
  expect(scene.dataBytes).toBe(USED * BLOCK);
  if (HAS_THIN_TOOLS) expect(thinCheck(readFileSync(scene.path("meta.img")))).toBeUndefined();
  await scene.openPool("meta.img");
  await scene.expectSameData();
});

test("bytes of another loop device behind the new end are not cut", async () => {
  const scene = await makeScene();
  await scene.ok("loop attach data.img --offset 20m");
  const ran = await scene.udm("metadata shrink p --size 11m --truncate --yes");
  expect([ran.status, ran.stderr]).toEqual([
    1,
    expect.stringMatching(/loop device 7:\d+ shows bytes behind the new end/),
  ]);
});

test("in the way of thin_shrink: XML and metadata come out the same, and the pool that was dumped stays as it is", async () => {
  const scene = await makeScene();
  await scene.removePool("p");
  copyFileSync(scene.path("meta.img"), scene.path("before.img"));
  copyFileSync(scene.path("data.img"), scene.path("copy.img"));
  await scene.ok("metadata dump meta.img -o in.xml");
  const size = "--nr-blocks 170 --yes";
  expect(await scene.ok(`metadata shrink -i in.xml -o none.xml --data data.img ${size} --no-copy`)).toBe("");
  expect(await scene.ok(`metadata shrink -i in.xml -o none.xml --data data.img ${size} --dry-run`)).toMatch(
    /^thin_shrink /,
  );
  const read = (name: string) => readFileSync(scene.path(name));
  const unasked = await scene.udm("metadata shrink -i in.xml -o out.xml --data data.img --nr-blocks 170");
  expect([unasked.status, unasked.stderr]).toEqual([
    1,
    expect.stringMatching(/^udm: copy \d+ data blocks on '.*data.img' over some that '.*' has as free: refused/),
  ]);
  expect(Buffer.compare(read("data.img"), read("copy.img"))).toBe(0);
  expect(await scene.ok(`metadata shrink -i in.xml -o out.xml --data data.img ${size}`)).toBe("");
  expect(Buffer.compare(read("data.img"), read("copy.img"))).not.toBe(0);
  expect(await scene.ok(`metadata shrink -i meta.img -o out.img --binary --data copy.img ${size}`)).toBe("");
  expect(Buffer.compare(read("data.img"), read("copy.img"))).toBe(0);
  expect(read("none.xml").toString()).toBe(read("out.xml").toString());
  expect(await scene.ok("metadata dump out.img")).toBe(read("out.xml").toString());
  expect(Buffer.compare(read("meta.img"), read("before.img"))).toBe(0);
  const small = await scene.udm("metadata shrink -i in.xml -o small.xml --data data.img --nr-blocks 100");
  expect([small.status, small.stderr]).toEqual([
    1,
    expect.stringMatching(/160 data blocks are in use, 100 would be left/),
  ]);
  expect(existsSync(scene.path("small.xml"))).toBe(false);
  for (const metadata of ["meta.img", "out.img"]) {
    await scene.openPool(metadata);
    await scene.expectSameData();
    await scene.removePool("q");
  }
});
