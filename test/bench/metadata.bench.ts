/**
 * The metadata tools against the thin-provisioning-tools of Debian (0.9): check, dump, restore, repair, delta, on pools of
 * 1 and 10 million mappings; `UDM_BENCH_MILLIONS=50` (or `1,10,50`) measures others. Whole programs, each started anew, with
 * their files in the page cache; both write files, and both flush what they restore.
 *
 * A pool's number of mappings is that of the lines a dump of single mappings would have: all devices together. An origin
 * was written from front to back or all over, and has one snapshot (a twentieth of the origin overwritten since) or 200 (a
 * hundredth after each). Where leaves that are shared count once, as for check, or two devices are looked at, as for delta,
 * the pool of 200 snapshots has an origin twenty times as large: a tenth of the mappings in each device.
 *
 * The most memory either program had is a row as well; ours has to stay below 512 MiB whatever the size of the pool. So is
 * the processor time of all threads, which depends less on what else the machine does.
 *
 * What bounds it. Up to a million mappings node's start (45 ms) and the program's (30 ms), which is more than thin_check or
 * thin_delta take for all of it. Above, check: the counts of data blocks, two bytes each, that random mappings jump about in;
 * its checksums are a tenth. Dump and delta: putting numbers into text, and the kernel's write of it. Restore: taking the text
 * apart. Repair: looking at every block for what it may be, and then the same as restore, without text between.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { run as runProgram } from "../../src/io/index.js";
import { makeLargeMetadata, ORIGIN } from "../support/large-metadata.js";
import type { Session, Side } from "./bench.js";

export const name = "metadata";
export const summary = "metadata check, dump, restore, repair and delta against thin-provisioning-tools";
export const usesProgram = true;

const MILLION = 1_000_000;
const DEFAULT_MILLIONS = [1, 10];
const MOST_MEMORY_MIB = 512;
const SNAPSHOTS = 200;
const TIMEOUT_MS = 1_800_000;
/** How often a program is asked for the most memory it had. */
const WATCH_MS = 20;

interface PoolShape {
  readonly label: string;
  readonly layout: "sequential" | "random";
  readonly snapshots: number;
  readonly originMappings: number;
  readonly divergence: number;
  readonly commands: readonly CommandName[];
  readonly rounds: number;
}

type CommandName = "check" | "dump" | "restore" | "repair" | "delta";

function shapesOf(millions: number): PoolShape[] {
  const mappings = millions * MILLION;
  const rounds = millions > 1 ? 1 : 5;
  const layouts = ["random", "sequential"] as const;
  const common = layouts.flatMap((layout): PoolShape[] => [
    {
      label: `${millions}M ${layout}, 1 snapshot`,
      layout,
      snapshots: 1,
      originMappings: mappings / 2,
      divergence: 0.05,
      commands: ["check", "dump", "restore", "repair", "delta"],
      rounds,
    },
    {
      label: `${millions}M ${layout}, ${SNAPSHOTS} snapshots`,
      layout,
      snapshots: SNAPSHOTS,
      originMappings: Math.ceil(mappings / (SNAPSHOTS + 1)),
      divergence: 0.01,
      commands: ["dump", "restore", "repair"],
      rounds,
    },
  ]);
  const shared: PoolShape = {
    label: `${millions / 10}M random in each of ${SNAPSHOTS} snapshots`,
    layout: "random",
    snapshots: SNAPSHOTS,
    originMappings: mappings / 10,
    divergence: 0.001,
    commands: ["check", "delta"],
    rounds,
  };
  return [...common, shared];
}

export async function run(session: Session): Promise<void> {
  const millions = process.env.UDM_BENCH_MILLIONS?.split(",").map(Number) ?? DEFAULT_MILLIONS;
  for (const million of millions) {
    for (const shape of shapesOf(million)) {
      const pool = new BenchPool(session, shape);
      await pool.make();
      for (const command of shape.commands) await compareCommand(session, pool, command);
      await pool.remove();
    }
  }
}

async function compareCommand(session: Session, pool: BenchPool, command: CommandName): Promise<void> {
  const { shape } = pool;
  const [ours, theirs] = pool.invocations(command);
  const peaks = { ours: 0, theirs: 0 };
  const processor = { ours: [] as number[], theirs: [] as number[] };
  const { rounds } = shape;
  const side = (label: string, which: keyof typeof peaks, argv: readonly string[]): Side => ({
    label,
    measure: async () => {
      const { ms, processorMs, peakMiB } = await runWatched(argv, pool);
      processor[which].push(processorMs);
      peaks[which] = Math.max(peaks[which], peakMiB);
      return ms;
    },
  });
  await session.compare({
    title: `${command}, ${shape.label}`,
    unit: "ms",
    ours: side(`udm metadata ${command}`, "ours", ours),
    peer: side(`thin_${command}`, "theirs", theirs),
    rounds,
    warmUps: rounds > 1 ? 1 : 0,
    before: () => pool.empty(),
    floors: [{ kind: "ratio", atMost: 1 }],
  });
  await session.compare({
    title: `processor time of ${command}, ${shape.label}`,
    unit: "ms",
    ours: { label: `udm metadata ${command}`, measure: () => processor.ours.pop()! },
    peer: { label: `thin_${command}`, measure: () => processor.theirs.pop()! },
    rounds,
    warmUps: 0,
  });
  await session.compare({
    title: `memory of ${command}, ${shape.label}`,
    unit: "MiB",
    ours: { label: `udm metadata ${command}`, measure: () => peaks.ours },
    peer: { label: `thin_${command}`, measure: () => peaks.theirs },
    rounds: 1,
    warmUps: 0,
    floors: [{ kind: "value", atMost: MOST_MEMORY_MIB }],
  });
}

/** Metadata of one shape, what each side makes of it, and an XML dump as input for restore. */
class BenchPool {
  readonly shape: PoolShape;
  readonly environment: NodeJS.ProcessEnv;
  readonly #session: Session;
  readonly #metadata: string;
  readonly #xml: string;
  readonly #output: string;
  /** Takes what the programs say. */
  readonly text: string;

  constructor(session: Session, shape: PoolShape) {
    this.#session = session;
    this.shape = shape;
    const path = (file: string) => join(session.folder, file);
    this.#metadata = path("metadata");
    this.#xml = path("metadata.xml");
    this.#output = path("output");
    this.text = path("text");
    this.environment = {
      ...process.env,
      PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin`,
      UDM_STATE_DIR: path("state"),
      UDM_RUN_DIR: path("run"),
    };
  }

  async make(): Promise<void> {
    makeLargeMetadata(this.#metadata, this.shape);
    if (this.shape.commands.includes("restore")) {
      await runWatched(this.#udm("dump", "-o", this.#xml, this.#metadata), this);
    }
    // What the fixture left to be written back is no program's to wait for.
    await runProgram("sync", [], { timeoutMs: TIMEOUT_MS });
  }

  /** An output of zeros, sparse. thin_restore leaves its nodes half empty, and wants more than the metadata was. */
  empty(): void {
    writeFileSync(this.text, "");
    writeFileSync(this.#output, "");
    truncateSync(
      this.#output,
      statSync(this.#metadata).size + this.shape.originMappings * (this.shape.snapshots + 1) * 48,
    );
  }

  /** Ours and theirs. */
  invocations(command: CommandName): readonly [readonly string[], readonly string[]] {
    const [metadata, xml, output] = [this.#metadata, this.#xml, this.#output];
    const newest = String(ORIGIN + this.shape.snapshots);
    switch (command) {
      case "check":
        return [this.#udm("check", metadata), ["thin_check", metadata]];
      case "dump":
        return [this.#udm("dump", metadata), ["thin_dump", metadata]];
      case "restore":
        return [this.#udm("restore", "--yes", "-i", xml, "-o", output), ["thin_restore", "-i", xml, "-o", output]];
      case "repair":
        // thin_repair makes no backup.
        return [
          this.#udm("repair", "--yes", "--no-backup", "-i", metadata, "-o", output),
          ["thin_repair", "-i", metadata, "-o", output],
        ];
      case "delta":
        return [
          this.#udm("delta", "--thin1", newest, "--thin2", String(ORIGIN), metadata),
          ["thin_delta", "--thin1", newest, "--thin2", String(ORIGIN), metadata],
        ];
    }
  }

  async remove(): Promise<void> {
    for (const path of [this.#metadata, this.#xml, this.#output, this.text]) await rm(path, { force: true });
  }

  #udm(...words: readonly string[]): string[] {
    return [process.execPath, this.#session.program, "metadata", ...words];
  }
}

/** Runs a program to its end. What it says goes to a file, as by a redirection in a shell. */
async function runWatched(
  argv: readonly string[],
  { environment, text }: BenchPool,
): Promise<{ readonly ms: number; readonly processorMs: number; readonly peakMiB: number }> {
  const sink = openSync(text, "w");
  try {
    const before = processorMsOfChildren();
    const start = performance.now();
    const child = spawn(argv[0]!, argv.slice(1), { env: environment, stdio: ["ignore", sink, "pipe"] });
    let said = "";
    child.stderr!.on("data", (piece: Buffer) => {
      said += piece.toString();
    });
    let peakMiB = 0;
    const watch = setInterval(() => {
      peakMiB = Math.max(peakMiB, mostMemoryOf(child.pid));
    }, WATCH_MS);
    const [status, ms] = await new Promise<readonly [number | null, number]>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code) => resolve([code, performance.now() - start]));
    }).finally(() => clearInterval(watch));
    if (status !== 0) throw new Error(`${argv.join(" ")} ended with ${status}: ${said}`);
    return { ms, processorMs: processorMsOfChildren() - before, peakMiB };
  } finally {
    closeSync(sink);
  }
}

/** Of all children that have ended: fields 16 and 17 of the kernel's stat, in hundredths of a second. */
function processorMsOfChildren(): number {
  const fields = readFileSync("/proc/self/stat", "utf8")
    .replace(/^.*\) /s, "")
    .split(" ");
  return (Number(fields[13]) + Number(fields[14])) * 10;
}

/** What the kernel counts; 0 once the process is gone. */
function mostMemoryOf(pid: number | undefined): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}
