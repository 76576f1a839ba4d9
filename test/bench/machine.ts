/** What the numbers were measured on. */
import { readFileSync } from "node:fs";
import { cpus, loadavg, release, tmpdir, totalmem } from "node:os";
import { run } from "../../src/io/index.js";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly qemuImg: string;
  readonly folder: string;
  readonly fileSystem: string;
  /** Load of the last minute when the run began: what else the machine was doing. */
  readonly load: number;
}

export async function describeMachine(): Promise<Machine> {
  const all = cpus();
  const qemuImg = await run("qemu-img", ["--version"]).then(
    ({ stdout }) => /version (\S+)/.exec(stdout)?.[1] ?? "unknown",
    () => "not installed",
  );
  return {
    cpu: all[0]?.model.trim() ?? "unknown",
    cores: all.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    qemuImg,
    folder: tmpdir(),
    fileSystem: fileSystemOf(tmpdir()),
    load: Math.round(loadavg()[0]! * 100) / 100,
  };
}

/** Type of the file system that holds a path: that of the longest mount point above it. */
function fileSystemOf(path: string): string {
  let best = { point: "", type: "unknown" };
  for (const line of readFileSync("/proc/self/mounts", "utf8").split("\n")) {
    const [, point, type] = line.split(" ");
    if (point === undefined || type === undefined || point.length < best.point.length) continue;
    if (path === point || path.startsWith(point.endsWith("/") ? point : `${point}/`)) best = { point, type };
  }
  return best.type;
}
