/**
 * What a daemon that was killed leaves: a mount that nobody answers on, loop devices on its images, links to these. As
 * long as a file system is mounted on such a loop device, or somebody has it open, it stays; all else is taken away, in
 * the order in which it stands on each other.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { codeOf, messageOf } from "../../errors/index.js";
import {
  abortConnection,
  type FuseMountInfo,
  listFuseMounts,
  stateOfFuseMount,
  unmountFuse,
} from "../../fuse/index.js";
import { deviceNumber, findHolders, identityOf, mountPoints, swapPaths } from "../../io/index.js";
import { detachKernelLoop, listKernelLoops } from "../../loop/index.js";
import { removeLink } from "./device-link.js";
import { disconnectNbd, isNbdInUse, isNbdServed, nbdNumber } from "./nbd-node.js";

export interface Leftover {
  readonly mount: FuseMountInfo;
  readonly state: "dead" | "stuck";
  readonly loops: readonly LeftNode[];
}

/** A block device that nobody serves any more. */
export interface LeftNode {
  readonly node: string;
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

/**
 * Loop devices on images below a folder.
 * @param devFolder where their links are: an image keeps its name when its device gets another, a link does not
 */
export function loopsBelow(folder: string, devFolder?: string): readonly LeftNode[] {
  return listKernelLoops()
    .filter((loop) => loop.backingFile.startsWith(`${folder}/`))
    .map(({ path, backingFile }) => ({
      node: path,
      name: linkedName(path, devFolder) ?? backingFile.slice(folder.length + 1),
      users: usersOfNode(path),
    }));
}

function linkedName(node: string, devFolder: string | undefined): string | undefined {
  if (devFolder === undefined) return undefined;
  return listFolder(devFolder).find((name) => targetOf(join(devFolder, name)) === node);
}

/**
 * NBD devices of the kernel that links in a folder lead to, that are connected, and that no daemon of this run dir serves.
 * @param runDir of the daemon that may have served them
 */
export function deadNbdNodes(devFolder: string, runDir: string): readonly LeftNode[] {
  return listFolder(devFolder)
    .map((name) => ({ name, node: targetOf(join(devFolder, name)) ?? "" }))
    .filter(({ node }) => {
      const number = nbdNumber(node);
      return number !== undefined && isNbdInUse(number) && !isNbdServed(runDir, node);
    })
    .map(({ name, node }) => ({ name, node, users: usersOfNode(node) }));
}

/** Takes a block device away, and its link. */
export async function takeNodeAway({ node, name }: LeftNode, devFolder: string | undefined): Promise<void> {
  if (nbdNumber(node) === undefined) {
    await detachKernelLoop(node).catch((error: unknown) => {
      // It went with its last user.
      if (codeOf(error) !== "ENXIO") throw error;
    });
  } else await disconnectNbd(node);
  if (devFolder !== undefined) removeLink(join(devFolder, name), node);
}

/** Mounts whose folder is `base`, or `base-N`. */
export function mountsLike(base: string): readonly FuseMountInfo[] {
  return listFuseMounts().filter(({ folder }) => folder === base || /^-\d+$/.test(folder.slice(base.length)));
}

/** Mounts of udm on this machine that nobody serves. Asks each through another process, with a time limit. */
export async function findLeftovers(
  mounts: readonly FuseMountInfo[] = listFuseMounts(),
  devFolder?: string,
): Promise<readonly Leftover[]> {
  const found: Leftover[] = [];
  for (const mount of mounts) {
    const state = await stateOfFuseMount(mount.folder);
    if (state !== "served") found.push({ mount, state, loops: loopsBelow(mount.folder, devFolder) });
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
}): Promise<readonly LeftNode[]> {
  const staying: LeftNode[] = [];
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
): Promise<readonly LeftNode[]> {
  const loops = loopsBelow(mount.folder, devFolder);
  const free = loops.filter(({ users }) => users.length === 0);
  for (const left of free) {
    await takeNodeAway(left, devFolder);
    log(tookAway(left));
  }
  const staying = loops.filter(({ users }) => users.length > 0);
  if (staying.length === 0) {
    await unmountFuse(mount.folder);
    log(`took the mount at ${mount.folder} away, which an earlier daemon had left`);
  }
  return staying;
}

/**
 * NBD devices of the kernel that an earlier daemon left connected, and that nobody uses, are disconnected.
 * @param names of mapped devices: other links are somebody else's
 */
export async function clearNbdNodes(options: {
  readonly devFolder: string;
  readonly runDir: string;
  readonly names: readonly string[];
  readonly log: (line: string) => void;
}): Promise<void> {
  for (const left of deadNbdNodes(options.devFolder, options.runDir)) {
    if (left.users.length > 0 || !options.names.includes(left.name)) continue;
    await takeNodeAway(left, options.devFolder);
    options.log(tookAway(left));
  }
}

function tookAway({ node, name }: LeftNode): string {
  return `took ${node} away, which an earlier daemon had left of '${name}'`;
}

/** Links in a folder that lead to loop or NBD devices which are not in use. */
export function danglingLinks(devFolder: string): readonly { readonly path: string; readonly target: string }[] {
  const inUse = new Set(listKernelLoops().map((loop) => loop.path));
  return listFolder(devFolder)
    .map((name) => ({ path: join(devFolder, name), target: targetOf(join(devFolder, name)) ?? "" }))
    .filter(({ target }) => {
      const number = nbdNumber(target);
      return number === undefined ? /^\/dev\/loop\d+$/.test(target) && !inUse.has(target) : !isNbdInUse(number);
    });
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
