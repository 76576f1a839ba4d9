/** Events, hooks, numbers, and pools that grow, with the real binary. */
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type Session, withSession } from "./session.js";

const MIB = 2 ** 20;

async function makePool(session: Session, size = "16m"): Promise<void> {
  const sizes = ["--data-size", size, "--metadata-size", "8m", "--low-water", "16"];
  await session.ok(["pool", "create", "pool", "--data", "data.img", "--metadata", "meta.img", ...sizes]);
  await session.ok("thin create pool a --size 1g");
}

/** Lines of a program until one is wanted. */
async function untilLine(child: ChildProcess, wanted: RegExp, from: "stdout" | "stderr" = "stdout"): Promise<string> {
  let text = "";
  for await (const chunk of child[from]!) {
    text += String(chunk);
    const line = text.split("\n").find((each) => wanted.test(each));
    if (line !== undefined) return line;
  }
  throw new Error(`ended without ${wanted}: ${text}`);
}

async function ended(child: ChildProcess): Promise<number | null> {
  const status = new Promise<number | null>((resolve) => child.once("close", resolve));
  child.kill("SIGINT");
  return status;
}

test("events are followed while commands work, hooks are run, an interrupt is a good end", async () => {
  await withSession(async (session) => {
    await makePool(session);
    writeFileSync(session.path("hook"), '#!/bin/sh\necho "$UDM_POOL $UDM_EVENT" >> hooked\ncat >> hooked\n', {
      mode: 0o755,
    });
    const child = session.start("udm", ["events", "--follow", "--all", "--exec", "./hook"]);
    const seen = untilLine(child, /out-of-data-space/);
    expect((await session.udm("thin write a", { input: Buffer.alloc(20 * MIB, 1) })).status).toBe(1);
    expect(JSON.parse(await seen)).toMatchObject({ event: "out-of-data-space", pool: "pool", errorIfNoSpace: true });
    await expect.poll(() => readFileSync(session.path("hooked"), "utf8")).toMatch(/^pool out-of-data-space\n\{.*\}\n/m);
    expect(await ended(child)).toBe(0);
    const lines = (await session.ok("events")).trim().split("\n");
    expect(lines.map((line) => JSON.parse(line).event)).toEqual(["low-water", "out-of-data-space"]);
    expect(await session.ok("events other")).toBe("");
  });
});

test("a hook that takes long keeps nobody from ending", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const child = session.start("udm", ["events", "--follow", "--all", "--exec", "echo $$ > pid; exec sleep 50"]);
    await session.udm("thin write a", { input: Buffer.alloc(20 * MIB, 1) });
    await expect.poll(() => existsSync(session.path("pid"))).toBe(true);
    expect(await ended(child)).toBe(0);
    // It was still at it.
    await expect.poll(() => readFileSync(session.path("pid"), "utf8")).toMatch(/^\d+\n$/);
    process.kill(Number(readFileSync(session.path("pid"), "utf8")));
  });
});

test("a pool with LVM's profile grows while a command fills it, up to its largest size", async () => {
  await withSession(async (session) => {
    await makePool(session);
    mkdirSync(session.path("profiles"));
    writeFileSync(
      session.path("profiles/auto.profile"),
      "activation {\n\tthin_pool_autoextend_threshold=80\n\tthin_pool_autoextend_percent=20\n}\n",
    );
    await session.ok("pool set pool --profile profiles/auto.profile --max-size 40m");
    const { pools } = JSON.parse(await session.ok("pool list --json"));
    expect(pools).toHaveLength(1);
    await session.ok("thin write a", { input: Buffer.alloc(30 * MIB, 1) });
    expect(await session.ok("monitor --once")).toMatch(/^pool: write, data \d+\.\d+% of 40M, metadata \d+\.\d+%\n$/);
    const full = await session.udm("thin write a", { input: Buffer.alloc(60 * MIB, 2) });
    expect(full).toMatchObject({ status: 1, stderr: expect.stringContaining("no free data block") });
    const events = (await session.ok("events"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).event);
    expect(events).toEqual(expect.arrayContaining(["extended", "low-water", "out-of-data-space"]));
  });
});

test("new devices are refused below the minimum of free space", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("pool set pool --min-free-space 50%");
    await session.ok("thin write a", { input: Buffer.alloc(9 * MIB, 1) });
    expect(await session.udm("thin snap a b")).toEqual({
      status: 1,
      stdout: "",
      stderr:
        "udm: pool 'pool' has 112 free data blocks, 128 are needed for a new device (50%)\n" +
        "hint: grow it, delete devices, or udm pool set pool --min-free-space\n",
    });
  });
});

test("numbers are served, and written to a file", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("monitor --once --prometheus metrics.prom");
    const text = readFileSync(session.path("metrics.prom"), "utf8");
    expect(text).toContain('# TYPE udm_pool_data_bytes gauge\nudm_pool_data_bytes{pool="pool"} 16777216\n');
    expect(text).toContain('udm_pool_mode{pool="pool",mode="write"} 1\n');
    expect(text).toContain('udm_pool_up{pool="pool"} 1\n');
    for (const line of text.trim().split("\n"))
      expect(line).toMatch(/^(# (HELP|TYPE) udm_\w+ .+|udm_\w+\{[^}]*\} \d+)$/);
    const child = session.start("udm", ["monitor", "--prometheus", "127.0.0.1:0", "--interval", "0.1"]);
    const line = await untilLine(child, /numbers are at/, "stderr");
    const url = /http:\S+/.exec(line)![0];
    await expect.poll(async () => (await fetch(url)).text()).toContain('udm_pool_thin_devices{pool="pool"} 1\n');
    expect((await fetch(url.replace("metrics", ""))).status).toBe(404);
    expect(await ended(child)).toBe(0);
  });
});

test("what is wrong with a profile is told", async () => {
  await withSession(async (session) => {
    await makePool(session);
    for (const [content, says] of [
      ["activation {\n thin_pool_autoextend_threshold=80\n", "line 3: section activation has no end"],
      ["allocation { thin_pool_zero=1 }\n", "says nothing about automatic extension"],
      ["activation {\n what is this\n}\n", "line 2: 'what is this' is not understood"],
      ['activation/thin_pool_autoextend_threshold="x"\n', "is 'x', not a percentage"],
    ] as const) {
      writeFileSync(session.path("bad.profile"), content);
      const ran = await session.udm("pool set pool --profile ./bad.profile");
      expect(ran).toMatchObject({ status: 1, stderr: expect.stringContaining(says) });
      expect(ran.stderr).toMatch(/\nhint: .+\n$/);
    }
    expect(await session.udm("pool set pool --profile nosuch")).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("/etc/lvm/profile/nosuch.profile"),
    });
    expect(await session.udm("monitor nosuch --once")).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("no pool 'nosuch'"),
    });
    expect(await session.udm("monitor --interval 0")).toMatchObject({ status: 2 });
  });
});
