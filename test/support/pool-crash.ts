/**
 * Crashes of a whole pool: metadata and data devices share one log, and at every point of it each of the two keeps another
 * part of what it was not told to flush. Every state is looked at in three ways: the checker walks the metadata, which
 * must be the last or the next commit; every page of every device is held against what was written; the engine opens it.
 */
import { expect } from "vitest";
import { Pool, type PoolConfig } from "../../src/thin/index.js";
import { checkMetadata, deviceSource, type MetadataReport } from "./check-metadata.js";
import type { ForkDevice } from "./fork-device.js";
import { Random } from "./random.js";
import type { DeviceLogEntry, LogEntry } from "./recording-device.js";
import { type DeviceHistory, pageSurprise, type WrittenHistory } from "./written-history.js";

const SECTOR = 512;
const PAGE = 4096;
const NO_SURVIVORS = "lost";
type Survival = "lost" | "kept" | "torn" | "some" | "sectors" | "reversed";

/** What metadata and data keep, together. */
const COMBINATIONS: readonly (readonly [metadata: Survival, data: Survival])[] = [
  ["lost", "lost"],
  ["kept", "kept"],
  ["kept", "lost"],
  ["lost", "kept"],
  ["torn", "torn"],
  ["torn", "lost"],
  ["some", "some"],
  ["some", "lost"],
  ["sectors", "sectors"],
  ["sectors", "some"],
  ["reversed", "reversed"],
  ["some", "kept"],
];

export interface RecordedRun {
  readonly log: readonly DeviceLogEntry[];
  /** The devices when the log began. */
  readonly metadata: ForkDevice;
  readonly data: ForkDevice;
  readonly history: WrittenHistory;
  readonly config: PoolConfig;
  readonly thinBytes: number;
  /** The data device when it grew while the log ran. */
  readonly finalDataBytes: number;
  readonly finalMetadataBytes: number;
}

export interface CrashResult {
  readonly states: number;
  readonly commits: number;
  /** Data blocks found leaked at most in a state. */
  readonly mostLeaked: number;
  readonly seen: ReadonlySet<Survival>;
}

interface Commit {
  /** Position behind the superblock write, and behind the flush that follows it. */
  readonly written: number;
  readonly durable: number;
  readonly contents: string;
}

class Half {
  readonly durable: ForkDevice;
  unflushed: LogEntry[] = [];

  constructor(before: ForkDevice, sizeBytes: number) {
    this.durable = before.fork();
    this.durable.sizeBytes = sizeBytes;
  }

  take(entry: LogEntry): void {
    if (entry.kind !== "flush") {
      this.unflushed.push(entry);
      return;
    }
    for (const each of this.unflushed) this.durable.play(each);
    this.unflushed = [];
  }

  after(survival: Survival, random: Random): ForkDevice {
    const device = this.durable.fork();
    for (const entry of survivors(this.unflushed, survival, random)) device.play(entry);
    return device;
  }
}

/** Plays every crash. @param options.everyPrefix only every n-th position */
export async function crashEverywhere(
  run: RecordedRun,
  options: { readonly everyPrefix?: number; readonly mayLeakData?: boolean; readonly openEvery?: number } = {},
): Promise<CrashResult> {
  const { everyPrefix = 1, openEvery = 20 } = options;
  const commits = commitsOf(run);
  const seen = new Set<Survival>();
  let states = 0;
  let mostLeaked = 0;
  for (const { position, title, survivals, ...after } of crashedPairs(run, everyPrefix)) {
    // The test runner wants to hear from us now and then.
    if (states % COMBINATIONS.length === 0) await new Promise((resolve) => setImmediate(resolve));
    const report = examine(run, commits, position, after, title);
    if (options.mayLeakData !== true) expect(report.leakedData, title).toEqual([]);
    mostLeaked = Math.max(mostLeaked, report.leakedData.length);
    await reopen(run, after, report, title, states % openEvery === 0 ? position : undefined);
    for (const survival of survivals) seen.add(survival);
    states++;
  }
  return { states, commits: commits.length, mostLeaked, seen };
}

/** Both devices after a crash; forks, the caller's to change. */
export interface CrashedPair {
  readonly position: number;
  readonly title: string;
  readonly survivals: readonly [metadata: Survival, data: Survival];
  readonly metadata: ForkDevice;
  readonly data: ForkDevice;
}

/** Every crash of a recorded run, each with everything that two devices may have kept of what was not flushed. */
export function* crashedPairs(
  run: Pick<RecordedRun, "log" | "metadata" | "data" | "finalDataBytes" | "finalMetadataBytes">,
  everyPrefix = 1,
): Generator<CrashedPair> {
  const metadata = new Half(run.metadata, run.finalMetadataBytes);
  const data = new Half(run.data, run.finalDataBytes);
  for (let position = 0; position <= run.log.length; position++) {
    for (const [index, survivals] of position % everyPrefix === 0 ? COMBINATIONS.entries() : []) {
      const [ofMetadata, ofData] = survivals;
      // Without unflushed writes all states of a device are the same.
      const isSame =
        (metadata.unflushed.length === 0 && ofMetadata !== NO_SURVIVORS && ofMetadata !== ofData) ||
        (data.unflushed.length === 0 && ofData !== NO_SURVIVORS && ofMetadata !== ofData) ||
        (metadata.unflushed.length === 0 && data.unflushed.length === 0 && index > 0);
      if (isSame) continue;
      const title = `crash at ${position} of ${run.log.length}, metadata ${ofMetadata}, data ${ofData}`;
      const random = new Random(position * 131 + index);
      yield {
        position,
        title,
        survivals,
        metadata: metadata.after(ofMetadata, random),
        data: data.after(ofData, random),
      };
    }
    const next = run.log[position];
    if (next !== undefined) (next.device === run.metadata.name ? metadata : data).take(next.entry);
  }
}

function examine(
  run: RecordedRun,
  commits: readonly Commit[],
  position: number,
  after: { readonly metadata: ForkDevice; readonly data: ForkDevice },
  title: string,
): MetadataReport {
  const report = checkMetadata(deviceSource(after.metadata), { mayLeakData: true });
  expect(report.damage, title).toEqual([]);
  const contents = contentsOf(report);
  const last = commits.findLastIndex(({ durable }) => durable <= position);
  const possible = commits.filter(({ written }, index) => index === last || (index > last && written <= position));
  if (!possible.some((commit) => commit.contents === contents)) {
    expect(contents, `${title}: neither the last nor the next commit`).toBe(possible[0]?.contents);
  }
  const blockBytes = run.config.dataBlockSectors * SECTOR;
  for (const { id, mappings } of report.pool.devices) {
    const history = run.history.devices.get(id);
    if (history === undefined) continue;
    const surprise = deviceSurprise(history, mappings, after.data, blockBytes, position);
    if (surprise !== undefined) expect.fail(`${title}: device ${id}: ${surprise}`);
  }
  return report;
}

/** Every page of a device as the data device holds it. */
function deviceSurprise(
  history: DeviceHistory,
  mappings: MetadataReport["pool"]["devices"][number]["mappings"],
  data: ForkDevice,
  blockBytes: number,
  position: number,
): string | undefined {
  const pagesPerBlock = blockBytes / PAGE;
  const allowed = (sector: number): readonly number[] => history.afterCrash(sector, position);
  const mapped = new Set<number>();
  for (const [virtualBlock, dataBlock] of mappings) {
    mapped.add(virtualBlock);
    for (let index = 0; index < pagesPerBlock; index++) {
      const page = virtualBlock * pagesPerBlock + index;
      const at = dataBlock * pagesPerBlock + index;
      if (data.isZeroPage(at) && !history.hasPage(page)) continue;
      const surprise = pageSurprise(page, data.page(at), allowed);
      if (surprise !== undefined) return `${surprise} (virtual block ${virtualBlock} in data block ${dataBlock})`;
    }
  }
  const zeros = new Uint8Array(PAGE);
  for (const page of history.pages) {
    if (mapped.has(Math.floor(page / pagesPerBlock))) continue;
    const surprise = pageSurprise(page, zeros, allowed);
    if (surprise !== undefined) return `${surprise} (not mapped)`;
  }
  return undefined;
}

/** The engine opens the state; now and then it also reads every byte, writes, and leaves a clean pool. */
async function reopen(
  run: RecordedRun,
  after: { readonly metadata: ForkDevice; readonly data: ForkDevice },
  report: MetadataReport,
  title: string,
  readAt: number | undefined,
): Promise<void> {
  const { pool: found } = report;
  const lengthSectors = found.dataBlocks * run.config.dataBlockSectors;
  const pool = Pool.load({
    name: title,
    metadata: after.metadata,
    data: after.data,
    config: { ...run.config, lengthSectors },
    commitPeriodMs: 0,
  });
  await pool.resume();
  expect(pool.mode, title).toBe("write");
  expect(pool.metadata.listDevices(), title).toEqual(found.devices.map(({ mappings: _, ...details }) => details));
  if (readAt !== undefined) await readAndWrite(run, pool, found, title, readAt);
  await pool.close();
  if (readAt === undefined) return;
  const { damage } = checkMetadata(deviceSource(after.metadata), { mayLeakData: true });
  expect(damage, `${title}, after writing`).toEqual([]);
}

async function readAndWrite(
  run: RecordedRun,
  pool: Pool,
  found: MetadataReport["pool"],
  title: string,
  position: number,
): Promise<void> {
  for (const { id } of found.devices) {
    const history = run.history.devices.get(id);
    if (history === undefined) continue;
    const thin = pool.openThin(id, { name: `thin ${id}`, sizeBytes: run.thinBytes });
    const page = new Uint8Array(PAGE);
    for (const number of history.pages) {
      await thin.read(number * PAGE, page);
      const surprise = pageSurprise(number, page, (sector) => history.afterCrash(sector, position));
      if (surprise !== undefined) expect.fail(`${title}: device ${id} read by the engine: ${surprise}`);
    }
    await thin.close();
  }
  const [first] = found.devices;
  if (first === undefined) return;
  await pool.message(["create_snap", "999", String(first.id)]);
  const thin = pool.openThin(999, { name: "thin 999", sizeBytes: run.thinBytes });
  const bytes = new Uint8Array(PAGE).fill(0x5a);
  await thin.write(PAGE, bytes);
  const back = new Uint8Array(PAGE);
  await thin.read(PAGE, back);
  expect(Buffer.compare(back, bytes)).toBe(0);
  await thin.close();
}

/** Every commit of the log: the superblock was written, then flushed. */
function commitsOf(run: RecordedRun): Commit[] {
  const image = run.metadata.fork();
  image.sizeBytes = run.finalMetadataBytes;
  const commits: Commit[] = [];
  const look = (): string => {
    const report = checkMetadata(deviceSource(image), { mayLeakData: true });
    expect(report.damage).toEqual([]);
    return contentsOf(report);
  };
  commits.push({ written: 0, durable: 0, contents: look() });
  for (const [position, { device, entry }] of run.log.entries()) {
    if (device !== run.metadata.name) continue;
    image.play(entry);
    if (entry.kind !== "write" || entry.offset !== 0) continue;
    const flush = run.log.findIndex(
      (each, at) => at > position && each.device === device && each.entry.kind === "flush",
    );
    commits.push({
      written: position + 1,
      durable: flush < 0 ? Number.POSITIVE_INFINITY : flush + 1,
      contents: look(),
    });
  }
  return commits;
}

function contentsOf({ pool, held, flags }: MetadataReport): string {
  return JSON.stringify([pool, held, flags]);
}

function survivors(entries: readonly LogEntry[], survival: Survival, random: Random): LogEntry[] {
  switch (survival) {
    case "lost":
      return [];
    case "kept":
      return [...entries];
    case "torn":
      return entries.map((entry, index) => (index === entries.length - 1 ? firstHalf(entry, random) : entry));
    case "some":
      return entries.filter(() => random.oneIn(2));
    case "sectors":
      return entries.flatMap(sectorsOf).filter(() => random.oneIn(2));
    case "reversed":
      return [...entries].reverse();
  }
}

function firstHalf(entry: LogEntry, random: Random): LogEntry {
  if (entry.kind !== "write") return entry;
  const sectors = entry.data.length / SECTOR;
  return { ...entry, data: entry.data.subarray(0, random.between(0, sectors - 1) * SECTOR) };
}

function sectorsOf(entry: LogEntry): LogEntry[] {
  // A discard or a zeroing is one command of the device: kept or lost whole.
  if (entry.kind !== "write") return [entry];
  return Array.from({ length: entry.data.length / SECTOR }, (_, index) => ({
    kind: "write" as const,
    offset: entry.offset + index * SECTOR,
    data: entry.data.subarray(index * SECTOR, (index + 1) * SECTOR),
  }));
}
