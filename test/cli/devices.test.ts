/** Devices in other hands: another process, another state dir, the kernel; and a disk that fills up below. */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type Ran, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const TABLE = "0 131072 thin-pool 7:0 7:1 128 0";
const isRoot = process.getuid?.() === 0;
const hasLoops = isRoot && spawnSync("losetup", ["--find"]).status === 0;

function expectRefusal(ran: Ran, message: RegExp): void {
  expect(ran.stderr).toMatch(/^udm: .+\nhint: .+\n$/);
  expect(ran.stderr).toMatch(message);
  expect(ran).toMatchObject({ status: 1, stdout: "" });
}

async function attach(session: Session, options: readonly string[] = []): Promise<void> {
  await session.ok([...options, "loop", "attach", "meta.img", "--size", "16m"]);
  await session.ok([...options, "loop", "attach", "data.img", "--size", "64m"]);
}

test("a pool in use by another process is refused to another state dir, and free when that process is gone", async () => {
  await withSession(async (session) => {
    await attach(session);
    await session.ok(["pool", "create", "pool", "--table", TABLE]);
    await session.ok("thin create pool vol --size 32m");
    const other = ["--state-dir", session.path("other"), "--lock-timeout", "1"];
    await attach(session, other);

    const holder = session.start("bash", ["-c", "exec udm thin write vol"]);
    const gone = new Promise((resolve) => holder.once("exit", resolve));
    await new Promise((resolve) => holder.stdin!.write(Buffer.alloc(4 * 2 ** 20, 1), resolve));
    await untilRead(holder.pid!, 4 * 2 ** 20);
    const pid = THROUGH_DAEMON ? JSON.parse(await session.ok("daemon status --json")).daemon.pid : holder.pid;
    expectRefusal(
      await session.udm([...other, "pool", "create", "pool", "--table", TABLE]),
      new RegExp(`process ${pid} `),
    );
    holder.kill("SIGKILL");
    await gone;
    // The daemon does this after what the holder had begun.
    if (THROUGH_DAEMON) await session.ok("pool status pool --raw");
    expect(await session.udm([...other, "pool", "create", "pool", "--table", TABLE])).toMatchObject({ status: 0 });
  });
});

/** Waits until a process has read so many bytes. */
async function untilRead(pid: number, bytes: number): Promise<void> {
  for (;;) {
    const read = /^rchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1];
    if (Number(read) > bytes) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe.skipIf(!hasLoops)("with kernel loop devices (root)", () => {
  test("a file under a kernel loop device in use is refused, and its name told", async () => {
    await withSession(async (session) => {
      await attach(session);
      const loop = spawnSync("losetup", ["--find", "--show", session.path("data.img")], {
        encoding: "utf8",
      }).stdout.trim();
      try {
        expectRefusal(await session.udm(["pool", "create", "pool", "--table", TABLE]), new RegExp(loop));
      } finally {
        spawnSync("losetup", ["--detach", loop]);
      }
      expect(await session.udm(["pool", "create", "pool", "--table", TABLE])).toMatchObject({ status: 0 });
    });
  });

  test("loop attach --kernel makes one, and a pool stands on block devices", async () => {
    await withSession(async (session) => {
      const loops: string[] = [];
      try {
        for (const [file, size] of [
          ["meta.img", "16m"],
          ["data.img", "64m"],
        ] as const) {
          loops.push((await session.ok(["loop", "attach", file, "--size", size, "--kernel"])).trim());
        }
        const [metadata = "", data = ""] = loops;
        expect(metadata).toMatch(/^\/dev\/loop\d+$/);
        await session.ok(["pool", "create", "pool", "--metadata", metadata, "--data", data]);
        await session.ok("thin create pool vol --size 32m");
        await session.ok("thin write vol --offset 100k", { input: "on a block device" });
        expect(await session.ok("thin read vol --offset 100k --length 17")).toBe("on a block device");
        expect(await session.ok("lsblk -n -i -l -o NAME,OWNER")).toContain("vol");
        await session.ok("thin delete vol --yes");
        await session.ok("pool remove pool");
      } finally {
        for (const loop of loops) spawnSync("losetup", ["--detach", loop]);
      }
    });
  });
});

describe.skipIf(!isRoot)("with mounts (root)", () => {
  test("a full disk under a sparse file is ENOSPC, what was written before stays", async () => {
    await withSession(async (session) => {
      mkdirSync(session.path("small"));
      const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=6m", "tmpfs", session.path("small")]);
      if (mounted.status !== 0) return;
      try {
        await session.ok(
          "pool create pool --data small/data.img --metadata meta.img --data-size 1g --metadata-size 16m",
        );
        await session.ok("thin create pool vol --size 512m");
        await session.ok("thin write vol", { input: Buffer.alloc(2 ** 20, 1) });
        expectRefusal(
          await session.udm("thin write vol --offset 1m", { input: Buffer.alloc(16 * 2 ** 20, 2) }),
          /space|ENOSPC/i,
        );
        const read = await session.run("bash", [
          "-c",
          "udm thin read vol --length 1m | sha256sum; udm pool check pool >/dev/null; echo $?",
        ]);
        const wanted = spawnSync("bash", ["-c", "head -c 1M /dev/zero | tr '\\0' '\\1' | sha256sum"], {
          encoding: "utf8",
        });
        expect(read.stdout).toBe(`${wanted.stdout}0\n`);
      } finally {
        spawnSync("umount", [session.path("small")]);
      }
    });
  });
});
