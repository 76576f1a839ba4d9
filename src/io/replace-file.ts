/**
 * Replacing a file so that at every moment the old or the new one is there in full: write beside, flush, rename, flush
 * the folder. The caller holds the lock that keeps others from doing the same.
 */
import {
  closeSync,
  fchownSync,
  fsyncSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { link, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { codeOf, messageOf, SpaceError, type UdmError } from "../errors/index.js";
import { systemError } from "./errno.js";
import { flushFolder, flushFolderInPool } from "./sparse-file.js";

export interface ReplaceOptions {
  /** Default 0o600. */
  readonly mode?: number;
  /** Path in the same folder that the present file is kept under. */
  readonly previousPath?: string;
}

/**
 * Whose a new file is to be: whoever has the one that it replaces, or the folder. Root, who works on what is somebody
 * else's, must not lock its owner out.
 */
export function ownerFor(path: string): { readonly uid: number; readonly gid: number } | undefined {
  if (process.geteuid?.() !== 0) return undefined;
  const present = statSync(path, { throwIfNoEntry: false }) ?? statSync(dirname(path), { throwIfNoEntry: false });
  return present === undefined || present.uid === 0 ? undefined : present;
}

/** Durable when it returns. @throws SpaceError; StateError EACCES, ENOENT; IoError. The old file is untouched then. */
export function replaceFile(path: string, content: string | Uint8Array, options: ReplaceOptions = {}): void {
  const fresh = `${path}.new`;
  try {
    rmSync(fresh, { force: true });
    const owner = ownerFor(path);
    const fd = openSync(fresh, "wx", options.mode ?? 0o600);
    try {
      if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
      writeFileSync(fd, content);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    if (options.previousPath !== undefined) keepPrevious(path, options.previousPath);
    renameSync(fresh, path);
    flushFolder(dirname(path));
  } catch (error) {
    throw withCleanUp(fresh, systemError(error, `${path}: cannot be replaced`));
  }
}

/** The same in the thread pool: a disk that takes its time does not hold up who serves others. Durable when it resolves. */
export async function replaceFileInPool(
  path: string,
  content: string | Uint8Array,
  options: ReplaceOptions = {},
): Promise<void> {
  const fresh = `${path}.new`;
  try {
    await rm(fresh, { force: true });
    const owner = ownerFor(path);
    const file = await open(fresh, "wx", options.mode ?? 0o600);
    try {
      if (owner !== undefined) await file.chown(owner.uid, owner.gid);
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    if (options.previousPath !== undefined) await keepPreviousInPool(path, options.previousPath);
    await rename(fresh, path);
    await flushFolderInPool(dirname(path));
  } catch (error) {
    throw withCleanUp(fresh, systemError(error, `${path}: cannot be replaced`));
  }
}

/** A second name for the present file; the first stays until the new one takes it over. */
function keepPrevious(path: string, previousPath: string): void {
  const beside = `${previousPath}.new`;
  rmSync(beside, { force: true });
  try {
    linkSync(path, beside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  renameSync(beside, previousPath);
  // Renaming one link of a file over another of the same file does nothing, and leaves the source.
  rmSync(beside, { force: true });
}

async function keepPreviousInPool(path: string, previousPath: string): Promise<void> {
  const beside = `${previousPath}.new`;
  await rm(beside, { force: true });
  try {
    await link(path, beside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  await rename(beside, previousPath);
  await rm(beside, { force: true });
}

function withCleanUp(fresh: string, error: UdmError): UdmError {
  try {
    rmSync(fresh, { force: true });
    return error;
  } catch (undo) {
    const message = `${error.message}; ${fresh} cannot be removed either: ${messageOf(undo)}`;
    return error instanceof SpaceError ? new SpaceError(message, { cause: error }) : systemError(undo, message);
  }
}
