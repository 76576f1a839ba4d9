/** `udm metadata trim`: exactly what nobody maps is discarded, and nothing when anything is in doubt. */
import { closeSync, fstatSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { Claims, createSparseFile } from "../../src/io/index.js";
import { FreeData } from "../../src/thin/tools/free-data.js";
import { Pace } from "../../src/thin/tools/pace.js";
import { storeOf } from "../support/block-store.js";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { readGoldenRun } from "../support/golden-images.js";
import { faultsOf } from "../support/json-schema.js";
import { temporaryFolder } from "../support/make-folder.js";
import { METADATA_BLOCK_BYTES, MetadataImage } from "../support/metadata-image.js";
import { type Ran, runMain } from "./run-main.js";

const IMAGES = ["kernel-random", "kernel-trace"].flatMap((name) =>
  readGoldenRun(`${name}/run.json.br`).run.checkpoints.map(({ title, metadata }) => ({
    title: `${name}, ${title}`,
    metadata,
  })),
);
const LAST = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
const BITMAP_SALT = 240779;

/** Data blocks that the pool or its metadata snapshot maps, as the independent checker finds them. */
function mappedIn(metadata: Uint8Array): {
  readonly mapped: ReadonlySet<number>;
  readonly total: number;
  readonly blockBytes: number;
} {
  const { pool, held } = checkMetadata(imageSource(metadata));
  const devices = [...pool!.devices, ...(held?.devices ?? [])];
  const mapped = new Set(devices.flatMap(({ mappings }) => mappings.map(([, data]) => data)));
  return { mapped, total: pool!.dataBlocks, blockBytes: pool!.dataBlockSectors * 512 };
}

async function freeRuns(metadata: Uint8Array): Promise<readonly (readonly [number, number])[]> {
  const runs: [number, number][] = [];
  const free = await FreeData.find(storeOf(metadata), new Pace());
  await free.each(new Pace(), ({ begin, end }) => void runs.push([begin, end]));
  expect(runs.reduce((sum, [begin, end]) => sum + end - begin, 0)).toBe(free.freeBlocks);
  return runs;
}

test.each(IMAGES)("what is free: $title", async ({ metadata }) => {
  const { mapped, total } = mappedIn(metadata);
  const wanted: [number, number][] = [];
  for (let block = 0; block < total; block++) {
    if (mapped.has(block)) continue;
    if (wanted.at(-1)?.[1] === block) wanted.at(-1)![1] = block + 1;
    else wanted.push([block, block + 1]);
  }
  expect(await freeRuns(metadata)).toEqual(wanted);
});

/** The same metadata with another count of a data block, everything sealed again. */
function withCount(metadata: Uint8Array, block: number, count: 0 | 1 | 2): Buffer {
  const copy = Buffer.from(metadata);
  const image = new MetadataImage(copy);
  const index = image.used().find(({ kind, path }) => kind === "node" && path.startsWith("data index"))!;
  const bitmap = image.value(index.number, 0) * METADATA_BLOCK_BYTES;
  const at = bitmap + 16 + (block >> 2);
  const shift = (block & 3) * 2;
  // Stored high bit first.
  copy[at] = (copy[at]! & ~(3 << shift)) | (([0, 2, 1] as const)[count] << shift);
  const view = new DataView(copy.buffer, copy.byteOffset + bitmap, METADATA_BLOCK_BYTES);
  copy.writeUInt32LE((crc32c(view, 4) ^ BITMAP_SALT) >>> 0, bitmap);
  return copy;
}

class Pool {
  readonly folder = temporaryFolder();
  readonly metadata = join(this.folder, "meta.img");
  readonly data = join(this.folder, "data.img");
  readonly found: ReturnType<typeof mappedIn>;

  constructor(
    readonly image: Uint8Array,
    found = mappedIn(image),
  ) {
    this.found = found;
    writeFileSync(this.metadata, image);
    createSparseFile(this.data, found.total * found.blockBytes);
    const fd = openSync(this.data, "r+");
    for (const block of this.written())
      writeSync(fd, Buffer.alloc(4096, 1 + (block % 255)), 0, 4096, block * found.blockBytes);
    closeSync(fd);
  }

  /** Mapped blocks, and as many of the free ones. */
  written(): readonly number[] {
    const some = Array.from({ length: Math.min(this.found.total, 300) }, (_, block) => block);
    return [...new Set([...this.found.mapped, ...some])];
  }

  /** Blocks that still hold what was written to them. */
  kept(): ReadonlySet<number> {
    const fd = openSync(this.data, "r");
    const kept = this.written().filter((block) => {
      const bytes = Buffer.alloc(4096);
      readSync(fd, bytes, 0, 4096, block * this.found.blockBytes);
      return bytes.every((byte) => byte === 1 + (block % 255));
    });
    closeSync(fd);
    return new Set(kept);
  }

  run(...words: readonly string[]): Promise<Ran> {
    const environment = { UDM_STATE_DIR: join(this.folder, "state"), UDM_RUN_DIR: join(this.folder, "run") };
    return runMain(words, { environment });
  }

  trim(...words: readonly string[]): Promise<Ran> {
    return this.run("metadata", "trim", "--metadata-dev", this.metadata, "--data-dev", this.data, ...words);
  }
}

describe("on a file", () => {
  test("what is mapped stays, what is free is a hole", async () => {
    const pool = new Pool(LAST);
    const ran = await pool.trim("--yes");
    expect(ran).toMatchObject({ status: 0, stderr: "" });
    expect(ran.stdout).toMatch(/^discarded [\d.]+[KMG] of [\d.]+[KMG] on '.*data.img', in \d+ stretch(es)?\n$/);
    expect(pool.kept()).toEqual(new Set(pool.found.mapped));
    const fd = openSync(pool.data, "r");
    expect(fstatSync(fd).size).toBe(pool.found.total * pool.found.blockBytes);
    closeSync(fd);
    expect(readFileSync(pool.metadata).equals(LAST)).toBe(true);
  });

  test("it asks, and a script is refused", async () => {
    const pool = new Pool(LAST);
    const ran = await pool.trim();
    expect(ran).toMatchObject({ status: 1, stdout: "" });
    expect(ran.stderr).toMatch(
      /^udm: discard [\d.]+\w free of [\d.]+\w on '.*data.img': refused without confirmation\nhint: /,
    );
    expect(pool.kept().size).toBe(pool.written().length);
  });

  test("--dry-run prints commands that would do it, and does nothing", async () => {
    const pool = new Pool(LAST);
    const ran = await pool.trim("--dry-run");
    const wanted = (await freeRuns(LAST)).map(([begin, end]) => {
      const { blockBytes } = pool.found;
      return `fallocate --punch-hole --offset ${begin * blockBytes} --length ${(end - begin) * blockBytes} ${pool.data}\n`;
    });
    expect(ran).toEqual({ status: 0, stderr: "", stdout: wanted.join("") });
    expect(pool.kept().size).toBe(pool.written().length);
  });

  test("--json", async () => {
    const pool = new Pool(LAST);
    const document = JSON.parse((await pool.trim("--yes", "--json")).stdout);
    expect(faultsOf(schemaOf("discarded"), document)).toEqual([]);
    const { total, mapped, blockBytes } = pool.found;
    expect(document.discarded).toMatchObject({
      blocks: total - mapped.size,
      discardedBytes: (total - mapped.size) * blockBytes,
      totalBytes: total * blockBytes,
    });
  });

  test("--compat thin_trim tells its stretches", async () => {
    const pool = new Pool(LAST);
    const lines = (await freeRuns(LAST)).map(([begin, end]) => `emitting discard for blocks (${begin}, ${end}]\n`);
    expect(await pool.trim("--yes", "--compat", "thin_trim")).toEqual({
      status: 0,
      stdout: "",
      stderr: ["in trim\n", ...lines].join(""),
    });
  });
});

describe("nothing is discarded", () => {
  const refused = async (pool: Pool, message: RegExp, ...words: readonly string[]) => {
    const ran = await pool.trim("--yes", ...words);
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(message);
    expect(ran.stderr.trimEnd().split("\n")).toHaveLength(2);
    expect(pool.kept().size).toBe(pool.written().length);
  };
  const found = mappedIn(LAST);
  const [victim] = found.mapped;

  test("when a mapped block is counted as free", async () => {
    const image = withCount(LAST, victim!, 0);
    await refused(new Pool(image, found), /the metadata is damaged: .*\nhint: nothing was discarded/);
  });

  test("when the data of a metadata snapshot alone is counted as free", async () => {
    const held = IMAGES.map(({ metadata }) => metadata).findLast((image) => new MetadataImage(image).heldRoot !== 0)!;
    const { pool, held: snapshot } = checkMetadata(imageSource(held));
    const live = new Set(pool!.devices.flatMap(({ mappings }) => mappings.map(([, data]) => data)));
    const only = snapshot!.devices
      .flatMap(({ mappings }) => mappings.map(([, data]) => data))
      .find((data) => !live.has(data));
    const block = only ?? [...live][0]!;
    await refused(new Pool(withCount(held, block, 0), mappedIn(held)), /hint: nothing was discarded/);
  });

  test("when the superblock is damaged", async () => {
    const image = Buffer.from(LAST);
    image[300]! ^= 1;
    await refused(new Pool(image, found), /superblock.*\nhint: /);
  });

  test("when a leaf is damaged", async () => {
    const image = Buffer.from(LAST);
    const leaf = new MetadataImage(image).used().findLast(({ path }) => path.startsWith("mapping"))!;
    image[leaf.number * METADATA_BLOCK_BYTES + 100]! ^= 1;
    await refused(new Pool(image, found), /the metadata is damaged: .*\nhint: nothing was discarded/);
  });

  test("when somebody has the metadata, or the data", async () => {
    const pool = new Pool(LAST);
    for (const path of [pool.metadata, pool.data]) {
      using _held = new Claims().claim({ path, role: "a test" });
      await refused(pool, /EBUSY|held|use/);
    }
  });

  test("when the data device is too small, or is the metadata", async () => {
    const pool = new Pool(LAST);
    const small = join(pool.folder, "small.img");
    createSparseFile(small, (found.total - 1) * found.blockBytes);
    await refused(pool, /the pool's data has \d+\nhint: this is not the data device of that pool/, "--data-dev", small);
    const ran = await pool.trim("--yes", "--data-dev", pool.metadata);
    expect(ran).toMatchObject({ status: 2, stdout: "" });
    expect(readFileSync(pool.metadata).equals(LAST)).toBe(true);
  });

  test("when another pool's data is named", async () => {
    const pool = new Pool(LAST);
    for (const name of ["one", "two"]) {
      const files = ["data", "metadata"].flatMap((role) => [`--${role}`, join(pool.folder, `${name}.${role}`)]);
      const made = await pool.run("pool", "create", name, ...files, "--data-size", "64m", "--metadata-size", "4m");
      expect(made.stderr).toBe("");
    }
    const at = (name: string) => join(pool.folder, name);
    const ran = await pool.run(
      "metadata",
      "trim",
      "-y",
      "--metadata-dev",
      at("one.metadata"),
      "--data-dev",
      at("two.data"),
    );
    expect(ran.stderr).toMatch(
      /are not the metadata and data of one pool\nhint: pool 'one' has metadata on .*one.metadata and data on/,
    );
    const mixed = await pool.run("metadata", "trim", "-y", "--metadata-dev", pool.metadata, "--data-dev", "two");
    expect(mixed.stderr).toMatch(/are not the metadata and data of one pool/);
    const both = await pool.run("metadata", "trim", "-y", "--metadata-dev", "one", "--data-dev", "one");
    expect(both).toMatchObject({ status: 0, stderr: "", stdout: "discarded 64M of 64M on 'one', in 1 stretch\n" });
  });
});
