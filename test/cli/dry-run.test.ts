import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Session, withSession } from "./session.js";

/** Names and contents of everything in the session's folder. */
function everything(session: Session): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of readdirSync(session.folder, { recursive: true, encoding: "utf8" })) {
    const path = join(session.folder, name);
    if (name.startsWith("bin") || !statSync(path).isFile() || name.endsWith("lock")) continue;
    found[name] = createHash("sha256").update(readFileSync(path)).digest("hex");
  }
  return found;
}

/** Each changing command and a line its plan must have. */
const PLANS: readonly [readonly string[], RegExp][] = [
  [["loop", "attach", "new.img", "--size", "1m"], /^truncate -s 1048576 \S*new\.img$/m],
  [["loop", "attach", "meta.img", "--kernel"], /^losetup --find --show meta\.img$/m],
  [["loop", "resize", "7:2", "2m"], /^losetup (-c|--set-capacity) /m],
  [["loop", "detach", "7:2"], /^losetup (-d|--detach) /m],
  [["pool", "create", "q", "--data", "d2", "--metadata", "m2"], /^dmsetup create q /m],
  [["pool", "resize", "pool", "+1g"], /^dmsetup resume pool$/m],
  [["pool", "set", "pool", "--low-water", "10%"], /^dmsetup resume pool$/m],
  [["pool", "message", "pool", "create_thin", "7"], /^dmsetup message pool 0 create_thin 7$/m],
  [["pool", "remove", "empty", "--destroy"], /^dmsetup remove empty$/m],
  [["thin", "create", "pool", "new", "--size", "1m"], /^dmsetup message \S*pool 0 ['"]?create_thin 2/m],
  [["thin", "snap", "vol", "new"], /create_snap 2 0/m],
  [["thin", "delete", "vol"], /^dmsetup message \S*pool 0 ['"]?delete 0/m],
  [
    ["thin", "activate", "pool:0", "again", "--size", "1m"],
    /^dmsetup create again --table '0 2048 thin \/dev\/mapper\/pool 0'$/m,
  ],
  [["thin", "deactivate", "vol"], /^dmsetup remove vol$/m],
  [["thin", "resize", "vol", "+1m"], /^dmsetup resume vol$/m],
  [["thin", "rename", "vol", "other"], /^dmsetup rename vol other$/m],
  [["thin", "rollback", "vol", "snap"], /create_snap NEW-ID 1$/m],
  [["thin", "write", "vol"], /^dd of=\/dev\/mapper\/vol /m],
  [["thin", "import", "vol", "meta.img"], /^dd if=meta\.img of=\/dev\/mapper\/vol /m],
  [["thin", "export", "vol", "out.img"], /^cp --sparse=always \/dev\/mapper\/vol out\.img$/m],
  [["thin", "trim", "vol"], /^blkdiscard --offset 0 \/dev\/mapper\/vol$/m],
  [["table", "load", "new", "--table", "0 8 zero"], /^dmsetup load new --table '0 8 zero'$/m],
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
    const before = everything(session);
    for (const [words, plan] of PLANS) {
      const ran = await session.udm([...words, "--dry-run"], { input: "a,,,rw,0 8 zero" });
      expect(ran, words.join(" ")).toMatchObject({ status: 0, stderr: "" });
      expect(ran.stdout, words.join(" ")).toMatch(plan);
      const { plan: lines } = JSON.parse(
        await session.ok([...words, "--dry-run", "--json"], { input: "a,,,rw,0 8 zero" }),
      );
      expect(lines.join("\n").trim()).toBe(ran.stdout.trim());
    }
    expect(everything(session)).toEqual(before);
  });
});
