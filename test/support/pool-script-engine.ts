/** Carries out a pool script with our own engine, on devices in memory. */
import { createHash } from "node:crypto";
import { tableTexts } from "../../src/device-registry/index.js";
import { codeOf, IoError } from "../../src/errors/index.js";
import type { SyncIo } from "../../src/io/index.js";
import { MemoryDevice } from "../../src/io/index.js";
import { SyncBackedDevice } from "../../src/io/sync-backed-device.js";
import { findTargetType } from "../../src/targets/index.js";
import { Pool, type PoolConfig, type PoolRuntime, type ThinDevice } from "../../src/thin/index.js";
import { METADATA_BLOCK_BYTES } from "./metadata-image.js";
import {
  type FeatureWord,
  fillPattern,
  ORIGIN_SEED,
  type PoolScript,
  type PoolShape,
  type PoolStep,
  type ScriptRun,
  SECTOR_BYTES,
  type StepResult,
} from "./pool-script.js";

/** As the guest numbers what a script makes. */
const METADATA_NUMBER = "253:0";
const DATA_NUMBER = "253:1";
const POOL_NUMBER = "253:2";
const FLUSHES_PER_COMMIT = 2;
/** Where a kernel commits once more although nothing has changed since the commit before. */
const REPEATS_COMMITS: ReadonlySet<PoolStep["kind"]> = new Set(["reopen", "reserve"]);
const NO_SPACE_TIMEOUT_MS = 60_000;

/** A metadata device that counts its flushes and refuses what it is told to. */
export class WatchedDevice extends SyncBackedDevice {
  readonly name = "metadata";
  readonly isReadOnly = false;
  readonly logicalBlockBytes = 512;
  readonly discardGranularityBytes = 0;
  readonly sync: SyncIo;
  refuses: "writes" | "everything" | "nothing" = "nothing";
  flushes = 0;
  writes = 0;

  /** @param powerFailsAfter writes; later ones are lost without an error */
  constructor(
    readonly below: MemoryDevice,
    readonly powerFailsAfter = Number.POSITIVE_INFINITY,
  ) {
    super();
    const io = below.sync;
    this.sync = {
      read: (offset, buffer) => this.#unless(this.refuses === "everything", () => io.read(offset, buffer)),
      write: (offset, buffer) =>
        this.#unless(this.refuses !== "nothing", () => {
          if (++this.writes <= this.powerFailsAfter) io.write(offset, buffer);
        }),
      flush: () => {
        this.#unless(this.refuses === "everything", () => io.flush());
        this.flushes++;
      },
      discard: (offset, length) => this.#unless(this.refuses !== "nothing", () => io.discard(offset, length)),
      writeZeroes: (offset, length) => this.#unless(this.refuses !== "nothing", () => io.writeZeroes(offset, length)),
      knownZeroes: () => 0,
    };
  }

  get sizeBytes(): number {
    return this.below.sizeBytes;
  }

  #unless(refused: boolean, body: () => void): void {
    if (refused) throw new IoError("EIO", `${this.name}: input/output error`);
    body();
  }
}

export interface EngineRun {
  readonly opening: StepResult;
  readonly run: ScriptRun;
  readonly metadata: MemoryDevice;
  readonly data: MemoryDevice;
  /** Writes to the metadata device. */
  readonly metadataWrites: number;
  /** What the engine logged, by line. */
  readonly log: readonly string[];
}

export interface EngineOptions {
  /** What the pool starts from; blank without. They are changed. */
  readonly from?: { readonly metadata: MemoryDevice; readonly data: MemoryDevice };
  readonly noSpaceTimeoutMs?: number;
  /** The metadata device loses everything behind that many writes, as if the machine had stopped there. */
  readonly powerFailsAfter?: number;
  /** Called behind every step. */
  readonly onStep?: (index: number, step: PoolStep, pool: Pool) => void;
}

export async function runScriptOnEngine(script: PoolScript, options: EngineOptions = {}): Promise<EngineRun> {
  const executor = new Executor(script.shape, options);
  const opening = await executor.step(() => executor.open());
  const results: StepResult[] = [];
  const checkpoints: { title: string; step: number; metadata: Uint8Array }[] = [];
  for (const [index, step] of script.steps.entries()) {
    if (step.kind === "checkpoint") {
      checkpoints.push({ title: step.title, step: index, metadata: executor.metadata.contents() });
      results.push({ outcome: "ok", commits: 0, text: "" });
      continue;
    }
    results.push(await executor.step(() => executor.carryOut(step), !REPEATS_COMMITS.has(step.kind)));
    options.onStep?.(index, step, executor.pool);
  }
  await executor.close();
  const { metadata, data, log, metadataWrites } = executor;
  return { opening, run: { results, checkpoints }, metadata, data, log, metadataWrites };
}

class Executor {
  readonly metadata: MemoryDevice;
  readonly data: MemoryDevice;
  readonly log: string[] = [];
  readonly #watched: WatchedDevice;
  readonly #origin: MemoryDevice;
  readonly #thins = new Map<number, ThinDevice>();
  readonly #thinBytes: number;
  #shape: PoolShape;
  #pool: Pool | undefined;
  #started: Promise<string>[] = [];

  constructor(
    shape: PoolShape,
    readonly options: EngineOptions,
  ) {
    this.#shape = shape;
    this.#thinBytes = shape.thinBytes;
    this.metadata =
      options.from?.metadata ?? new MemoryDevice({ sizeBytes: shape.metadataBlocks * METADATA_BLOCK_BYTES });
    this.data =
      options.from?.data ?? new MemoryDevice({ sizeBytes: shape.dataBlocks * shape.blockSectors * SECTOR_BYTES });
    this.#watched = new WatchedDevice(this.metadata, options.powerFailsAfter);
    const origin = new Uint8Array(shape.originBytes ?? 0);
    fillPattern(origin, 0, ORIGIN_SEED);
    this.#origin = new MemoryDevice({ sizeBytes: origin.length });
    this.#origin.sync.write(0, origin);
  }

  get metadataWrites(): number {
    return this.#watched.writes;
  }

  get pool(): Pool {
    if (this.#pool === undefined) throw new Error("the pool is not open");
    return this.#pool;
  }

  async step(body: () => Promise<string>, comparesCommits = true): Promise<StepResult> {
    const before = this.#watched.flushes;
    let outcome = "ok";
    let text = "";
    try {
      text = await body();
    } catch (error) {
      const code = codeOf(error);
      if (code === undefined || code === "EBUG") throw error;
      outcome = code;
    }
    const commits = (this.#watched.flushes - before) / FLUSHES_PER_COMMIT;
    return { outcome, commits: comparesCommits ? commits : undefined, text };
  }

  async open(runtime?: PoolRuntime): Promise<string> {
    this.#pool = Pool.load({
      name: POOL_NUMBER,
      metadata: this.#watched,
      data: this.data,
      config: this.#config(),
      log: (line) => this.log.push(line),
      // Scripts say when to commit.
      commitPeriodMs: 0,
      noSpaceTimeoutMs: this.options.noSpaceTimeoutMs ?? NO_SPACE_TIMEOUT_MS,
      ...(runtime === undefined ? {} : { runtime }),
    });
    await this.pool.resume();
    return "";
  }

  async close(): Promise<void> {
    for (const thin of this.#thins.values()) await thin.close();
    this.#thins.clear();
    await this.#pool?.close();
    this.#pool = undefined;
  }

  async carryOut(step: Exclude<PoolStep, { kind: "checkpoint" }>): Promise<string> {
    const { pool } = this;
    switch (step.kind) {
      case "create-thin":
        return this.#message("create_thin", step.id);
      case "create-snap":
        return this.#message("create_snap", step.id, step.origin);
      case "delete":
        return this.#message("delete", step.id);
      case "reserve":
        return this.#message("reserve_metadata_snap");
      case "release":
        return this.#message("release_metadata_snap");
      case "set-transaction-id":
        return this.#message("set_transaction_id", step.from, step.to);
      case "message":
        return this.#message(...step.words);
      case "activate":
        this.#thins.set(
          step.id,
          pool.openThin(step.id, {
            name: `thin ${step.id}`,
            sizeBytes: this.#thinBytes,
            ...(step.external === true ? { externalOrigin: this.#origin } : {}),
          }),
        );
        return "";
      case "deactivate":
        await this.#thin(step.id).close();
        this.#thins.delete(step.id);
        return "";
      case "write":
        await this.#write(step.id, step.offsetBytes, step.lengthBytes, step.seed);
        return "";
      case "start-write": {
        const { id, offsetBytes, lengthBytes, seed } = step;
        this.#started.push(
          this.#write(id, offsetBytes, lengthBytes, seed).then(
            () => "ok",
            (error: unknown) => codeOf(error) ?? String(error),
          ),
        );
        await new Promise((resolve) => setImmediate(resolve));
        return "";
      }
      case "join": {
        const started = this.#started;
        this.#started = [];
        return (await Promise.all(started)).join(" ");
      }
      case "wait":
        await new Promise((resolve) => setTimeout(resolve, step.milliseconds));
        return "";
      case "metadata-fault":
        this.#watched.refuses = step.refuses;
        return "";
      case "flush":
        await this.#thin(step.id).flush();
        return "";
      case "discard":
        await this.#thin(step.id).discard(step.offsetBytes, step.lengthBytes);
        return "";
      case "grow-data":
      case "reload":
        this.#shape = { ...this.#shape, ...step };
        this.data.resize(Math.max(this.data.sizeBytes, this.#config().lengthSectors * SECTOR_BYTES));
        await pool.suspend();
        await pool.resume(this.#config());
        return "";
      case "grow-metadata":
        await pool.suspend();
        this.metadata.resize(step.metadataBlocks * METADATA_BLOCK_BYTES);
        await pool.resume();
        return "";
      case "reopen":
        await this.close();
        return this.open();
      case "status":
        return pool.statusParams({ noflush: step.noflush === true });
      case "table":
        return this.#table("thin-pool", [METADATA_NUMBER, DATA_NUMBER, ...this.#poolWords()]);
      case "thin-table":
        return this.#table("thin", [POOL_NUMBER, String(step.id)]);
      case "thin-status":
        return this.#thin(step.id).statusParams();
      case "events":
        return String(pool.runtime().eventNr);
      case "sum":
        return sumDevice(this.#thin(step.id));
    }
  }

  #thin(id: number): ThinDevice {
    const thin = this.#thins.get(id);
    if (thin === undefined) throw new Error(`thin device ${id} is not active`);
    return thin;
  }

  async #message(...words: readonly (string | number)[]): Promise<string> {
    await this.pool.message(words.map(String));
    return "";
  }

  async #write(id: number, offsetBytes: number, lengthBytes: number, seed: number): Promise<void> {
    const buffer = new Uint8Array(lengthBytes);
    fillPattern(buffer, offsetBytes, seed);
    await this.#thin(id).write(offsetBytes, buffer);
  }

  /** As the registry prints it: parsed, and written down again. */
  async #table(type: string, args: readonly string[]): Promise<string> {
    const line = { startSectors: 0, lengthSectors: this.#config().lengthSectors, type, args };
    const known = {
      deviceNumber: POOL_NUMBER,
      deviceName: "pool",
      metadata: METADATA_NUMBER,
      data: DATA_NUMBER,
      config: this.#config(),
      isFailed: false,
    };
    const parsed = await findTargetType(type)!.parse(line, {
      deviceNumber: POOL_NUMBER,
      find: async (number) => ({ number, kernelName: number, kind: "mapped" }),
      poolOf: (number) => (number === POOL_NUMBER ? known : undefined),
      poolOn: (number) => (number === METADATA_NUMBER ? known : undefined),
      isMapped: () => true,
    });
    return tableTexts([{ ...line, args: parsed }], () => this.pool.mode === "fail")[0]!;
  }

  #poolWords(): string[] {
    const { blockSectors, lowWaterBlocks, features } = this.#shape;
    return [String(blockSectors), String(lowWaterBlocks), String(features.length), ...features];
  }

  #config(): PoolConfig {
    const { dataBlocks, blockSectors, lowWaterBlocks, features } = this.#shape;
    const has = (word: FeatureWord): boolean => features.includes(word);
    return {
      lengthSectors: dataBlocks * blockSectors,
      dataBlockSectors: blockSectors,
      lowWaterBlocks,
      features: {
        skipBlockZeroing: has("skip_block_zeroing"),
        ignoreDiscard: has("ignore_discard"),
        noDiscardPassdown: has("no_discard_passdown"),
        readOnly: has("read_only"),
        errorIfNoSpace: has("error_if_no_space"),
      },
    };
  }
}

/** Fingerprint of all bytes of a device, as the model and the guest make it. */
export async function sumDevice(device: {
  readonly sizeBytes: number;
  read(offset: number, buffer: Uint8Array): Promise<void>;
}): Promise<string> {
  const hash = createHash("sha256");
  const chunk = Buffer.alloc(1 << 20);
  const zeros = Buffer.alloc(4096);
  const where = Buffer.alloc(8);
  for (let at = 0; at < device.sizeBytes; at += chunk.length) {
    const part = chunk.subarray(0, Math.min(chunk.length, device.sizeBytes - at));
    await device.read(at, part);
    for (let page = 0; page < part.length; page += 4096) {
      const bytes = part.subarray(page, page + 4096);
      if (bytes.equals(zeros.subarray(0, bytes.length))) continue;
      where.writeBigUInt64LE(BigInt(at + page));
      hash.update(where).update(bytes);
    }
  }
  return hash.digest("hex");
}
