/**
 * Crashes, played from a device's log. What was flushed is there; of the writes since the last flush each state keeps
 * another part, in other orders, torn at sectors. Sources of chance are seeded, so a state can be made again.
 */
import type { MemoryDevice } from "../../src/io/index.js";
import { Random } from "./random.js";
import type { LogEntry } from "./recording-device.js";

export type Survival =
  /** Nothing since the last flush. */
  | "lost"
  /** Everything up to the crash. */
  | "kept"
  /** All but the last write, of which the first half of the sectors. */
  | "torn"
  /** Any of the unflushed writes, each by chance. */
  | "some"
  /** Any of their sectors, each by chance. */
  | "sectors"
  /** All of them, later ones first. */
  | "reversed";

export interface CrashState {
  /** Entries of the log that had happened. */
  readonly prefix: number;
  readonly survival: Survival;
  readonly seed: number;
  /** The device after the crash. */
  readonly device: MemoryDevice;
}

export interface CrashOptions {
  /** The device when the log began. */
  readonly before: MemoryDevice;
  readonly log: readonly LogEntry[];
  readonly survivals?: readonly Survival[];
  /** States of each random survival per prefix; default 1. */
  readonly seedsPerPrefix?: number;
  /** Only every n-th prefix; default every one. */
  readonly everyPrefix?: number;
}

const SECTOR = 512;
const ALL: readonly Survival[] = ["lost", "kept", "torn", "some", "sectors", "reversed"];

/** All states, one after the other; each device is the caller's to change. */
export function* crashStates(options: CrashOptions): Generator<CrashState> {
  const { before, log, survivals = ALL, seedsPerPrefix = 1, everyPrefix = 1 } = options;
  const durable = before.clone();
  let unflushed: LogEntry[] = [];
  for (let prefix = 0; prefix <= log.length; prefix++) {
    if (prefix % everyPrefix === 0 || prefix === log.length) {
      for (const survival of survivals) {
        // Without unflushed writes all states are the same.
        if (unflushed.length === 0 && survival !== survivals[0]) break;
        const isRandom = survival === "some" || survival === "sectors";
        for (let round = 0; round < (isRandom ? seedsPerPrefix : 1); round++) {
          const seed = prefix * 1009 + round;
          const device = durable.clone();
          playUnflushed(device, unflushed, survival, seed);
          yield { prefix, survival, seed, device };
        }
      }
    }
    const entry = log[prefix];
    if (entry === undefined) break;
    if (entry.kind === "flush") {
      for (const each of unflushed) play(durable, each);
      unflushed = [];
    } else unflushed.push(entry);
  }
}

/** Carries out one entry of a log. */
export function play(device: MemoryDevice, entry: LogEntry): void {
  switch (entry.kind) {
    case "write":
      device.sync.write(entry.offset, entry.data);
      break;
    case "zeroes":
      device.sync.writeZeroes(entry.offset, entry.length);
      break;
    case "discard":
      device.sync.discard(entry.offset, entry.length);
      break;
    case "flush":
  }
}

function playUnflushed(device: MemoryDevice, entries: readonly LogEntry[], survival: Survival, seed: number): void {
  const random = new Random(seed);
  switch (survival) {
    case "lost":
      break;
    case "kept":
      for (const entry of entries) play(device, entry);
      break;
    case "torn":
      for (const entry of entries.slice(0, -1)) play(device, entry);
      for (const entry of entries.slice(-1)) play(device, firstHalf(entry));
      break;
    case "some":
      for (const entry of entries) if (random.oneIn(2)) play(device, entry);
      break;
    case "sectors":
      for (const entry of entries) for (const part of sectorsOf(entry)) if (random.oneIn(2)) play(device, part);
      break;
    case "reversed":
      for (const entry of [...entries].reverse()) play(device, entry);
  }
}

function firstHalf(entry: LogEntry): LogEntry {
  if (entry.kind === "flush") return entry;
  const length = entry.kind === "write" ? entry.data.length : entry.length;
  const half = Math.floor(length / SECTOR / 2) * SECTOR;
  return entry.kind === "write" ? { ...entry, data: entry.data.subarray(0, half) } : { ...entry, length: half };
}

function sectorsOf(entry: LogEntry): LogEntry[] {
  // A discard or a zeroing is one command of the device; its parts are large, so it is kept or lost whole.
  if (entry.kind !== "write") return [entry];
  const parts: LogEntry[] = [];
  for (let at = 0; at < entry.data.length; at += SECTOR) {
    parts.push({ kind: "write", offset: entry.offset + at, data: entry.data.subarray(at, at + SECTOR) });
  }
  return parts;
}
