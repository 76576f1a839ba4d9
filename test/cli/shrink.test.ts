/** `udm metadata shrink` and thin_shrink, as programs: pools with a name and without, their files, interrupts. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { copyFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { fillPattern } from "../support/pool-script.js";
import { HAS_THIN_TOOLS } from "../support/thin-tools.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const MIB = 2 ** 20;
const BLOCK = 65536;
const THIN_SHRINK = fileURLToPath(new URL("../../bin/compat/thin_shrink", import.meta.url));

/** 24 MiB of pool: two devices behind each other, a snapshot, the first device deleted; 10 MiB are in use. */
async function makePool(session: Session): Promise<{ readonly b: string; readonly s: string }> {
  await session.ok(
    "pool create p --metadata meta.img --metadata-size 4m --data data.img --data-size 24m --block-size 64k",
  );
  const sums: string[] = [];
  for (const [name, seed] of [
    ["a", 1],
    ["b", 2],
  ] as const) {
    const bytes = new Uint8Array(8 * MIB);
    fillPattern(bytes, 0, seed);
    await session.ok(`thin create p ${name} --size 12m`);
    expect((await session.udm(["thin", "write", name], { input: bytes })).status).toBe(0);
  }
  await session.ok("thin snap b s");
  const more = new Uint8Array(2 * MIB);
  fillPattern(more, 0, 3);
  expect((await session.udm("thin write s --offset 1m", { input: more })).status).toBe(0);
  await session.ok("thin delete a --yes");
  for (const name of ["b", "s"]) sums.push(await sumOf(session, name));
  return { b: sums[0]!, s: sums[1]! };
}

async function openPool(session: Session, metadata: string): Promise<void> {
  const made = await session.udm(`pool create q --metadata ${metadata} --data data.img --block-size 64k`);
  expect(made.status, made.stderr).toBe(0);
  await session.ok("thin activate q:1 b --size 12m");
  await session.ok("thin activate q:2 s --size 12m");
}

async function removePool(session: Session, pool: string): Promise<void> {
  for (const name of ["b", "s"]) await session.ok(`thin deactivate ${name}`);
  await session.ok(`pool remove ${pool}`);
}

async function sumOf(session: Session, name: string): Promise<string> {
  const ran = await session.bash(`udm thin read ${name} | sha256sum`);
  expect(ran.stderr).toBe("");
  return ran.stdout;
}

async function expectSums(session: Session, sums: { readonly b: string; readonly s: string }): Promise<void> {
  expect({ b: await sumOf(session, "b"), s: await sumOf(session, "s") }).toEqual(sums);
}

test("a pool with a name gets a shorter table, and its file is cut", async () => {
  await withSession(async (session) => {
    const sums = await makePool(session);
    const plan = await session.ok("metadata shrink p --size 11m --truncate --dry-run");
    expect(plan).toContain("160 of 384 data blocks are in use, 128 are free below block 176\n");
    expect(plan).toContain("move 112 data blocks in 1 run, 7M to copy\n");
    expect(plan).toContain(`truncate -s ${11 * MIB}`);
    expect(statSync(session.path("data.img")).size).toBe(24 * MIB);
    expect(await session.ok("metadata shrink p --size 11m --truncate --yes")).toBe(
      "moved 112 data blocks, 7M, in 1 commit\n384 data blocks before, 176 now, 11M\n",
    );
    expect(statSync(session.path("data.img")).size).toBe(11 * MIB);
    expect(await session.ok("table show p")).toMatch(/^0 22528 thin-pool /);
    await expectSums(session, sums);
    expect(await session.ok("metadata check p")).toMatch(/clean\n$/);
    expect(await session.ok("metadata shrink p --size 11m --truncate --yes")).toBe(
      "nothing to move: 176 data blocks, 11M\n",
    );
    await session.ok("pool resize p 20m");
    await expectSums(session, sums);
  });
});

test("what does not fit, is asked for twice or not at all, or is in use is refused and nothing is changed", async () => {
  await withSession(async (session) => {
    const sums = await makePool(session);
    const before = readFileSync(session.path("data.img"));
    const refusals: readonly (readonly [words: string, status: number, what: RegExp])[] = [
      ["metadata shrink p --size 9m --yes", 1, /160 data blocks are in use, 144 would be left \(/],
      ["metadata shrink p --size 11m", 1, /--yes/],
      ["metadata shrink p --yes", 2, /the new size is missing/],
      ["metadata shrink p --size 11m --nr-blocks 176", 2, /two sizes are given/],
      ["metadata shrink p --size 48m --yes", 1, /the pool has 384 data blocks, 768 would be more/],
      ["metadata shrink p --nr-blocks 200 --metadata-dev meta.img", 2, /one of them is enough/],
      ["metadata shrink --nr-blocks 200 --metadata-dev meta.img", 2, /no pool is named/],
      ["metadata shrink --nr-blocks 200 --metadata-dev meta.img --data-dev other.img --yes", 1, /other\.img/],
      ["metadata shrink --nr-blocks 200 -i x", 2, /belong together/],
    ];
    writeFileSync(session.path("other.img"), new Uint8Array(24 * MIB));
    for (const [words, status, what] of refusals) {
      const ran = await session.udm(words);
      expect([ran.status, ran.stdout], words).toEqual([status, ""]);
      expect(ran.stderr).toMatch(what);
      expect(ran.stderr).toMatch(/\nhint: .+\n$/);
    }
    await session.ok("pool message p reserve_metadata_snap");
    const held = await session.udm("metadata shrink p --size 11m --yes");
    expect([held.status, held.stderr.includes("a metadata snapshot holds blocks where they are")]).toEqual([1, true]);
    expect(Buffer.compare(readFileSync(session.path("data.img")), before)).toBe(0);
    await session.ok("metadata shrink p --size 11m --yes --release-metadata-snap");
    await expectSums(session, sums);
  });
});

test("devices without a pool's name, and the document of --json", async () => {
  await withSession(async (session) => {
    const sums = await makePool(session);
    await removePool(session, "p");
    const words = "metadata shrink --metadata-dev meta.img --data-dev data.img --nr-blocks 160 --truncate --yes --json";
    expect(JSON.parse(await session.ok(words))).toEqual({
      version: 1,
      shrunk: {
        pool: null,
        blockBytes: BLOCK,
        blocksBefore: 384,
        blocksAfter: 160,
        movedBlocks: 128,
        movedBytes: 128 * BLOCK,
        commits: 1,
        fileBytes: 160 * BLOCK,
      },
    });
    expect(statSync(session.path("data.img")).size).toBe(160 * BLOCK);
    await openPool(session, "meta.img");
    await expectSums(session, sums);
  });
});

describe.skipIf(!HAS_THIN_TOOLS)("in the way of thin_shrink", () => {
  const run = (session: Session, words: string) => session.run(THIN_SHRINK, words.split(" "));

  test("XML and metadata come out the same; the pool that was dumped stays as it is", async () => {
    await withSession(async (session) => {
      const sums = await makePool(session);
      await removePool(session, "p");
      copyFileSync(session.path("meta.img"), session.path("before.img"));
      writeFileSync(session.path("in.xml"), await session.ok("metadata dump meta.img"));
      copyFileSync(session.path("data.img"), session.path("copy.img"));
      for (const words of [
        "-i in.xml -o out.xml --data data.img --nr-blocks 170",
        "--input meta.img --output out.img --binary --data copy.img --nr-blocks 170",
      ]) {
        expect(await run(session, words)).toEqual({ status: 0, stdout: "", stderr: "" });
      }
      expect(await session.ok("metadata dump out.img")).toBe(readFileSync(session.path("out.xml"), "utf8"));
      expect((await session.run("thin_check", ["-q", "out.img"])).status).toBe(0);
      expect(Buffer.compare(readFileSync(session.path("meta.img")), readFileSync(session.path("before.img")))).toBe(0);
      const [one, other] = ["data.img", "copy.img"].map((name) =>
        createHash("sha256")
          .update(readFileSync(session.path(name)))
          .digest("hex"),
      );
      expect(one).toBe(other);
      for (const metadata of ["meta.img", "out.img"]) {
        await openPool(session, metadata);
        await expectSums(session, sums);
        await removePool(session, "q");
      }
    });
  });

  test("without --no-copy data is written, with it none; too small is a failure with 1", async () => {
    await withSession(async (session) => {
      await makePool(session);
      await removePool(session, "p");
      writeFileSync(session.path("in.xml"), await session.ok("metadata dump meta.img"));
      const before = readFileSync(session.path("data.img"));
      const small = await run(session, "-i in.xml -o out.xml --data data.img --nr-blocks 100");
      expect([small.status, small.stdout]).toEqual([1, ""]);
      expect(small.stderr).toMatch(/^in\.xml: 160 data blocks are in use, 100 would be left/);
      expect(() => statSync(session.path("out.xml"))).toThrow();
      expect((await run(session, "-i in.xml -o out.xml --data data.img --nr-blocks 170 --no-copy")).status).toBe(0);
      expect(Buffer.compare(readFileSync(session.path("data.img")), before)).toBe(0);
    });
  });
});

test.skipIf(THROUGH_DAEMON)("an interrupt exits with 130, and the same command ends the work", async () => {
  await withSession(async (session) => {
    const sums = await makePool(session);
    const words = ["metadata", "shrink", "p", "--size", "11m", "--yes"];
    const child = session.start(process.execPath, [
      fileURLToPath(new URL("../../bin/udm.js", import.meta.url)),
      ...words,
    ]);
    const ended = finished(child);
    await once(child, "spawn");
    // Wherever it is by then, the pool is whole.
    await new Promise((resolve) => setTimeout(resolve, 250));
    child.kill("SIGINT");
    expect([0, 130, null]).toContain((await ended).status);
    await expectSums(session, sums);
    await session.ok(words);
    await expectSums(session, sums);
    expect(await session.ok("metadata check p")).toMatch(/data: 160 of 176 blocks used\nclean\n$/);
  });
});
