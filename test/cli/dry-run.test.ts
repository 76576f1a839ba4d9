import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Ran, runMain } from "../commands/run-main.js";
import { type Session, withSession } from "./session.js";

/** Names, contents and times of everything in the session's folder. */
function everything(session: Session): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of readdirSync(session.folder, { recursive: true, encoding: "utf8" })) {
    const path = join(session.folder, name);
    if (name.startsWith("bin") || !statSync(path).isFile() || name.endsWith("lock")) continue;
    const { mtime, blocks, ino } = statSync(path);
    found[name] =
      `${createHash("sha256").update(readFileSync(path)).digest("hex")} ${mtime.toISOString()} ${blocks} ${ino}`;
  }
  return found;
}

/** In this process; a word that begins with @ is a file in the session's folder. */
function run(session: Session, words: readonly string[], stdin = ""): Promise<Ran> {
  const argv = words.map((word) => (word.startsWith("@") ? session.path(word.slice(1)) : word));
  return runMain(argv, { environment: session.environment, stdin });
}

/** Each changing command and a line its plan must have. */
const PLANS: readonly [readonly string[], RegExp][] = [
  [["loop", "attach", "@new.img", "--size", "1m"], /^truncate -s 1048576 \S*new\.img$/m],
  [["loop", "attach", "@spare.img", "--kernel", "--size", "1m"], /^losetup --find --show \S*spare\.img$/m],
  [["loop", "resize", "7:2", "2m"], /^losetup (-c|--set-capacity) /m],
  [["loop", "detach", "7:2"], /^losetup (-d|--detach) /m],
  [["pool", "create", "q", "--data", "@d2", "--metadata", "@m2"], /^dmsetup create q /m],
  [["pool", "resize", "pool", "+1g"], /^dmsetup resume pool$/m],
  [
    ["pool", "set", "pool", "--low-water", "10%"],
    /^dmsetup reload pool --table '0 2097152 thin-pool 7:0 7:1 128 1638 0'$/m,
  ],
  [["pool", "set", "pool", "--max-size", "2g"], /^# only what udm keeps/m],
  [["pool", "message", "pool", "create_thin", "7"], /^dmsetup message pool 0 create_thin 7$/m],
  [["pool", "remove", "empty", "--destroy"], /^dmsetup remove empty$/m],
  [["thin", "create", "pool", "new", "--size", "1m"], /^dmsetup message \S*pool 0 ['"]?create_thin 3/m],
  [["thin", "snap", "vol", "new"], /create_snap 3 0/m],
  [["thin", "delete", "vol"], /^dmsetup message \S*pool 0 ['"]?delete 0/m],
  [["thin", "activate", "pool:2", "again"], /^dmsetup create again --table '0 2048 thin \/dev\/mapper\/pool 2'$/m],
  [["thin", "deactivate", "vol"], /^dmsetup remove vol$/m],
  [["thin", "resize", "vol", "+1m"], /^dmsetup resume vol$/m],
  [["thin", "rename", "vol", "other"], /^dmsetup rename vol other$/m],
  [
    ["thin", "rollback", "vol", "snap"],
    /^dmsetup message \/dev\/mapper\/pool 0 "create_snap 3 1"$[\s\S]*^dmsetup reload vol --table '0 2048 thin \/dev\/mapper\/pool 3'$[\s\S]*"delete 0"$/m,
  ],
  [["thin", "write", "vol"], /^dd of=\/dev\/mapper\/vol /m],
  [
    ["thin", "import", "vol", "@other.img"],
    /^blkdiscard \/dev\/mapper\/vol\ndd if=\S*other\.img of=\/dev\/mapper\/vol /m,
  ],
  [["thin", "export", "vol", "@out.img"], /^cp --sparse=always \/dev\/mapper\/vol \S*out\.img$/m],
  [["thin", "trim", "vol"], /^blkdiscard --offset 0 --length 1048576 \/dev\/mapper\/vol$/m],
  [
    ["table", "load", "new", "--table", "0 8 zero"],
    /^dmsetup create new --notable\ndmsetup load new --table '0 8 zero'$/m,
  ],
  [["table", "suspend", "vol"], /^dmsetup suspend vol$/m],
  [["table", "resume", "vol"], /^dmsetup resume vol$/m],
  [["table", "clear", "vol"], /^dmsetup clear vol$/m],
  [["table", "restore"], /^dmsetup create --concise /m],
  [["device", "rename", "vol", "other"], /^dmsetup rename vol other$/m],
  [["device", "remove", "vol"], /^dmsetup remove vol$/m],
  [["device", "message", "pool", "0", "create_thin", "9"], /^dmsetup message pool 0 create_thin 9$/m],
];

test("--dry-run prints the plan of every changing command and changes nothing", async () => {
  await withSession(async (session) => {
    await session.ok("loop attach meta.img --size 16m");
    await session.ok("loop attach data.img --size 1g");
    await session.ok("loop attach other.img --size 1m");
    await session.ok(["pool", "create", "pool", "--table", "0 2097152 thin-pool 7:0 7:1 128 0"]);
    await session.ok("pool create empty --data d --metadata m --data-size 64m --metadata-size 16m");
    await session.ok("thin create pool vol --size 1m");
    await session.ok("thin write vol", { input: "precious" });
    await session.ok("thin snap vol snap");
    await session.ok("thin snap vol idle");
    await session.ok("thin deactivate idle");
    await session.ok(["table", "load", "empty", "--table", "0 131072 thin-pool 7:3 7:4 128 0"]);
    const before = everything(session);
    for (const [words, plan] of PLANS) {
      const ran = await run(session, [...words, "--dry-run"], "a,,,rw,0 8 zero");
      expect(ran, words.join(" ")).toMatchObject({ status: 0, stderr: "" });
      expect(ran.stdout, words.join(" ")).toMatch(plan);
      const { plan: lines } = JSON.parse(
        (await run(session, [...words, "--dry-run", "--json"], "a,,,rw,0 8 zero")).stdout,
      );
      expect(lines.join("\n").trim()).toBe(ran.stdout.trim());
    }
    expect(everything(session)).toEqual(before);
  });
});

/** Each is refused; by the plan in the same words as by the deed. */
const REFUSED: readonly (readonly string[])[] = [
  ["loop", "attach", "@missing.img"],
  ["loop", "attach", "@nowhere/f", "--size", "1m"],
  ["loop", "detach", "7:1"],
  ["loop", "resize", "7:1", "1m"],
  ["pool", "create", "pool", "--data", "@d2", "--metadata", "@m2"],
  ["pool", "create", "q", "--data", "@same", "--metadata", "@same"],
  ["pool", "resize", "pool", "1m"],
  ["pool", "set", "nope", "--low-water", "1"],
  ["pool", "set", "pool", "--autoextend-threshold", "10"],
  ["pool", "message", "pool", "create_thin", "0"],
  ["pool", "message", "pool", "create_snap", "7", "99"],
  ["pool", "message", "pool", "delete", "99"],
  ["pool", "message", "pool", "delete", "0"],
  ["pool", "message", "pool", "set_transaction_id", "3", "4"],
  ["pool", "message", "pool", "release_metadata_snap"],
  ["pool", "message", "pool", "gibberish"],
  ["pool", "remove", "pool"],
  ["thin", "create", "pool", "vol", "--size", "1m"],
  ["thin", "create", "pool", "new", "--size", "1m", "--id", "0"],
  ["thin", "snap", "nope", "new"],
  ["thin", "delete", "pool:99", "-y"],
  ["thin", "activate", "pool:0", "again"],
  ["thin", "activate", "pool:99", "again", "--size", "1m"],
  ["thin", "deactivate", "nope"],
  ["thin", "resize", "nope", "1g"],
  ["thin", "rename", "vol", "snap"],
  ["thin", "rename", "pool:99", "x"],
  ["thin", "rollback", "vol", "vol", "-y"],
  ["thin", "rollback", "vol", "nope", "-y"],
  ["thin", "write", "vol", "--offset", "2m"],
  ["thin", "write", "fixed"],
  ["thin", "import", "vol", "@missing.img"],
  ["thin", "import", "vol", "@data.img"],
  ["thin", "export", "vol", "@nowhere/out"],
  ["thin", "trim", "vol", "--offset", "1", "--length", "512", "-y"],
  ["thin", "trim", "vol", "--offset", "1g", "-y"],
  ["table", "load", "new", "--table", "0 8 linear 7:77 0"],
  ["table", "load", "vol", "--table", "0 8 zero", "--uuid", "U-1"],
  ["table", "load", "bad/name", "--table", "0 8 zero"],
  ["table", "clear", "nope"],
  ["table", "suspend", "nope"],
  ["table", "resume", "nope"],
  ["device", "rename", "vol", "snap"],
  ["device", "remove", "pool"],
  ["device", "message", "vol", "0", "hello"],
  ["device", "message", "pool", "99999999", "delete", "1"],
];

test("--dry-run refuses what the command refuses, in the same words", async () => {
  await withSession(async (session) => {
    await session.ok("loop attach meta.img --size 16m");
    await session.ok("loop attach data.img --size 1g");
    await session.ok(["pool", "create", "pool", "--table", "0 2097152 thin-pool 7:0 7:1 128 0"]);
    await session.ok("thin create pool vol --size 1m");
    await session.ok("thin snap vol snap");
    await session.ok("thin snap vol fixed --read-only");
    for (const words of REFUSED) {
      const planned = await run(session, [...words, "--dry-run", "--json"]);
      const done = await run(session, [...words, "--json"]);
      expect(done.status, words.join(" ")).toBeGreaterThan(0);
      expect({ ...planned, ...error(planned.stderr) }, words.join(" ")).toEqual({ ...done, ...error(done.stderr) });
    }
  });
});

/** Code and message; the hints of one plan may say more. */
function error(stderr: string): object {
  const { code, message } = JSON.parse(stderr).error;
  return { stderr: "", code, message };
}

test("what there is nothing to do about has an empty plan and asks nobody", async () => {
  await withSession(async (session) => {
    await session.ok("pool create pool --data d --metadata m --data-size 64m --metadata-size 16m");
    await session.ok("thin create pool vol --size 1m");
    for (const line of [
      "loop detach 7:9 --if-exists",
      "pool remove nope --destroy --if-exists",
      "pool create pool --data d --metadata m --if-not-exists",
      "thin create pool vol --size 1m --if-not-exists",
      "thin snap vol vol --if-not-exists",
      "thin activate pool:0 vol --if-not-exists",
      "thin delete nope --if-exists",
      "thin deactivate nope --if-exists",
      "device remove nope --if-exists",
    ]) {
      const silent = { status: 0, stdout: "", stderr: "" };
      expect(await run(session, `${line} --dry-run`.split(" ")), line).toEqual(silent);
      expect(await run(session, line.split(" ")), line).toEqual(silent);
    }
  });
});
