/** Opening what a FileDevice stands on: a regular file or a block device, with its size and limits. */
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats, statSync } from "node:fs";
import { codeOf, IoError, StateError } from "../errors/index.js";
import { errnoError, systemError } from "./errno.js";
import type { Native } from "./native.js";

export interface Backing {
  readonly path: string;
  readonly fd: number;
  readonly kind: "file" | "block";
  readonly isReadOnly: boolean;
  /** 512 or what the block device says. */
  readonly logicalBlockBytes: number;
  /** Discard unit of a block device, 0 when it has none; a file's is asked for later. */
  readonly discardGranularityBytes: number;
}

export interface BackingOptions {
  readonly readOnly: boolean;
  readonly fallBackToReadOnly: boolean;
  readonly exclusive: boolean;
  readonly direct: boolean;
  readonly native: Native | undefined;
}

export function openBacking(path: string, options: BackingOptions): Backing {
  const stat = statOf(path);
  const blockReadOnly = stat.isBlockDevice() && isSysReadOnly(stat);
  let isReadOnly = options.readOnly || (blockReadOnly && options.fallBackToReadOnly);
  if (blockReadOnly && !isReadOnly) throw readOnlyRefused(path, "the device is read-only");
  let fd: number;
  try {
    fd = openSync(path, flagsOf(stat, options, isReadOnly));
  } catch (error) {
    const code = codeOf(error);
    const refusedWriting = code === "EROFS" || code === "EACCES" || code === "EPERM" || code === "ETXTBSY";
    if (isReadOnly || !refusedWriting) throw openFailure(error, path, options);
    if (!options.fallBackToReadOnly) {
      throw code === "EROFS"
        ? readOnlyRefused(path, "its file system is read-only")
        : openFailure(error, path, options);
    }
    isReadOnly = true;
    try {
      fd = openSync(path, flagsOf(stat, options, true));
    } catch (again) {
      throw openFailure(again, path, options);
    }
  }
  try {
    return describe(path, fd, isReadOnly, options.native);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Bytes of the file or block device behind a descriptor, now. */
export function backingBytes(backing: Backing, native: Native | undefined): number {
  const stat = fstatSync(backing.fd);
  if (backing.kind === "file") return stat.size;
  if (native !== undefined) return native.blockDeviceBytes(backing.fd);
  const sectors = sysBlockNumber(stat, "size");
  if (sectors === undefined) {
    throw new IoError("EOPNOTSUPP", `${backing.path}: the size of the block device cannot be found out`);
  }
  return sectors * 512;
}

/** Major and minor number, as the kernel packs them for user space. */
export function majorMinor(dev: number): { readonly major: number; readonly minor: number } {
  const low = dev % 4294967296;
  const high = Math.floor(dev / 4294967296);
  return {
    major: ((low >>> 8) & 0xfff) + (high & 0xfffff000),
    minor: (low & 0xff) + ((low >>> 12) & 0xfff00),
  };
}

function statOf(path: string): Stats {
  let stat: Stats;
  try {
    stat = statSync(path);
  } catch (error) {
    throw systemError(error, path);
  }
  // Before it is opened: a fifo would wait for its other end.
  if (stat.isFile() || stat.isBlockDevice()) return stat;
  const what = stat.isDirectory() ? "a directory" : stat.isCharacterDevice() ? "a character device" : "neither";
  const message = `${path}: is ${what}, wanted a regular file or a block device`;
  throw new StateError(stat.isCharacterDevice() ? "ENOTBLK" : "EINVAL", message);
}

function flagsOf(stat: Stats, { exclusive, direct }: BackingOptions, isReadOnly: boolean): number {
  let flags = (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK;
  if (exclusive && stat.isBlockDevice()) flags |= constants.O_EXCL;
  if (direct) flags |= constants.O_DIRECT;
  return flags;
}

function readOnlyRefused(path: string, why: string): IoError {
  return new IoError("EROFS", `${path}: cannot be opened for writing, ${why}`, { hint: "use it read-only" });
}

function openFailure(error: unknown, path: string, { direct }: BackingOptions): Error {
  const code = codeOf(error);
  if (code === "EINVAL" && direct) {
    return errnoError("EOPNOTSUPP", `${path}: direct I/O`, "open it without direct I/O", error);
  }
  if (code === "EBUSY") {
    return errnoError("EBUSY", path, "it is mounted, or another program or device uses it", error);
  }
  return systemError(error, path);
}

function describe(path: string, fd: number, isReadOnly: boolean, native: Native | undefined): Backing {
  const stat = fstatSync(fd);
  if (!stat.isBlockDevice()) {
    if (!stat.isFile()) throw new StateError("EBUSY", `${path}: was replaced while it was opened`);
    return { path, fd, kind: "file", isReadOnly, logicalBlockBytes: 512, discardGranularityBytes: 0 };
  }
  const logical = native?.logicalBlockBytes(fd) ?? sysBlockNumber(stat, "queue/logical_block_size") ?? 512;
  const discards = (sysBlockNumber(stat, "queue/discard_max_bytes") ?? 0) > 0;
  return {
    path,
    fd,
    kind: "block",
    isReadOnly,
    logicalBlockBytes: logical,
    discardGranularityBytes: discards ? (sysBlockNumber(stat, "queue/discard_granularity") ?? logical) : 0,
  };
}

function isSysReadOnly(stat: Stats): boolean {
  return sysBlockNumber(stat, "ro") === 1;
}

/** A number of the device's folder in /sys; a partition's queue is that of its disk. */
function sysBlockNumber(stat: Stats, name: string): number | undefined {
  const { major, minor } = majorMinor(stat.rdev);
  const folder = `/sys/dev/block/${major}:${minor}`;
  for (const path of [`${folder}/${name}`, `${folder}/../${name}`]) {
    try {
      const value = Number(readFileSync(path, "latin1").trim());
      if (Number.isSafeInteger(value)) return value;
    } catch {
      // Not there; the next place may have it.
    }
    if (!name.startsWith("queue/")) return undefined;
  }
  return undefined;
}
