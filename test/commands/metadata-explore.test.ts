/** `udm metadata explore` of scripts: every block of a pool is reached and said right, damaged ones are told. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { DocumentOf } from "../../src/commands/schema/documents.js";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { describeBlock, type Role } from "../../src/thin/tools/describe.js";
import { storeOf } from "../support/block-store.js";
import { readGoldenRun } from "../support/golden-images.js";
import { faultsOf } from "../support/json-schema.js";
import { temporaryFolder } from "../support/make-folder.js";
import { METADATA_BLOCK_BYTES, MetadataImage } from "../support/metadata-image.js";
import { KINDS, kindsImage } from "../support/packed-metadata.js";
import { Random } from "../support/random.js";
import { type Ran, runMain } from "./run-main.js";

const IMAGES = ["kernel-random", "kernel-trace"].flatMap((name) =>
  readGoldenRun(`${name}/run.json.br`).run.checkpoints.map(({ title, metadata }) => ({
    title: `${name}, ${title}`,
    metadata,
  })),
);
const LAST = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
const KIND_OF: Readonly<Record<string, string>> = {
  superblock: "superblock",
  bitmap: "bitmap",
  index: "index block",
};

async function explore(metadata: Uint8Array, ...words: readonly string[]): Promise<Ran> {
  const folder = temporaryFolder();
  const file = join(folder, "meta.img");
  writeFileSync(file, metadata);
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  return runMain(["metadata", "explore", file, ...words], { environment });
}

async function blockOf(
  metadata: Uint8Array,
  ...words: readonly string[]
): Promise<DocumentOf<"metadataBlock">["metadataBlock"]> {
  const ran = await explore(metadata, "--json", ...words);
  expect(ran).toMatchObject({ status: 0, stderr: "" });
  const document = JSON.parse(ran.stdout) as DocumentOf<"metadataBlock">;
  expect(faultsOf(schemaOf("metadataBlock"), document)).toEqual([]);
  return document.metadataBlock;
}

test.each(IMAGES)("whoever follows everything sees every block in use, and no other: $title", ({ metadata }) => {
  const store = storeOf(metadata);
  const image = new MetadataImage(metadata);
  const seen = new Map<number, string>();
  const mappings = new Map<number, string>();
  const visit = (block: number, role: Role | undefined): void => {
    if (seen.has(block)) return;
    const { kind, problems, fields, entries } = describeBlock(store, block, role)!;
    expect(problems, `block ${block}`).toEqual([]);
    seen.set(block, kind);
    for (const { label, text, target } of [...fields, ...entries]) {
      if (target !== undefined) visit(target.block, target.role);
      else if (role?.kind === "mappings" && kind === "leaf") mappings.set(Number(label), text);
    }
  };
  visit(0, { kind: "superblock" });
  const used = image.used();
  expect([...seen.keys()].sort((a, b) => a - b)).toEqual(used.map(({ number }) => number).sort((a, b) => a - b));
  for (const { number, kind } of used) {
    const node = image.u32(number, 4) === 2 ? "leaf" : "internal node";
    expect(seen.get(number)).toBe(KIND_OF[kind] ?? node);
  }
});

test("a superblock, as text", async () => {
  const image = new MetadataImage(LAST);
  const ran = await explore(LAST);
  expect(ran).toMatchObject({ status: 0, stderr: "" });
  const lines = ran.stdout.split("\n");
  expect(lines[0]).toBe("block 0: superblock");
  expect(lines).toContain("  magic                    27022010");
  expect(lines).toContain(`  transId                  ${image.transactionId}`);
  expect(lines).toContain(`  dataMappingRoot       -> ${image.u64(0, 320)}`);
  expect((await explore(LAST, "--block", "0")).stdout).toBe(ran.stdout);
  expect((await explore(LAST, "--path", "0")).stdout).toBe(ran.stdout);
});

test("a leaf of mappings, by its way and without it", async () => {
  const image = new MetadataImage(LAST);
  const devices = image.u64(0, 320);
  const root = image.value(devices, 0);
  const id = image.u64(devices, 32);
  const long = await explore(LAST, "--path", `0 > ${devices} > ${root}`);
  const nr = image.nrEntries(root);
  expect(long.stdout.split("\n")[0]).toBe(
    `block ${root}: leaf, mappings of device ${id}, ${nr} of 252 entries (path 0 > ${devices} > ${root})`,
  );
  const value = image.value(root, 0);
  const first = `data block ${Math.floor(value / 2 ** 24)}, time ${value % 2 ** 24}`;
  const short = await blockOf(LAST, "--path", `0,${root}`);
  expect(short).toMatchObject({ block: root, path: [0, root], kind: "leaf", problems: [] });
  expect(short.entries[0]).toEqual({ label: String(image.u64(root, 32)), text: first });
  expect(short.entries).toHaveLength(nr);
  // What the values are does not stand in the block.
  const alone = await blockOf(LAST, "--block", String(root));
  expect(alone.title).toBe(`leaf, ${nr} of 252 entries`);
  expect(alone.entries[0]!.text).toContain(first);
});

test("a metadata snapshot is where -m begins", async () => {
  const held = IMAGES.map(({ metadata }) => metadata).findLast((each) => new MetadataImage(each).heldRoot !== 0)!;
  const root = new MetadataImage(held).heldRoot;
  expect((await explore(held, "-m")).stdout.split("\n")[0]).toBe(`block ${root}: superblock, metadata snapshot`);
  expect((await explore(held, "--path", `0 > ${root}`)).stdout.split("\n")[0]).toBe(
    `block ${root}: superblock, metadata snapshot (path 0 > ${root})`,
  );
});

describe("damage", () => {
  test("is told, and what can be read is there", async () => {
    const image = Buffer.from(LAST);
    image[300]! ^= 1;
    const found = await blockOf(image);
    expect(found.problems).toEqual([expect.stringMatching(/^checksum 0x[0-9a-f]+, wanted 0x[0-9a-f]+$/)]);
    expect(found.fields.find(({ label }) => label === "magic")!.text).toBe("27022010");
    expect((await explore(image)).stdout).toMatch(/^block 0: superblock\ndamaged: checksum /);
  });

  test("a path of a finding leads to the block it is about", async () => {
    const image = Buffer.from(LAST);
    const devices = new MetadataImage(image).u64(0, 320);
    const leaf = new MetadataImage(image).value(devices, 0);
    image[leaf * METADATA_BLOCK_BYTES + 200]! ^= 1;
    const folder = temporaryFolder();
    writeFileSync(join(folder, "meta.img"), image);
    const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
    const check = await runMain(["metadata", "check", join(folder, "meta.img")], { environment });
    const [, path] = /\(path ([\d >]+)\)/.exec(check.stdout)!;
    expect(await blockOf(image, "--path", path!)).toMatchObject({
      block: leaf,
      problems: [expect.stringMatching(/^checksum/)],
    });
  });

  test("a pointer to a block of another kind", async () => {
    const store = storeOf(LAST);
    const index = new MetadataImage(LAST).u64(0, 192 + 16);
    expect(describeBlock(store, index, { kind: "devices" })!.problems[0]).toBe(
      "it is a sound metadata index block, wanted a btree node",
    );
    expect(describeBlock(store, 0, { kind: "details" })!.problems[0]).toMatch(/sound superblock, wanted a btree node/);
    expect(describeBlock(store, store.nrBlocks, undefined)).toBeUndefined();
  });

  test("blocks of every shape", async () => {
    const image = kindsImage();
    const kinds = await Promise.all(
      [...KINDS.sound, ...KINDS.damaged, ...KINDS.unknown, 30].map((block) =>
        blockOf(image, "--block", String(block)).then(({ kind }) => kind),
      ),
    );
    expect(new Set(kinds)).toEqual(
      new Set(["superblock", "index block", "bitmap", "unknown", "internal node", "leaf", "empty"]),
    );
  });

  test("noise of any kind is described without an end in sight of the block", () => {
    const random = new Random(7);
    const image = Buffer.alloc(64 * METADATA_BLOCK_BYTES);
    for (let at = 0; at < image.length; at++) image[at] = random.between(0, 255);
    // Heads that make decoders go on.
    for (let block = 1; block < 40; block++) {
      image.writeUInt32LE(random.between(0, 3), block * METADATA_BLOCK_BYTES + 4);
      image.writeUInt32LE(random.pick([0, 1, 252, 336, 4000, 0xffffffff]), block * METADATA_BLOCK_BYTES + 16);
      image.writeUInt32LE(random.pick([0, 1, 252, 336, 4000, 0xffffffff]), block * METADATA_BLOCK_BYTES + 20);
      image.writeUInt32LE(random.pick([0, 4, 8, 16, 24, 5, 0xffffffff]), block * METADATA_BLOCK_BYTES + 24);
    }
    const store = storeOf(image);
    const roles: readonly (Role | undefined)[] = [
      undefined,
      ...(["superblock", "snapshot", "devices", "details"] as const).map((kind) => ({ kind })),
      { kind: "mappings", device: 1 },
      { kind: "index", map: "data" },
      { kind: "index", map: "metadata" },
      { kind: "counts", map: "data" },
      { kind: "bitmap", map: "data", bitmap: 3 },
    ];
    for (let block = 0; block < 64; block++) {
      for (const role of roles) {
        const { problems, kind, entries } = describeBlock(store, block, role)!;
        expect(problems.length > 0 || kind === "unknown").toBe(true);
        expect(entries.length).toBeLessThanOrEqual(16320);
      }
    }
  });
});

test("bytes", async () => {
  const ran = await explore(LAST, "--block", "0", "--hex");
  const lines = ran.stdout.trimEnd().split("\n");
  expect(lines.at(-1)).toMatch(/^0ff0 {2}(00 ){16} \.{16}$/);
  expect(lines.at(-2)).toBe("*");
  expect((await blockOf(LAST, "--hex")).bytes).toBe(
    Buffer.from(LAST.subarray(0, METADATA_BLOCK_BYTES)).toString("hex"),
  );
});

test.each<readonly [readonly string[], number, RegExp]>([
  [["--block", "99999"], 1, /meta.img: no block 99999, it has 2\d\d\d\nhint: blocks are 0 to 2/],
  [["--path", "0 > 1 > 2 > 3"], 1, /: block \d+ does not lead to block \d+\nhint: /],
  [["--path", "hello"], 2, /path 'hello' is none\nhint: numbers of blocks/],
  [["--block", "1", "--path", "0"], 2, /--block and --path exclude each other\nhint: /],
])("%j is refused", async (words, status, message) => {
  const ran = await explore(LAST, ...words);
  expect(ran).toMatchObject({ status, stdout: "" });
  expect(ran.stderr).toMatch(message);
});
