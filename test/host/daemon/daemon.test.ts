/** One process for a state dir: who may talk to it, what it makes of nonsense, how it ends. */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import fc from "fast-check";
import { expect, test } from "vitest";
import { FrameReader, messageFrame } from "../../../src/host/daemon/frames.js";
import { connectHost } from "../../../src/host/daemon/rpc-host.js";
import { removeStale } from "../../../src/host/daemon/start-daemon.js";
import { openAnyHost } from "../../../src/host/index.js";
import { temporaryFolder } from "../../support/make-folder.js";
import { digest, MIB, makeHost, makePool, pattern, read, write } from "../make-host.js";
import { makeDaemon } from "./make-daemon.js";

const SOURCE = {
  kind: "devices",
  data: "data.img",
  metadata: "meta.img",
  dataSizeBytes: 64 * MIB,
  metadataSizeBytes: 8 * MIB,
} as const;

function folders(folder: string) {
  return { stateDir: join(folder, "state"), runDir: join(folder, "run"), version: "test", cwd: folder };
}

test("its socket is its user's alone, and so is the run dir it makes", async () => {
  const { daemon, folder } = await makeDaemon();
  expect(statSync(daemon.socketPath).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, "run")).mode & 0o777).toBe(0o700);
});

test("a run dir that others may write to is closed to them", async () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, "run"));
  chmodSync(join(folder, "run"), 0o777);
  await makeDaemon({ folder });
  expect(statSync(join(folder, "run")).mode & 0o022).toBe(0);
});

test("a path too long for a socket's address is no obstacle", async () => {
  const folder = join(temporaryFolder(), "x".repeat(100), "y".repeat(100));
  mkdirSync(folder, { recursive: true });
  const it = await makeDaemon({ folder });
  const host = await it.connect();
  expect((await host.daemonInfo())?.socket).toBe(it.daemon.socketPath);
});

test("there is one for a state dir; it names itself to the second and to commands without its socket", async () => {
  const it = await makeDaemon();
  await expect(makeDaemon({ folder: it.folder, lockTimeoutMs: 50 })).rejects.toMatchObject({
    code: "EEXIST",
    message: `a daemon runs already, at ${it.daemon.socketPath}`,
  });
  const note = readFileSync(join(it.folder, "state/lock"), "utf8");
  expect(note).toBe(`${process.pid} daemon, socket ${it.daemon.socketPath}\n`);
  const other = await makeHost({ folder: it.folder, runDir: join(it.folder, "other-run"), lockTimeoutMs: 50 });
  await expect(other.createThin({ pool: "pool", name: "a", sizeBytes: MIB })).rejects.toMatchObject({
    code: "EBUSY",
    message: expect.stringContaining("locked by"),
  });
  // Looking needs no lock.
  expect(await other.listPools()).toEqual([]);
});

test("streams, progress, errors and paths arrive as in one's own process", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({ name: "pool", source: SOURCE });
  expect(existsSync(join(it.folder, "data.img"))).toBe(true);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
  const bytes = pattern(20 * MIB, 3);
  expect(await write(host, "a", bytes, MIB + 100)).toBe(bytes.length);
  expect((await read(host, "a", MIB + 100, bytes.length)).equals(bytes)).toBe(true);
  const steps: number[][] = [];
  const done = await host.exportDevice("a", "out.img", {
    verify: true,
    progress: (at, total) => steps.push([at, total]),
  });
  expect(done).toMatchObject({ bytes: 32 * MIB, verified: true });
  expect(steps.at(-1)?.[1]).toBe(32 * MIB);
  await host.createThin({ pool: "pool", name: "b", sizeBytes: 32 * MIB });
  await host.importDevice("b", "out.img");
  expect(await digest(host, "b")).toBe(await digest(host, "a"));
  await host.importDevice("b", "-", { input: Readable.from([pattern(MIB, 1), pattern(MIB, 2)]) });
  expect((await read(host, "b", MIB, MIB)).equals(pattern(MIB, 2))).toBe(true);
  await expect(host.snapThin({ origin: "nope", name: "s" })).rejects.toMatchObject({
    name: "StateError",
    code: "ENXIO",
    message: "no thin device 'nope'",
    hint: expect.stringContaining("udm thin list"),
    exitStatus: 1,
  });
  await expect(write(host, "a", pattern(MIB, 1), 32 * MIB - 512)).rejects.toMatchObject({ code: "ENOSPC" });
  expect(await host.plan.snapThin({ origin: "a", name: "s" })).toEqual(expect.arrayContaining(["dmsetup suspend a"]));
});

test("one who stops reading ends the reading, and the connection goes on", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({ name: "pool", source: SOURCE });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 512 * MIB });
  const out = new PassThrough();
  out.once("data", () => out.destroy(new Error("enough")));
  out.on("error", () => undefined);
  await expect(host.readDevice("a", out)).rejects.toThrow();
  expect(await host.listPools()).toHaveLength(1);
});

test("what one waits for ends when one goes away", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({ name: "pool", source: SOURCE });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
  const one = await connectHost(folders(it.folder));
  const input = new PassThrough();
  const writing = one!.writeDevice("a", input);
  writing.catch(() => undefined);
  input.write(pattern(MIB, 1));
  await expect.poll(async () => (await host.daemonInfo())?.connections).toBe(2);
  // The writer has the turn until it is gone.
  const after = host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
  input.destroy(new Error("no more"));
  await expect(writing).rejects.toThrow();
  await after;
});

test("waiting for an event ends with the event, with the time, or with the one who waits", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({
    name: "pool",
    source: { ...SOURCE, dataSizeBytes: 4 * MIB },
    lowWater: { kind: "blocks", blocks: 32 },
  });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
  const { device } = await it.hold(host, "a");
  const waiting = (await it.connect()).waitDevice("pool");
  await expect((await it.connect()).waitDevice("pool", { timeoutMs: 50 })).rejects.toMatchObject({ code: "ETIMEDOUT" });
  await device.write(0, pattern(3 * MIB, 1));
  expect(await waiting).toBe(1);
  expect((await host.deviceInfo("pool")).eventNr).toBe(1);
});

function dial(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path }, () => resolve(socket));
    socket.on("error", reject);
  });
}

/** Sends bytes and waits until the daemon hangs up, or `answers` messages have come back. */
async function send(path: string, bytes: Uint8Array, answers = Number.POSITIVE_INFINITY): Promise<unknown[]> {
  const socket = await dial(path);
  const reader = new FrameReader({ maxBytes: 2 ** 24 });
  const messages: unknown[] = [];
  const over = new Promise<void>((resolve) => {
    socket.once("close", () => resolve());
    socket.on("error", () => undefined);
    socket.on("data", (chunk) => {
      for (const frame of reader.push(chunk)) if (frame.kind === "message") messages.push(frame.value);
      if (messages.length >= answers) socket.destroy();
    });
  });
  socket.end(bytes);
  await over;
  return messages;
}

const HELLO = { type: "hello", protocol: 1, version: "test", cwd: "/", wantsLog: false };

test("whatever is sent, it hangs up or answers, and lives", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({ name: "pool", source: SOURCE });
  const path = it.daemon.socketPath;
  const message = fc.oneof(
    fc.record({
      type: fc.constantFrom("hello", "request", "end", "result", "x"),
      id: fc.jsonValue(),
      method: fc.string(),
    }),
    fc.record({
      type: fc.constant("request"),
      id: fc.nat(100),
      method: fc.constantFrom(
        "listPools",
        "close",
        "plan.close",
        "constructor",
        "plan.constructor",
        "__proto__",
        "begin",
        "x",
      ),
      args: fc.array(fc.oneof(fc.jsonValue(), fc.constant({ $udm: "in", stream: 1 }), fc.constant({ $udm: "out" }))),
    }),
    fc.jsonValue(),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
        fc.array(message, { maxLength: 5 }).map((all) => Buffer.concat([HELLO, ...all].map(messageFrame))),
        fc.tuple(fc.array(message, { minLength: 1, maxLength: 3 }), fc.nat(), fc.nat(255)).map(([all, at, value]) => {
          const bytes = Buffer.concat([HELLO, ...all].map(messageFrame));
          bytes[at % bytes.length] = value;
          return bytes;
        }),
      ),
      async (bytes) => {
        await send(path, bytes);
      },
    ),
    { numRuns: process.env.UDM_TEST_LONG === undefined ? 150 : 20_000 },
  );
  expect(await host.listPools()).toHaveLength(1);
  expect((await host.daemonInfo())?.connections).toBe(1);
});

test("another protocol is refused with what to do", async () => {
  const it = await makeDaemon();
  const answers = await send(it.daemon.socketPath, messageFrame({ ...HELLO, protocol: 2 }));
  expect(answers[1]).toMatchObject({
    type: "refused",
    error: { code: "EINVAL", message: expect.stringContaining("speaks protocol 1, this program 2") },
  });
});

test("a socket that nobody answers on says nothing, and is taken away", async () => {
  const folder = temporaryFolder();
  const it = await makeDaemon({ folder });
  const path = it.daemon.socketPath;
  await it.daemon.stop();
  writeFileSync(path, "");
  expect(await connectHost(folders(folder))).toBeUndefined();
  const host = await openAnyHost({ ...folders(folder), lockTimeoutMs: 100 });
  await makePool({ ...host, folder, logged: [], path: (name) => join(folder, name) });
  const { machine, findings } = await host.examine({ searchPath: "", isRoot: true, devFolder: "/dev" });
  // Other tests of this machine may leave mounts of theirs for a moment.
  expect(findings.filter(({ id }) => !id.startsWith("attached-"))).toMatchObject([
    { id: "stale-socket", fix: "udm daemon stop" },
  ]);
  expect(machine.find(({ id }) => id === "daemon")?.detail).toMatch(/not running/);
  await host.close();
  expect(await removeStale(folders(folder))).toBe(true);
  expect(existsSync(path)).toBe(false);
});

test("a command that waits for the state goes to the daemon that came meanwhile", async () => {
  const folder = temporaryFolder();
  const first = await makeHost({ folder });
  await makePool(first);
  await first.begin("holding the lock");
  const host = await openAnyHost({ ...folders(folder), lockTimeoutMs: 5000 });
  const created = host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
  const starting = makeDaemon({ folder, lockTimeoutMs: 5000 });
  await first.undo();
  const it = await starting;
  await created;
  expect((await host.listThins()).map(({ name }) => name)).toEqual(["a"]);
  await host.close();
  await it.daemon.stop();
});

test("one that a command started ends when nothing is served, one that was told to stay stays", async () => {
  const it = await makeDaemon({ endsWhenIdle: true, idleMs: 30 });
  const host = await it.connect();
  expect((await host.daemonInfo())?.endsWhenIdle).toBe(true);
  await host.close();
  await it.daemon.ended;
  expect(existsSync(it.daemon.socketPath)).toBe(false);
  const other = await makeDaemon({ endsWhenIdle: true, idleMs: 30 });
  const keeper = await other.connect();
  await keeper.keepDaemon();
  expect((await keeper.daemonInfo())?.endsWhenIdle).toBe(false);
});

test("one that a command started waits for that command, which may take its time on a slow machine", async () => {
  const it = await makeDaemon({ endsWhenIdle: true });
  await new Promise((resolve) => setTimeout(resolve, 1300));
  const host = await it.connect();
  expect((await host.daemonInfo())?.endsWhenIdle).toBe(true);
});

test("ending cuts off what waits, undoes groups, flushes what is served, and gives the state back", async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({ name: "pool", source: SOURCE });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 32 * MIB });
  const { device } = await it.hold(host, "a");
  await device.write(0, pattern(MIB, 5));
  const group = await it.connect();
  await group.begin("batch");
  await group.snapThin({ origin: "a", name: "never" });
  const waiting = host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
  waiting.catch(() => undefined);
  await it.daemon.stop();
  await expect(waiting).rejects.toMatchObject({ code: expect.stringMatching(/EAGAIN|EIO/) });
  const own = await makeHost({ folder: it.folder, lockTimeoutMs: 0 });
  expect((await own.listThins()).map(({ name }) => name)).toEqual(["a"]);
  expect((await read(own, "a", 0, MIB)).equals(pattern(MIB, 5))).toBe(true);
});

test("a host goes on by itself when the daemon has ended, and never in the middle of a group", async () => {
  const it = await makeDaemon();
  const host = await openAnyHost({ ...folders(it.folder), lockTimeoutMs: 1000 });
  await host.createPool({
    name: "pool",
    source: { ...SOURCE, data: join(it.folder, "d"), metadata: join(it.folder, "m") },
  });
  await host.begin("batch");
  await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
  await it.daemon.stop();
  await expect(host.createThin({ pool: "pool", name: "b", sizeBytes: MIB })).rejects.toMatchObject({ code: "EIO" });
  await expect(host.commit()).rejects.toMatchObject({ code: "EIO" });
  await host.createThin({ pool: "pool", name: "c", sizeBytes: MIB });
  expect((await host.listThins()).map(({ name }) => name)).toEqual(["c"]);
  await makeDaemon({ folder: it.folder });
  await host.createThin({ pool: "pool", name: "d", sizeBytes: MIB });
  expect((await host.daemonInfo())?.connections).toBe(1);
  await host.close();
});

test("a socket that was removed is made again, and without its state dir it ends", async () => {
  const it = await makeDaemon({ lookMs: 20 });
  const host = await it.connect();
  rmSync(it.daemon.socketPath);
  await expect.poll(async () => (await connectHost(folders(it.folder))) !== undefined).toBe(true);
  expect(statSync(it.daemon.socketPath).mode & 0o777).toBe(0o600);
  expect(await host.listPools()).toEqual([]);
  rmSync(join(it.folder, "state"), { recursive: true });
  await it.daemon.ended;
});
