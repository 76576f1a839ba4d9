/**
 * One process at a time: an exclusive lock on a file that is never removed. The lock belongs to the open descriptor,
 * so it ends with the process however that ends. The file's text names the holder, for those who wait in vain.
 *
 * Waiting is polling: a lock that blocks would stop everything else this process does, and cannot be given a time limit.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  statSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { StateError } from "../errors/index.js";
import { tryFlock } from "./advisory-lock.js";
import { systemError } from "./errno.js";
import { commandOf, describeHolder } from "./holders.js";
import { type Native, nativeCalls } from "./native.js";

export interface LockOptions {
  /** Default 30 seconds; 0 tries once. */
  readonly timeoutMs?: number;
  /** What the holder does, for the message of those who wait: `pool create`. Default the command line. */
  readonly purpose?: string;
  readonly native?: Native | "none";
  /** Called before each pause of the wait; what it throws ends the wait. */
  readonly onPause?: () => void;
}

export interface FileLock {
  readonly path: string;
  /** Somebody began to wait for it since it was taken. */
  isWanted(): boolean;
  /** May be called twice. */
  release(): void;
  [Symbol.dispose](): void;
}

const DEFAULT_TIMEOUT_MS = 30_000;
const FIRST_PAUSE_MS = 2;
const LONGEST_PAUSE_MS = 50;
const MAX_NOTE_BYTES = 512;

/**
 * Locks `path`, which is made where it is missing (its folder is not).
 * @throws StateError EBUSY with the holder's name when the time is up
 */
export async function lockFile(path: string, options: LockOptions = {}): Promise<FileLock> {
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const until = performance.now() + timeoutMs;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    const lock = tryLockFile(path, options);
    if (lock !== undefined) return lock;
    const left = until - performance.now();
    if (left <= 0) throw timeUp(path, timeoutMs);
    options.onPause?.();
    tellHolder(path);
    await sleep(Math.min(pause, left));
  }
}

/** The lock, if it is free at this moment. */
export function tryLockFile(path: string, options: Omit<LockOptions, "timeoutMs"> = {}): FileLock | undefined {
  const native = options.native === "none" ? undefined : (options.native ?? nativeCalls());
  for (;;) {
    const fd = openLock(path);
    let isHeld = false;
    try {
      if (!tryFlock(fd, "exclusive", native)) return undefined;
      // Removed and made again by somebody between open and lock: then this lock guards nothing.
      if (!isStillAt(path, fd)) continue;
      isHeld = true;
      writeNote(fd, options.purpose ?? commandOf(process.pid) ?? "unknown");
      return heldLock(path, fd);
    } catch (error) {
      isHeld = false;
      throw systemError(error, `${path}: cannot be locked`);
    } finally {
      if (!isHeld) closeSync(fd);
    }
  }
}

function openLock(path: string): number {
  try {
    return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  } catch (error) {
    throw systemError(error, `${path}: cannot be opened`);
  }
}

function isStillAt(path: string, fd: number): boolean {
  const named = statSync(path, { bigint: true, throwIfNoEntry: false });
  const open = fstatSync(fd, { bigint: true });
  return named !== undefined && named.ino === open.ino && named.dev === open.dev;
}

/** The time of the file tells a holder who would rather not give it back that others wait. */
function tellHolder(path: string): void {
  try {
    const now = new Date();
    utimesSync(path, now, now);
  } catch {
    // Somebody else's file: they give it back when they are done.
  }
}

function heldLock(path: string, fd: number): FileLock {
  let isHeld = true;
  const since = fstatSync(fd).mtimeMs;
  const release = () => {
    if (!isHeld) return;
    isHeld = false;
    closeSync(fd);
  };
  const isWanted = () => isHeld && fstatSync(fd).mtimeMs !== since;
  return { path, isWanted, release, [Symbol.dispose]: release };
}

function writeNote(fd: number, purpose: string): void {
  const note = Buffer.from(`${process.pid} ${purpose.replaceAll("\n", " ")}\n`).subarray(0, MAX_NOTE_BYTES);
  ftruncateSync(fd, 0);
  writeSync(fd, note, 0, note.length, 0);
}

function timeUp(path: string, timeoutMs: number): StateError {
  const holder = readHolder(path);
  const who = holder === undefined ? "another process" : describeHolder(holder);
  const waited = timeoutMs === 0 ? "" : ` for ${timeoutMs / 1000} s`;
  return new StateError("EBUSY", `${path}: locked by ${who}${waited}`, {
    hint: "wait until it is done, or give a longer --lock-timeout",
  });
}

function readHolder(path: string): { pid: number; command: string } | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY);
    const bytes = Buffer.alloc(MAX_NOTE_BYTES);
    const match = /^(\d+) (.*)/.exec(bytes.toString("utf8", 0, readSync(fd, bytes, 0, bytes.length, 0)));
    return match === null ? undefined : { pid: Number(match[1]), command: match[2] ?? "" };
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
