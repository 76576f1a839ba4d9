/** Starting, ending, being killed: the daemon as a user meets it. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const MIB = 2 ** 20;

async function makePool(session: Session): Promise<void> {
  const sizes = ["--data-size", "64m", "--metadata-size", "8m"];
  await session.ok(["pool", "create", "pool", "--data", "data.img", "--metadata", "meta.img", ...sizes]);
  await session.ok("thin create pool a --size 32m");
}

interface Daemon {
  readonly pid: number;
  readonly endsWhenIdle: boolean;
  readonly socket: string;
}

async function statusOf(session: Session): Promise<Daemon | undefined> {
  const ran = await session.udm("daemon status --json");
  return (JSON.parse(ran.stdout) as { readonly daemon: Daemon | null }).daemon ?? undefined;
}

/** One that has ended and that nobody has waited for is a name only. */
function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat[stat.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}

test.skipIf(THROUGH_DAEMON)("start, status, stop; twice is no harm", async () => {
  await withSession(async (session) => {
    expect(await session.udm("daemon status")).toEqual({ status: 1, stdout: "no daemon runs\n", stderr: "" });
    expect(await session.ok("daemon stop")).toBe("");
    expect(await session.ok("daemon start")).toBe("");
    const first = await statusOf(session);
    await session.ok("daemon start");
    expect(await statusOf(session)).toMatchObject({ pid: first!.pid, endsWhenIdle: false });
    const text = await session.ok("daemon status");
    expect(text).toContain(`process      ${first!.pid}\n`);
    expect(text).toContain("open pools   -\n");
    expect(JSON.parse(await session.ok("daemon stop --json"))).toMatchObject({ ended: first!.pid });
    expect(isAlive(first!.pid)).toBe(false);
    expect(existsSync(first!.socket)).toBe(false);
  });
});

test.skipIf(THROUGH_DAEMON)("a signal is a clean end: what was written is there", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const child = session.start("udm", ["daemon", "start", "--foreground"]);
    const ended = finished(child);
    await expect.poll(() => statusOf(session)).toBeDefined();
    await session.ok("thin write a", { input: Buffer.alloc(MIB, 7) });
    child.kill("SIGTERM");
    const ran = await ended;
    expect(ran).toMatchObject({ status: 0, stdout: "" });
    expect(ran.stderr).toMatch(/listening on .*\n.*ending\n.*ended\n$/);
    expect((await session.bash("udm thin read a --length 1m | cksum")).stdout).toBe(
      (await session.bash("head -c 1048576 /dev/zero | tr '\\0' '\\7' | cksum")).stdout,
    );
  });
});

test.skipIf(THROUGH_DAEMON)("one that was killed is no obstacle, neither to commands nor to the next one", async () => {
  await withSession(async (session) => {
    await makePool(session);
    for (let round = 0; round < 3; round++) {
      await session.ok("daemon start");
      const { pid, socket } = (await statusOf(session))!;
      await session.ok(`thin snap a s${round}`);
      process.kill(pid, "SIGKILL");
      await expect.poll(() => isAlive(pid)).toBe(false);
      expect(existsSync(socket)).toBe(true);
      await session.ok(`thin create pool t${round} --size 1m`);
    }
    expect(await session.udm("daemon status")).toEqual({
      status: 1,
      stdout: "no daemon runs\n",
      stderr: "udm: a socket that a killed daemon had left was taken away\n",
    });
    expect(readdirSync(session.path("run")).filter((name) => name.endsWith(".sock"))).toEqual([]);
    const { thins } = JSON.parse(await session.ok("thin list --json"));
    expect(thins).toHaveLength(7);
  });
});

test.skipIf(THROUGH_DAEMON)("commands that start at once find one daemon, and wait for no lock", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const starts = Array.from({ length: 4 }, () => session.udm("daemon start"));
    const snaps = Array.from({ length: 4 }, (_, index) => session.udm(`thin snap a s${index} --lock-timeout 20`));
    for (const ran of await Promise.all([...starts, ...snaps]))
      expect(ran).toEqual({ status: 0, stdout: "", stderr: "" });
    const { pid } = (await statusOf(session))!;
    const log = readdirSync(session.path("run")).find((name) => name.endsWith(".log"))!;
    const listening = readFileSync(session.path(`run/${log}`), "utf8").match(/listening/g);
    expect(listening).toHaveLength(1);
    await session.ok("daemon stop");
    expect(isAlive(pid)).toBe(false);
  });
});

test.skipIf(THROUGH_DAEMON)(
  "a command that cannot reach it says who has the state, and where its socket is",
  async () => {
    await withSession(async (session) => {
      await makePool(session);
      await session.ok("daemon start");
      const { pid, socket } = (await statusOf(session))!;
      const ran = await session.udm("thin snap a s --lock-timeout 0.2", {
        environment: { UDM_RUN_DIR: session.path("other") },
      });
      expect(ran).toMatchObject({ status: 1, stdout: "" });
      expect(ran.stderr).toContain(`locked by process ${pid} (daemon, socket ${socket})`);
      await session.ok("daemon stop");
    });
  },
);

test.skipIf(THROUGH_DAEMON)("a damaged state is told by the one who starts it", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.bash("echo nonsense > state/state.json");
    const ran = await session.udm("daemon start");
    expect(ran).toMatchObject({ status: 1, stdout: "" });
    expect(ran.stderr).toMatch(/^udm: state file .* is damaged.*\nhint: the copy before it .*\n$/);
    expect((await session.udm("daemon status")).status).toBe(1);
  });
});

test.skipIf(THROUGH_DAEMON)(
  "one that is stopped is named, by doctor too, and who was told what to do is rid of it",
  async () => {
    await withSession(async (session) => {
      await makePool(session);
      await session.ok("daemon start");
      const { pid } = (await statusOf(session))!;
      process.kill(pid, "SIGSTOP");
      try {
        const doctor = await session.udm("doctor --quiet");
        expect(doctor).toMatchObject({ status: 3, stderr: "", stdout: expect.stringContaining(`  kill -9 ${pid}\n`) });
        expect(doctor.stdout).not.toContain("was left behind");
      } finally {
        process.kill(pid, "SIGKILL");
      }
      await expect.poll(() => isAlive(pid)).toBe(false);
      await session.ok("thin snap a s");
    });
  },
);
