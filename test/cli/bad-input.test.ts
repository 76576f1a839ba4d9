/** Bad input is refused with one line, a hint and a status, before anything changes. */
import { createHash } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Ran, Session, withSession } from "./session.js";

const TABLE = "0 131072 thin-pool 7:0 7:1 128 0";

/** A pool of 64 MiB on loop 0 and 1 with one thin device of 64 MiB. */
async function makePool(session: Session): Promise<void> {
  await session.ok("loop attach meta.img --size 16m");
  await session.ok("loop attach data.img --size 64m");
  await session.ok(["pool", "create", "pool", "--table", TABLE]);
  await session.ok("thin create pool vol --size 32m");
  await session.ok("thin write vol", { input: "precious" });
}

function fingerprint(session: Session): Record<string, string> {
  const prints: Record<string, string> = {};
  for (const name of ["meta.img", "data.img", "state/state.json"]) {
    const path = session.path(name);
    if (!existsSync(path)) continue;
    prints[name] = createHash("sha256").update(readFileSync(path)).digest("hex");
  }
  return prints;
}

function expectRefusal(ran: Ran, status: number, message: RegExp): void {
  expect({ ...ran, lines: ran.stderr.split("\n").length }).toMatchObject({ stdout: "", lines: 3 });
  expect(ran.stderr).toMatch(/^udm: .+\nhint: .+\n$/);
  expect(ran.stderr).toMatch(message);
  expect(ran.status).toBe(status);
}

describe("on a healthy pool", () => {
  let session: Session;
  let before: Record<string, string>;
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "udm-bad-input-"));
    session = new Session(folder);
    await makePool(session);
    writeFileSync(session.path("text"), "this is no metadata\n".repeat(1000));
    await session.ok("loop attach text");
    await session.ok("loop attach small.img --size 1m");
    await session.ok("loop attach zero.img --size 16m");
    await session.ok("loop attach file-with-room.img --size 2g");
    before = fingerprint(session);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test.each<[string, readonly string[], number, RegExp]>([
    ["an unknown pool", ["pool", "status", "nosuch"], 1, /nosuch/],
    ["an unknown thin device", ["thin", "snap", "nosuch", "x"], 1, /nosuch/],
    ["an unknown device", ["device", "info", "nosuch"], 1, /nosuch/],
    ["an unknown loop device", ["loop", "detach", "7:99"], 1, /7:99/],
    ["a file that is not there", ["loop", "attach", "not-there"], 1, /not-there/],
    ["a pool's name in use", ["pool", "create", "pool", "--table", "0 8 thin-pool 7:4 7:5 128 0"], 1, /pool/],
    ["a thin device's name in use", ["thin", "create", "pool", "vol", "--size", "1g"], 1, /vol/],
    ["a snapshot's name in use", ["thin", "snap", "vol", "vol"], 1, /vol/],
    ["an id in use", ["thin", "create", "pool", "x", "--size", "1g", "--id", "0"], 1, /0/],
    ["an id over 24 bits", ["thin", "create", "pool", "x", "--size", "1g", "--id", "16777216"], 2, /16777216/],
    ["an id over 24 bits in a message", ["pool", "message", "pool", "create_thin", "16777216"], 1, /16777216/],
    ["a size that is none", ["thin", "create", "pool", "x", "--size", "lots"], 2, /lots/],
    ["a message nobody knows", ["pool", "message", "pool", "frobnicate"], 1, /frobnicate/],
    ["a block size below 64k", ["pool", "create", "x", "--table", "0 2048 thin-pool 7:4 7:5 64 0"], 1, /64/],
    [
      "a block size that is no multiple of 64k",
      ["pool", "create", "x", "--table", "0 2048 thin-pool 7:4 7:5 200 0"],
      1,
      /[Ii]nvalid block size/,
    ],
    [
      "a block size over 1g",
      ["pool", "create", "x", "--table", "0 2048 thin-pool 7:4 7:5 2097280 0"],
      1,
      /[Ii]nvalid block size/,
    ],
    [
      "block size by option",
      ["pool", "create", "x", "--data", "d", "--metadata", "m", "--block-size", "96k"],
      1,
      /96|98304|192/,
    ],
    ["a table that does not parse", ["table", "load", "x", "--table", "0 linear 7:1"], 1, /line 1/],
    ["a table with a gap", ["table", "load", "x", "--table", "0 8 zero\n16 8 zero"], 1, /gap|16|start/],
    ["a table with an overlap", ["table", "load", "x", "--table", "0 8 zero\n4 8 zero"], 1, /overlap|gap|start|4/],
    ["an unknown target", ["table", "load", "x", "--table", "0 8 nosuch"], 1, /nosuch/],
    ["a device too small for its table", ["table", "load", "x", "--table", "0 4096 linear 7:3 0"], 1, /small|7:3/],
    [
      "a pool's data device too small",
      ["pool", "create", "x", "--table", "0 131072 thin-pool 7:4 7:3 128 0"],
      1,
      /7:3|small/,
    ],
    [
      "one device in both roles",
      ["pool", "create", "x", "--table", "0 2048 thin-pool 7:4 7:4 128 0"],
      1,
      /a device each/,
    ],
    [
      "metadata that is something else",
      ["pool", "create", "x", "--table", "0 2048 thin-pool 7:2 7:5 128 0"],
      1,
      /7:2|superblock|metadata/,
    ],
    [
      "devices another pool uses",
      ["pool", "create", "x", "--table", "0 2048 thin-pool 7:0 7:5 128 0"],
      1,
      /pool|use|7:0/,
    ],
    ["a pool still in use", ["pool", "remove", "pool"], 1, /vol|in use|open/],
    ["a loop device in use", ["loop", "detach", "7:0"], 1, /pool|use/],
    ["a write past the end", ["thin", "write", "vol", "--offset", "32m"], 1, /end|32|past|beyond/],
    ["a read past the end", ["thin", "read", "vol", "--offset", "32m", "--length", "1"], 1, /end|32|past|beyond/],
    ["an image larger than the device", ["thin", "import", "vol", "file-with-room.img"], 1, /larger|fit|big|small/],
    ["an image that is not there", ["thin", "import", "vol", "not-there"], 1, /not-there/],
    ["a pool that would shrink", ["pool", "resize", "pool", "1m"], 1, /shrink/],
    ["a resume without a name", ["table", "resume"], 2, /argument/],
    ["a deletion without --yes", ["thin", "delete", "vol"], 1, /--yes/],
    ["a name with a slash", ["thin", "create", "pool", "a/b", "--size", "1m"], 1, /a\/b/],
    ["an empty name", ["thin", "create", "pool", "", "--size", "1m"], 1, /name/],
    ["a name too long", ["thin", "create", "pool", "n".repeat(128), "--size", "1m"], 1, /127|long/],
    ["an unknown command", ["thni", "list"], 2, /did you mean udm thin/],
    ["an unknown option", ["thin", "list", "--jsno"], 2, /did you mean --json/i],
  ])("%s", async (_, words, status, message) => {
    expectRefusal(await session.udm(words, { input: "x" }), status, message);
    const { status: jsonStatus, stderr, stdout } = await session.udm(["--json", ...words], { input: "x" });
    // Bytes on standard output leave no room for a document: that is refused first, as wrong usage.
    const expected = words[1] === "read" ? 2 : status;
    expect({ jsonStatus, stdout }).toEqual({ jsonStatus: expected, stdout: "" });
    expect(JSON.parse(stderr).error).toMatchObject({
      code: expect.stringMatching(/^E[A-Z]+$/),
      message: expect.any(String),
    });
    expect(fingerprint(session)).toEqual(before);
  });

  test("suspending what is suspended", async () => {
    await session.ok("table suspend vol");
    expectRefusal(await session.udm("table suspend vol"), 1, /suspended/);
    await session.ok("table resume vol");
  });
});

describe("on a damaged pool", () => {
  /** Removes the mappings, damages the metadata, and tries to make the pool again. */
  async function reopenAfter(damage: (session: Session) => void, message: RegExp): Promise<void> {
    await withSession(async (session) => {
      await makePool(session);
      await session.ok("thin deactivate vol");
      await session.ok("pool remove pool");
      damage(session);
      const before = fingerprint(session);
      expectRefusal(await session.udm(["pool", "create", "pool", "--table", TABLE]), 1, message);
      expect(fingerprint(session)).toEqual(before);
    });
  }

  const poke = (offset: number, bytes: readonly number[]) => (session: Session) => {
    const file = openSync(session.path("meta.img"), "r+");
    writeSync(file, Uint8Array.from(bytes), 0, bytes.length, offset);
    closeSync(file);
  };

  test("a wrong checksum of the superblock", () => reopenAfter(poke(100, [1, 2, 3]), /superblock|checksum|block 0/));
  test("another magic number", () =>
    reopenAfter(poke(32, [1, 2, 3, 4, 5, 6, 7, 8]), /superblock|checksum|magic|block 0/));
  test("a data device smaller than the superblock says", () =>
    reopenAfter((session) => truncateSync(session.path("data.img"), 1024 * 1024), /small|data|7:1/));
});

describe("on a damaged state file", () => {
  test.each([
    ["one that does not parse", () => "{ not json"],
    ["one cut short", (text: string) => text.slice(0, text.length / 2)],
    ["an empty one", () => ""],
    ["one of a newer version", (text: string) => text.replace(/"version":\s*\d+/, '"version": 99')],
  ])("%s", async (_, damage) => {
    await withSession(async (session) => {
      await makePool(session);
      const path = session.path("state/state.json");
      const text = readFileSync(path, "utf8");
      writeFileSync(path, damage(text));
      const before = fingerprint(session);
      for (const words of ["pool status", "thin create pool x --size 1m", "loop list"]) {
        expectRefusal(await session.udm(words), 1, /state/);
      }
      expect(fingerprint(session)).toEqual(before);
      writeFileSync(path, text);
      await session.ok("thin list");
    });
  });
});

test("a state dir that cannot be made is named", async () => {
  await withSession(async (session) => {
    writeFileSync(session.path("file"), "");
    expectRefusal(await session.udm("--state-dir file/state loop list"), 1, /file\/state/);
  });
});

test("a metadata file that another state dir's pool has is its own copy, a shared one is refused while in use", async () => {
  await withSession(async (session) => {
    await makePool(session);
    copyFileSync(session.path("meta.img"), session.path("copy.img"));
    const other = ["--state-dir", session.path("other")];
    await session.ok([...other, "loop", "attach", "copy.img"]);
    await session.ok([...other, "loop", "attach", "data2.img", "--size", "64m"]);
    expect((await session.udm([...other, "pool", "create", "pool", "--table", TABLE])).status).toBe(0);
    const { thins } = JSON.parse(await session.ok([...other, "thin", "list", "--json"]));
    expect(thins).toHaveLength(1);
  });
});
