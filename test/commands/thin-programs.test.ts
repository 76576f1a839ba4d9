/**
 * The programs of bin/compat beside those they stand in for, on sound, damaged, missing, too small and odd inputs and with
 * wrong words: standard output, standard error and exit status are theirs, to the byte. Where we differ, and why, stands
 * below.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { thinToolMain } from "../../src/main.js";
import { readGoldenRun } from "../support/golden-images.js";
import { makeFolder } from "../support/make-folder.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { captured, type Ran } from "./run-main.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const READERS = ["thin_check", "thin_dump", "thin_ls", "thin_delta --snap1 7 --snap2 10", "thin_rmap --region 0..10"];
const INPUTS = [
  ...["meta.img", "bad.img", "bad-root.img", "missing.img", "empty.img", "tiny.img", "one.img", "zero.img"],
  ...["random.img", "folder", "good.xml"],
];
const PROGRAMS = [...READERS.map((line) => line.split(" ")[0]!), "thin_restore", "thin_repair", "thin_metadata_size"];

/** To the byte. */
const LINES = `
thin_check meta.img meta.img
thin_check -qq meta.img
thin_check --quie meta.img
thin_check meta.img -q
thin_check -m meta.img
thin_check -q -m meta.img
thin_check --auto-repair -m meta.img
thin_check --auto-repair --skip-mappings meta.img
thin_check --auto-repair --ignore-non-fatal-errors meta.img
thin_check --clear-needs-check-flag --skip-mappings meta.img
thin_check --clear-needs-check-flag --super-block-only meta.img
thin_check --clear-needs-check-flag --ignore-non-fatal-errors meta.img
thin_check --override-mapping-root 27 meta.img
thin_check --override-mapping-root 100 meta.img
thin_check --override-mapping-root 99999999 meta.img
thin_check --override-mapping-root 0 meta.img
thin_check --override-mapping-root 5 -m meta.img
thin_check --override-mapping-root
thin_check --clear-needs-check-flag meta.img
thin_check --clear-needs-check-flag bad.img
thin_check --clear-needs-check-flag bad-root.img
thin_check --auto-repair bad-root.img
thin_check -q --clear-needs-check-flag bad-root.img
thin_check --auto-repair bad.img
thin_check -- meta.img
thin_check --quiet=3 meta.img
thin_check -q missing.img
thin_check -q tiny.img
thin_check -q folder
thin_check -q good.xml
thin_check -q
thin_check -q --nix
thin_check --su meta.img
thin_check --super-block-only --skip-mappings meta.img
thin_check --override-mapping-root 5 --skip-mappings meta.img
thin_check -m snap.img
thin_delta --snap1 7 meta.img
thin_delta --snap2 7 meta.img
thin_delta --thin1 7 --thin2 10 --verbose meta.img
thin_delta --thin1 7 --thin2 10 -m meta.img
thin_delta --thin1 7 --thin2 10 -m5 meta.img
thin_delta --thin1 x --thin2 10 meta.img
thin_delta --thin1 7 --thin2 9999 meta.img
thin_delta --thin1 9999 --thin2 7 meta.img
thin_delta --thin1 7 --thin1 12 --thin2 10 meta.img
thin_delta --snap1 7 --snap2 10
thin_delta --snap1 7 --snap2 10 meta.img bad.img
thin_delta -m --snap1 7 --snap2 10 snap.img
thin_dump meta.img meta.img
thin_dump -f nix meta.img
thin_dump -f custom meta.img
thin_dump --dev-id 10 --dev-id 7 meta.img
thin_dump -m meta.img
thin_dump -m5 meta.img
thin_dump --metadata-snap=5 meta.img
thin_dump -r meta.img
thin_dump --repai meta.img
thin_dump -fxml --skip-map meta.img
thin_dump -V --nix
thin_dump --dev-id x meta.img
thin_dump --dev-id
thin_dump -mx meta.img
thin_dump --transaction-id 77 --data-block-size 256 --nr-data-blocks 5000 meta.img
thin_dump --transaction-id x meta.img
thin_dump -f xml -o
thin_dump --nix -V
thin_ls -o NIX meta.img
thin_ls -o DEV,MAPPED meta.img
thin_ls --format DEV,SHARED,EXCLUSIVE meta.img
thin_ls --format DEV,SHARED,EXCLUSIVE bad-root.img
thin_ls --no-headers meta.img
thin_ls -m meta.img
thin_ls -o meta.img
thin_ls --no-header meta.img
thin_ls -o DEV,,MAPPED meta.img
thin_ls meta.img bad.img
thin_ls -m snap.img
thin_ls -o DEV,EXCLUSIVE_BLOCKS,SHARED_BLOCKS -m snap.img
thin_metadata_size -b 64k
thin_metadata_size -b 64k -s 1t
thin_metadata_size -b 64k -s 1t -m 0
thin_metadata_size -b 0 -s 1t -m 1
thin_metadata_size -b 63k -s 1t -m 1
thin_metadata_size -b 64k -s 64k -m 1
thin_metadata_size -b x -s 1t -m 1
thin_metadata_size -b 64k -s 1t -m 1k
thin_metadata_size -b 64k -s 1t -m 1K
thin_metadata_size -b 64k -s 1t -m 10 -u x
thin_metadata_size -b 64k -s 1t -m 10 -n short
thin_metadata_size -b 64k -s 1t -m 10 -nshort
thin_metadata_size -b 64k -s 1t -m 10 -nlong -u m
thin_metadata_size -b 64k -s 1t -m 10 -nx
thin_metadata_size -b 64k -s 1t -m 10 --numeric-only=sh
thin_metadata_size -b1m -s 1p -m 1000000
thin_metadata_size -b1mebibytes -s 1tebibytes -m 10
thin_metadata_size -b 64kib -s 1t -m 1
thin_metadata_size -b 64kb -s 1t -m 1
thin_metadata_size -b 64.5k -s 1t -m 1
thin_metadata_size -b 64k -s 1t -m 10 -u mebibytes
thin_metadata_size -b 64k -s 1t -m 10 -u mega
thin_metadata_size -b 64k -s 1t -m 10 extra
thin_metadata_size -b 64k -s 100t -m 1
thin_metadata_size -b 65536b -s 1t -m 10
thin_metadata_size -b 64k -s 1t -m 1 -b 128k
thin_metadata_size -b
thin_repair -i missing.img -o out8.img
thin_repair -i meta.img
thin_repair -o out8.img
thin_repair -i meta.img -o missing.img
thin_repair -i folder -o out8.img
thin_repair -i meta.img -o folder
thin_repair -i meta.img -o out8.img --transaction-id x
thin_repair -i bad-root.img -o out8.img
thin_repair -i meta.img -o out8.img more
thin_restore -i good.xml
thin_restore -i good.xml -q
thin_restore -i good.xml -o missing.img
thin_restore -i good.xml -o folder
thin_restore -i missing.xml -o out8.img
thin_restore -q -i missing.xml -o out8.img
thin_restore -i folder -o out8.img
thin_restore -i good.xml -o out8.img extra
thin_restore --transaction-id x -i good.xml -o out8.img
thin_rmap --region 5 meta.img
thin_rmap --region 5..4 meta.img
thin_rmap --region 3.. meta.img
thin_rmap --region a..b meta.img
thin_rmap meta.img
thin_rmap --region 0..10 meta.img bad.img
`;

/** What we do otherwise, with the same exit status: `theirs` and `ours` are looked for in all that is printed. */
const OTHERWISE: readonly {
  readonly why: string;
  readonly line: string;
  readonly theirs: RegExp;
  readonly ours: RegExp;
}[] = [
  {
    why: "nothing is printed before the damage that ends it",
    line: "thin_dump bad-root.img",
    theirs: /^<superblock/,
    ours: /^metadata contains errors/,
  },
  {
    why: "what is left out is told",
    line: "thin_dump -r bad-root.img",
    theirs: /^<superblock .*\n<\/superblock>\n$/s,
    ours: /udm: left out: device 7 has details and no mapping tree\n/,
  },
  {
    why: "a device that is not there is told",
    line: "thin_dump --dev-id 9999 meta.img",
    theirs: /^<superblock .*\n<\/superblock>\n$/s,
    ours: /udm: .*meta.img has no device 9999;/,
  },
  {
    why: "counts of details are held against mappings",
    line: "thin_check --override-mapping-root 5 meta.img",
    theirs: /examining mapping tree\nchecking space map counts/,
    ours: /examining mapping tree\n {2}device 16: its details say 107 mappings, its tree has 106\n/,
  },
  {
    why: "a dump of a metadata snapshot can be restored: it knows how much data the pool has",
    line: "thin_dump -m snap.img",
    theirs: /nr_data_blocks="0"/,
    ours: /nr_data_blocks="2263"/,
  },
  {
    why: "every device is named that maps a block, not the first that leads to a shared leaf, and in order",
    line: "thin_rmap --region 10..11 meta.img",
    theirs: /^(data 10\.\.11 -> thin\(\d+\) 334\.\.335\n){5}$/,
    ours: /^(data 10\.\.11 -> thin\(\d+\) 334\.\.335\n){7}$/,
  },
  {
    why: "how large an output has to be",
    line: "thin_restore -i good.xml -o out64k.img",
    theirs: /couldn't allocate new block/,
    ours: /out64k\.img: 16 blocks of 4 KiB, wanted 34 \(139264 bytes\)\n$/,
  },
  {
    why: "nothing is written over what is repaired",
    line: "thin_repair -i other.img -o other.img",
    theirs: /^$/,
    ours: /other\.img.*same|same.*other\.img|input and output/,
  },
  {
    why: "what is wrong with an XML file",
    line: "thin_restore -i cut.xml -o out.img",
    theirs: /^Parse error at line 4:\nunclosed token\n/,
    ours: /cut\.xml: line 4: the text ends within an element\n$/,
  },
  {
    why: "an output is not written over its input",
    line: "thin_restore -i same.xml -o same.xml",
    theirs: /couldn't allocate new block/,
    ours: /^restore: input and output are the same\n$/,
  },
  {
    why: "no plug-ins for other formats",
    line: "thin_dump --help",
    theirs: /xml\|human_readable\|custom/,
    ours: /xml\|human_readable\}/,
  },
];

let folder = "";
beforeAll(() => {
  folder = makeFolder();
  const { checkpoints } = readGoldenRun("kernel-random/run.json.br").run;
  const metadata = Buffer.from(checkpoints.at(-1)!.metadata);
  const write = (name: string, bytes: Uint8Array | string) => writeFileSync(join(folder, name), bytes);
  write("meta.img", metadata);
  write("bad.img", flipped(metadata, 300));
  write("bad-root.img", flipped(metadata, Number(metadata.readBigUInt64LE(320)) * 4096 + 100));
  const held = checkpoints.map((each) => Buffer.from(each.metadata)).find((each) => each.readBigUInt64LE(56) !== 0n);
  write("snap.img", held ?? metadata);
  write("other.img", metadata);
  write("empty.img", "");
  write("tiny.img", Buffer.alloc(100));
  write("one.img", Buffer.alloc(4096));
  write("zero.img", Buffer.alloc(2 ** 20));
  write("random.img", Buffer.alloc(2 ** 20, "some bytes that are none of ours;"));
  write("out.img", Buffer.alloc(8 * 2 ** 20));
  write("out8.img", Buffer.alloc(8 * 2 ** 20));
  write("out64k.img", Buffer.alloc(65536));
  mkdirSync(join(folder, "folder"));
  if (!HAS_THIN_TOOLS) return;
  const xml = real("thin_dump meta.img").stdout;
  write("good.xml", xml);
  write("same.xml", xml);
  write("cut.xml", xml.slice(0, 300));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function flipped(metadata: Buffer, offset: number): Buffer {
  const bytes = Buffer.from(metadata);
  bytes[offset]! ^= 1;
  return bytes;
}

/** Names of files become paths of this test's folder. */
function wordsOf(line: string): readonly [string, readonly string[]] {
  const [program = "", ...words] = line.trim().split(/\s+/);
  return [program, words.map((word) => (/^(\w[\w-]*\.(img|xml)|folder)$/.test(word) ? join(folder, word) : word))];
}

function real(line: string): Ran {
  const [program, words] = wordsOf(line);
  const { status, stdout, stderr } = spawnSync(program, words, {
    env: { PATH },
    encoding: "utf8",
    maxBuffer: 64 * 2 ** 20,
  });
  return { status: status ?? -1, stdout, stderr };
}

function ours(line: string): Promise<Ran> {
  const [program, words] = wordsOf(line);
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  return captured((streams) =>
    thinToolMain(program, words, streams, { environment: { LC_ALL: "C", ...environment }, isRoot: false }),
  );
}

/** We take no plug-ins, and do not tell that we did. */
function withoutPlugins({ status, stdout, stderr }: Ran): Ran {
  const without = (text: string) => text.replace("human_readable|custom", "human_readable");
  return { status, stdout: without(stdout), stderr: without(stderr) };
}

describe.skipIf(!HAS_THIN_TOOLS)("as the program of that name", () => {
  test.each(READERS.flatMap((line) => INPUTS.map((input) => [line, input] as const)))("%s %s", async (line, input) => {
    const each = `${line} ${input}`;
    const own = OTHERWISE.find((other) => other.line === each);
    if (own === undefined) expect(await ours(each)).toEqual(real(each));
  });

  test.each(PROGRAMS.flatMap((program) => ["", "--nix", "-x", "-V"].map((words) => `${program} ${words}`)))(
    "%s",
    async (line) => {
      expect(await ours(line)).toEqual(withoutPlugins(real(line)));
    },
  );

  test.each(PROGRAMS.filter((program) => program !== "thin_metadata_size"))("%s --help", async (program) => {
    expect(await ours(`${program} --help`)).toEqual(withoutPlugins(real(`${program} -h`)));
  });

  test.each(LINES.trim().split("\n"))("%s", async (line) => {
    expect(await ours(line)).toEqual(withoutPlugins(real(line)));
  });

  test.each(OTHERWISE)("otherwise: $why", async ({ line, theirs, ours: own }) => {
    const [found, wanted] = [await ours(line), real(line)];
    expect(found.status).toBe(line.startsWith("thin_repair") ? 1 : wanted.status);
    expect(wanted.stdout + wanted.stderr).toMatch(theirs);
    expect(found.stdout + found.stderr).toMatch(own);
  });

  test("what is restored by one is dumped the same by the other", async () => {
    for (const options of ["", "-q ", "--transaction-id 99 --nr-data-blocks 9999 --data-block-size 256 "]) {
      const line = `thin_restore ${options}-i good.xml -o`;
      expect(await ours(`${line} out.img`)).toEqual({ status: 0, stdout: "", stderr: "" });
      expect(real(`${line} out8.img`)).toEqual({ status: 0, stdout: "", stderr: "" });
      expect(thinCheck(readFileSync(join(folder, "out.img")))).toBeUndefined();
      expect(real("thin_dump out.img").stdout).toBe(real("thin_dump out8.img").stdout);
      expect((await ours("thin_dump out8.img")).stdout).toBe((await ours("thin_dump out.img")).stdout);
    }
  });

  test("a dump that goes to a file is the one that is printed", async () => {
    for (const option of ["-o", "--output"]) {
      expect(await ours(`thin_dump ${option} o.xml meta.img`)).toEqual({ status: 0, stdout: "", stderr: "" });
      expect(readFileSync(join(folder, "o.xml"), "utf8")).toBe(real("thin_dump meta.img").stdout);
    }
  });
});

/** What LVM runs, by lvm.conf's defaults and in lvconvert --repair. */
test("what LVM runs is understood", async () => {
  expect(await ours("thin_repair -i bad-root.img -o out.img")).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(await ours("thin_check -q --clear-needs-check-flag out.img")).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(await ours("thin_check -q --clear-needs-check-flag meta.img")).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(await ours("thin_check -q --clear-needs-check-flag bad.img")).toEqual({ status: 1, stdout: "", stderr: "" });
  expect((await ours("thin_check -V")).stdout).toMatch(/^0\.9\.0\n$/);
  const dump = await ours("thin_dump meta.img");
  expect([dump.status, dump.stderr]).toEqual([0, ""]);
});
