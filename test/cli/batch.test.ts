/** Many commands in one process: order, failures, groups that nobody sees, all or nothing, and cuts at any moment. */

import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { HAS_THIN_TOOLS } from "../support/thin-tools.js";
import { finished, type Session, UDM, withSession } from "./session.js";

async function pool(session: Session, name = "p"): Promise<void> {
  await session.ok(
    `pool create ${name} --data ${name}.data --metadata ${name}.meta --data-size 4g --metadata-size 64m`,
  );
  await session.ok(`thin create ${name} ${name}0 --size 64m`);
}

async function checkThinMetadata(session: Session, file: string): Promise<void> {
  if (HAS_THIN_TOOLS) expect(await session.run("thin_check", ["-q", file])).toMatchObject({ status: 0 });
}

async function names(session: Session): Promise<readonly string[]> {
  return (await session.ok("thin list --no-headings -o NAME")).split("\n").filter((name) => name !== "");
}

const snaps = (count: number, origin = "p0", prefix = "s") =>
  Array.from({ length: count }, (_, index) => `thin snap ${origin} ${prefix}${index}\n`).join("");

test("lines run in order and print what the commands print", async () => {
  await withSession(async (session) => {
    await pool(session);
    const input = [
      "# a comment, and a blank line",
      "",
      'udm thin snap p0 "a b"',
      "thin snap \\",
      "  p0 c   # goes on",
      "thin list --no-headings -o NAME",
      "thin delete 'a b' --yes",
      "thin write c --offset 64k",
      "thin list --no-headings -o NAME",
      "table show c",
    ].join("\n");
    const ran = await session.udm("batch -", { input });
    expect(ran).toEqual({ status: 0, stderr: "", stdout: "p0\na b\nc\np0\nc\n0 131072 thin 253:0 2\n" });
  });
});

test("it stops at the first failure, with its number and its status; --keep-going goes on", async () => {
  await withSession(async (session) => {
    await pool(session);
    writeFileSync(
      session.path("lines"),
      "thin snap p0 a\nthin snap\nthin snap p0 b\nthin snap nope c\nthin snap p0 d\n",
    );
    const ran = await session.udm("batch lines");
    expect(ran.status).toBe(2);
    expect(ran.stderr).toMatch(/^udm: line 2: thin snap: missing required argument 'origin'\nhint: /);
    expect(await names(session)).toEqual(["p0", "a"]);

    const on = await session.udm("batch lines --keep-going");
    expect(on.status).toBe(1);
    expect(on.stderr.split("\n").filter((line) => line.startsWith("udm: "))).toEqual([
      "udm: line 1: the name 'a' is in use by a mapped device",
      "udm: line 2: thin snap: missing required argument 'origin'",
      "udm: line 4: no thin device 'nope'",
    ]);
    expect(await names(session)).toEqual(["p0", "a", "b", "d"]);
  });
});

test("what a shell would act on is refused, not passed on", async () => {
  await withSession(async (session) => {
    await pool(session);
    for (const [line, letter] of [
      ["thin list | head", "|"],
      ["thin snap p0 $x", "$"],
      ['thin snap p0 "$x"', "$"],
      ["thin list > file", ">"],
      ["thin list; thin list", ";"],
    ]) {
      const ran = await session.udm("batch", { input: `${line}\n` });
      expect(ran.status).toBe(2);
      expect(ran.stderr).toContain(`udm: line 1: '${letter}' has no meaning here`);
    }
    const open = await session.udm("batch", { input: "thin list\nthin snap p0 'x\n" });
    expect(open.stderr).toContain("udm: line 2: a ' is not closed");
    for (const outer of ["shell", "batch x", "--state-dir x thin list"]) {
      expect((await session.udm("batch", { input: outer })).status).toBe(2);
    }
    expect(await names(session)).toEqual(["p0"]);
  });
});

test("--json is one document, and each failure another on standard error", async () => {
  await withSession(async (session) => {
    await pool(session);
    const input = "thin snap p0 a\nthin list -o NAME\nthin snap p0 a\nthin read a\nloop list -o NAME\n";
    const ran = await session.udm("batch --json --keep-going", { input });
    expect(ran.status).toBe(1);
    expect(JSON.parse(ran.stdout)).toEqual({
      version: 1,
      atomic: false,
      lines: [
        { line: 1, command: ["thin", "snap", "p0", "a"], status: 0, result: { version: 1, ok: true }, error: null },
        {
          line: 2,
          command: ["thin", "list", "-o", "NAME"],
          status: 0,
          result: { version: 1, thins: [{ name: "p0" }, { name: "a" }] },
          error: null,
        },
        expect.objectContaining({
          line: 3,
          status: 1,
          result: null,
          error: expect.objectContaining({ code: "EEXIST" }),
        }),
        expect.objectContaining({ line: 4, status: 2, error: expect.objectContaining({ code: "EUSAGE" }) }),
        expect.objectContaining({ line: 5, status: 0, result: expect.objectContaining({ loops: expect.any(Array) }) }),
      ],
      done: 3,
      failed: 2,
      status: 1,
    });
    const errors = ran.stderr.trim().split("\n");
    expect(errors.map((line) => JSON.parse(line).error.message)).toEqual([
      expect.stringMatching(/^line 3: /),
      expect.stringMatching(/^line 4: /),
    ]);
  });
});

test("groups over two pools, and lines that write data between them, come out as single commands would", async () => {
  await withSession(async (session) => {
    await pool(session, "p");
    await pool(session, "q");
    await session.bash("head -c 300000 /dev/urandom > image");
    const input = [
      "thin snap p0 p1",
      "thin snap q0 q1",
      "thin snap p0 p2",
      "thin import p2 image",
      "thin snap p2 p3",
      "thin snap q1 q2",
      "thin rollback p0 p2 --yes",
      "thin delete p1 --yes",
    ].join("\n");
    expect(await session.udm("batch", { input })).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(await names(session)).toEqual(["p2", "p3", "p0", "q0", "q1", "q2"]);
    for (const name of ["p0", "p2", "p3"]) {
      expect(await session.bash(`udm thin read ${name} --length 300000 | cmp - image`)).toMatchObject({ status: 0 });
    }
    await checkThinMetadata(session, "p.meta");
    await checkThinMetadata(session, "q.meta");
  });
});

test("--atomic does all or nothing, in state and metadata", async () => {
  await withSession(async (session) => {
    await pool(session);
    const before = await session.bash("sha256sum p.meta state/state.json");
    const failing = `${snaps(50)}thin delete s7 --yes\nthin snap nope x\n`;
    const ran = await session.udm("batch --atomic", { input: failing });
    expect(ran).toMatchObject({ status: 1, stdout: "" });
    expect(ran.stderr).toMatch(/^udm: line 52: no thin device 'nope'\nhint: .*\nudm: nothing was done\n$/);
    const list = await session.ok("thin list -o NAME --no-headings");
    expect(list).toBe("p0\n");
    expect((await session.bash("sha256sum p.meta state/state.json")).stdout).toBe(before.stdout);

    for (const line of [
      "thin write p0",
      "pool remove p",
      "loop attach f --size 1m",
      "pool message p reserve_metadata_snap",
    ]) {
      const refused = await session.udm("batch --atomic", { input: `thin snap p0 a\n${line}\n` });
      expect(refused.status).toBe(2);
      expect(refused.stderr).toMatch(/^udm: line 2: '.*' cannot be part of an atomic batch\n/);
    }
    expect(await names(session)).toEqual(["p0"]);

    const done = await session.udm("batch --atomic", {
      input: `${snaps(50)}thin delete s7 --yes\nthin rename s8 eight\n`,
    });
    expect(done).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(await names(session)).toHaveLength(50);
    await checkThinMetadata(session, "p.meta");

    await pool(session, "q");
    const two = await session.udm("batch --atomic", { input: "thin snap p0 x\nthin snap q0 y\n" });
    expect(two.status).toBe(1);
    expect(two.stderr).toContain("more than one pool");
    expect(await names(session)).not.toContain("x");
  });
});

test("--dry-run plans each line as things are after the lines before it, and changes nothing", async () => {
  await withSession(async (session) => {
    await pool(session);
    const before = await session.bash("sha256sum p.meta state/state.json");
    const input = "thin snap p0 a\nthin snap a b\nthin delete p0\nthin create p c --size 1m\n";
    const ran = await session.udm("batch --dry-run", { input });
    expect(ran).toMatchObject({ status: 0, stderr: "" });
    expect(ran.stdout).toContain('"create_snap 1 0"');
    expect(ran.stdout).toContain('"create_snap 2 1"');
    // The id that the line before set free.
    expect(ran.stdout).toContain('"create_thin 0"');
    expect((await session.bash("sha256sum p.meta state/state.json")).stdout).toBe(before.stdout);
  });
});

test("a batch whose input is idle holds nothing: others get their turn", async () => {
  await withSession(async (session) => {
    await pool(session);
    const child = session.start(process.execPath, [UDM, "batch"]);
    const ended = finished(child);
    child.stdin!.write("thin snap p0 a\n");
    await expect.poll(() => session.ok("thin list --no-headings -o NAME"), { timeout: 30_000 }).toBe("p0\na\n");
    await session.ok("thin snap a b --lock-timeout 5");
    child.stdin!.end("thin snap b c\n");
    expect(await ended).toEqual({ status: 0, stdout: "", stderr: "" });
    expect(await names(session)).toEqual(["p0", "a", "b", "c"]);
  });
});

test("two batches at once lose nothing", async () => {
  await withSession(async (session) => {
    await pool(session);
    const both = await Promise.all(["x", "y"].map((each) => session.udm("batch", { input: snaps(100, "p0", each) })));
    expect(both).toEqual([
      { status: 0, stdout: "", stderr: "" },
      { status: 0, stdout: "", stderr: "" },
    ]);
    expect(await names(session)).toHaveLength(201);
    await checkThinMetadata(session, "p.meta");
  });
});

/** Kills a batch after a while; what the pools and the state are then is up to `check`. */
async function killed(session: Session, argv: readonly string[], input: string, afterMs: number): Promise<string> {
  const child = session.start(process.execPath, [UDM, "batch", ...argv]);
  const ended = finished(child);
  child.stdin!.on("error", () => undefined);
  child.stdin!.end(input);
  await Promise.race([ended, sleep(afterMs)]);
  child.kill("SIGKILL");
  return (await ended).stderr;
}

test("killed in the middle, a plain batch leaves the lines it reported, in order and without a gap", async () => {
  await withSession(async (session) => {
    await pool(session);
    for (let round = 0; round < 12; round++) {
      const stderr = await killed(session, ["-v"], snaps(300, "p0", `r${round}x`), 250 + round * 90);
      const reported = [...stderr.matchAll(/^udm: line (\d+): done$/gm)].length;
      const mine = (await names(session)).filter((name) => name.startsWith(`r${round}x`));
      expect(mine.length).toBeGreaterThanOrEqual(reported);
      expect(mine).toEqual(Array.from({ length: mine.length }, (_, index) => `r${round}x${index}`));
      await checkThinMetadata(session, "p.meta");
    }
  });
});

test("killed in the middle, an atomic batch is all or nothing", async () => {
  await withSession(async (session) => {
    await pool(session);
    let count = 1;
    for (let round = 0; round < 12; round++) {
      await killed(session, ["--atomic"], snaps(200, "p0", `r${round}x`), 250 + round * 90);
      const now = (await names(session)).length;
      expect([count, count + 200]).toContain(now);
      count = now;
      await checkThinMetadata(session, "p.meta");
    }
  });
});
