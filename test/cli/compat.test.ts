/** The programs in bin/compat beside those they stand in for: output, errors' place, exit status. */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { readGoldenRun } from "../support/golden-images.js";
import { HAS_THIN_TOOLS } from "../support/thin-tools.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const COMPAT = fileURLToPath(new URL("../../bin/compat/", import.meta.url));
const PROGRAMS = [
  "thin_check",
  "thin_dump",
  "thin_restore",
  "thin_ls",
  "thin_delta",
  "thin_rmap",
  "thin_metadata_size",
  "thin_shrink",
];
/** All their words are tried in test/commands/thin-programs.test.ts; here it is that they run as programs. */
const LINES = [
  "thin_check meta.img",
  "thin_check -q bad.img",
  "thin_dump -o out.xml meta.img",
  "thin_ls --no-headers -o DEV,EXCLUSIVE,SHARED_BYTES meta.img",
  "thin_metadata_size --block-size=64k --pool-size=10g --max-thins=5 -nlong",
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
