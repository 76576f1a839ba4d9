/** `udm metadata ls`, `delta`, `rmap` and `size`: to the byte what thin_ls, thin_delta, thin_rmap print, on kernel-made metadata. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readGoldenRun } from "../support/golden-images.js";
import { temporaryFolder } from "../support/make-folder.js";
import { HAS_THIN_TOOLS, thinDump } from "../support/thin-tools.js";
import { type Ran, runMain } from "./run-main.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const EVERY_FIELD = [
  "DEV",
  ...["MAPPED", "EXCLUSIVE", "SHARED"].flatMap((name) => [`${name}_BLOCKS`, `${name}_SECTORS`, `${name}_BYTES`, name]),
  ...["TRANSACTION", "CREATE_TIME", "SNAP_TIME"],
].join(",");
const TITLES = ["kernel-random", "kernel-trace"].flatMap((name) =>
  readGoldenRun(`${name}/run.json.br`).run.checkpoints.map(({ title, metadata }) => ({
    title: `${name}, ${title}`,
    metadata,
  })),
);

function udm(folder: string, ...words: readonly string[]): Promise<Ran> {
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  return runMain(["metadata", ...words], { environment });
}

function tool(program: string, ...words: readonly string[]): string {
  const ran = spawnSync(program, words, { env: { PATH }, encoding: "utf8", maxBuffer: 2 ** 28 });
  expect(ran.status, `${program} ${words.join(" ")}: ${ran.stderr}`).toBe(0);
  return ran.stdout;
}

async function idsOf(folder: string, image: string): Promise<readonly number[]> {
  const { stdout } = await udm(folder, "ls", "--no-headers", "-o", "DEV", image);
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map(Number);
}

describe.skipIf(!HAS_THIN_TOOLS).each(TITLES)("$title", ({ metadata }) => {
  const make = () => {
    const folder = temporaryFolder();
    const image = join(folder, "meta.img");
    writeFileSync(image, metadata);
    return { folder, image };
  };

  test("ls", async () => {
    const { folder, image } = make();
    for (const words of [[], ["-o", EVERY_FIELD], ["--no-headers", "-o", "DEV,SHARED"]]) {
      expect((await udm(folder, "ls", ...words, image)).stdout).toBe(tool("thin_ls", ...words, image));
    }
  });

  test("delta of neighbours, and of the first with the last", async () => {
    const { folder, image } = make();
    const ids = await idsOf(folder, image);
    const pairs = ids.slice(1).map((id, index) => [ids[index]!, id]);
    if (ids.length > 2) pairs.push([ids.at(-1)!, ids[0]!]);
    for (const [left, right] of pairs) {
      const words = ["--thin1", String(left), "--thin2", String(right), image];
      expect((await udm(folder, "delta", ...words)).stdout).toBe(tool("thin_delta", ...words));
      expect((await udm(folder, "delta", "--verbose", ...words)).stdout).toBe(
        tool("thin_delta", "--verbose", ...words),
      );
    }
  });

  // thin_rmap 0.9 looks at a leaf that devices share once, and names the first of them alone; we name all.
  test("rmap names whom thin_rmap names, and whoever else has the block in the dump", async () => {
    const { folder, image } = make();
    const dump = thinDump(metadata);
    for (const regions of [["0..100000"], ["3..4"], ["10..40", "30..90", "200..201"]]) {
      const words = regions.flatMap((region) => ["--region", region]);
      const ours = pairsOf((await udm(folder, "rmap", ...words, image)).stdout);
      expect([...pairsOf(tool("thin_rmap", ...words, image))].filter((pair) => !ours.has(pair))).toEqual([]);
      const ranges = regions.map((region) => region.split("..").map(Number));
      const wanted = dump.devices.flatMap(({ id, mappings }) =>
        mappings
          .filter(([, data]) => ranges.some(([begin, end]) => data >= begin! && data < end!))
          .map(([virtual, data]) => `${data} ${id} ${virtual}`),
      );
      expect([...ours].sort()).toEqual(wanted.sort());
    }
  });
});

/** Each block of each line: `data device virtual`. */
function pairsOf(text: string): Set<string> {
  const pairs = new Set<string>();
  for (const line of text.split("\n").filter((each) => each !== "")) {
    const numbers = /^data (\d+)\.\.(\d+) -> thin\((\d+)\) (\d+)\.\.(\d+)$/.exec(line)?.slice(1).map(Number);
    const [begin, end, id, virtual] = numbers!;
    for (let block = begin!; block < end!; block++) pairs.add(`${block} ${id} ${virtual! + block - begin!}`);
  }
  return pairs;
}

describe("size", () => {
  const CASES = [
    ["64k", "1t", "1000"],
    ["64k", "10g", "1"],
    ["1m", "10t", "100000"],
    ["128", "200000", "1"],
    ["2g", "4g", "1"],
  ] as const;

  test.skipIf(!HAS_THIN_TOOLS).each(CASES)("-b %s -s %s -m %s", async (block, pool, thins) => {
    const folder = temporaryFolder();
    for (const unit of ["s", "b", "k", "m", "g", "M"]) {
      const words = ["-b", block, "-s", pool, "-m", thins, "-u", unit, "-n"];
      expect((await udm(folder, "size", ...words)).stdout, unit).toBe(tool("thin_metadata_size", ...words));
    }
  });

  test("more than the format can hold is said", async () => {
    const ran = await udm(temporaryFolder(), "size", "-b", "64k", "-s", "100t", "-m", "1");
    expect(ran.stderr).toContain("at most 15.88 GiB");
  });
});

describe("what cannot be done is said in a line, with the status of wrong usage or of failure", () => {
  const image = () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "meta.img"), TITLES.at(-1)!.metadata);
    return { folder, path: join(folder, "meta.img") };
  };
  test.each([
    [["ls", "-o", "NIX"], 2, "metadata ls: field 'NIX' is unknown"],
    [["delta", "--thin1", "0"], 2, "metadata delta: --thin2 is missing"],
    [["delta", "--thin1", "0", "--thin2", "77777"], 1, "has no device 77777"],
    [["delta", "--thin1", "0", "--root1", "5", "--thin2", "1"], 2, "exclude each other"],
    [["rmap"], 2, "metadata rmap: no region is given"],
    [["rmap", "--region", "5"], 2, "region '5' is none"],
  ] as const)("%j", async (words, status, message) => {
    const { folder, path } = image();
    const ran = await udm(folder, ...words, path);
    expect([ran.status, ran.stdout]).toEqual([status, ""]);
    expect(ran.stderr).toContain(message);
    expect(ran.stderr).toMatch(/^udm: .*\nhint: .*\n$/);
  });

  test("damage ends it, and is named", async () => {
    const { folder, path } = image();
    const bytes = Buffer.from(TITLES.at(-1)!.metadata);
    bytes[100]! ^= 1;
    writeFileSync(path, bytes);
    const ran = await udm(folder, "ls", path);
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(/^udm: .*superblock.*checksum.*\nhint: udm metadata check/);
  });
});
