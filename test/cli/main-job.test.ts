/** The main job, line by line, with the real binary on real files. */

import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { HAS_THIN_TOOLS } from "../support/thin-tools.js";
import { type Session, withSession } from "./session.js";

const MIB = 1024 * 1024;

/** 64 MiB with data in places that are not multiples of a block, and holes between. */
function writeImage(path: string): Buffer {
  const image = Buffer.alloc(64 * MIB);
  const file = openSync(path, "w");
  ftruncateSync(file, image.length);
  for (const [offset, length] of [
    [0, 100_000],
    [5 * MIB + 512, 3 * MIB],
    [63 * MIB, MIB],
  ] as const) {
    randomBytes(length).copy(image, offset);
    writeSync(file, image, offset, length, offset);
  }
  closeSync(file);
  return image;
}

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Checksums of a file's parts. */
function readParts(path: string, partBytes: number): readonly string[] {
  const file = openSync(path, "r");
  const part = Buffer.alloc(partBytes);
  const sums: string[] = [];
  for (let length = readSync(file, part); length > 0; length = readSync(file, part)) {
    sums.push(sha(part.subarray(0, length)));
  }
  closeSync(file);
  return sums;
}

async function expectClean(session: Session): Promise<void> {
  if (!HAS_THIN_TOOLS) return;
  expect(await session.run("thin_check", ["metadata.img"])).toMatchObject({ status: 0 });
}

test("a pool, real data, a snapshot, copy-on-write on both sides, growth, the tree", async () => {
  await withSession(async (session) => {
    const image = writeImage(session.path("disk.img"));
    expect(await session.ok("loop attach metadata.img --size 128m")).toBe("7:0\n");
    expect(await session.ok("loop attach data.img --size 10g")).toBe("7:1\n");
    const table = "0 20971520 thin-pool 7:0 7:1 128 32768";
    expect(await session.ok(["pool", "create", "pool", "--table", table])).toBe("");
    await expectClean(session);
    expect(await session.ok("thin create pool base --size 2g")).toBe("");
    expect(await session.ok("thin import base disk.img")).toBe("");
    await expectClean(session);
    expect(await session.ok("thin snap base layer1")).toBe("");

    const patch = randomBytes(70_000);
    writeFileSync(session.path("patch"), patch);
    expect((await session.bash("udm thin write layer1 --offset 1m < patch")).status).toBe(0);
    const other = randomBytes(512);
    expect(await session.ok("thin write base --offset 0", { input: other })).toBe("");
    await expectClean(session);

    const ran = await session.bash("udm table suspend pool && udm pool resize pool 20g && udm table resume pool");
    expect(ran).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(await session.ok("table show pool")).toBe("0 41943040 thin-pool 7:0 7:1 128 32768 0 \n");
    await expectClean(session);

    const layer = Buffer.from(image);
    patch.copy(layer, MIB);
    other.copy(image, 0);
    for (const [name, wanted] of [
      ["base", image],
      ["layer1", layer],
    ] as const) {
      await session.ok(`thin export ${name} ${name}.img`);
      const exported = readParts(session.path(`${name}.img`), 64 * MIB);
      expect(exported.length).toBe(32);
      expect(exported[0]).toBe(sha(wanted));
      expect(new Set(exported.slice(1))).toEqual(new Set([sha(Buffer.alloc(64 * MIB))]));
      expect(statSync(session.path(`${name}.img`)).blocks * 512).toBeLessThan(16 * MIB);
    }

    expect(await session.ok("table show")).toBe(
      "base: 0 4194304 thin 253:0 0\nlayer1: 0 4194304 thin 253:0 1\npool: 0 41943040 thin-pool 7:0 7:1 128 32768 0 \n",
    );
    const status = await session.ok("table status pool");
    expect(status).toMatch(
      /^0 41943040 thin-pool 0 \d+\/32768 \d+\/327680 - rw discard_passdown queue_if_no_space - 1024 \n$/,
    );
    expect(await session.ok("pool status pool --raw")).toBe(status);
    const { thins } = JSON.parse(await session.ok("thin list --json"));
    expect(
      thins.map((thin: { name: string; id: number; origin: string | null }) => [thin.name, thin.id, thin.origin]),
    ).toEqual([
      ["base", 0, null],
      ["layer1", 1, "base"],
    ]);
    expect(thins[0].exclusive + thins[0].shared).toBe(thins[0].mapped);
    expect(await session.ok("lsblk -i -o NAME,MAJ:MIN,SIZE loop0 loop1")).toBe(
      [
        "NAME       MAJ:MIN  SIZE",
        "loop0        7:0    128M",
        "`-pool     253:0     20G",
        "  |-base   253:1      2G",
        "  `-layer1 253:2      2G",
        "loop1        7:1     20G",
        "`-pool     253:0     20G",
        "  |-base   253:1      2G",
        "  `-layer1 253:2      2G",
        "",
      ].join("\n"),
    );
    expect(statSync(session.path("data.img")).size).toBe(20 * 1024 * MIB);
  });
});

describe("what a command prints can stand in a pipe", () => {
  test("a reader that goes away is no failure", async () => {
    await withSession(async (session) => {
      await session.ok("pool create p --data d --metadata m --data-size 1g --metadata-size 16m");
      await session.ok("thin create p a --size 512m");
      const ran = await session.bash(
        "set -o pipefail; udm thin read a | head -c 10 | wc -c; udm lsblk | head -n 1 | wc -l",
      );
      expect(ran).toEqual({ status: 0, stdout: "10\n1\n", stderr: "" });
    });
  });

  test("export to standard output and import from standard input keep every byte", async () => {
    await withSession(async (session) => {
      const image = writeImage(session.path("disk.img"));
      await session.ok("pool create p --data d --metadata m --data-size 1g --metadata-size 16m");
      await session.ok("thin create p a --size 64m");
      await session.ok("thin create p b --size 64m");
      expect((await session.bash("cat disk.img | udm thin import a -")).status).toBe(0);
      expect(
        (await session.bash("udm thin export a - > a.img && udm thin import b - < a.img && udm thin read b > out"))
          .status,
      ).toBe(0);
      expect(sha(readFileSync(session.path("out")))).toBe(sha(image));
    });
  });
});

test("Ctrl-C ends a command with 130 and leaves a pool that opens", async () => {
  await withSession(async (session) => {
    await session.ok("pool create p --data d --metadata metadata.img --data-size 1g --metadata-size 16m");
    await session.ok("thin create p a --size 512m");
    const child = session.start("bash", ["-c", "exec udm thin import a -"]);
    // The pipe stays open, so the import waits for more until it is interrupted.
    child.stdin!.write(randomBytes(2 * MIB));
    const status = new Promise((resolve) => child.once("exit", (code, signal) => resolve(code ?? signal)));
    await new Promise((resolve) => child.stdin!.write(randomBytes(4096), resolve));
    await untilReading(child.pid!);
    child.kill("SIGINT");
    expect(await status).toBe(130);
    child.stdin!.destroy();
    await session.ok("thin list p");
    await session.ok("thin write a", { input: "still alive" });
    await expectClean(session);
  });
});

/** Waits until a process has taken input: only then its own handler of SIGINT is in place. */
async function untilReading(pid: number): Promise<void> {
  for (;;) {
    const read = /^rchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1];
    if (Number(read) > 2 * MIB) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
