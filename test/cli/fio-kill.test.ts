/**
 * The daemon is killed while fio writes, trims and flushes through it and commands make snapshots. A tap between the two says
 * what the server owes: what a flush had acknowledged is there, every block is one that was sent, the pool is clean, and
 * the snapshots that were told are what the device was.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { Ledger, NbdTap } from "../support/nbd-tap.js";
import { Random } from "../support/random.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const hasFio = spawnSync("fio", ["--enghelp=nbd"]).status === 0;
/** In CI nothing is skipped: a missing tool is a failure there. */
const mayRun = (hasFio || process.env.CI === "true") && !THROUGH_DAEMON;
const ROUNDS = Number(process.env.UDM_TEST_KILLS ?? (process.env.UDM_TEST_LONG === undefined ? 2 : 100));
const SIZE = 64 * 2 ** 20;
const BLOCK = 4096;
/** As seeds go, another in each round. */
const random = new Random(0x66696f);

/** Another mixture in each round: depth, sizes, how often it flushes, trims beside it. */
function load(round: number, socket: string): readonly string[] {
  const depth = [1, 16, 4, 32][round % 4]!;
  const sync = [1, 8, 3, 16][(round >> 1) % 4]!;
  const sizes = ["--bs=4k", "--bsrange=4k-128k"][round % 2]!;
  return [
    ...["--ioengine=nbd", `--uri=nbd+unix:///base?socket=${socket}`, "--thread", `--size=${SIZE}`, "--time_based"],
    ...["--runtime=60", `--randseed=${1000 + round}`, "--serialize_overlap=1", "--norandommap", "--refill_buffers"],
    ...["--output-format=terse", "--name=load", "--rw=randwrite", sizes, `--iodepth=${depth}`, `--fsync=${sync}`],
    ...(round % 3 === 2 ? ["--name=trim", "--rw=randtrim", "--bs=64k", "--iodepth=2", "--rate_iops=200"] : []),
  ];
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 2));
}

async function readImage(session: Session): Promise<Buffer> {
  const ran = await session.bash(`udm thin read base --length ${SIZE} > read.img`);
  expect(ran).toEqual({ status: 0, stdout: "", stderr: "" });
  return readFileSync(session.path("read.img"));
}

test.runIf(mayRun)(`${ROUNDS} kills under fio with fsync`, { timeout: ROUNDS * 60_000 }, async () => {
  await withSession(async (session) => {
    const sizes = ["--data-size", "1g", "--metadata-size", "32m"];
    await session.ok(["pool", "create", "pool", "--data", "data.img", "--metadata", "metadata.img", ...sizes]);
    await session.ok(`thin create pool base --size ${SIZE}`);
    const ledger = new Ledger(BLOCK);
    for (let round = 0; round < ROUNDS; round++) {
      const target = session.path(`nbd-${round}`);
      const serving = session.start("udm", ["serve", "base", "--nbd", `unix:${target}`]);
      const served = finished(serving);
      await until(() => existsSync(target) || serving.exitCode !== null);
      const { daemon } = JSON.parse(await session.ok("daemon status --json"));
      const path = join(session.folder, `tap-${round}`);
      const tap = await NbdTap.open({ path, target, ledger });
      const fio = finished(session.start("fio", load(round, path)));
      let over = false;
      void fio.then(() => {
        over = true;
      });
      const before = ledger.flushes;
      const wanted = random.between(1, 80);
      // Now and then in the middle of a snapshot, so that writes are copies from then on.
      const snapping = round % 2 === 0 ? session.udm(`thin snap base s${round}`) : undefined;
      await until(() => ledger.flushes - before >= wanted || over);
      process.kill(daemon.pid, "SIGKILL");
      expect((await fio).status, "fio noticed").not.toBe(0);
      expect((await served).status).not.toBe(0);
      await snapping;
      await tap.close();
      expect(ledger.failures).toBe(0);
      const image = readFileSync(session.path("metadata.img"));
      expect(checkMetadata(imageSource(image)).damage).toEqual([]);
      if (HAS_THIN_TOOLS) expect(thinCheck(image), `round ${round}`).toBeUndefined();
      expect(ledger.audit(await readImage(session)), `round ${round}`).toEqual([]);
      if (round % 2 === 1) await session.udm(`thin delete s${round - 1} --yes`);
      rmSync(target, { force: true });
    }
    expect(ledger.flushes).toBeGreaterThan(ROUNDS);
    // It would have noticed.
    const last = await readImage(session);
    const touched = ledger.someBlock();
    last.writeUInt8(last.readUInt8(touched * BLOCK) ^ 1, touched * BLOCK);
    expect(ledger.audit(last)).toEqual([touched]);
  });
});
