/** Random scripts that a healthy pool carries out without an error, with a checkpoint now and then. */
import { PoolModel } from "./pool-model.js";
import { type PoolScript, type PoolShape, type PoolStep, SECTOR_BYTES } from "./pool-script.js";
import { PoolScriptRecorder, sumAll } from "./pool-script-recorder.js";
import { Random } from "./random.js";

const MIX = {
  write: 30,
  group: 14,
  sequential: 5,
  several: 3,
  discard: 16,
  createThin: 4,
  createSnap: 9,
  delete: 5,
  activate: 6,
  deactivate: 2,
  reserve: 1,
  release: 1.5,
  setTransactionId: 1,
  growData: 0.4,
  growMetadata: 0.4,
  reopen: 1,
  status: 2,
  thinStatus: 1,
  sum: 0.7,
};

export type ScriptMix = Readonly<Record<keyof typeof MIX, number>>;

export interface RandomScriptOptions {
  readonly seed: number;
  /** How many operations; each is one or more steps. */
  readonly operations: number;
  /** Operations between checkpoints. */
  readonly checkpointEvery: number;
  readonly shape?: Partial<PoolShape>;
  readonly mix?: Partial<ScriptMix>;
  readonly maxDevices?: number;
  /** Reads every byte of every device. */
  readonly looksAtAll?: "first" | "first and last";
  /** A pool that is there already, to go on with; changed. Its shape counts. */
  readonly model?: PoolModel;
}

const DEFAULT_SHAPE: PoolShape = {
  metadataBlocks: 2048,
  dataBlocks: 2048,
  blockSectors: 128,
  lowWaterBlocks: 0,
  features: [],
  thinBytes: 1024 * 65536,
};

/** Most devices that are active at once: each costs the guest an open descriptor and time. */
const MAX_ACTIVE = 6;

export function randomPoolScript(options: RandomScriptOptions): PoolScript {
  const model = options.model ?? new PoolModel({ ...DEFAULT_SHAPE, ...options.shape });
  return new Generator(model, options).script();
}

class Generator {
  readonly #random: Random;
  readonly shape: PoolShape;
  readonly #recorder: PoolScriptRecorder;
  readonly #weights: ScriptMix;
  #seed = 0;
  #hasJustCommitted = false;

  constructor(
    readonly model: PoolModel,
    readonly options: RandomScriptOptions,
  ) {
    this.#random = new Random(options.seed);
    this.#recorder = new PoolScriptRecorder(model);
    this.shape = model.presentShape;
    this.#weights = { ...MIX, ...options.mix };
  }

  script(): PoolScript {
    const { seed, operations, checkpointEvery } = this.options;
    for (const step of this.options.looksAtAll === undefined ? [] : sumAll(this.model)) this.#do(step);
    if (this.model.thins.size === 0) this.#do({ kind: "create-thin", id: 0 });
    for (let done = 1; done <= operations; done++) {
      this.#operation();
      if (done % checkpointEvery === 0) this.#do({ kind: "checkpoint", title: `after ${done} operations` });
    }
    for (const step of this.options.looksAtAll === "first and last" ? sumAll(this.model) : []) this.#do(step);
    this.#do({ kind: "status" });
    this.#do({ kind: "checkpoint", title: "at the end" });
    return this.#recorder.script(`seed ${seed}`);
  }

  #do(step: PoolStep): void {
    this.#recorder.do(step);
    if (step.kind === "flush") this.#hasJustCommitted = true;
    else if (step.kind !== "write" && step.kind !== "discard") this.#hasJustCommitted = false;
  }

  /** Room for a write that may need that many blocks, with some to spare. */
  #hasRoom(blocks: number): boolean {
    return this.model.usedDataBlocks + blocks < this.model.dataBlocks * 0.9;
  }

  #operation(): void {
    const { model } = this;
    const random = this.#random;
    const ids = [...model.thins.keys()];
    const idle = ids.filter((id) => !model.active.has(id));
    const kind = random.weighted(this.#weights);
    const maxDevices = this.options.maxDevices ?? 40;
    switch (kind) {
      case "createThin":
        if (ids.length < maxDevices) this.#do({ kind: "create-thin", id: this.#newId() });
        return;
      case "createSnap":
        if (ids.length > 0 && ids.length < maxDevices) {
          this.#do({ kind: "create-snap", id: this.#newId(), origin: random.pick(ids) });
        }
        return;
      case "delete": {
        if (ids.length < 2) return;
        const id = random.pick(ids);
        if (model.active.has(id)) this.#do({ kind: "deactivate", id });
        this.#do({ kind: "delete", id });
        return;
      }
      case "activate":
        if (idle.length > 0 && model.active.size < MAX_ACTIVE) this.#activate(random.pick(idle));
        return;
      case "deactivate":
        if (model.active.size > 1) this.#do({ kind: "deactivate", id: random.pick([...model.active]) });
        return;
      case "reserve":
        if (!model.isHeld) this.#do({ kind: "reserve" });
        return;
      case "release":
        if (model.isHeld) this.#do({ kind: "release" });
        return;
      case "setTransactionId":
        this.#do({
          kind: "set-transaction-id",
          from: model.transactionId,
          to: model.transactionId + random.between(1, 9),
        });
        return;
      case "growData":
        this.#do({ kind: "grow-data", dataBlocks: model.dataBlocks + random.between(1, 300) });
        return;
      case "growMetadata":
        this.#do({ kind: "grow-metadata", metadataBlocks: model.metadataBlocks + random.between(1, 300) });
        return;
      case "reopen":
        this.#do({ kind: "reopen" });
        return;
      case "status":
        this.#do({ kind: "status", noflush: random.oneIn(2) });
        return;
      case "thinStatus":
        this.#do({ kind: "thin-status", id: this.#activeId() });
        return;
      case "sum":
        this.#do({ kind: "sum", id: this.#activeId() });
        return;
      case "write":
        if (this.#hasRoom(3)) this.#flushed(this.#activeId(), (id) => this.#write(id, this.#block()));
        return;
      case "group":
        if (this.#hasRoom(40)) this.#group(random.between(2, 12), () => this.#block());
        return;
      case "sequential": {
        if (!this.#hasRoom(40)) return;
        let block = this.#block();
        this.#group(random.between(4, 32), () => Math.min(block++, model.virtualBlocks - 1));
        return;
      }
      case "several":
        this.#several();
        return;
      case "discard": {
        const id = this.#activeId();
        // A commit just before: what takes long would let the kernel's timer strike between the parts of a discard.
        if (!this.#hasJustCommitted && this.#hasRoom(3)) this.#flushed(id, () => this.#write(id, this.#block()));
        this.#flushed(id, () => this.#discard(id));
        return;
      }
    }
  }

  #newId(): number {
    const random = this.#random;
    for (;;) {
      const id = random.oneIn(10) ? random.between(0, 16777215) : random.between(0, 120);
      if (!this.model.thins.has(id)) return id;
    }
  }

  /** An active device; activates one when there is none. */
  #activeId(): number {
    const active = [...this.model.active];
    if (active.length > 0) return this.#random.pick(active);
    const id = this.#random.pick([...this.model.thins.keys()]);
    this.#activate(id);
    return id;
  }

  #activate(id: number): void {
    const external = this.shape.originBytes !== undefined && this.#random.oneIn(2);
    this.#do({ kind: "activate", id, ...(external ? { external } : {}) });
  }

  /** Low blocks more often, so that they meet again. */
  #block(): number {
    const most = this.model.virtualBlocks - 1;
    return this.#random.oneIn(2) ? this.#random.between(0, most) : this.#random.between(0, Math.floor(most / 8));
  }

  #flushed(id: number, body: (id: number) => void): void {
    body(id);
    this.#do({ kind: "flush", id });
  }

  #write(id: number, block: number): void {
    const random = this.#random;
    const blockBytes = this.model.blockBytes;
    const seed = ++this.#seed;
    const start = block * blockBytes;
    const left = this.shape.thinBytes - start;
    if (random.oneIn(3)) {
      this.#do({ kind: "write", id, offsetBytes: start, lengthBytes: Math.min(blockBytes, left), seed });
      return;
    }
    const page = random.between(0, Math.min(blockBytes, left) / 4096 - 1);
    const pages = Math.min(random.between(1, 6), left / 4096 - page);
    this.#do({ kind: "write", id, offsetBytes: start + page * 4096, lengthBytes: pages * 4096, seed });
  }

  /** Several writes in one commit; the first has its own, so that the second's timer starts anew. */
  #group(count: number, nextBlock: () => number): void {
    const id = this.#activeId();
    this.#flushed(id, () => this.#write(id, nextBlock()));
    this.#flushed(id, () => {
      for (let done = 1; done < count; done++) this.#write(id, nextBlock());
    });
  }

  /** Writes to several devices; the flush of the first commits them all. */
  #several(): void {
    if (!this.#hasRoom(20)) return;
    const first = this.#activeId();
    this.#flushed(first, () => this.#write(first, this.#block()));
    for (const id of this.model.active) {
      this.#write(id, this.#block());
      if (this.#random.oneIn(2)) this.#discard(id);
    }
    for (const id of this.model.active) this.#do({ kind: "flush", id });
  }

  #discard(id: number): void {
    const random = this.#random;
    const { blockBytes, virtualBlocks } = this.model;
    const block = this.#block();
    const count = Math.min(random.oneIn(6) ? random.between(1, 300) : random.between(1, 12), virtualBlocks - block);
    const end = Math.min((block + count) * blockBytes, this.shape.thinBytes);
    let start = block * blockBytes + (random.oneIn(4) ? 4096 : 0);
    while (!staysWhole(start / SECTOR_BYTES, this.shape.blockSectors)) start += 4096;
    if (start < end) this.#do({ kind: "discard", id, offsetBytes: start, lengthBytes: end - start });
  }
}

/**
 * Whether Linux passes on a discard from that sector as one request. It cuts requests at multiples of the granularity
 * with arithmetic for powers of two, so that for other block sizes some are cut in the middle of a block.
 */
function staysWhole(sector: number, granularitySectors: number): boolean {
  const isPowerOfTwo = (granularitySectors & (granularitySectors - 1)) === 0;
  return isPowerOfTwo || sector === 0 || (((sector - 1) | (granularitySectors - 1)) >>> 0) + 1 === sector;
}
