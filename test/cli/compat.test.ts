/** The programs in bin/compat beside those they stand in for: output, errors' place, exit status. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { createSparseFile } from "../../src/io/index.js";
import { readGoldenRun } from "../support/golden-images.js";
import { attachLoop, detachLoop, whyNoKernelLoops } from "../support/kernel-loops.js";
import { HAS_THIN_TOOLS } from "../support/thin-tools.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const COMPAT = fileURLToPath(new URL("../../bin/compat/", import.meta.url));
const PROGRAMS = [
  "thin_check",
  "thin_dump",
  "thin_restore",
  "thin_repair",
  "thin_ls",
  "thin_delta",
  "thin_rmap",
  "thin_metadata_size",
  "thin_shrink",
  "thin_trim",
];
/** All their words are tried in test/commands/thin-programs.test.ts; here it is that they run as programs. */
const LINES = [
  "thin_check meta.img",
  "thin_check -q bad.img",
  "thin_dump -o out.xml meta.img",
  "thin_ls --no-headers -o DEV,EXCLUSIVE,SHARED_BYTES meta.img",
  "thin_metadata_size --block-size=64k --pool-size=10g --max-thins=5 -nlong",
];

const PACK_LINES = [
  "pack",
  "pack --help",
  "pack -V",
  "pack -x",
  "pack extra",
  "pack -i",
  "pack -i meta.img",
  "pack -i a -i b -o c",
  "pack -f -f -i a -o c",
  "pack --input=none -o c",
  "pack -i . -o c",
  "unpack",
  "unpack --help",
  "unpack --version",
  "unpack -i none -oc",
  "unpack -o c",
];

interface Result {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function compat(session: Session, program: string, words: readonly string[]): Result {
  const { status, stdout, stderr } = spawnSync(join(COMPAT, program), words, {
    cwd: session.folder,
    env: session.environment,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

function real(session: Session, program: string, words: readonly string[]): Result {
  const { status, stdout, stderr } = spawnSync(program, words, {
    cwd: session.folder,
    env: session.environment,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

function makeImages(session: Session): void {
  const metadata = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
  writeFileSync(session.path("meta.img"), metadata);
  const bad = Buffer.from(metadata);
  bad[300]! ^= 1;
  writeFileSync(session.path("bad.img"), bad);
}

describe.skipIf(!HAS_THIN_TOOLS || THROUGH_DAEMON)("as the program of that name", () => {
  test.each(LINES)("%s", async (line) => {
    await withSession(async (session) => {
      makeImages(session);
      const [program, ...words] = line.split(" ");
      const wanted = real(session, program!, words);
      const found = compat(session, program!, words);
      expect(found).toEqual(wanted);
    });
  });

  test("what is dumped by one is restored by the other", async () => {
    await withSession(async (session) => {
      makeImages(session);
      const { stdout: xml } = real(session, "thin_dump", ["meta.img"]);
      writeFileSync(session.path("xml"), xml);
      for (const name of ["ours.img", "theirs.img"]) writeFileSync(session.path(name), Buffer.alloc(8 * 2 ** 20));
      expect(compat(session, "thin_restore", ["-q", "-i", "xml", "-o", "ours.img"]).status).toBe(0);
      expect(real(session, "thin_restore", ["-q", "-i", "xml", "-o", "theirs.img"]).status).toBe(0);
      expect(real(session, "thin_check", ["-q", "ours.img"]).status).toBe(0);
      expect(real(session, "thin_dump", ["ours.img"]).stdout).toBe(xml);
      expect(compat(session, "thin_dump", ["theirs.img"]).stdout).toBe(xml);
    });
  });
});

describe.skipIf(!HAS_THIN_TOOLS || THROUGH_DAEMON || whyNoKernelLoops() !== undefined)("thin_trim", () => {
  // thin_trim 0.9 throws away the last mapped block with the free ones behind it; 1.x does not, nor do we.
  test("discards what thin_trim 0.9 discards but for the last mapped block, and tells it as it does", async () => {
    await withSession(async (session) => {
      makeImages(session);
      const dump = real(session, "thin_dump", ["meta.img"]).stdout;
      const [, sectors, blocks] = /data_block_size="(\d+)" nr_data_blocks="(\d+)"/.exec(dump)!.map(Number);
      const trimmed: { readonly found: Result; readonly left: Buffer }[] = [];
      for (const program of [real, compat]) {
        const file = session.path("data.img");
        rmSync(file, { force: true });
        createSparseFile(file, sectors! * 512 * blocks!);
        const fd = openSync(file, "r+");
        for (let block = 0; block < blocks!; block++) writeSync(fd, "x", block * sectors! * 512);
        closeSync(fd);
        const device = await attachLoop(file);
        try {
          const found = program(session, "thin_trim", ["--metadata-dev", "meta.img", "--data-dev", device]);
          trimmed.push({ found, left: firstBytes(file, blocks!, sectors! * 512) });
        } finally {
          await detachLoop(device);
        }
      }
      const [wanted, ours] = trimmed;
      expect(wanted!.found).toMatchObject({ status: 0, stdout: "" });
      const [, last] = /blocks \((\d+), \d+\]\n$/.exec(wanted!.found.stderr)!.map(Number);
      expect(dump).toMatch(new RegExp(`data_block="${last}"`));
      wanted!.left.write("x", last!);
      const stderr = wanted!.found.stderr.replace(`(${last}, ${blocks}]`, `(${last! + 1}, ${blocks}]`);
      expect(ours!.found).toEqual({ status: 0, stdout: "", stderr });
      expect(ours!.left.equals(wanted!.left)).toBe(true);
      expect(ours!.left.includes(0)).toBe(true);
    });
  });

  test("without its options it tells what they are", async () => {
    await withSession(async (session) => {
      makeImages(session);
      const words = ["--metadata-dev", "meta.img", "--data-dev", "none.img"];
      expect(compat(session, "thin_trim", words)).toMatchObject({ status: 1, stdout: "" });
      expect(compat(session, "thin_trim", words.slice(0, 2))).toEqual(real(session, "thin_trim", words.slice(0, 2)));
    });
  });
});

/** The first byte of each data block. */
function firstBytes(file: string, blocks: number, blockBytes: number): Buffer {
  const bytes = Buffer.alloc(blocks);
  const fd = openSync(file, "r");
  for (let block = 0; block < blocks; block++) readSync(fd, bytes, block, 1, block * blockBytes);
  closeSync(fd);
  return bytes;
}

/** In Debian from 13 on. */
const HAS_PACK = spawnSync("thin_metadata_pack", ["-V"]).status === 0;

describe.skipIf(!HAS_PACK || THROUGH_DAEMON)("as thin_metadata_pack and thin_metadata_unpack of 1.x", () => {
  test.each(PACK_LINES)("thin_metadata_%s", async (line) => {
    await withSession(async (session) => {
      makeImages(session);
      const [program, ...words] = `thin_metadata_${line}`.split(" ");
      const wanted = real(session, program!, words);
      expect(compat(session, program!, words)).toEqual(wanted);
    });
  });

  test("what is packed by one is unpacked by the other", async () => {
    await withSession(async (session) => {
      writeFileSync(
        session.path("meta.img"),
        readGoldenRun("kernel-trace/run.json.br").run.checkpoints.at(-1)!.metadata,
      );
      const done = { status: 0, stdout: "", stderr: "" };
      expect(real(session, "thin_metadata_pack", ["-i", "meta.img", "-o", "theirs.pack"])).toEqual(done);
      expect(compat(session, "thin_metadata_pack", ["-i", "meta.img", "-o", "ours.pack"])).toEqual(done);
      expect(real(session, "thin_metadata_unpack", ["-i", "ours.pack", "-o", "theirs.img"])).toEqual(done);
      expect(compat(session, "thin_metadata_unpack", ["-i", "theirs.pack", "-o", "ours.img"])).toEqual(done);
      expect(readFileSync(session.path("ours.img")).equals(readFileSync(session.path("theirs.img")))).toBe(true);
    });
  });
});

test("packing fails with 64, and a wrong command line with 2", async () => {
  await withSession(async (session) => {
    makeImages(session);
    const pack = (...words: readonly string[]) => compat(session, "thin_metadata_pack", words);
    const unpack = (...words: readonly string[]) => compat(session, "thin_metadata_unpack", words);
    expect(pack("-V")).toEqual({ status: 0, stdout: "1.1.0\n", stderr: "" });
    expect(pack("--help").stdout).toMatch(
      /^Produces a compressed file .*\n\nUsage: thin_metadata_pack \[OPTIONS\] --input <DEV>/,
    );
    expect(pack("-i", "meta.img")).toMatchObject({ status: 2, stdout: "" });
    expect(pack("-i", "none", "-o", "a.pack")).toEqual({
      status: 64,
      stdout: "",
      stderr: "Couldn't find input file 'none'\n",
    });
    expect(pack("-i", "meta.img", "-o", "a.pack")).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(unpack("-i", "meta.img", "-o", "b.img")).toMatchObject({ status: 64, stdout: "" });
    expect(unpack("-i", "a.pack", "-o", "bad.img")).toMatchObject({ status: 0, stdout: "" });
    expect(unpack("-i", "a.pack", "-o", "bad.img")).toMatchObject({ status: 64, stdout: "" });
    expect(unpack("-f", "-i", "a.pack", "-o", "bad.img")).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(readFileSync(session.path("bad.img")).equals(readFileSync(session.path("meta.img")))).toBe(true);
  });
});

test.each(PROGRAMS)("%s tells its version and its options, and fails with 1", async (program) => {
  await withSession(async (session) => {
    expect(compat(session, program, ["-V"])).toEqual({ status: 0, stdout: "0.9.0\n", stderr: "" });
    const help = compat(session, program, ["--help"]);
    expect([help.status, help.stderr]).toEqual([0, ""]);
    expect(help.stdout).toMatch(new RegExp(`^Usage: ${program} `, "m"));
    const nothing = compat(session, program, []);
    expect([nothing.status, nothing.stdout]).toEqual([1, ""]);
    expect(nothing.stderr).not.toMatch(/^udm:|\n {4}at /);
    const missing = compat(session, program, ["--nix", "/nonexistent"]);
    expect([missing.status, missing.stdout]).toEqual([1, ""]);
  });
});

test("one that is interrupted ends as a shell expects it, and leaves no half of a file", async () => {
  await withSession(async (session) => {
    // It waits for input that does not come.
    writeFileSync(session.path("out.img"), Buffer.alloc(2 ** 20));
    const child = session.start(join(COMPAT, "thin_restore"), ["-i", "-", "-o", "out.img"]);
    const ended = finished(child);
    child.stdin!.on("error", () => undefined);
    child.stdin!.write('<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="100">\n');
    // More than lies in the pipe: it reads.
    child.stdin!.write("\n".repeat(2 ** 21));
    await once(child.stdin!, "drain");
    child.kill("SIGINT");
    expect(await ended).toEqual({ status: 130, stdout: "", stderr: "" });
    expect(readFileSync(session.path("out.img")).subarray(0, 4096)).toEqual(Buffer.alloc(4096));
  });
});
