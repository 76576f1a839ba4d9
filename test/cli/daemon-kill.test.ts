/**
 * The daemon is killed while a client writes and flushes through it and commands make snapshots: what a flush had
 * acknowledged is there, nothing is torn that was acknowledged, the pool is clean, and the next command works at once.
 */
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { NbdWriter } from "../support/nbd-writer.js";
import { Random } from "../support/random.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const ROUNDS = process.env.UDM_TEST_LONG === undefined ? 4 : 100;
const BLOCKS = 256;
const STEP = 65536;
const LANES = 4;
const random = new Random(0x6b696c6c);

class Load {
  /** Last counter sent to each block, and the least a block must hold since the last flush that was answered. */
  readonly sent = new Uint32Array(BLOCKS);
  readonly written = new Uint32Array(BLOCKS);
  readonly flushed = new Uint32Array(BLOCKS);
  flushes = 0;

  async run(client: NbdWriter): Promise<void> {
    await Promise.all(Array.from({ length: LANES }, (_, lane) => this.#lane(client, lane)));
  }

  async #lane(client: NbdWriter, lane: number): Promise<void> {
    try {
      for (let count = 1; ; count++) {
        const block = random.between(0, BLOCKS / LANES - 1) * LANES + lane;
        const counter = this.sent[block]! + 1;
        const bytes = Buffer.alloc(4096);
        for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(counter, at);
        this.sent[block] = counter;
        await client.write(block * STEP, bytes);
        this.written[block] = counter;
        if (count % 8 !== 0) continue;
        const covered = this.written.slice();
        await client.flush();
        for (const [index, value] of covered.entries()) {
          if (value > this.flushed[index]!) this.flushed[index] = value;
        }
        this.flushes++;
      }
    } catch {
      // The server has gone.
    }
  }
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function readCounters(session: Session): Promise<Uint32Array> {
  const ran = await session.bash(`udm thin read base --length ${BLOCKS * STEP} > read.img`);
  expect(ran).toEqual({ status: 0, stdout: "", stderr: "" });
  const bytes = readFileSync(session.path("read.img"));
  const counters = new Uint32Array(BLOCKS);
  for (let block = 0; block < BLOCKS; block++) {
    const words = new Set<number>();
    for (let at = 0; at < 4096; at += 4) words.add(bytes.readUInt32LE(block * STEP + at));
    // A write is torn only when it was never acknowledged; the smallest of its words tells what it replaced.
    counters[block] = Math.min(...words);
  }
  return counters;
}

test.skipIf(THROUGH_DAEMON)(`${ROUNDS} times`, { timeout: ROUNDS * 20_000 }, async () => {
  await withSession(async (session) => {
    const sizes = ["--data-size", "1g", "--metadata-size", "32m"];
    await session.ok(["pool", "create", "pool", "--data", "data.img", "--metadata", "metadata.img", ...sizes]);
    await session.ok("thin create pool base --size 64m");
    const load = new Load();
    let snapshots = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const socket = session.path(`nbd-${round}`);
      const serving = session.start("udm", ["serve", "base", "--nbd", `unix:${socket}`]);
      const served = finished(serving);
      await until(() => existsSync(socket) || serving.exitCode !== null);
      const { daemon } = JSON.parse(await session.ok("daemon status --json"));
      const client = await NbdWriter.connect(socket, "base");
      const loading = load.run(client);
      const before = load.flushes;
      const wanted = random.between(0, 60);
      // Now and then in the middle of a snapshot.
      const snapping = round % 2 === 0 ? session.udm(`thin snap base s${round}`) : undefined;
      await until(() => load.flushes - before >= wanted);
      process.kill(daemon.pid, "SIGKILL");
      await client.closed;
      await loading;
      const snapped = await snapping;
      expect((await served).status).not.toBe(0);
      const list = JSON.parse(await session.ok("thin list --json")).thins as { name: string }[];
      if (snapped?.status === 0) snapshots++;
      // One that was cut off is there as a whole, or not at all.
      const isThere = list.some(({ name }) => name === `s${round}`);
      if (snapped !== undefined && snapped.status !== 0 && isThere) snapshots++;
      expect(list.length).toBe(1 + snapshots);
      const found = await readCounters(session);
      for (let block = 0; block < BLOCKS; block++) {
        expect(found[block], `block ${block}`).toBeGreaterThanOrEqual(load.flushed[block]!);
        expect(found[block], `block ${block}`).toBeLessThanOrEqual(load.sent[block]!);
      }
      expect(checkMetadata(imageSource(readFileSync(session.path("metadata.img")))).damage).toEqual([]);
      // What was sent and not acknowledged may come out either way, now it is decided.
      load.sent.set(found);
      load.written.set(found);
      load.flushed.set(found);
    }
    expect(load.flushes).toBeGreaterThan(ROUNDS);
  });
});
