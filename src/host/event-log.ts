/**
 * What happened to pools, for whoever watches them: one JSON object a line in a file beside the state, written by the
 * process that has the pool. The file is bounded; the one before it is kept. A line that cannot be written is lost, the
 * operation is not.
 */
import { closeSync, constants, fstatSync, openSync, readSync, renameSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { codeOf, messageOf } from "../errors/index.js";
import { systemError } from "../io/index.js";
import type { PoolNote } from "../thin/index.js";
import type { PoolEvent, PoolEvents } from "./host.js";

const MAX_BYTES = 2 ** 20;
const MAX_LINE_BYTES = 4096;

export class EventLog {
  readonly #path: string;
  readonly #previousPath: string;

  constructor(stateDir: string) {
    this.#path = join(stateDir, "events.jsonl");
    this.#previousPath = join(stateDir, "events.jsonl.previous");
  }

  /** @param onFailure told why it could not be written */
  append(event: PoolEvent, onFailure: (reason: string) => void): void {
    try {
      this.#append(event);
    } catch (error) {
      onFailure(`${this.#path}: ${messageOf(error)}`);
    }
  }

  #append(event: PoolEvent): void {
    const line = Buffer.from(`${JSON.stringify(event)}\n`);
    const fd = openSync(this.#path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o600);
    try {
      if (fstatSync(fd).size > 0 && fstatSync(fd).size + line.length > MAX_BYTES) {
        renameSync(this.#path, this.#previousPath);
        return this.#append(event);
      }
      writeSync(fd, line);
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Events behind a position, oldest first, and the position behind them. Without a position all that are kept; what was
   * dropped since a position is left out.
   */
  read(after?: string): PoolEvents {
    const present = this.#contents(this.#path);
    const previous = this.#contents(this.#previousPath);
    const [inode, offset] = (after ?? "").split(":").map(Number) as [number, number];
    const events: PoolEvent[] = [];
    if (after === undefined || inode !== present.inode) {
      const from = inode === previous.inode ? offset : 0;
      events.push(...parse(previous.bytes.subarray(from)).events);
    }
    const from = inode === present.inode ? Math.min(offset, present.bytes.length) : 0;
    const { events: latest, length } = parse(present.bytes.subarray(from));
    events.push(...latest);
    return { events, position: `${present.inode}:${from + length}` };
  }

  /** The position behind the last event. */
  end(): string {
    const present = this.#contents(this.#path);
    return `${present.inode}:${present.bytes.length}`;
  }

  #contents(path: string): { readonly inode: number; readonly bytes: Buffer } {
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return { inode: 0, bytes: Buffer.alloc(0) };
    let fd: number | undefined;
    try {
      fd = openSync(path, constants.O_RDONLY);
      const { ino, size } = fstatSync(fd);
      const bytes = Buffer.alloc(Math.min(size, MAX_BYTES + MAX_LINE_BYTES));
      let read = 0;
      while (read < bytes.length) {
        const count = readSync(fd, bytes, read, bytes.length - read, read);
        if (count === 0) break;
        read += count;
      }
      return { inode: ino, bytes: bytes.subarray(0, read) };
    } catch (error) {
      if (codeOf(error) === "ENOENT") return { inode: 0, bytes: Buffer.alloc(0) };
      throw systemError(error, path);
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  }
}

/** Whole lines only; what is not ours is passed over. */
function parse(bytes: Buffer): { readonly events: PoolEvent[]; readonly length: number } {
  const length = bytes.lastIndexOf(10) + 1;
  const events: PoolEvent[] = [];
  for (const line of bytes.subarray(0, length).toString("utf8").split("\n")) {
    if (line === "") continue;
    try {
      const event = JSON.parse(line) as PoolEvent;
      if (typeof event.event === "string" && typeof event.pool === "string") events.push(event);
    } catch {
      // Torn by a machine that stopped.
    }
  }
  return { events, length };
}

/** A note of a pool as an event. */
export function eventOf(pool: string, note: PoolNote): PoolEvent {
  const time = new Date().toISOString();
  switch (note.kind) {
    case "low-water":
    case "metadata-low-water":
      return { time, event: note.kind, pool, freeBlocks: note.freeBlocks, totalBlocks: note.totalBlocks };
    case "needs-check":
      return { time, event: "needs-check", pool };
    case "resized":
      return { time, event: "resized", pool, area: note.area, fromBlocks: note.fromBlocks, toBlocks: note.toBlocks };
    case "mode":
      return { time, event: EVENT_OF_MODE[note.mode], pool, from: note.from, errorIfNoSpace: note.errorIfNoSpace };
  }
}

const EVENT_OF_MODE = {
  write: "writable",
  "out-of-data-space": "out-of-data-space",
  "out-of-metadata-space": "out-of-metadata-space",
  "read-only": "read-only",
  fail: "failed",
} as const;
