/**
 * The kernel's NBD devices, as far as they are ours: one is served by the daemon that listens on the socket with its number. A
 * kernel keeps a device whose server is gone, with its size, and answers with errors, until it is disconnected.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../../io/index.js";

const CLIENT_TIMEOUT_MS = 20_000;
const GONE_MS = 5000;
const PAUSE_MS = 10;

/** Of `/dev/nbd7`; undefined for anything else. */
export function nbdNumber(path: string): number | undefined {
  const number = /^\/dev\/nbd(\d+)$/.exec(path)?.[1];
  return number === undefined ? undefined : Number(number);
}

/** Numbers of the devices that the kernel has, in order. */
export function listNbdNumbers(): readonly number[] {
  return listFolder("/sys/block")
    .map((name) => nbdNumber(`/dev/${name}`))
    .filter((number) => number !== undefined)
    .sort((left, right) => left - right);
}

/** Somebody connected it, and nobody disconnected it since. */
export function isNbdInUse(number: number): boolean {
  if (existsSync(`/sys/block/nbd${number}/pid`)) return true;
  try {
    return readFileSync(`/sys/block/nbd${number}/size`, "utf8").trim() !== "0";
  } catch {
    return false;
  }
}

/** Where the daemon of a run dir serves it. */
export function nbdSocket(runDir: string, node: string): string {
  return join(runDir, `attach-${basename(node)}.sock`);
}

/** Whether a daemon of this run dir serves it now. A socket's file stays behind, its listener does not. */
export function isNbdServed(runDir: string, node: string): boolean {
  const path = nbdSocket(runDir, node);
  return readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .some((line) => line.endsWith(` ${path}`));
}

/** @throws ToolError what nbd-client said */
export async function disconnectNbd(node: string): Promise<void> {
  const number = nbdNumber(node) ?? -1;
  if (!isNbdInUse(number)) return;
  await run("nbd-client", ["-d", node], { timeoutMs: CLIENT_TIMEOUT_MS });
  for (const until = performance.now() + GONE_MS; isNbdInUse(number) && performance.now() < until; ) {
    await sleep(PAUSE_MS);
  }
}

function listFolder(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
