/**
 * How long a request to a busy device takes while snapshots of it are made, and while a large device of the same pool is
 * deleted. The device has 1,000,000 mappings and is served over NBD; fio reads and writes 4 KiB of it at random, four at
 * a time. Counted are the requests that ended while one of the commands ran; half are writes, most of them into blocks that
 * the snapshot has just made common and that are copied.
 *
 * What bounds it. A snapshot holds requests for as long as the engine takes to change the trees, which is less than a millisecond.
 * The commit behind it lets everybody go on but who needs new blocks: those wait until the disk has been flushed. A device
 * is deleted in steps, between which requests are served. The commands themselves, processes that start and end, take the
 * processors from the others meanwhile.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run as runProgram } from "../../src/io/index.js";
import { environmentOf, type Session } from "./bench.js";

export const name = "busy";
export const summary = "latency of a served device while snapshots are made, and a large device deleted";
export const usesProgram = true;

const MAPPINGS = 1_000_000;
const BLOCK_SECTORS = 128;
const ROUNDS = 3;
const WARM_UPS = 1;
/** One is used, the others are deleted. */
const DEVICES = 1 + WARM_UPS + ROUNDS;
const DATA_BLOCKS = DEVICES * MAPPINGS + 250_000;
const SPAN = "256m";
const SECONDS = 5;
const SNAPSHOTS = 10;
const MOST_MS = 5;
const READY_MS = 20_000;

export async function run(session: Session): Promise<void> {
  const fixture = new Fixture(session);
  try {
    await fixture.start();
    let made = 0;
    const whileSnapshots = (share: number) => () =>
      fixture.latency(share, SNAPSHOTS, () => ["thin", "snap", "disk1", `snap${made++}`]);
    let next = 2;
    const row = (title: string, measure: () => Promise<number>, isPromised: boolean) =>
      session.compare({
        title,
        unit: "ms",
        rounds: ROUNDS,
        warmUps: WARM_UPS,
        ours: { label: "udm", measure },
        floors: isPromised ? [{ kind: "value", atMost: MOST_MS }] : [],
      });
    await row("p99 while a snapshot of 1,000,000 mappings is made", whileSnapshots(0.99), true);
    await row("longest while a snapshot of 1,000,000 mappings is made", whileSnapshots(1), false);
    await row(
      "longest while a device of 1,000,000 mappings is deleted",
      () => fixture.latency(1, 1, () => ["thin", "delete", `disk${next++}`, "--yes"]),
      false,
    );
  } finally {
    await fixture.end();
  }
}

class Fixture {
  readonly #session: Session;
  #server: ChildProcess | undefined;

  constructor(session: Session) {
    this.#session = session;
  }

  #at(name: string): string {
    return join(this.#session.folder, name);
  }

  async start(): Promise<void> {
    writeFileSync(this.#at("pool.xml"), metadataXml());
    writeFileSync(this.#at("metadata"), "");
    await runProgram("truncate", ["-s", "512m", this.#at("metadata")]);
    await runProgram("truncate", ["-s", `${DATA_BLOCKS * BLOCK_SECTORS * 512}`, this.#at("data")]);
    await this.#udm("metadata", "restore", "-i", "pool.xml", "-o", "metadata", "--yes");
    await this.#udm("pool", "create", "pool", "--metadata", "metadata", "--data", "data");
    for (let id = 1; id <= DEVICES; id++) {
      await this.#udm("thin", "activate", `pool:${id}`, `disk${id}`, "--size", `${MAPPINGS * BLOCK_SECTORS * 512}b`);
    }
    const words = [this.#session.program, "serve", "disk1", "--nbd", `unix:${this.#at("udm.sock")}`];
    const { folder } = this.#session;
    this.#server = spawn(process.execPath, words, {
      cwd: folder,
      env: environmentOf(this.#session),
      stdio: ["ignore", "ignore", "inherit"],
    });
    for (const end = performance.now() + READY_MS; !existsSync(this.#at("udm.sock")); await sleep(20)) {
      if (performance.now() > end) throw new Error("udm serve does not get ready");
    }
  }

  async end(): Promise<void> {
    this.#server?.kill("SIGTERM");
    await this.#udm("daemon", "stop");
  }

  /**
   * Runs commands while fio is at work.
   * @returns milliseconds that all but a share of the requests took that ended meanwhile; share 1: the longest
   */
  async latency(share: number, commands: number, command: () => readonly string[]): Promise<number> {
    const windows: { readonly from: number; readonly to: number }[] = [];
    const working = this.#fio();
    await sleep(500);
    for (let done = 0; done < commands; done++) {
      const from = Date.now();
      await this.#udm(...command());
      windows.push({ from, to: Date.now() });
    }
    await working;
    const log = this.#at("fio_lat.1.log");
    // "MILLISECONDS SINCE 1970, NANOSECONDS TAKEN, ..." a line.
    const taken = readFileSync(log, "latin1")
      .split("\n")
      .map((line) => line.split(",").map(Number))
      .filter(([at = 0]) => windows.some(({ from, to }) => from <= at && at <= to))
      .map(([, nanoseconds]) => nanoseconds! / 1e6)
      .sort((a, b) => a - b);
    rmSync(log);
    if (taken.length === 0) throw new Error("no request ended while the commands ran");
    return taken[Math.min(taken.length - 1, Math.floor(taken.length * share))]!;
  }

  async #fio(): Promise<void> {
    const uri = `nbd+unix:///disk1?socket=${this.#at("udm.sock")}`;
    const load = ["--rw=randrw", "--bs=4k", "--iodepth=4", `--size=${SPAN}`, "--time_based", `--runtime=${SECONDS}`];
    const log = ["--write_lat_log=fio", "--log_unix_epoch=1", "--log_avg_msec=0", "--output=/dev/null"];
    await runProgram("fio", ["--name=x", "--ioengine=nbd", `--uri=${uri}`, ...load, ...log], {
      cwd: this.#session.folder,
      timeoutMs: 60_000,
    });
  }

  async #udm(...words: readonly string[]): Promise<void> {
    const options = { cwd: this.#session.folder, env: environmentOf(this.#session), timeoutMs: 60_000 };
    await runProgram(process.execPath, [this.#session.program, ...words], options);
  }
}

/** Devices with a million blocks each, all their own. */
function metadataXml(): string {
  const lines = [
    `<superblock uuid="" time="0" transaction="0" version="2" data_block_size="${BLOCK_SECTORS}" nr_data_blocks="${DATA_BLOCKS}">`,
  ];
  for (let id = 1; id <= DEVICES; id++) {
    const base = (id - 1) * MAPPINGS;
    lines.push(`<device dev_id="${id}" mapped_blocks="${MAPPINGS}" transaction="0" creation_time="0" snap_time="0">`);
    lines.push(`<range_mapping origin_begin="0" data_begin="${base}" length="${MAPPINGS}" time="0"/>`, "</device>");
  }
  return [...lines, "</superblock>", ""].join("\n");
}
