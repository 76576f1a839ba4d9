/** `udm serve`, and pools whose data lie on an NBD server, with the real program. */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

async function makePool(session: Session): Promise<void> {
  await session.ok("pool create tank --metadata m.img --metadata-size 16m --data d.img --data-size 256m");
  await session.ok("thin create tank base --size 64m");
}

/** Writes an image of 8 MiB with something in it. */
function makeImage(session: Session, name: string, seed: number): Buffer {
  const bytes = Buffer.alloc(8 * 2 ** 20);
  for (let at = 0; at < bytes.length; at += 3 * 65536) bytes.fill(`${seed}:${at}`, at, at + 70_000);
  writeFileSync(session.path(name), bytes);
  return bytes;
}

async function untilThere(path: string): Promise<void> {
  while (!existsSync(path)) await sleep(5);
}

test("a command's clients read and write; its status is the status", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const bytes = makeImage(session, "in.img", 1);
    const script = 'echo "$uri $unixsocket"; nbdcopy in.img $uri && nbdcopy $uri out.img; exit 7';
    const ran = await session.udm(["serve", "base", "--nbd", "unix:b.sock", "--run", script]);
    expect(ran).toMatchObject({
      status: 7,
      stderr: "",
      stdout: `nbd+unix:///base?socket=${session.path("b.sock")} ${session.path("b.sock")}\n`,
    });
    expect(existsSync(session.path("b.sock"))).toBe(false);
    expect(readFileSync(session.path("out.img")).subarray(0, bytes.length).equals(bytes)).toBe(true);
    await session.ok("thin export base copy.img");
    expect(readFileSync(session.path("copy.img")).subarray(0, bytes.length).equals(bytes)).toBe(true);
    if (THROUGH_DAEMON) return;
    const status = await session.udm("daemon status");
    expect(status.stdout).toMatch(/services {5}-|no daemon runs/);
  });
});

test("devices are served while commands work on them, until a signal; what was written is safe", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const bytes = makeImage(session, "in.img", 2);
    const child = session.start(process.execPath, [session.path("bin/udm"), "serve", "--nbd", "unix:all.sock"]);
    const ended = finished(child);
    await untilThere(session.path("all.sock"));
    const uri = `nbd+unix:///base?socket=${session.path("all.sock")}`;
    expect((await session.run("nbdcopy", ["in.img", uri])).status).toBe(0);
    await session.ok("thin snap base before");
    expect((await session.run("qemu-io", ["-f", "raw", "-c", "write -P 9 0 64k", uri])).status).toBe(0);
    const busy = await session.udm("thin delete base --yes");
    expect(busy).toMatchObject({ status: 1, stderr: expect.stringMatching(/exported over NBD/) });
    const shared = await session.run("nbdinfo", ["--map=udm:shared", uri]);
    expect(shared.stdout).toMatch(/^ +0 +65536 +0\n +65536 +\d+ +2\n/);
    const info = JSON.parse(await session.ok("daemon status --json")).daemon;
    expect(info.services[0]).toMatchObject({ kind: "nbd", details: { devices: ["base"], uris: [uri] } });
    child.kill("SIGTERM");
    expect(await ended).toMatchObject({ status: 0, stdout: `${uri}\n`, stderr: "" });
    await session.ok("thin export before old.img");
    expect(readFileSync(session.path("old.img")).subarray(0, bytes.length).equals(bytes)).toBe(true);
    await session.ok("thin export base new.img");
    expect(readFileSync(session.path("new.img")).subarray(0, 65536).equals(Buffer.alloc(65536, 9))).toBe(true);
  });
});

test("a read-only export refuses writes; wrong words are told", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const script = "nbdinfo --is read-only $uri && qemu-io -f raw -c 'write 0 512' $uri";
    const ran = await session.udm(["serve", "base", "--read-only", "--run", script]);
    expect(ran.status).not.toBe(0);
    expect(ran.stdout + ran.stderr).toMatch(/permission|read-only/i);
    for (const [words, status, text] of [
      ["serve nobody --run true", 1, /^udm: .*nobody/],
      ["serve base --nbd somewhere", 1, /^udm: 'somewhere' is nowhere to listen\nhint: /],
      ["serve base --tls-psk nowhere.psk --run true", 1, /^udm: .*nowhere\.psk/],
      ["serve base --tls-verify-peer --run true", 2, /^udm: serve: --tls-verify-peer without/],
      ["serve base base --run true", 1, /^udm: serve: 'base' is named twice/],
    ] as const) {
      expect({ words, ...(await session.udm(words)) }).toMatchObject({
        words,
        status,
        stdout: "",
        stderr: expect.stringMatching(text),
      });
    }
  });
});

test("a pool on an NBD server: made, written, snapshotted, trimmed, and served in its turn", async () => {
  await withSession(async (session) => {
    const bytes = makeImage(session, "in.img", 3);
    await session.run("truncate", ["-s", "256m", "far.img"]);
    const socket = session.path("far.sock");
    const words = ["-k", socket, "-f", "raw", "-x", "far", "-t", "-e", "8", "--discard=unmap", session.path("far.img")];
    const server = spawn("qemu-nbd", words, { stdio: "ignore" });
    try {
      await untilThere(socket);
      const uri = `nbd+unix:///far?socket=${socket}`;
      await session.ok(["pool", "create", "tank", "--metadata", "m.img", "--metadata-size", "16m", "--data", uri]);
      expect(await session.ok("table show tank")).toMatch(`0 524288 thin-pool 7:0 ${uri} 128 `);
      await session.ok("thin create tank base --size 64m");
      await session.ok("thin import base in.img");
      await session.ok("thin snap base copy");
      const script = "qemu-io -f raw -c 'write -P 9 0 64k' $uri >wrote.txt";
      await session.ok(["serve", "base", "--run", script]);
      await session.ok("thin export copy out.img");
      expect(readFileSync(session.path("out.img")).subarray(0, bytes.length).equals(bytes)).toBe(true);
      const before = await session.ok("pool status tank --json");
      await session.ok("thin delete copy --yes");
      expect(await session.udm("thin trim base --yes")).toMatchObject({ status: 0 });
      expect(await session.ok("pool status tank --json")).not.toBe(before);
    } finally {
      server.kill("SIGKILL");
    }
    const gone = await session.udm("thin read base --length 512");
    expect(gone).toMatchObject({ status: 1, stderr: expect.stringMatching(/^udm: .*nobody answers there/) });
  });
});
