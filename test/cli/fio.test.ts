/** fio writes through NBD and verifies what it wrote, while commands snapshot, grow, reload and suspend what it writes to. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { checkMetadata, imageSource } from "../support/check-metadata.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const hasFio = spawnSync("fio", ["--enghelp=nbd"]).status === 0;
/** In CI nothing is skipped: a missing tool is a failure there. */
const mayRun = (hasFio || process.env.CI === "true") && !THROUGH_DAEMON;
const IS_LONG = process.env.UDM_TEST_LONG !== undefined;

/** What goes on beside; each leaves the device as it was to its reader. */
async function disturb(session: Session, round: number): Promise<void> {
  await session.ok(`thin snap base s${round}`);
  await session.ok("pool resize pool +8m");
  await session.ok(`pool set pool ${round % 2 === 0 ? "--skip-block-zeroing" : "--no-skip-block-zeroing"}`);
  await session.ok("thin resize base +1m");
  const table = await session.ok("table show base");
  await session.ok(["table", "load", "base", "--table", table.trim()]);
  await session.ok("table resume base");
  await session.ok("table suspend base");
  await session.ok("table resume base");
  await session.ok("table suspend pool");
  await session.ok("table resume pool");
  if (round > 0) await session.ok(`thin delete s${round - 1} --yes`);
}

test.runIf(mayRun)("fio finds every byte it wrote", { timeout: 1_200_000 }, async () => {
  await withSession(async (session) => {
    const sizes = ["--data-size", "256m", "--metadata-size", "16m"];
    await session.ok(["pool", "create", "pool", "--data", "data.img", "--metadata", "metadata.img", ...sizes]);
    await session.ok("pool set pool --autoextend-threshold 70");
    await session.ok("thin create pool base --size 64m");
    const socket = session.path("nbd.sock");
    const serving = session.start("udm", ["serve", "base", "--nbd", `unix:${socket}`]);
    const served = finished(serving);
    while (!existsSync(socket) && serving.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 10));
    const fio = finished(
      session.start("fio", [
        ...["--name=verify", "--ioengine=nbd", `--uri=nbd+unix:///base?socket=${socket}`, "--thread"],
        ...["--rw=randwrite", "--bsrange=4k-128k", "--iodepth=16", "--size=64m", "--randrepeat=1", "--fsync=32"],
        ...["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_backlog=256"],
        ...[`--loops=${IS_LONG ? 60 : 2}`, "--output-format=terse"],
      ]),
    );
    let isOver = false;
    void fio.then(() => {
      isOver = true;
    });
    let rounds = 0;
    while (!isOver) await disturb(session, rounds++);
    const ran = await fio;
    expect({ status: ran.status, stderr: ran.stderr }).toEqual({ status: 0, stderr: "" });
    serving.kill("SIGINT");
    expect((await served).status).toBe(0);
    await expect.poll(async () => (await session.udm("daemon status")).status).toBe(1);
    expect(rounds).toBeGreaterThan(0);
    expect(checkMetadata(imageSource(readFileSync(session.path("metadata.img")))).damage).toEqual([]);
  });
});
