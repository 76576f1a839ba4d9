/**
 * Random histories of a pool's metadata, without a data device, against plain maps: thousands of mappings, so that trees
 * split and merge on every level. At every commit, abort and reopening the image is walked by the checker and must hold
 * exactly what the maps say.
 */
import fc from "fast-check";
import { expect } from "vitest";
import { codeOf } from "../../src/errors/index.js";
import { MemoryDevice } from "../../src/io/index.js";
import { type OpenDevice, ThinMetadata } from "../../src/thin/index.js";
import { checkMetadata, deviceSource } from "./check-metadata.js";

interface ModelDevice {
  readonly mappings: Map<number, readonly [block: number, time: number]>;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}

interface ModelState {
  readonly devices: ReadonlyMap<number, ModelDevice>;
  readonly time: number;
  readonly transactionId: number;
  readonly dataBlocks: number;
  readonly isHeld: boolean;
}

const WEIGHTS = {
  create: 3,
  snap: 5,
  delete: 2,
  insert: 16,
  insertScattered: 6,
  remove: 8,
  commit: 6,
  abort: 1,
  reopen: 1,
  reserve: 1,
  release: 1,
  growData: 1,
  growMetadata: 1,
  transactionId: 1,
};

export interface MetadataOperation {
  readonly kind: keyof typeof WEIGHTS;
  readonly a: number;
  readonly b: number;
  readonly c: number;
}

export const METADATA_OPERATION: fc.Arbitrary<MetadataOperation> = fc.oneof(
  ...Object.entries(WEIGHTS).map(([kind, weight]) => ({
    weight,
    arbitrary: fc.record({
      kind: fc.constant(kind as keyof typeof WEIGHTS),
      a: fc.nat(10_000),
      b: fc.nat(10_000),
      c: fc.nat(10_000),
    }),
  })),
);

export interface MetadataModelOptions {
  readonly metadataBlocks: number;
  readonly dataBlocks: number;
  /** Virtual blocks mapped by one operation at most. */
  readonly maxRun: number;
  readonly cacheBlocks?: number;
}

const MAX_DEVICES = 8;

export class MetadataModelRun {
  readonly device: MemoryDevice;
  #metadata: ThinMetadata;
  readonly #open = new Map<number, OpenDevice>();
  #live: {
    devices: Map<number, ModelDevice>;
    time: number;
    transactionId: number;
    dataBlocks: number;
    isHeld: boolean;
  };
  #committed: ModelState;
  operations = 0;
  checks = 0;

  constructor(readonly options: MetadataModelOptions) {
    this.device = new MemoryDevice({ sizeBytes: options.metadataBlocks * 4096 });
    this.#metadata = this.#openMetadata();
    this.#metadata.resizeData(options.dataBlocks);
    this.#metadata.commit();
    this.#live = { devices: new Map(), time: 0, transactionId: 0, dataBlocks: options.dataBlocks, isHeld: false };
    this.#committed = copyOf(this.#live);
  }

  apply({ kind, a, b, c }: MetadataOperation): void {
    this.operations++;
    const live = this.#live;
    const ids = [...live.devices.keys()];
    const id = ids[a % Math.max(ids.length, 1)];
    const newId = b % 60;
    switch (kind) {
      case "create":
        if (live.devices.has(newId)) expect(() => this.#metadata.createThin(newId)).toThrow(/exists/);
        else if (ids.length < MAX_DEVICES) {
          this.#metadata.createThin(newId);
          live.devices.set(newId, this.#newDevice(new Map()));
        }
        return;
      case "snap":
        if (id === undefined || ids.length >= MAX_DEVICES || live.devices.has(newId)) return;
        this.#metadata.createSnapshot(newId, id);
        live.time++;
        live.devices.set(newId, this.#newDevice(new Map(live.devices.get(id)!.mappings)));
        live.devices.set(id, { ...live.devices.get(id)!, snapshottedTime: live.time });
        return;
      case "delete":
        if (id === undefined) return;
        if (b % 3 === 0) {
          this.#use(id);
          expect(() => this.#metadata.deleteThin(id)).toThrow(/in use/);
        }
        this.#letGo(id);
        this.#metadata.deleteThin(id);
        live.devices.delete(id);
        return;
      case "insert":
        if (id !== undefined) this.#insert(id, b % 3000, 1 + (c % this.options.maxRun), 1);
        return;
      case "insertScattered":
        if (id !== undefined) this.#insert(id, b % 3000, 1 + (c % (this.options.maxRun / 4)), 1 + (b % 11));
        return;
      case "remove": {
        if (id === undefined) return;
        const begin = b % 3000;
        const end = begin + 1 + (c % (c % 4 === 0 ? 5000 : this.options.maxRun));
        const { mappings } = live.devices.get(id)!;
        const gone = [...mappings.keys()].filter((block) => block >= begin && block < end);
        expect(this.#metadata.removeMappings(this.#use(id), begin, end)).toBe(gone.length);
        for (const block of gone) mappings.delete(block);
        return;
      }
      case "transactionId":
        this.#metadata.setTransactionId(live.transactionId, b * 900_000_000_000 + c);
        live.transactionId = b * 900_000_000_000 + c;
        return;
      case "growData":
        live.dataBlocks += 1 + (b % 400);
        this.#metadata.resizeData(live.dataBlocks);
        this.commit();
        return;
      case "growMetadata": {
        const blocks = this.#metadata.metadataBlocks + 1 + (b % 300);
        this.device.resize(blocks * 4096);
        this.#metadata.resizeMetadata(blocks);
        this.commit();
        return;
      }
      case "reserve":
        if (live.isHeld) return;
        this.commit();
        this.#metadata.reserveSnapshot();
        live.isHeld = true;
        this.commit();
        return;
      case "release":
        if (!live.isHeld) return;
        this.#metadata.releaseSnapshot();
        live.isHeld = false;
        return;
      case "commit":
        this.commit();
        return;
      case "abort":
        this.#metadata.abort();
        this.#live = copyOf(this.#committed);
        this.#open.clear();
        this.#metadata = this.#openMetadata();
        this.check();
        return;
      case "reopen":
        this.commit();
        this.#open.clear();
        this.#metadata = this.#openMetadata();
    }
  }

  /** Commits and holds the image against the model. */
  commit(): void {
    this.#metadata.commit();
    this.#committed = copyOf(this.#live);
    this.check();
  }

  check(): void {
    this.checks++;
    const { damage, pool, heldRoot } = checkMetadata(deviceSource(this.device), { mayLeakData: false });
    expect(damage).toEqual([]);
    const state = this.#committed;
    expect(heldRoot !== 0).toBe(state.isHeld);
    expect([pool.time, pool.transactionId, pool.dataBlocks]).toEqual([
      state.time,
      state.transactionId,
      state.dataBlocks,
    ]);
    expect(pool.devices.map(({ id }) => id)).toEqual([...state.devices.keys()].sort((x, y) => x - y));
    for (const { id, mappings, mappedBlocks, ...times } of pool.devices) {
      const wanted = state.devices.get(id)!;
      expect(mappedBlocks).toBe(wanted.mappings.size);
      expect([times.transactionId, times.creationTime, times.snapshottedTime]).toEqual([
        wanted.transactionId,
        wanted.creationTime,
        wanted.snapshottedTime,
      ]);
      expect(mappings.length).toBe(wanted.mappings.size);
      for (const [virtualBlock, block, time] of mappings) {
        const mapping = wanted.mappings.get(virtualBlock);
        if (mapping === undefined || mapping[0] !== block || mapping[1] !== time) {
          expect([virtualBlock, block, time]).toEqual([virtualBlock, ...(mapping ?? [])]);
        }
      }
    }
  }

  #newDevice(mappings: ModelDevice["mappings"]): ModelDevice {
    const { time, transactionId } = this.#live;
    return { mappings, transactionId, creationTime: time, snapshottedTime: time };
  }

  #insert(id: number, begin: number, count: number, stride: number): void {
    const device = this.#use(id);
    const { mappings } = this.#live.devices.get(id)!;
    for (let index = 0; index < count; index++) {
      const virtualBlock = begin + index * stride;
      const block = this.#metadata.allocateDataBlock();
      if (block === undefined) return;
      this.#metadata.insertMapping(device, virtualBlock, block);
      mappings.set(virtualBlock, [block, this.#live.time]);
    }
  }

  #use(id: number): OpenDevice {
    let device = this.#open.get(id);
    if (device === undefined) {
      device = this.#metadata.openDevice(id);
      this.#open.set(id, device);
    }
    return device;
  }

  #letGo(id: number): void {
    const device = this.#open.get(id);
    if (device !== undefined) this.#metadata.closeDevice(device);
    this.#open.delete(id);
  }

  #openMetadata(): ThinMetadata {
    const { cacheBlocks } = this.options;
    return ThinMetadata.open(this.device.sync, this.device.sizeBytes / 4096, {
      dataBlockSectors: 128,
      mayFormat: true,
      isDeviceReadOnly: false,
      ...(cacheBlocks === undefined ? {} : { cacheBlocks }),
    });
  }
}

const COMMIT: MetadataOperation = { kind: "commit", a: 0, b: 0, c: 0 };

/** Runs a sequence and holds the end against the model. @returns how many operations and checks it was */
export function runMetadataModel(
  options: MetadataModelOptions,
  operations: readonly MetadataOperation[],
): { readonly operations: number; readonly checks: number } {
  const run = new MetadataModelRun(options);
  for (const operation of [...operations, COMMIT]) {
    try {
      run.apply(operation);
    } catch (error) {
      // Metadata that is full has tests of its own.
      if (codeOf(error) !== "ENOSPC") throw error;
      run.apply({ kind: "abort", a: 0, b: 0, c: 0 });
    }
  }
  return run;
}

function copyOf(state: ModelState): ModelState & { devices: Map<number, ModelDevice> } {
  return {
    ...state,
    devices: new Map([...state.devices].map(([id, device]) => [id, { ...device, mappings: new Map(device.mappings) }])),
  };
}
