/**
 * Who holds a file or a block device: other processes, mounts, swap, devices stacked on it, the kernel's loop devices.
 * Everything is read from /proc and /sys, for the message of a refusal; what cannot be read (another user's processes) is
 * left out, never guessed.
 */
import { closeSync, constants, openSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { majorMinor } from "./backing.js";
import { type LoopStatus, nativeCalls } from "./native.js";

/** A file by device and inode, a block device by its number: the same whatever path or link leads to it. */
export type FileIdentity =
  | { readonly kind: "file"; readonly dev: bigint; readonly ino: bigint }
  | { readonly kind: "block"; readonly rdev: bigint };

export function identityOf(path: string): FileIdentity {
  const stat = statSync(path, { bigint: true });
  if (stat.isBlockDevice()) return { kind: "block", rdev: stat.rdev };
  return { kind: "file", dev: stat.dev, ino: stat.ino };
}

export function isSameFile(a: FileIdentity, b: FileIdentity): boolean {
  if (a.kind === "block") return b.kind === "block" && a.rdev === b.rdev;
  return b.kind === "file" && a.dev === b.dev && a.ino === b.ino;
}

/** A loop device of the kernel that is in use. */
export interface KernelLoop {
  readonly number: number;
  readonly path: string;
  /** As the kernel tells it; ` (deleted)` is cut off. */
  readonly backingFile: string;
  readonly isDeleted: boolean;
  readonly offsetBytes: number;
  readonly sizeLimitBytes: number;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly autoclear: boolean;
  readonly partscan: boolean;
  readonly directIo: boolean;
  readonly readOnly: boolean;
}

/** The kernel's loop devices in use, by number. */
export function listKernelLoops(): KernelLoop[] {
  const loops: KernelLoop[] = [];
  for (const name of listFolder("/sys/block")) {
    const match = /^loop(\d+)$/.exec(name);
    if (match === null) continue;
    const folder = `/sys/block/${name}`;
    const backing = textOf(`${folder}/loop/backing_file`);
    if (backing === undefined) continue;
    const isDeleted = backing.endsWith(" (deleted)");
    loops.push({
      number: Number(match[1]),
      path: `/dev/${name}`,
      backingFile: isDeleted ? backing.slice(0, -" (deleted)".length) : backing,
      isDeleted,
      offsetBytes: numberOf(`${folder}/loop/offset`),
      sizeLimitBytes: numberOf(`${folder}/loop/sizelimit`),
      sizeBytes: numberOf(`${folder}/size`) * 512,
      sectorBytes: numberOf(`${folder}/queue/logical_block_size`) || 512,
      autoclear: numberOf(`${folder}/loop/autoclear`) === 1,
      partscan: numberOf(`${folder}/loop/partscan`) === 1,
      directIo: numberOf(`${folder}/loop/dio`) === 1,
      readOnly: numberOf(`${folder}/ro`) === 1,
    });
  }
  return loops.sort((a, b) => a.number - b.number);
}

/** Loop devices of the kernel that stand on this file or block device. */
export function kernelLoopsOver(identity: FileIdentity): KernelLoop[] {
  const isImage = imageTest();
  return listKernelLoops().filter((loop) => !isImage(loop.backingFile) && isLoopOver(loop, identity));
}

/**
 * What of the kernel uses it, as words behind "is": `mounted at /srv`, `in use as swap`, `the backing file of /dev/loop0`.
 * `readOnly`: what only reads is no obstacle.
 */
export function kernelUse(identity: FileIdentity, options: { readonly readOnly?: boolean } = {}): string | undefined {
  const loop = kernelLoopsOver(identity).find((each) => !(each.readOnly && options.readOnly === true));
  if (loop !== undefined) return `the backing file of ${loop.path}`;
  if (isSwap(identity)) return "in use as swap";
  if (identity.kind === "file") return undefined;
  return blockUse(identity.rdev);
}

export interface Holder {
  readonly pid: number;
  readonly command: string;
}

/** Processes that hold a lock on it, else those that have it open, as far as this user may see. */
export function findHolders(identity: FileIdentity): Holder[] {
  const lockers = identity.kind === "file" ? lockHolders(identity) : [];
  const pids = lockers.length > 0 ? lockers : openHolders(identity);
  return pids.map((pid) => ({ pid, command: commandOf(pid) ?? "unknown" }));
}

/** `process 4711 (udm serve pool)`, several with commas, at most three. */
export function describeHolders(holders: readonly Holder[]): string | undefined {
  if (holders.length === 0) return undefined;
  const named = holders.slice(0, 3).map(describeHolder);
  return holders.length > 3 ? `${named.join(", ")} and ${holders.length - 3} more` : named.join(", ");
}

export function describeHolder({ pid, command }: Holder): string {
  return pid === process.pid ? "this process" : `process ${pid} (${command})`;
}

/** Command line of a process, on one line of at most 80 characters; undefined when it is gone or not to be seen. */
export function commandOf(pid: number): string | undefined {
  const words = textOf(`/proc/${pid}/cmdline`)?.split("\0").filter(Boolean);
  const text = words !== undefined && words.length > 0 ? words.join(" ") : textOf(`/proc/${pid}/comm`);
  return text?.replaceAll(/\s+/g, " ").slice(0, 80);
}

/** Mount points by block device number `MAJ:MIN`, in mount order. */
export function mountPoints(): Map<string, string[]> {
  const points = new Map<string, string[]>();
  const add = (device: string, point: string) => {
    const known = points.get(device);
    if (known === undefined) points.set(device, [point]);
    else if (!known.includes(point)) known.push(point);
  };
  for (const line of linesOf("/proc/self/mountinfo")) {
    const words = line.split(" ");
    const dash = words.indexOf("-");
    const [device, point, source] = [words[2], words[4], words[dash + 2]];
    if (device === undefined || point === undefined || dash < 0) continue;
    const where = unescapeOctal(point);
    if (!device.startsWith("0:")) add(device, where);
    // A file system on several devices has a number of its own; its source names one of them.
    else if (source?.startsWith("/dev/") === true) {
      const number = deviceNumber(unescapeOctal(source));
      if (number !== undefined) add(number, where);
    }
  }
  return points;
}

/** Files and devices used as swap. */
export function swapPaths(): string[] {
  return linesOf("/proc/swaps")
    .slice(1)
    .map((line) => unescapeOctal(line.split(/\s+/)[0] ?? ""))
    .filter((path) => path !== "");
}

/** `MAJ:MIN` of a block device node; undefined for anything else. */
export function deviceNumber(path: string): string | undefined {
  try {
    const stat = statSync(path);
    if (!stat.isBlockDevice()) return undefined;
    const { major, minor } = majorMinor(stat.rdev);
    return `${major}:${minor}`;
  } catch {
    return undefined;
  }
}

function isLoopOver(loop: KernelLoop, identity: FileIdentity): boolean {
  const status = statusOf(loop.path);
  if (status !== undefined) {
    if (identity.kind === "block") return status.backingRdev === identity.rdev;
    return status.backingDevice === identity.dev && status.backingInode === identity.ino;
  }
  if (loop.isDeleted) return false;
  try {
    return isSameFile(identityOf(loop.backingFile), identity);
  } catch {
    return false;
  }
}

/**
 * Whether a file is an image that a process of udm serves over FUSE. It may be this process, and asking for such a file, or
 * a loop device for the file it stands on, would wait for an answer of one's own.
 */
function imageTest(): (path: string) => boolean {
  const folders = linesOf("/proc/self/mountinfo")
    .map((line) => line.split(" "))
    .filter((words) => words[words.indexOf("-") + 1] === "fuse.udm")
    .map((words) => `${unescapeOctal(words[4] ?? "")}/`);
  return (path) => folders.some((folder) => path.startsWith(folder));
}

/** What the kernel itself knows of the backing file; needs the right to open the loop device. */
function statusOf(path: string): LoopStatus | undefined {
  const native = nativeCalls();
  if (native === undefined) return undefined;
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return native.loopStatus(fd);
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function isSwap(identity: FileIdentity): boolean {
  return swapPaths().some((path) => {
    try {
      return isSameFile(identityOf(path), identity);
    } catch {
      return false;
    }
  });
}

/** Mounts and stacked devices of a block device, or of one of its partitions. */
function blockUse(rdev: bigint): string | undefined {
  const { major, minor } = majorMinor(Number(rdev));
  const number = `${major}:${minor}`;
  const folder = `/sys/dev/block/${number}`;
  const points = mountPoints();
  const own = useOf(number, folder, points);
  if (own !== undefined) return own;
  for (const name of listFolder(folder)) {
    const part = textOf(`${folder}/${name}/partition`) === undefined ? undefined : textOf(`${folder}/${name}/dev`);
    if (part === undefined) continue;
    const use = useOf(part, `${folder}/${name}`, points);
    if (use !== undefined) return `in use, its partition ${name} is ${use}`;
  }
  return undefined;
}

function useOf(number: string, folder: string, points: Map<string, string[]>): string | undefined {
  const mounted = points.get(number)?.[0];
  if (mounted !== undefined) return `mounted at ${mounted}`;
  const holders = listFolder(`${folder}/holders`);
  if (holders.length === 0) return undefined;
  return `held by ${holders.map((name) => textOf(`/sys/block/${name}/dm/name`) ?? name).join(", ")}`;
}

/** Pids of `/proc/locks` for an inode. OFD locks stand there with -1; our claims leave a flock beside them. */
function lockHolders({ dev, ino }: { readonly dev: bigint; readonly ino: bigint }): number[] {
  const { major, minor } = majorMinor(Number(dev));
  const exact = `${hex(major)}:${hex(minor)}:${ino}`;
  const pids = new Set<number>();
  for (const line of linesOf("/proc/locks")) {
    const words = line.trim().split(/\s+/);
    // A line with an arrow is a waiter, not a holder.
    if (words[1] === "->" || words.length < 6) continue;
    const pid = Number(words[4]);
    if (words[5] === exact && pid > 0 && textOf(`/proc/${pid}/comm`) !== undefined) pids.add(pid);
  }
  return [...pids];
}

/** Processes that have it open; this one only when there is no other. */
function openHolders(identity: FileIdentity): number[] {
  const pids = listFolder("/proc").map(Number).filter(Number.isInteger);
  const isImage = imageTest();
  const holders = pids.filter((pid) =>
    listFolder(`/proc/${pid}/fd`).some((fd) => isOpenOn(`/proc/${pid}/fd/${fd}`, identity, isImage)),
  );
  const others = holders.filter((pid) => pid !== process.pid);
  return others.length > 0 ? others : holders;
}

function isOpenOn(link: string, identity: FileIdentity, isImage: (path: string) => boolean): boolean {
  try {
    // Only names with a slash can be files; sockets and pipes are not worth a question.
    const target = readlinkSync(link);
    return target.startsWith("/") && !isImage(target) && isSameFile(identityOf(link), identity);
  } catch {
    return false;
  }
}

function hex(number: number): string {
  return number.toString(16).padStart(2, "0");
}

/** The octal escapes of mountinfo and swaps: `\040` is a blank. */
function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

function listFolder(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** A small file of /proc or /sys without its last line end; undefined when it cannot be read. */
function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").replace(/\n$/, "");
  } catch {
    return undefined;
  }
}

function linesOf(path: string): string[] {
  return (textOf(path) ?? "").split("\n").filter((line) => line !== "");
}

function numberOf(path: string): number {
  const value = Number(textOf(path) ?? "0");
  return Number.isFinite(value) ? value : 0;
}
