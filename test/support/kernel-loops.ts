/** Kernel loop devices for tests that need a real block device. */
import { accessSync, constants, existsSync } from "node:fs";
import { run } from "../../src/io/index.js";

/** Why there are none here; undefined when there are. */
export function whyNoKernelLoops(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  if (!existsSync("/dev/loop-control")) return "this kernel has no loop devices";
  try {
    accessSync("/dev/loop-control", constants.R_OK | constants.W_OK);
  } catch {
    return "/dev/loop-control cannot be opened";
  }
  return undefined;
}

/** Attaches a file for a test; the caller detaches. */
export async function attachLoop(file: string, ...options: string[]): Promise<string> {
  return (await run("losetup", ["--find", "--show", ...options, file])).stdout;
}

export async function detachLoop(path: string): Promise<void> {
  await run("losetup", ["--detach", path]);
}
