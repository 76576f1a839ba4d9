/**
 * Several pool scripts in one boot of the guest. All pools share three disks, each with a region of its own: metadata (vda),
 * data (vdb) and what checkpoints put aside (vdc); in the guest a linear device stands for each region.
 */
import { open } from "node:fs/promises";
import { join } from "node:path";
import { type BlockDevice, MemoryDevice } from "../../../src/io/index.js";
import { METADATA_BLOCK_BYTES } from "../../support/metadata-image.js";
import {
  type FeatureWord,
  foldEarlyCommits,
  ORIGIN_SEED,
  type PoolScript,
  type PoolShape,
  type PoolStep,
  type ScriptRun,
  SECTOR_BYTES,
  type StepResult,
  strayCommit,
} from "../../support/pool-script.js";
import { withTemporaryFolder } from "../../support/temporary-folder.js";
import { runInGuest } from "./run.js";

const METADATA_REGION_BYTES = 512 * 1024 * 1024;
const DATA_REGION_BYTES = 512 * 1024 * 1024 * 1024;
/** Where in the data region the external origin lies. */
const ORIGIN_AT_BYTES = DATA_REGION_BYTES / 2;
/** The one-second timer of a kernel may strike where the script has no commit; the script is repeated then. */
const ATTEMPTS = 5;
/** A commit flushes the metadata device before and after the superblock. */
const FLUSHES_PER_COMMIT = 2;

/** What a pool starts from; blank without. */
export interface StartingImages {
  readonly metadata: BlockDevice;
  readonly data: BlockDevice;
}

export interface GuestPool {
  readonly script: PoolScript;
  /** From making the pool; its commits include that of formatting. */
  readonly opening: StepResult;
  readonly run: ScriptRun;
  /** The metadata device when the pool had been removed. */
  readonly metadata: MemoryDevice;
  /** Its data, when `keepsData` asks for it; else empty. */
  readonly data: MemoryDevice;
}

interface Line {
  readonly outcome: string;
  readonly flushes: number;
  readonly text: string;
}

export interface ScriptForGuest {
  readonly script: PoolScript;
  readonly from?: StartingImages;
  readonly keepsData?: boolean;
}

export interface ScriptsOptions {
  /** Shell commands before the scripts. */
  readonly before?: string;
  readonly timeoutMs?: number;
  /** For scripts whose every commit is known; not for those that run out of room. */
  readonly allowsNoStrayCommit?: boolean;
}

/** Carries out all scripts one after the other in one guest; those that a timer spoiled once more. */
export async function runScriptsInGuest(
  pools: readonly ScriptForGuest[],
  options: ScriptsOptions = {},
): Promise<readonly GuestPool[]> {
  const done = new Map<ScriptForGuest, GuestPool>();
  let left = pools;
  for (let attempt = 1; left.length > 0; attempt++) {
    const results = await runOnce(left, options);
    const strays: string[] = [];
    for (const [index, pool] of left.entries()) {
      const { script, run, ...rest } = results[index]!;
      const folded = options.allowsNoStrayCommit === true ? foldEarlyCommits(script, run) : run;
      const stray = options.allowsNoStrayCommit === true ? strayCommit(script, folded) : undefined;
      if (stray === undefined) done.set(pool, { ...rest, script, run: folded });
      else strays.push(stray);
    }
    if (strays.length > 0 && attempt === ATTEMPTS) {
      throw new Error(`the kernel committed by itself each time: ${strays.join("; ")}`);
    }
    left = left.filter((pool) => !done.has(pool));
  }
  return pools.map((pool) => done.get(pool)!);
}

async function runOnce(pools: readonly ScriptForGuest[], options: ScriptsOptions): Promise<readonly GuestPool[]> {
  const plans = pools.map(({ script }, index) => new Plan(script, index));
  let captures = 0;
  for (const plan of plans) captures = plan.write(captures);

  return withTemporaryFolder("udm-kernel-", async (folder) => {
    const paths = {
      metadata: join(folder, "metadata.img"),
      data: join(folder, "data.img"),
      captures: join(folder, "captures.img"),
    };
    for (const [path, size] of [
      [paths.metadata, plans.length * METADATA_REGION_BYTES],
      [paths.data, plans.length * DATA_REGION_BYTES],
      [paths.captures, Math.max(captures, 1) * METADATA_REGION_BYTES],
    ] as const) {
      const file = await open(path, "w");
      await file.truncate(size);
      await file.close();
    }
    for (const [index, { from }] of pools.entries()) {
      if (from === undefined) continue;
      await writeRegion(paths.metadata, index * METADATA_REGION_BYTES, from.metadata);
      await writeRegion(paths.data, index * DATA_REGION_BYTES, from.data);
    }
    const lines = ["watch vda", ...plans.flatMap((plan) => plan.lines)];
    const script = `${options.before ?? ""}\npool-exec /work/operations; dmesg | grep -E 'device-mapper|BUG|WARNING' > /dev/console`;
    const result = await runInGuest(script, [paths.metadata, paths.data, paths.captures], {
      files: { operations: `${lines.join("\n")}\n` },
      ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    });
    const answers = parseAnswers(result.stdout, lines.length, result.console);
    const done: GuestPool[] = [];
    let first = 1;
    for (const [index, plan] of plans.entries()) {
      const own = answers.slice(first, first + plan.lines.length);
      first += plan.lines.length;
      const checkpoints = [];
      for (const { title, step, region, bytes } of plan.captures) {
        checkpoints.push({
          title,
          step,
          metadata: await readBytes(paths.captures, region * METADATA_REGION_BYTES, bytes),
        });
      }
      done.push({
        script: plan.script,
        opening: plan.collect(own, plan.opening),
        run: { results: plan.ranges.map((range) => plan.collect(own, range)), checkpoints },
        metadata: await readRegion(
          paths.metadata,
          index * METADATA_REGION_BYTES,
          plan.metadataBlocks * METADATA_BLOCK_BYTES,
        ),
        data: await readRegion(
          paths.data,
          index * DATA_REGION_BYTES,
          pools[index]?.keepsData === true ? plan.dataBytes : 0,
        ),
      });
    }
    return done;
  });
}

/** Lines for pool-exec, and which of them belong to which step. */
class Plan {
  readonly lines: string[] = [];
  readonly ranges: (readonly [number, number])[] = [];
  readonly captures: { title: string; step: number; region: number; bytes: number }[] = [];
  opening: readonly [number, number] = [0, 0];
  metadataBlocks: number;
  readonly #name: string;
  readonly #active = new Set<number>();
  #shape: PoolShape;
  #fault: "writes" | "everything" | "nothing" = "nothing";

  constructor(
    readonly script: PoolScript,
    readonly index: number,
  ) {
    this.#name = `p${index}`;
    this.#shape = script.shape;
    this.metadataBlocks = script.shape.metadataBlocks;
  }

  get dataBytes(): number {
    return this.#shape.dataBlocks * this.#shape.blockSectors * SECTOR_BYTES;
  }

  /** @param captures regions for checkpoints that are taken already. @returns how many are now */
  write(captures: number): number {
    let region = captures;
    const name = this.#name;
    this.lines.push(`create ${name}meta ${this.#metadataTable()}`);
    this.lines.push(
      `create ${name}data ${DATA_REGION_BYTES / SECTOR_BYTES} linear @vdb ${(this.index * DATA_REGION_BYTES) / SECTOR_BYTES}`,
    );
    const { originBytes = 0 } = this.#shape;
    if (originBytes > 0) {
      const start = (this.index * DATA_REGION_BYTES + ORIGIN_AT_BYTES) / SECTOR_BYTES;
      this.lines.push(`create ${name}origin ${originBytes / SECTOR_BYTES} linear @vdb ${start}`);
      this.lines.push(`write ${name}origin 0 ${originBytes} ${ORIGIN_SEED}`, `close ${name}origin`);
    }
    const before = this.lines.length;
    this.lines.push(`create ${name} ${this.#poolTable()}`);
    this.opening = [before, this.lines.length];
    for (const [number, step] of this.script.steps.entries()) {
      const start = this.lines.length;
      if (step.kind === "checkpoint") {
        const bytes = this.metadataBlocks * METADATA_BLOCK_BYTES;
        this.captures.push({ title: step.title, step: number, region, bytes });
        this.lines.push(`capture ${name}meta ${bytes} vdc ${region++ * METADATA_REGION_BYTES}`);
      } else this.lines.push(...this.#linesOf(step));
      this.ranges.push([start, this.lines.length]);
    }
    this.lines.push(...this.#removeThins(), `remove ${name}`, `remove ${name}meta`, `remove ${name}data`);
    if (originBytes > 0) this.lines.push(`remove ${name}origin`);
    return region;
  }

  collect(answers: readonly Line[], [from, to]: readonly [number, number]): StepResult {
    const own = answers.slice(from, to);
    return {
      outcome: own.find(({ outcome }) => outcome !== "ok")?.outcome ?? "ok",
      commits: own.reduce((sum, { flushes }) => sum + flushes, 0) / FLUSHES_PER_COMMIT,
      text: own.at(-1)?.text ?? "",
    };
  }

  #linesOf(step: Exclude<PoolStep, { kind: "checkpoint" }>): readonly string[] {
    const name = this.#name;
    switch (step.kind) {
      case "create-thin":
        return [`message ${name} create_thin ${step.id}`];
      case "create-snap":
        return [`message ${name} create_snap ${step.id} ${step.origin}`];
      case "delete":
        return [`message ${name} delete ${step.id}`];
      case "reserve":
        return [`message ${name} reserve_metadata_snap`];
      case "release":
        return [`message ${name} release_metadata_snap`];
      case "set-transaction-id":
        return [`message ${name} set_transaction_id ${step.from} ${step.to}`];
      case "message":
        return [`message ${name} ${step.words.join(" ")}`];
      case "activate":
        this.#active.add(step.id);
        return [
          `create ${name}t${step.id} ${this.script.shape.thinBytes / SECTOR_BYTES} thin @${name} ${step.id}` +
            (step.external === true ? ` @${name}origin` : ""),
        ];
      case "deactivate":
        this.#active.delete(step.id);
        return [`remove ${name}t${step.id}`];
      case "write":
        return [`write ${name}t${step.id} ${step.offsetBytes} ${step.lengthBytes} ${step.seed}`];
      case "start-write":
        return [`async write ${name}t${step.id} ${step.offsetBytes} ${step.lengthBytes} ${step.seed}`];
      case "join":
        return ["join"];
      case "wait":
        return [`sleep ${step.milliseconds}`];
      case "flush":
        return [`flush ${name}t${step.id}`];
      case "discard":
        return [`discard ${name}t${step.id} ${step.offsetBytes} ${step.lengthBytes}`];
      case "grow-data":
        this.#shape = { ...this.#shape, dataBlocks: step.dataBlocks };
        return [`suspend ${name}`, `load ${name} ${this.#poolTable()}`, `resume ${name}`];
      case "reload":
        this.#shape = { ...this.#shape, ...step };
        return [`suspend ${name}`, `load ${name} ${this.#poolTable()}`, `resume ${name}`];
      case "grow-metadata":
        this.metadataBlocks = step.metadataBlocks;
        return [`suspend ${name}`, ...this.#reloadMetadata(), `resume ${name}`];
      case "metadata-fault":
        this.#fault = step.refuses;
        return [...this.#reloadMetadata()];
      case "reopen":
        return [...this.#removeThins(), `remove ${name}`, `create ${name} ${this.#poolTable()}`];
      case "status":
        return [`status ${name}${step.noflush === true ? " noflush" : ""}`];
      case "table":
        return [`table ${name}`];
      case "thin-status":
        return [`status ${name}t${step.id}`];
      case "events":
        return [`events ${name}`];
      case "thin-table":
        return [`table ${name}t${step.id}`];
      case "sum":
        return [`sum ${name}t${step.id}`];
    }
  }

  #removeThins(): readonly string[] {
    const lines = [...this.#active].map((id) => `remove ${this.#name}t${id}`);
    this.#active.clear();
    return lines;
  }

  #reloadMetadata(): readonly string[] {
    const name = `${this.#name}meta`;
    return [`suspend ${name} noflush`, `load ${name} ${this.#metadataTable()}`, `resume ${name}`];
  }

  #metadataTable(): string {
    const start = (this.index * METADATA_REGION_BYTES) / SECTOR_BYTES;
    const length = (this.metadataBlocks * METADATA_BLOCK_BYTES) / SECTOR_BYTES;
    if (this.#fault === "everything") return `${length} error`;
    if (this.#fault === "writes") return `${length} flakey @vda ${start} 0 1 1 error_writes`;
    return `${length} linear @vda ${start}`;
  }

  #poolTable(): string {
    const { dataBlocks, blockSectors, lowWaterBlocks, features } = this.#shape;
    return `${dataBlocks * blockSectors} thin-pool @${this.#name}meta @${this.#name}data ${blockSectors} ${lowWaterBlocks} ${featureText(features)}`;
  }
}

function featureText(features: readonly FeatureWord[]): string {
  return [features.length, ...features].join(" ");
}

function parseAnswers(stdout: string, wanted: number, console: string): Line[] {
  const answers = stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [, outcome = "", flushes = "0", ...text] = line.split(" ");
      // A status or table line begins with start, length and type; what follows is compared.
      const words = /^\d+ \d+ (thin|thin-pool) /.test(text.join(" ")) ? text.slice(3) : text;
      return { outcome, flushes: Number(flushes), text: words.join(" ") };
    });
  if (answers.length !== wanted) {
    throw new Error(
      `the guest answered ${answers.length} of ${wanted} lines:\n${stdout.slice(-2000)}\n${console.slice(-4000)}`,
    );
  }
  return answers;
}

async function writeRegion(path: string, at: number, device: BlockDevice): Promise<void> {
  const file = await open(path, "r+");
  try {
    for (const { offset, length, kind } of await device.extents(0, device.sizeBytes)) {
      if (kind === "zeros") continue;
      for (let done = 0; done < length; done += 1 << 20) {
        const chunk = new Uint8Array(Math.min(1 << 20, length - done));
        await device.read(offset + done, chunk);
        await file.write(chunk, 0, chunk.length, at + offset + done);
      }
    }
  } finally {
    await file.close();
  }
}

async function readBytes(path: string, at: number, length: number): Promise<Uint8Array> {
  const file = await open(path);
  try {
    const bytes = new Uint8Array(length);
    await file.read(bytes, 0, length, at);
    return bytes;
  } finally {
    await file.close();
  }
}

/** A region as a memory device without its zeros. */
async function readRegion(path: string, at: number, length: number): Promise<MemoryDevice> {
  const device = new MemoryDevice({ sizeBytes: length });
  const file = await open(path);
  try {
    const chunk = Buffer.alloc(1 << 20);
    const zeros = Buffer.alloc(4096);
    for (let done = 0; done < length; done += chunk.length) {
      const { bytesRead } = await file.read(chunk, 0, Math.min(chunk.length, length - done), at + done);
      for (let page = 0; page < bytesRead; page += 4096) {
        const bytes = chunk.subarray(page, Math.min(page + 4096, bytesRead));
        if (!bytes.equals(zeros.subarray(0, bytes.length))) device.sync.write(done + page, bytes);
      }
    }
    return device;
  } finally {
    await file.close();
  }
}
