/** Making and sizing regular files that take room only where they are written. */
import { closeSync, constants, fstatSync, fsyncSync, ftruncateSync, openSync, statfsSync, unlinkSync } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { StateError } from "../errors/index.js";
import { systemError } from "./errno.js";

/** What others may do with a new disk image is left to the umask, except that strangers never may. */
const NEW_FILE_MODE = 0o660;

/**
 * Makes a file of `sizeBytes` that is one hole; it is there after a crash when this returns.
 * @throws StateError EEXIST; SpaceError; IoError EFBIG beyond what the file system can hold
 */
export function createSparseFile(path: string, sizeBytes: number): void {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, NEW_FILE_MODE);
  } catch (error) {
    throw systemError(error, `${path}: cannot be made`);
  }
  try {
    ftruncateSync(fd, sizeBytes);
    fsyncSync(fd);
  } catch (error) {
    unlinkSync(path);
    throw systemError(error, `${path}: cannot be made ${sizeBytes} bytes long`);
  } finally {
    closeSync(fd);
  }
  flushFolder(dirname(path));
}

/**
 * Sets the size of a regular file; what it grows by is a hole.
 * @returns the size before
 */
export function setFileSize(path: string, sizeBytes: number): number {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new StateError("EINVAL", `${path}: is not a regular file, its size cannot be set`);
    if (stat.size !== sizeBytes) {
      ftruncateSync(fd, sizeBytes);
      fsyncSync(fd);
    }
    return stat.size;
  } catch (error) {
    throw systemError(error, `${path}: cannot be made ${sizeBytes} bytes long`);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Makes names made or changed in a folder durable. File systems that cannot flush a folder are left alone. */
export function flushFolder(folder: string): void {
  let fd: number | undefined;
  try {
    fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    fsyncSync(fd);
  } catch (error) {
    allowUnflushable(folder, error);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** The same in the thread pool. */
export async function flushFolderInPool(folder: string): Promise<void> {
  try {
    const opened = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await opened.sync();
    } finally {
      await opened.close();
    }
  } catch (error) {
    allowUnflushable(folder, error);
  }
}

function allowUnflushable(folder: string, error: unknown): void {
  const wrapped = systemError(error, `${folder}: cannot be flushed`);
  if (wrapped.code !== "EINVAL" && wrapped.code !== "EOPNOTSUPP" && wrapped.code !== "EACCES") throw wrapped;
}

/** Bytes an ordinary user can still write on the file system of `path`; undefined when it does not say. */
export function freeBytes(path: string): number | undefined {
  try {
    const { bavail, bsize } = statfsSync(path);
    return bavail * bsize;
  } catch {
    return undefined;
  }
}
