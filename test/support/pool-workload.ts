/**
 * Work on a pool as a plain list, and somebody who does it while a history takes note of what was written and what was
 * acknowledged. Crash and fault tests do the same work on other devices.
 */
import { codeOf, type UdmError } from "../../src/errors/index.js";
import type { BlockDevice } from "../../src/io/index.js";
import { NO_FEATURES, Pool, type PoolConfig, type PoolFeatures, type ThinDevice } from "../../src/thin/index.js";
import { Random } from "./random.js";
import { pageSurprise, type WrittenHistory } from "./written-history.js";

const BLOCK_SECTORS = 128;
export const WORKLOAD_BLOCK_BYTES = BLOCK_SECTORS * 512;
const PAGE = 4096;

export type WorkStep =
  | { readonly kind: "create"; readonly id: number }
  | { readonly kind: "snap"; readonly id: number; readonly origin: number }
  | { readonly kind: "delete"; readonly id: number }
  | {
      readonly kind: "write";
      readonly id: number;
      readonly offset: number;
      readonly length: number;
      readonly seed: number;
    }
  | { readonly kind: "discard"; readonly id: number; readonly offset: number; readonly length: number }
  | { readonly kind: "read"; readonly id: number; readonly page: number }
  | { readonly kind: "flush"; readonly id: number }
  | { readonly kind: "message"; readonly words: readonly string[] }
  | { readonly kind: "grow"; readonly dataBlocks: number }
  | { readonly kind: "suspend" }
  | { readonly kind: "status" }
  | { readonly kind: "parallel"; readonly steps: readonly WorkStep[] };

export function workloadConfig(dataBlocks: number, features: Partial<PoolFeatures> = {}): PoolConfig {
  return {
    lengthSectors: dataBlocks * BLOCK_SECTORS,
    dataBlockSectors: BLOCK_SECTORS,
    lowWaterBlocks: 0,
    features: { ...NO_FEATURES, ...features },
  };
}

export interface WorkerOptions {
  /** Requests of a group begin some turns of the event loop apart. */
  readonly stagger?: Random;
  readonly metadata: BlockDevice;
  readonly data: BlockDevice;
  readonly dataBlocks: number;
  readonly history: WrittenHistory;
  readonly thinBytes: number;
  readonly cacheBlocks?: number;
  readonly features?: Partial<PoolFeatures>;
}

export interface Failure {
  readonly step: WorkStep;
  readonly error: UdmError;
}

export class PoolWorker {
  readonly pool: Pool;
  readonly #thins = new Map<number, ThinDevice>();
  /** What went wrong; only kept when failures are tolerated. */
  readonly failures: Failure[] = [];

  constructor(readonly options: WorkerOptions) {
    const { metadata, data, dataBlocks, cacheBlocks, features } = options;
    this.pool = Pool.load({
      name: "253:0",
      metadata,
      data,
      config: workloadConfig(dataBlocks, features),
      commitPeriodMs: 0,
      noSpaceTimeoutMs: 0,
      ...(cacheBlocks === undefined ? {} : { cacheBlocks }),
    });
  }

  /** @param tolerates failures that are UdmErrors, but not our own mistakes, are put down and the work goes on */
  async work(steps: readonly WorkStep[], tolerates = false): Promise<void> {
    for (const step of steps) {
      if (!tolerates) await this.step(step);
      else await this.#tolerantly(step);
    }
  }

  async step(step: WorkStep): Promise<void> {
    const { pool } = this;
    const { history } = this.options;
    switch (step.kind) {
      case "create":
        return history.create(step.id, () => pool.message(["create_thin", String(step.id)]));
      case "snap":
        return history.snapshot(step.id, step.origin, () =>
          pool.message(["create_snap", String(step.id), String(step.origin)]),
        );
      case "delete":
        await this.#thins.get(step.id)?.close();
        this.#thins.delete(step.id);
        return history.delete(step.id, () => pool.message(["delete", String(step.id)]));
      case "write":
        return history.write(step.id, step.offset, step.length, step.seed, (data) =>
          this.thin(step.id).write(step.offset, data),
        );
      case "discard":
        // In a pool that cannot change its metadata a discard succeeds and does nothing.
        if (!pool.canChangeMetadata) return this.thin(step.id).discard(step.offset, step.length);
        return history.discard(step.id, step.offset, step.length, WORKLOAD_BLOCK_BYTES, () =>
          this.thin(step.id).discard(step.offset, step.length),
        );
      case "flush":
        return history.flush(step.id, () => this.thin(step.id).flush());
      case "read":
        return this.#read(step.id, step.page);
      case "message":
        return history.committed(() => pool.message(step.words));
      case "grow":
        await pool.suspend();
        await pool.resume(workloadConfig(step.dataBlocks, this.options.features));
        return;
      case "suspend":
        // A pool that cannot change its metadata has nothing to commit, and promises nothing.
        if (pool.canChangeMetadata) await history.committed(() => pool.suspend());
        else await pool.suspend();
        await pool.resume();
        return;
      case "status":
        await pool.status();
        return;
      case "parallel":
        await Promise.all(
          step.steps.map(async (each) => {
            await this.#turns();
            return this.step(each);
          }),
        );
    }
  }

  async #turns(): Promise<void> {
    const { stagger } = this.options;
    if (stagger === undefined) return;
    for (let left = stagger.between(0, MAX_TURNS); left > 0; left--) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  thin(id: number): ThinDevice {
    let thin = this.#thins.get(id);
    if (thin === undefined) {
      thin = this.pool.openThin(id, { name: `thin ${id}`, sizeBytes: this.options.thinBytes });
      this.#thins.set(id, thin);
    }
    return thin;
  }

  async close(): Promise<void> {
    for (const thin of this.#thins.values()) await thin.close();
    this.#thins.clear();
    await this.pool.close();
  }

  /** A page holds what was written; after an abort perhaps what was durable. */
  async #read(id: number, page: number): Promise<void> {
    const bytes = new Uint8Array(PAGE);
    await this.thin(id).read(page * PAGE, bytes);
    const history = this.options.history.device(id);
    const mayBeOld = this.pool.mode !== "write";
    const end = Number.POSITIVE_INFINITY;
    const surprise = pageSurprise(page, bytes, (sector) =>
      mayBeOld ? history.afterCrash(sector, end) : history.now(sector),
    );
    if (surprise !== undefined) throw new Error(`device ${id}: ${surprise}`);
  }

  async #tolerantly(step: WorkStep): Promise<void> {
    if (step.kind === "parallel") {
      await Promise.all(step.steps.map((each) => this.#tolerantly(each)));
      return;
    }
    // What was never made cannot be worked on.
    const { devices } = this.options.history;
    const needed = step.kind === "snap" ? step.origin : "id" in step && step.kind !== "create" ? step.id : undefined;
    if (needed !== undefined && devices.get(needed)?.exists !== true) return;
    try {
      await this.step(step);
    } catch (error) {
      const code = codeOf(error);
      if (code === undefined || code === "EBUG") throw error;
      this.failures.push({ step, error: error as UdmError });
      // A pool that could not be resumed holds everything: try again, then go on.
      if (this.pool.isSuspended) await this.pool.resume().catch(() => undefined);
    }
  }
}

const MAX_TURNS = 8;

export interface WorkloadOptions {
  readonly seed: number;
  readonly steps: number;
  readonly thinBytes: number;
  /** Devices that are there already; the worker's history knows them. */
  readonly devices: readonly number[];
  readonly dataBlocks: number;
  /** Room for growth of the data device, in blocks. */
  readonly spareDataBlocks?: number;
  /** Requests that run at the same time; 1 for none. */
  readonly parallel?: number;
  readonly discards?: boolean;
  readonly maxDevices?: number;
}

export function randomWorkload(options: WorkloadOptions): WorkStep[] {
  const { thinBytes, parallel = 1, discards = true, maxDevices = 6 } = options;
  const random = new Random(options.seed);
  const ids = new Set(options.devices);
  let nextId = Math.max(0, ...ids) + 1;
  let { dataBlocks } = options;
  let spare = options.spareDataBlocks ?? 0;
  let isHeld = false;
  let transactionId = 0;
  let seed = options.seed * 1000;
  const blocks = thinBytes / WORKLOAD_BLOCK_BYTES;
  const steps: WorkStep[] = [];

  const request = (id: number, onlyBlock?: number): WorkStep => {
    const block = onlyBlock ?? random.between(0, blocks - 1);
    const start = block * WORKLOAD_BLOCK_BYTES;
    const kind = random.weighted({ small: 10, sectors: 3, whole: 2, run: 1, discard: discards ? 4 : 0, read: 2 });
    switch (kind) {
      case "small":
        return { kind: "write", id, offset: start + random.between(0, 15) * PAGE, length: PAGE, seed: ++seed };
      case "sectors":
        return {
          kind: "write",
          id,
          offset: start + random.between(0, 100) * 512,
          length: 512 * random.between(1, 9),
          seed: ++seed,
        };
      case "whole":
        return { kind: "write", id, offset: start, length: WORKLOAD_BLOCK_BYTES, seed: ++seed };
      case "run": {
        const length = Math.min(thinBytes - start, random.between(2, 4) * WORKLOAD_BLOCK_BYTES - 3 * PAGE);
        return {
          kind: "write",
          id,
          offset: start,
          length: onlyBlock === undefined ? length : WORKLOAD_BLOCK_BYTES,
          seed: ++seed,
        };
      }
      case "discard": {
        const length = (onlyBlock === undefined ? random.between(1, 6) : 1) * WORKLOAD_BLOCK_BYTES;
        return { kind: "discard", id, offset: start, length: Math.min(length, thinBytes - start) };
      }
      case "read":
        return { kind: "read", id, page: start / PAGE + random.between(0, 15) };
    }
  };

  while (steps.length < options.steps) {
    const id = random.pick([...ids]);
    const kind = random.weighted({
      request: 30,
      parallel: parallel > 1 ? 30 : 0,
      flush: 10,
      create: 1.5,
      snap: 3,
      delete: 1.5,
      held: 1.5,
      transaction: 1,
      grow: 0.7,
      suspend: 1,
      status: 1,
    });
    switch (kind) {
      case "request":
        steps.push(request(id));
        break;
      case "parallel":
        steps.push({ kind: "parallel", steps: parallelRequests(random, parallel, [...ids], blocks, request) });
        break;
      case "flush":
        steps.push({ kind: "flush", id });
        break;
      case "create":
        if (ids.size >= maxDevices) break;
        ids.add(nextId);
        steps.push({ kind: "create", id: nextId++ });
        break;
      case "snap":
        if (ids.size >= maxDevices) break;
        ids.add(nextId);
        steps.push({ kind: "snap", id: nextId++, origin: id });
        break;
      case "delete":
        if (ids.size < 3) break;
        ids.delete(id);
        steps.push({ kind: "delete", id });
        break;
      case "held":
        steps.push({ kind: "message", words: [isHeld ? "release_metadata_snap" : "reserve_metadata_snap"] });
        isHeld = !isHeld;
        break;
      case "transaction":
        steps.push({ kind: "message", words: ["set_transaction_id", String(transactionId), String(++transactionId)] });
        break;
      case "grow":
        if (spare === 0) break;
        dataBlocks += 1;
        spare -= 1;
        steps.push({ kind: "grow", dataBlocks });
        break;
      case "suspend":
        steps.push({ kind: "suspend" });
        break;
      case "status":
        steps.push({ kind: "status" });
        break;
    }
  }
  return steps;
}

/** Requests that touch different blocks of a device: of two writes to one sector nobody could say which is the later. */
function parallelRequests(
  random: Random,
  count: number,
  ids: readonly number[],
  blocks: number,
  request: (id: number, block: number) => WorkStep,
): WorkStep[] {
  const taken = new Set<string>();
  const steps: WorkStep[] = [];
  for (let index = random.between(2, count); index > 0; index--) {
    const id = random.pick(ids);
    if (random.oneIn(6)) {
      steps.push({ kind: "flush", id });
      continue;
    }
    const block = random.between(0, blocks - 1);
    if (taken.has(`${id} ${block}`)) continue;
    taken.add(`${id} ${block}`);
    steps.push(request(id, block));
  }
  return steps;
}
