/**
 * A pool as plain maps: what its thin devices hold and which data blocks they must have been given. It knows the rules of
 * allocation and sharing, and nothing of trees, space maps or devices.
 */
import { createHash } from "node:crypto";
import {
  fillPattern,
  ORIGIN_SEED,
  type PoolScript,
  type PoolShape,
  type PoolStep,
  SECTOR_BYTES,
} from "./pool-script.js";

const PAGE_BYTES = 4096;

export interface ModelMapping {
  readonly dataBlock: number;
  readonly time: number;
}

export interface ModelThin {
  readonly mappings: Map<number, ModelMapping>;
  /** Seed of every page that was written and not discarded since. */
  readonly pages: Map<number, number>;
  readonly transactionId: number;
  readonly creationTime: number;
  snapshottedTime: number;
  changed: boolean;
}

/** A pool's metadata in the words of thin_dump. */
export interface DumpModel {
  readonly time: number;
  readonly transactionId: number;
  readonly dataBlockSectors: number;
  readonly dataBlocks: number;
  readonly devices: readonly DumpDevice[];
}

export interface DumpDevice {
  readonly id: number;
  readonly mappedBlocks: number;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
  /** [virtual block, data block, time], ascending. */
  readonly mappings: readonly (readonly [number, number, number])[];
}

export class PoolModel {
  readonly thins = new Map<number, ModelThin>();
  readonly active = new Set<number>();
  /** Active devices whose holes show the external origin. */
  readonly #external = new Set<number>();
  readonly blockBytes: number;
  time = 0;
  transactionId = 0;
  dataBlocks: number;
  metadataBlocks: number;
  isHeld = false;
  #held: number[] = [];
  /** References from devices and the metadata snapshot, not from leaves: only whether it is zero is compared. */
  #references: Uint32Array;
  #committed: Uint32Array;
  #cursor = 0;
  #used = 0;

  constructor(readonly shape: PoolShape) {
    this.blockBytes = shape.blockSectors * SECTOR_BYTES;
    this.dataBlocks = shape.dataBlocks;
    this.metadataBlocks = shape.metadataBlocks;
    this.#references = new Uint32Array(shape.dataBlocks);
    this.#committed = new Uint32Array(shape.dataBlocks);
  }

  /** Data blocks that cannot be given out before the next commit. */
  get usedDataBlocks(): number {
    return this.#used;
  }

  get virtualBlocks(): number {
    return Math.ceil(this.shape.thinBytes / this.blockBytes);
  }

  thin(id: number): ModelThin {
    const thin = this.thins.get(id);
    if (thin === undefined) throw new Error(`the model has no device ${id}`);
    return thin;
  }

  run(script: PoolScript): this {
    for (const step of script.steps) this.apply(step);
    return this;
  }

  apply(step: PoolStep): void {
    switch (step.kind) {
      case "create-thin":
        this.thins.set(step.id, {
          mappings: new Map(),
          pages: new Map(),
          transactionId: this.transactionId,
          creationTime: this.time,
          snapshottedTime: this.time,
          changed: false,
        });
        this.#commit();
        return;
      case "create-snap": {
        const origin = this.thin(step.origin);
        this.time++;
        origin.snapshottedTime = this.time;
        for (const { dataBlock } of origin.mappings.values()) this.#reference(dataBlock);
        this.thins.set(step.id, {
          mappings: new Map(origin.mappings),
          pages: new Map(origin.pages),
          transactionId: this.transactionId,
          creationTime: this.time,
          snapshottedTime: this.time,
          changed: false,
        });
        this.#commit();
        return;
      }
      case "delete":
        for (const { dataBlock } of this.thin(step.id).mappings.values()) this.#drop(dataBlock);
        this.thins.delete(step.id);
        this.#commit();
        return;
      case "activate":
        this.active.add(step.id);
        if (step.external === true) this.#external.add(step.id);
        return;
      case "deactivate":
        this.active.delete(step.id);
        this.#external.delete(step.id);
        return;
      case "write":
        this.#write(step.id, step.offsetBytes, step.lengthBytes, step.seed);
        return;
      case "flush":
        if (this.thin(step.id).changed) this.#commit();
        return;
      case "discard":
        this.#discard(this.thin(step.id), step.offsetBytes, step.lengthBytes);
        return;
      case "grow-data":
        this.#grow(step.dataBlocks);
        this.#commit();
        return;
      case "reload":
        this.#grow(step.dataBlocks);
        this.#commit();
        return;
      case "grow-metadata":
        this.metadataBlocks = step.metadataBlocks;
        this.#commit();
        return;
      case "reserve":
        this.isHeld = true;
        for (const thin of this.thins.values()) {
          for (const { dataBlock } of thin.mappings.values()) this.#held.push(dataBlock);
        }
        for (const dataBlock of this.#held) this.#reference(dataBlock);
        this.#commit();
        return;
      case "release":
        this.isHeld = false;
        for (const dataBlock of this.#held) this.#drop(dataBlock);
        this.#held = [];
        this.#commit();
        return;
      case "set-transaction-id":
        this.transactionId = step.to;
        this.#commit();
        return;
      case "reopen":
        this.active.clear();
        this.#external.clear();
        this.#commit();
        this.#cursor = 0;
        return;
      case "status":
        if (step.noflush !== true) this.#commit();
        return;
      case "start-write":
      case "join":
      case "wait":
      case "metadata-fault":
      case "message":
      case "table":
      case "thin-status":
      case "thin-table":
      case "events":
      case "sum":
      case "checkpoint":
        return;
    }
  }

  /** The shape of a script that goes on from here. */
  get presentShape(): PoolShape {
    return { ...this.shape, dataBlocks: this.dataBlocks, metadataBlocks: this.metadataBlocks };
  }

  /** Another engine takes over: nothing is active, allocation starts at the bottom again. */
  reopen(): void {
    this.apply({ kind: "reopen" });
  }

  /** A tool moved data blocks below a new end; nothing holds the pool's blocks but its devices. */
  shrink(dataBlocks: number, placeOf: (dataBlock: number) => number): void {
    for (const { mappings } of this.thins.values()) {
      for (const [virtualBlock, { dataBlock, time }] of mappings) {
        mappings.set(virtualBlock, { dataBlock: placeOf(dataBlock), time });
      }
    }
    const moved = new Uint32Array(dataBlocks);
    for (const [block, count] of this.#references.entries()) if (count !== 0) moved[placeOf(block)] = count;
    this.#references = moved;
    this.dataBlocks = dataBlocks;
    this.#commit();
    this.reopen();
  }

  /** Fingerprint of a thin device: the pages that are not all zeros, each behind its offset. */
  sum(id: number): string {
    const hash = createHash("sha256");
    const page = new Uint8Array(PAGE_BYTES);
    const where = new DataView(new ArrayBuffer(8));
    for (const [index, seed] of [...this.#visiblePages(id)].sort(([a], [b]) => a - b)) {
      where.setBigUint64(0, BigInt(index * PAGE_BYTES), true);
      fillPattern(page, index * PAGE_BYTES, seed);
      hash.update(new Uint8Array(where.buffer)).update(page);
    }
    return hash.digest("hex");
  }

  /** "MAPPED HIGHEST" in sectors, as a thin device's status line says. */
  thinStatus(id: number): string {
    const { mappings } = this.thin(id);
    const { blockSectors } = this.shape;
    const highest = mappings.size === 0 ? "-" : String((Math.max(...mappings.keys()) + 1) * blockSectors - 1);
    return `${mappings.size * blockSectors} ${highest}`;
  }

  /** What thin_dump must say of the last commit. */
  dump(): DumpModel {
    const devices = [...this.thins].sort(([a], [b]) => a - b);
    return {
      time: this.time,
      transactionId: this.transactionId,
      dataBlockSectors: this.shape.blockSectors,
      dataBlocks: this.dataBlocks,
      devices: devices.map(([id, thin]) => ({
        id,
        mappedBlocks: thin.mappings.size,
        transactionId: thin.transactionId,
        creationTime: thin.creationTime,
        snapshottedTime: thin.snapshottedTime,
        mappings: [...thin.mappings]
          .sort(([a], [b]) => a - b)
          .map(([virtualBlock, { dataBlock, time }]) => [virtualBlock, dataBlock, time] as const),
      })),
    };
  }

  #write(id: number, offsetBytes: number, lengthBytes: number, seed: number): void {
    const thin = this.thin(id);
    const last = Math.floor((offsetBytes + lengthBytes - 1) / this.blockBytes);
    for (let block = Math.floor(offsetBytes / this.blockBytes); block <= last; block++) {
      const present = thin.mappings.get(block);
      if (present !== undefined && thin.snapshottedTime <= present.time) continue;
      const dataBlock = this.#allocate();
      thin.mappings.set(block, { dataBlock, time: this.time });
      if (present !== undefined) this.#drop(present.dataBlock);
      else if (this.#external.has(id)) this.#fillFromOrigin(thin, block);
      thin.changed = true;
    }
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += PAGE_BYTES) thin.pages.set(at / PAGE_BYTES, seed);
  }

  #fillFromOrigin(thin: ModelThin, block: number): void {
    const pagesPerBlock = this.blockBytes / PAGE_BYTES;
    const end = Math.min((block + 1) * pagesPerBlock, this.#originPages);
    for (let page = block * pagesPerBlock; page < end; page++) thin.pages.set(page, ORIGIN_SEED);
  }

  get #originPages(): number {
    return Math.min(this.shape.originBytes ?? 0, this.shape.thinBytes) / PAGE_BYTES;
  }

  /** Seeds of the pages that a reader sees, holes of an external origin included. */
  #visiblePages(id: number): Map<number, number> {
    const thin = this.thin(id);
    if (!this.#external.has(id)) return thin.pages;
    const pagesPerBlock = this.blockBytes / PAGE_BYTES;
    const pages = new Map(thin.pages);
    for (let page = 0; page < this.#originPages; page++) {
      if (!thin.mappings.has(Math.floor(page / pagesPerBlock))) pages.set(page, ORIGIN_SEED);
    }
    return pages;
  }

  #discard(thin: ModelThin, offsetBytes: number, lengthBytes: number): void {
    const end = Math.floor((offsetBytes + lengthBytes) / this.blockBytes);
    const pagesPerBlock = this.blockBytes / PAGE_BYTES;
    for (let block = Math.ceil(offsetBytes / this.blockBytes); block < end; block++) {
      const present = thin.mappings.get(block);
      if (present === undefined) continue;
      thin.mappings.delete(block);
      this.#drop(present.dataBlock);
      thin.changed = true;
      for (let page = 0; page < pagesPerBlock; page++) thin.pages.delete(block * pagesPerBlock + page);
    }
  }

  #allocate(): number {
    for (const start of [this.#cursor, 0]) {
      for (let block = start; block < this.#references.length; block++) {
        if (this.#references[block] !== 0 || (this.#committed[block] ?? 0) !== 0) continue;
        this.#cursor = block + 1;
        this.#reference(block);
        return block;
      }
    }
    throw new Error("the model's data device is full");
  }

  #reference(block: number): void {
    this.#references[block]!++;
    if (this.#references[block] === 1) this.#used++;
  }

  #drop(block: number): void {
    this.#references[block]!--;
  }

  #grow(dataBlocks: number): void {
    const grown = new Uint32Array(dataBlocks);
    grown.set(this.#references);
    this.#references = grown;
    this.dataBlocks = dataBlocks;
  }

  #commit(): void {
    this.#committed = this.#references.slice();
    this.#used = 0;
    for (const count of this.#references) if (count !== 0) this.#used++;
    for (const thin of this.thins.values()) thin.changed = false;
  }
}
