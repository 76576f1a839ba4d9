/** `udm metadata check`, `dump` and `restore` beside thin_check, thin_dump and thin_restore, on metadata that a kernel wrote. */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import { readGoldenRun } from "../support/golden-images.js";
import { temporaryFolder } from "../support/make-folder.js";
import { MetadataImage } from "../support/metadata-image.js";
import { Random } from "../support/random.js";
import { HAS_THIN_TOOLS, parseDump, thinCheck, thinDump } from "../support/thin-tools.js";
import { type Ran, runMain } from "./run-main.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const IMAGES = ["kernel-random", "kernel-trace"].flatMap((name) =>
  readGoldenRun(`${name}/run.json.br`).run.checkpoints.map(({ title, metadata }) => ({
    title: `${name}, ${title}`,
    metadata,
  })),
);
const LAST = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
const MUTATIONS = process.env.UDM_TEST_LONG === undefined ? 150 : 5000;

class Folder {
  readonly path = temporaryFolder();

  write(name: string, bytes: Uint8Array | string): string {
    const path = join(this.path, name);
    writeFileSync(path, bytes);
    return path;
  }

  udm(...words: readonly string[]): Promise<Ran> {
    const environment = { UDM_STATE_DIR: join(this.path, "state"), UDM_RUN_DIR: join(this.path, "run") };
    return runMain(["metadata", ...words], { environment });
  }
}

function tool(program: string, ...words: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, words, { env: { PATH }, encoding: "utf8" });
  expect(status, `${program} ${words.join(" ")}: ${stderr}`).toBe(0);
  return stdout;
}

describe.each(IMAGES)("$title", ({ metadata }) => {
  test("is clean, and left as it was", async () => {
    const folder = new Folder();
    const image = folder.write("meta.img", metadata);
    const ran = await folder.udm("check", "--json", image);
    expect(ran.status, ran.stdout + ran.stderr).toBe(0);
    expect(readFileSync(image).equals(metadata)).toBe(true);
  });

  test.skipIf(!HAS_THIN_TOOLS)("is dumped as thin_dump has it, restored, and dumped again the same", async () => {
    const folder = new Folder();
    const image = folder.write("meta.img", metadata);
    const { stdout: xml } = await folder.udm("dump", image);
    expect(xml).toBe(tool("thin_dump", image));
    expect((await folder.udm("dump", "-f", "human_readable", image)).stdout).toBe(
      tool("thin_dump", "-f", "human_readable", image),
    );
    const text = folder.write("xml", xml);
    const copy = folder.write("copy.img", new Uint8Array(metadata.length));
    const ran = await folder.udm("restore", "-i", text, "-o", copy);
    expect([ran.status, ran.stderr]).toEqual([0, ""]);
    expect(thinCheck(readFileSync(copy))).toBeUndefined();
    expect(thinDump(readFileSync(copy))).toEqual(parseDump(xml));
    expect((await folder.udm("dump", copy)).stdout).toBe(xml);
    expect((await folder.udm("check", copy)).status).toBe(0);
  });
});

test("JSON lines hold what the XML holds", async () => {
  const folder = new Folder();
  const image = folder.write("meta.img", LAST);
  const model = parseDump((await folder.udm("dump", image)).stdout);
  const { stdout } = await folder.udm("dump", "--json", image);
  const lines = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const devices = lines.filter((line) => JSON.stringify(line).includes("creationTime"));
  expect(devices.length).toBe(model.devices.length);
});

test("a device that is asked for and is not there is told of", async () => {
  const folder = new Folder();
  const image = folder.write("meta.img", LAST);
  const ran = await folder.udm("dump", image, "--dev-id", "999999");
  expect(ran.status).toBe(0);
  expect(ran.stdout).not.toContain("<device");
  expect(ran.stderr).toMatch(/^udm: .*meta\.img has no device 999999; udm metadata ls lists them\n$/);
});

/** Bytes of a used block changed; with a right checksum, so that only the rules of the format can tell, or without. */
function mutate(random: Random, isSealed: boolean): { readonly bytes: Buffer; readonly what: string } {
  const image = new MetadataImage(LAST);
  const bytes = Buffer.from(LAST);
  const number = random.pick(image.allocated());
  const salts = [160774, 121107, 240779, 160478];
  const block = bytes.subarray(number * 4096, (number + 1) * 4096);
  const view = new DataView(block.buffer, block.byteOffset, 4096);
  const salt = salts.find((each) => (crc32c(view, 4) ^ each) >>> 0 === view.getUint32(0, true));
  const offset = random.between(4, random.oneIn(2) ? 64 : 4095);
  block[offset]! ^= random.between(1, 255);
  if (isSealed && salt !== undefined) view.setUint32(0, (crc32c(view, 4) ^ salt) >>> 0, true);
  return { bytes, what: `block ${number}, byte ${offset}${isSealed ? ", sealed" : ""}` };
}

describe.skipIf(!HAS_THIN_TOOLS)("damage", () => {
  test(`${MUTATIONS} mutated images: never clean where thin_check finds damage, never a crash`, async () => {
    const folder = new Folder();
    const random = new Random(5);
    let damaged = 0;
    for (let index = 0; index < MUTATIONS; index++) {
      const { bytes, what } = mutate(random, index % 2 === 0);
      const image = folder.write("meta.img", bytes);
      const theirs = spawnSync("thin_check", ["-q", image], { env: { PATH } }).status;
      const ours = await folder.udm("check", "--quiet", image);
      expect([0, 1, 3, 4], `${what}: ${ours.stderr}`).toContain(ours.status);
      expect(ours.stderr, what).not.toContain("internal error");
      if (theirs !== 0) {
        damaged++;
        expect(ours.status, what).not.toBe(0);
      }
    }
    expect(damaged).toBeGreaterThan(MUTATIONS / 4);
  }, 600_000);

  test("findings name the block, the way to it and the devices concerned; the status is 3", async () => {
    const folder = new Folder();
    const bytes = Buffer.from(LAST);
    const root = Number(bytes.readBigUInt64LE(320));
    bytes[root * 4096 + 100]! ^= 1;
    const ran = await folder.udm("check", "--json", folder.write("meta.img", bytes));
    expect(ran.status).toBe(3);
    expect(ran.stdout).toContain(`"block": ${root}`);
  });

  test("a leaked block is harmless: status 4, and --auto-repair frees it in one transaction", async () => {
    const folder = new Folder();
    // The mapping of a device is taken away behind the space map's back by restoring fewer mappings into the counts.
    const image = folder.write("meta.img", leak(LAST));
    expect((await folder.udm("check", image)).status).toBe(4);
    expect((await folder.udm("check", "--ignore-non-fatal-errors", image)).status).toBe(0);
    expect((await folder.udm("check", "--auto-repair", image)).status).toBe(0);
    expect((await folder.udm("check", image)).status).toBe(0);
    expect(thinCheck(readFileSync(image))).toBeUndefined();
  });
});

/** One more data block counted than is used: an entry of the first data bitmap that is 0 becomes 1. */
function leak(metadata: Uint8Array): Buffer {
  const bytes = Buffer.from(metadata);
  const image = new MetadataImage(bytes);
  const root = image.u64(0, 64 + 16);
  // The leaf of the index: its first value is {blocknr, nr_free, none_free_before}.
  const maxEntries = image.u32(root, 20);
  const values = root * 4096 + 32 + maxEntries * 8;
  const bitmap = Number(bytes.readBigUInt64LE(values));
  const block = bytes.subarray(bitmap * 4096, (bitmap + 1) * 4096);
  const entry = Array.from({ length: 16000 }, (_, index) => index).find(
    (index) => ((block[16 + (index >> 2)]! >> ((index & 3) * 2)) & 3) === 0,
  )!;
  // The high bit of an entry's pair stands for 1.
  block[16 + (entry >> 2)]! |= 2 << ((entry & 3) * 2);
  seal(block, 240779);
  bytes.writeUInt32LE(bytes.readUInt32LE(values + 8) - 1, values + 8);
  seal(bytes.subarray(root * 4096, (root + 1) * 4096), 121107);
  bytes.writeBigUInt64LE(bytes.readBigUInt64LE(64 + 8) + 1n, 64 + 8);
  seal(bytes.subarray(0, 4096), 160774);
  return bytes;
}

function seal(block: Buffer, salt: number): void {
  const view = new DataView(block.buffer, block.byteOffset, 4096);
  view.setUint32(0, (crc32c(view, 4) ^ salt) >>> 0, true);
}

test("white space between elements may be as long as it likes", async () => {
  const folder = new Folder();
  const head = '<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="100">';
  const text = folder.write("xml", `${head}${"\n".repeat(200_000)}</superblock>${" ".repeat(200_000)}`);
  const ran = await folder.udm("restore", "-i", text, "-o", folder.write("out.img", new Uint8Array(2 ** 20)));
  expect([ran.status, ran.stderr]).toEqual([0, ""]);
});

describe("what cannot be restored", () => {
  const HEAD = '<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="100">\n';
  const DEVICE = '<device dev_id="1" mapped_blocks="0" transaction="0" creation_time="0" snap_time="0">\n';
  const MAP = (virtual: number, data: number) =>
    `<single_mapping origin_block="${virtual}" data_block="${data}" time="0"/>\n`;
  const TAIL = "</device>\n</superblock>\n";
  test.each([
    ["nothing", "", /./],
    ["no XML", "hello", /line 1/],
    ["half of it", `${HEAD}${DEVICE}${MAP(1, 1)}`, /./],
    ["blocks that go down", `${HEAD}${DEVICE}${MAP(5, 1)}${MAP(4, 2)}${TAIL}`, /line 4.*go up/],
    ["a data block outside", `${HEAD}${DEVICE}${MAP(5, 100)}${TAIL}`, /line 3/],
    ["a device twice", `${HEAD}${DEVICE}</device>\n${DEVICE}</device>\n</superblock>`, /./],
    ["an odd block size", HEAD.replace('"128"', '"100"') + DEVICE + TAIL, /./],
  ])("%s: a line that says where, and no pool on the output", async (_, xml, says) => {
    const folder = new Folder();
    const text = folder.write("xml", xml);
    const output = folder.write("out.img", new Uint8Array(2 ** 21));
    const ran = await folder.udm("restore", "-i", text, "-o", output);
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(/^udm: .*\n(hint: .*\n)?$/);
    expect(ran.stderr).toMatch(says);
    expect((await folder.udm("check", output)).status).not.toBe(0);
  });

  test("an output that is too small is told how large it has to be; one that holds a pool is not overwritten unasked", async () => {
    const folder = new Folder();
    const image = folder.write("meta.img", LAST);
    const text = folder.write("xml", (await folder.udm("dump", image)).stdout);
    const small = folder.write("small.img", new Uint8Array(8 * 4096));
    const ran = await folder.udm("restore", "-i", text, "-o", small);
    expect([ran.status, ran.stdout]).toEqual([1, ""]);
    expect(ran.stderr).toMatch(/^udm: .*\n(hint: .*\n)?$/);
    const refused = await folder.udm("restore", "-i", text, "-o", image);
    expect(refused.status).toBe(1);
    expect(refused.stderr).toContain("--yes");
    expect(readFileSync(image).equals(LAST)).toBe(true);
  });
});
