/**
 * The real binary with a state dir, a pool and a folder for links of its own, for tests that attach devices. Whatever
 * happens in the body, nothing stays: mounts, loop devices, the daemon and its FUSE mount are taken away, by force at last.
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { abortConnection, listFuseMounts, unmountFuse } from "../../src/fuse/index.js";
import { run } from "../../src/io/index.js";
import { listKernelLoops } from "../../src/loop/index.js";
import { Session, UDM } from "../cli/session.js";
import { withTemporaryFolder } from "./temporary-folder.js";

/** Longest time that a program may take which touches a device of ours. */
const TIME_LIMIT_SECONDS = 60;

/** Why nothing can be attached here; undefined when it can. */
export function whyNoAttaching(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync("/dev/fuse")) return "this kernel has no FUSE";
  return existsSync("/dev/loop-control") ? undefined : "this kernel has no loop devices";
}

/** CAP_SYS_RESOURCE, without which the kernel grows no mounted ext4, not even for root. */
export function mayGrowExt4(): boolean {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  return (BigInt(`0x${mask}`) & (1n << 24n)) !== 0n;
}

export class AttachedSession extends Session {
  override get environment(): Record<string, string> {
    return { ...super.environment, UDM_DEV_DIR: this.path("dev") };
  }

  /** A line for bash in which every program has its time; must succeed. @returns its output */
  async sh(script: string): Promise<string> {
    const ran = await this.run("timeout", ["-k", "5", String(TIME_LIMIT_SECONDS), "bash", "-ec", script]);
    if (ran.status !== 0) throw new Error(`${script}: status ${ran.status}\n${ran.stdout}${ran.stderr}`);
    return ran.stdout.trimEnd();
  }

  /** Path of the link of an attached device. */
  dev(name: string): string {
    return this.path(`dev/${name}`);
  }

  async daemonPid(): Promise<number> {
    const status = JSON.parse((await this.udm("daemon status --json")).stdout) as { daemon: { pid: number } | null };
    if (status.daemon === null) throw new Error("no daemon runs");
    return status.daemon.pid;
  }

  /** Kills the daemon as the kernel would, and waits until it is gone. */
  async killDaemon(): Promise<void> {
    const pid = await this.daemonPid();
    process.kill(pid, "SIGKILL");
    while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat[stat.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}

export async function withAttaching(body: (session: AttachedSession) => Promise<void>): Promise<void> {
  await withTemporaryFolder("udm-attach-", async (folder) => {
    mkdirSync(join(folder, "bin"));
    mkdirSync(join(folder, "mnt"));
    mkdirSync(join(folder, "mnt2"));
    symlinkSync(UDM, join(folder, "bin/udm"));
    chmodSync(UDM, 0o755);
    const session = new AttachedSession(folder);
    try {
      await session.ok("pool create pool --data data --metadata meta --data-size 2g --metadata-size 32m");
      await body(session);
    } finally {
      await cleanUp(session);
    }
  });
}

async function cleanUp(session: AttachedSession): Promise<void> {
  const below = (path: string) => path.startsWith(`${session.folder}/`);
  const stop = await session.run("timeout", ["-k", "5", "30", process.execPath, UDM, "daemon", "stop"]);
  for (const { folder, connection } of listFuseMounts().filter((each) => below(each.folder))) {
    if (stop.status !== 0) await abortConnection(connection);
    await unmountAll(below);
    for (const loop of listKernelLoops().filter((each) => each.backingFile.startsWith(`${folder}/`))) {
      await run("losetup", ["-d", loop.path], { okStatuses: [0, 1] });
    }
    await unmountFuse(folder);
  }
  await unmountAll(below);
  if (stop.status !== 0) {
    const pid = await session.daemonPid().catch(() => undefined);
    if (pid !== undefined) process.kill(pid, "SIGKILL");
  }
}

async function unmountAll(isOurs: (path: string) => boolean): Promise<void> {
  const points = readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .filter(([source, point]) => source?.startsWith("/dev/loop") === true && isOurs(point ?? ""))
    .map(([, point]) => point!);
  for (const point of points.reverse()) {
    await run("umount", [point], { okStatuses: [0, 1, 32], timeoutMs: 30_000 }).catch(() => undefined);
    await run("umount", ["-l", point], { okStatuses: [0, 1, 32], timeoutMs: 30_000 }).catch(() => undefined);
  }
}
