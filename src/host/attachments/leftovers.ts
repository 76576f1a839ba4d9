/**
 * What a daemon that was killed leaves: a mount that nobody answers on, loop devices on its images, links to these. As
 * long as a file system is mounted on such a loop device, or somebody has it open, it stays; all else is taken away, in
 * the order in which it stands on each other.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../errors/index.js";
import {
  abortConnection,
  type FuseMountInfo,
  listFuseMounts,
  stateOfFuseMount,
  unmountFuse,
} from "../../fuse/index.js";
import { deviceNumber, findHolders, identityOf, mountPoints, swapPaths } from "../../io/index.js";
import { detachKernelLoop, type KernelLoop, listKernelLoops } from "../../loop/index.js";
import { removeLink } from "./device-link.js";

export interface Leftover {
  readonly mount: FuseMountInfo;
  readonly state: "dead" | "stuck";
  readonly loops: readonly LeftLoop[];
}

export interface LeftLoop {
  readonly loop: KernelLoop;
  /** Name of the device that was attached. */
  readonly name: string;
  readonly users: readonly NodeUser[];
}

export type NodeUser =
  | { readonly kind: "mount"; readonly folder: string }
  | { readonly kind: "swap"; readonly path: string }
  | { readonly kind: "process"; readonly pid: number; readonly command: string };

/** Who uses a block device: what is mounted from it, swap, processes that have it open. */
export function usersOfNode(node: string): NodeUser[] {
  const mounted = (mountPoints().get(deviceNumber(node) ?? "") ?? []).map((folder) => ({
    kind: "mount" as const,
    folder,
  }));
  const swap = swapPaths()
    .filter((path) => path === node)
    .map((path) => ({ kind: "swap" as const, path }));
  if (mounted.length + swap.length > 0) return [...mounted, ...swap];
  try {
    return (
      findHolders(identityOf(node))
        // nbd-client keeps its device open as long as it is connected.
        .filter(({ pid, command }) => pid !== process.pid && !/(^|\/)nbd-client\b/.test(command))
        .map(({ pid, command }) => ({ kind: "process" as const, pid, command }))
    );
  } catch {
    return [];
  }
}

/** `mounted at /mnt`, `in use as swap`, `open in process 47 (dd ...)`. */
export function describeUser(user: NodeUser): string {
  switch (user.kind) {
    case "mount":
      return `mounted at ${user.folder}`;
    case "swap":
      return "in use as swap";
    case "process":
      return `open in process ${user.pid} (${user.command})`;
  }
}

/** Loop devices on images below a folder. */
export function loopsBelow(folder: string): readonly LeftLoop[] {
  return listKernelLoops()
    .filter((loop) => loop.backingFile.startsWith(`${folder}/`))
    .map((loop) => ({ loop, name: loop.backingFile.slice(folder.length + 1), users: usersOfNode(loop.path) }));
}

/** Mounts whose folder is `base`, or `base-N`. */
export function mountsLike(base: string): readonly FuseMountInfo[] {
  return listFuseMounts().filter(({ folder }) => folder === base || /^-\d+$/.test(folder.slice(base.length)));
}

/** Mounts of udm on this machine that nobody serves. Asks each through another process, with a time limit. */
export async function findLeftovers(mounts: readonly FuseMountInfo[] = listFuseMounts()): Promise<readonly Leftover[]> {
  const found: Leftover[] = [];
  for (const mount of mounts) {
    const state = await stateOfFuseMount(mount.folder);
    if (state !== "served") found.push({ mount, state, loops: loopsBelow(mount.folder) });
  }
  return found;
}

/**
 * Takes away what can be taken away of the mounts of one state dir. Its daemon must not run: whoever calls is the daemon.
 * @returns what has to stay, because it is in use
 */
export async function clearLeftovers(options: {
  readonly folder: string;
  readonly devFolder?: string;
  readonly log: (line: string) => void;
}): Promise<readonly LeftLoop[]> {
  const staying: LeftLoop[] = [];
  for (const mount of mountsLike(options.folder)) {
    try {
      // A server that is stuck, or one that is gone: in both cases nobody waits any longer than this.
      await abortConnection(mount.connection);
      staying.push(...(await clearMount(mount, options)));
    } catch (error) {
      options.log(`clearing up ${mount.folder}: ${messageOf(error)}`);
    }
  }
  return staying;
}

async function clearMount(
  mount: FuseMountInfo,
  { devFolder, log }: { readonly devFolder?: string; readonly log: (line: string) => void },
): Promise<readonly LeftLoop[]> {
  const loops = loopsBelow(mount.folder);
  const free = loops.filter(({ users }) => users.length === 0);
  for (const { loop, name } of free) {
    await detachKernelLoop(loop.path);
    if (devFolder !== undefined) removeLink(join(devFolder, name), loop.path);
    log(`took ${loop.path} away, which an earlier daemon had left of '${name}'`);
  }
  const staying = loops.filter(({ users }) => users.length > 0);
  if (staying.length === 0) {
    await unmountFuse(mount.folder);
    log(`took the mount at ${mount.folder} away, which an earlier daemon had left`);
  }
  return staying;
}

/** Links in a folder that lead to loop devices which are not in use. */
export function danglingLinks(devFolder: string): readonly { readonly path: string; readonly target: string }[] {
  const inUse = new Set(listKernelLoops().map((loop) => loop.path));
  return listFolder(devFolder)
    .map((name) => ({ path: join(devFolder, name), target: targetOf(join(devFolder, name)) ?? "" }))
    .filter(({ target }) => /^\/dev\/loop\d+$/.test(target) && !inUse.has(target));
}

function targetOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function listFolder(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
