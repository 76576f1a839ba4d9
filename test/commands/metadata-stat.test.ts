/** `udm metadata stat` beside what an image reads like without the code that is tested. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { DocumentOf } from "../../src/commands/schema/documents.js";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { readGoldenRun } from "../support/golden-images.js";
import { faultsOf } from "../support/json-schema.js";
import { temporaryFolder } from "../support/make-folder.js";
import { METADATA_BLOCK_BYTES, MetadataImage } from "../support/metadata-image.js";
import { HAS_THIN_TOOLS, thinDump } from "../support/thin-tools.js";
import { type Ran, runMain } from "./run-main.js";

const IMAGES = ["kernel-random", "kernel-trace"].flatMap((name) =>
  readGoldenRun(`${name}/run.json.br`).run.checkpoints.map(({ title, metadata }) => ({
    title: `${name}, ${title}`,
    metadata,
  })),
);
const LAST = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
type Stat = DocumentOf<"stat">["stat"];

async function stat(metadata: Uint8Array, ...words: readonly string[]): Promise<Ran> {
  const folder = temporaryFolder();
  const file = join(folder, "meta.img");
  writeFileSync(file, metadata);
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  return runMain(["metadata", "stat", file, ...words], { environment });
}

async function figures(metadata: Uint8Array, ...words: readonly string[]): Promise<Stat> {
  const ran = await stat(metadata, "--json", ...words);
  expect(ran.status).toBe(0);
  const document = JSON.parse(ran.stdout) as DocumentOf<"stat">;
  expect(faultsOf(schemaOf("stat"), document)).toEqual([]);
  return document.stat;
}

interface Plain {
  readonly internals: number;
  readonly leaves: readonly number[];
  readonly shared: number;
  readonly counts: ReadonlyMap<number, number>;
}

/** Mapping trees of the live superblock, and the counts that the trees of both superblocks make. */
function plainFigures(image: MetadataImage): Plain {
  const pointers = new Map<number, number>();
  const leaves: number[] = [];
  let internals = 0;
  const visit = (block: number, list: number[] | undefined): void => {
    pointers.set(block, (pointers.get(block) ?? 0) + 1);
    if (pointers.get(block)! > 1) return;
    const isInternal = (image.u32(block, 4) & 1) !== 0;
    if (isInternal) {
      internals++;
      for (let entry = 0; entry < image.nrEntries(block); entry++) visit(image.value(block, entry), list);
    } else list?.push(block);
  };
  const roots = (superblock: number): readonly number[] => {
    const found: number[] = [];
    const descend = (block: number): void => {
      for (let entry = 0; entry < image.nrEntries(block); entry++) {
        if ((image.u32(block, 4) & 1) !== 0) descend(image.value(block, entry));
        else found.push(image.value(block, entry));
      }
    };
    descend(image.u64(superblock, 320));
    return found;
  };
  for (const root of roots(0)) visit(root, leaves);
  const shared = [...pointers.values()].filter((count) => count > 1).length;
  const live = { internals, leaves: [...leaves] };
  if (image.heldRoot !== 0) for (const root of roots(image.heldRoot)) visit(root, leaves);
  const owners = new Map<number, number>();
  for (const leaf of leaves) {
    for (let entry = 0; entry < image.nrEntries(leaf); entry++) {
      const block = Math.floor(image.value(leaf, entry) / 2 ** 24);
      owners.set(block, (owners.get(block) ?? 0) + 1);
    }
  }
  const counts = new Map<number, number>();
  for (const count of owners.values()) counts.set(count, (counts.get(count) ?? 0) + 1);
  return { ...live, shared, counts };
}

test.each(IMAGES)("$title", async ({ metadata }) => {
  const image = new MetadataImage(metadata);
  const found = await figures(metadata);
  const plain = plainFigures(image);
  const entries = plain.leaves.reduce((sum, leaf) => sum + image.nrEntries(leaf), 0);
  expect(found.trees.find(({ name }) => name === "mappings")).toMatchObject({
    internals: plain.internals,
    leaves: plain.leaves.length,
    entries,
    capacity: plain.leaves.length * 252,
    shared: plain.shared,
    damaged: 0,
  });
  expect(found.runs.mappings).toBe(entries);
  expect(found.runs.lengths.reduce((sum, { mappings }) => sum + mappings, 0)).toBe(entries);
  expect(new Map(found.data!.counts.map(({ count, blocks }) => [count, blocks]))).toEqual(plain.counts);
  expect(found.metadata!.used).toBe(image.allocated().length);
  expect(found).toMatchObject({ damaged: false, superblock: null, transactionId: image.transactionId });
});

test.skipIf(!HAS_THIN_TOOLS)("runs of devices that share nothing are those of thin_dump", async () => {
  const alone = IMAGES.filter(({ metadata }) => plainFigures(new MetadataImage(metadata)).shared === 0);
  expect(alone.length).toBeGreaterThan(3);
  for (const { metadata } of alone) {
    const { devices } = thinDump(metadata);
    let runs = 0;
    for (const { mappings } of devices) {
      mappings.forEach(([virtual, data, time], index) => {
        const before = mappings[index - 1];
        const isNext =
          before !== undefined && before[0] + 1 === virtual && before[1] + 1 === data && before[2] === time;
        if (!isNext) runs++;
      });
    }
    expect((await figures(metadata)).runs.runs).toBe(runs);
  }
});

test("the text tells the same", async () => {
  const ran = await stat(LAST);
  const { data, runs, devices } = await figures(LAST);
  expect(ran).toMatchObject({ status: 0, stderr: "" });
  expect(ran.stdout).toMatch(/^transaction \d+, time \d+, data blocks of 64K(, metadata snapshot in block \d+)?\n/);
  expect(ran.stdout).toContain(`\n${devices} devices\n`);
  expect(ran.stdout).toContain(`\ndata: ${data!.used} of ${data!.blocks} blocks used, `);
  expect(ran.stdout).toContain(`\n${runs.mappings} mappings in ${runs.runs} runs of `);
  expect(ran.stdout).toMatch(/\nTREE +TREES INTERNAL LEAVES DEPTH ENTRIES +FILL SHARED DAMAGED\ndevices +1 /);
});

test("of a metadata snapshot there are no space maps", async () => {
  const held = IMAGES.map(({ metadata }) => metadata).findLast((each) => new MetadataImage(each).heldRoot !== 0)!;
  const found = await figures(held, "-m");
  expect(found.data).toBeUndefined();
  expect(found.trees.map(({ name }) => name)).toEqual(["devices", "details", "mappings"]);
  expect((await stat(held, "-m")).status).toBe(0);
});

describe("damage is counted, and the rest told", () => {
  const broken = (at: number) => {
    const image = Buffer.from(LAST);
    image[at]! ^= 1;
    return image;
  };
  const image = new MetadataImage(LAST);
  const blockOf = (path: string, kind: string) =>
    image.used().findLast((used) => used.path.startsWith(path) && used.kind === kind)!.number * METADATA_BLOCK_BYTES;

  test("a leaf of mappings", async () => {
    const whole = await figures(LAST);
    const leaf = plainFigures(image).leaves.at(-1)!;
    const found = await figures(broken(leaf * METADATA_BLOCK_BYTES + 100));
    const [before, after] = [whole, found].map(({ trees }) => trees.find(({ name }) => name === "mappings")!);
    expect(after!.leaves).toBe(before!.leaves - 1);
    expect(after!.damaged).toBeGreaterThan(0);
    expect(found.data).toEqual(whole.data);
    expect((await stat(broken(leaf * METADATA_BLOCK_BYTES + 100))).stderr).toMatch(
      /something is damaged; udm metadata check/,
    );
  });

  test("a bitmap", async () => {
    const found = await figures(broken(blockOf("data index", "bitmap") + 100));
    expect(found.data).toMatchObject({ used: 0, unknown: found.data!.blocks });
    expect(found.damaged).toBe(true);
  });

  test("the superblock", async () => {
    const ran = await stat(broken(300));
    expect(ran.status).toBe(0);
    expect(ran.stdout).toMatch(/^superblock: damaged \(Checksum\)\n\d+ superblocks and copies of them\n/);
    const { census, ...rest } = await figures(broken(300));
    expect(rest).toMatchObject({ superblock: "Checksum", damaged: true, devices: 0, trees: [] });
    const plain = { superblocks: 0, internals: 0, bitmaps: 0, indexes: 0, leaves: new Map<number, number>() };
    let sound = 0;
    for (let block = 1; block < LAST.length / METADATA_BLOCK_BYTES; block++) {
      if (image.u64(block, 8) !== block) continue;
      sound++;
      if (image.hasRightChecksum(block, "superblock")) plain.superblocks++;
      else if (image.hasRightChecksum(block, "bitmap")) plain.bitmaps++;
      else if (image.hasRightChecksum(block, "index")) plain.indexes++;
      else if (!image.hasRightChecksum(block, "node")) sound--;
      else if (image.u32(block, 4) !== 2) plain.internals++;
      else plain.leaves.set(image.u32(block, 24), (plain.leaves.get(image.u32(block, 24)) ?? 0) + 1);
    }
    const leaves = [...plain.leaves].sort(([a], [b]) => a - b).map(([valueBytes, blocks]) => ({ valueBytes, blocks }));
    expect(census).toEqual({ ...plain, leaves, others: LAST.length / METADATA_BLOCK_BYTES - sound });
  });
});
