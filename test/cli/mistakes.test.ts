/**
 * A mistake in the daemon's own code, wherever it strikes: two pools are written through it, something throws that never
 * should. At most one pool and one client suffer, nothing hangs, nothing half-done is committed, and what a flush had
 * acknowledged is there.
 */
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { whyNoAttaching, withAttaching } from "../support/attached-session.js";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { Ledger, NbdTap } from "../support/nbd-tap.js";
import { NbdWriter } from "../support/nbd-writer.js";
import { Random } from "../support/random.js";
import { finished, type Session, THROUGH_DAEMON, UDM, withSession } from "./session.js";

const PRELOAD = fileURLToPath(new URL("../support/mistakes.mjs", import.meta.url));
const IS_LONG = process.env.UDM_TEST_LONG !== undefined;
const KINDS = ["setUint32", "getUint32", "setUint16", "set", "subarray", "map", "timer", "rejection"];
const ROUNDS = Number(process.env.UDM_TEST_MISTAKES ?? (IS_LONG ? 160 : 4));
const FIRST = Number(process.env.UDM_TEST_FIRST ?? 0);
const BLOCK = 4096;
const STEP = 65536;
const BLOCKS = 512;
const LANES = 4;
const random = new Random(0x6d697374);

class Client {
  readonly ledger = new Ledger(BLOCK);
  /** What ended it. */
  failure: string | undefined;
  stops = false;

  async run(writer: NbdWriter): Promise<void> {
    await Promise.all(Array.from({ length: LANES }, (_, lane) => this.#lane(writer, lane)));
  }

  async #lane(writer: NbdWriter, lane: number): Promise<void> {
    try {
      for (let count = 1; !this.stops; count++) {
        const block = random.between(0, BLOCKS / LANES - 1) * LANES + lane;
        const bytes = Buffer.alloc(BLOCK);
        bytes.writeUInt32LE(count, 0);
        bytes.writeUInt32LE(lane + 1, 4);
        await writer.write(block * STEP, bytes);
        if (count % 4 === 0) await writer.flush();
      }
    } catch (error) {
      this.failure = String(error);
    }
  }
}

interface Part {
  readonly name: string;
  readonly client: Client;
  readonly tap: NbdTap;
  readonly writer: NbdWriter;
}

async function until(what: () => boolean, seconds = 30): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!what()) {
    if (performance.now() > end) throw new Error("nothing comes any more");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function serve(session: Session, name: string): Promise<string> {
  const socket = session.path(`${name}.sock`);
  const child = session.start("udm", ["serve", name, "--nbd", `unix:${socket}`], {
    environment: { NODE_OPTIONS: `--import=${PRELOAD}`, UDM_TEST_MISTAKE: session.path("mistake.json") },
  });
  // Its name is there before anybody can connect to it; what it prints comes when all can.
  const told = once(child.stdout!, "data");
  void finished(child);
  await told;
  return socket;
}

const indices = Array.from({ length: ROUNDS }, (_, index) => index + FIRST);

test.skipIf(THROUGH_DAEMON).each(indices)("mistake %i", { timeout: 180_000 }, async (index) => {
  await withSession(async (session) => {
    const kind = KINDS[index % KINDS.length]!;
    const after = random.between(0, index % 3 === 0 ? 40 : 3000);
    writeFileSync(session.path("mistake.json"), JSON.stringify({ kind, after }));
    const names = ["p", "q"];
    const parts: Part[] = [];
    for (const name of names) {
      const sizes = ["--data-size", "128m", "--metadata-size", "8m"];
      await session.ok(["pool", "create", name, "--data", `${name}.data`, "--metadata", `${name}.meta`, ...sizes]);
      await session.ok(`thin create ${name} ${name}0 --size 32m`);
      const target = await serve(session, `${name}0`);
      const client = new Client();
      const tap = await NbdTap.open({ path: session.path(`${name}.tap`), target, ledger: client.ledger });
      const writer = await NbdWriter.connect(tap.path, `${name}0`);
      parts.push({ name, client, tap, writer });
    }
    const { daemon } = JSON.parse(await session.ok("daemon status --json"));
    const running = parts.map(({ client, writer }) => client.run(writer));
    const flushes = () => parts.map(({ client }) => client.ledger.flushes);
    await until(() => flushes().every((count) => count > 10));
    process.kill(daemon.pid, "SIGUSR2");
    const log = () =>
      readdirSync(session.path("run"))
        .filter((name) => name.endsWith(".log"))
        .map((name) => readFileSync(session.path(`run/${name}`), "utf8"))
        .join("");
    const isMade = () => /made in /.test(log()) || parts.some(({ client }) => client.failure !== undefined);
    const before = flushes();
    const goesOn = () =>
      parts.filter(({ client }, at) => client.failure === undefined && flushes()[at]! - before[at]! > 60);
    // Whoever was not hit goes on, and whoever was is told.
    await until(() => isMade() || goesOn().length === 2);
    const seen = flushes();
    await until(() => parts.every(({ client }, at) => client.failure !== undefined || flushes()[at]! > seen[at]! + 5));
    expect(parts.filter(({ client }) => client.failure !== undefined).length, log()).toBeLessThanOrEqual(1);
    const said = await session.run("timeout", [
      "20",
      process.execPath,
      session.path("bin/udm"),
      "pool",
      "list",
      "--json",
    ]);
    expect(said.status).toBe(0);
    for (const { client } of parts) client.stops = true;
    await until(() => parts.every(({ client }) => client.stops));
    await Promise.race([Promise.all(running), new Promise((resolve) => setTimeout(resolve, 5000))]);
    for (const { writer } of parts) writer.end();
    process.kill(daemon.pid, "SIGTERM");
    await until(() => /: ended\n/.test(log()), 40);
    for (const { name, client, tap } of parts) {
      await tap.close();
      const { damage } = checkMetadata(imageSource(readFileSync(session.path(`${name}.meta`))));
      expect(damage, `${kind} ${after}: ${name}\n${log()}`).toEqual([]);
      const ran = await session.bash(`udm thin read ${name}0 > ${name}.img`);
      expect(ran, log()).toEqual({ status: 0, stdout: "", stderr: "" });
      expect(
        client.ledger.audit(readFileSync(session.path(`${name}.img`))),
        `${kind} ${after}: ${name}\n${log()}`,
      ).toEqual([]);
    }
  });
});

const reason = whyNoAttaching();
const ATTACHED_ROUNDS = IS_LONG ? 16 : 2;

describe.skipIf(THROUGH_DAEMON || reason !== undefined)(
  `an attached device${reason === undefined ? "" : ` (${reason})`}`,
  () => {
    test.each(Array.from({ length: ATTACHED_ROUNDS }, (_, index) => index))(
      "mistake %i: its users get answers or errors, and it can be attached again",
      { timeout: 300_000 },
      (index) =>
        withAttaching(async (session) => {
          const kind = KINDS[(index * 5) % KINDS.length]!;
          const after = random.between(0, 400);
          writeFileSync(session.path("mistake.json"), JSON.stringify({ kind, after }));
          const environment = { NODE_OPTIONS: `--import=${PRELOAD}`, UDM_TEST_MISTAKE: session.path("mistake.json") };
          await session.ok("thin create pool a --size 128m");
          expect((await session.udm("attach a", { environment })).status).toBe(0);
          await session.sh("mkfs.ext4 -q dev/a");
          await session.ok(["mount", "a", session.path("mnt")]);
          await session.sh("cp /etc/services mnt/flushed; sync -f mnt");
          const load = session.sh(
            "fio --name=x --directory=mnt --size=16m --rw=randwrite --bs=4k --fsync=8 --time_based --runtime=4 >/dev/null 2>&1 || true",
          );
          await new Promise((resolve) => setTimeout(resolve, 500));
          process.kill(await session.daemonPid(), "SIGUSR2");
          await load;
          expect((await session.run("timeout", ["60", process.execPath, UDM, "daemon", "stop"])).status).toBe(0);
          // As told, if there is anything to tell.
          const doctor = await session.udm("doctor --quiet");
          for (const [, line] of doctor.stdout.matchAll(/^ {2}(udm .*)$/gm)) await session.sh(`bin/${line}`);
          expect((await session.udm("doctor --quiet")).stdout).toBe("nothing is wrong\n");
          const image = readFileSync(session.path("meta"));
          expect(checkMetadata(imageSource(image)).damage, `${kind} ${after}`).toEqual([]);
          await session.ok("attach a --read-only");
          await session.ok("detach a");
          await session.sh("bin/udm thin export a image >/dev/null; e2fsck -fp image >/dev/null || [ $? = 1 ]");
          await session.sh(
            "e2fsck -fn image >/dev/null 2>&1; debugfs -R 'dump flushed copy' image 2>/dev/null; cmp copy /etc/services",
          );
        }),
    );
  },
);
