/** A pool on devices in memory with everything a test wants to look at; it is checked when it is closed. */
import { expect } from "vitest";
import { codeOf } from "../../src/errors/index.js";
import { type BlockDevice, MemoryDevice } from "../../src/io/index.js";
import {
  NO_FEATURES,
  Pool,
  type PoolConfig,
  type PoolFeatures,
  type PoolOptions,
  type ThinDevice,
} from "../../src/thin/index.js";
import { expectCleanPool, type MetadataReport } from "./check-metadata.js";
import { fillPattern } from "./pool-script.js";

export interface PoolBenchOptions {
  readonly metadataBlocks?: number;
  readonly dataBlocks?: number;
  readonly blockSectors?: number;
  readonly lowWaterBlocks?: number;
  readonly features?: Partial<PoolFeatures>;
  readonly thinBlocks?: number;
  /** Put between the pool and the devices in memory. */
  readonly wrapMetadata?: (device: MemoryDevice) => BlockDevice;
  readonly wrapData?: (device: MemoryDevice) => BlockDevice;
  readonly pool?: Partial<PoolOptions>;
  readonly from?: { readonly metadata: MemoryDevice; readonly data: MemoryDevice };
}

export class PoolBench {
  readonly metadata: MemoryDevice;
  readonly data: MemoryDevice;
  readonly pool: Pool;
  readonly log: string[] = [];
  readonly #thins: ThinDevice[] = [];

  private constructor(readonly options: PoolBenchOptions) {
    const { metadataBlocks = 2048, dataBlocks = 64 } = options;
    this.metadata = options.from?.metadata ?? new MemoryDevice({ name: "metadata", sizeBytes: metadataBlocks * 4096 });
    this.data = options.from?.data ?? new MemoryDevice({ name: "data", sizeBytes: dataBlocks * this.blockBytes });
    this.pool = Pool.load({
      name: "253:0",
      metadata: options.wrapMetadata?.(this.metadata) ?? this.metadata,
      data: options.wrapData?.(this.data) ?? this.data,
      config: this.config(),
      log: (line) => this.log.push(line),
      commitPeriodMs: 0,
      noSpaceTimeoutMs: 0,
      ...options.pool,
    });
  }

  /** Loaded and resumed. */
  static async open(options: PoolBenchOptions = {}): Promise<PoolBench> {
    const bench = new PoolBench(options);
    await bench.pool.resume();
    return bench;
  }

  /** Loaded only. */
  static load(options: PoolBenchOptions = {}): PoolBench {
    return new PoolBench(options);
  }

  get blockBytes(): number {
    return (this.options.blockSectors ?? 128) * 512;
  }

  config(
    changes: {
      readonly dataBlocks?: number;
      readonly lowWaterBlocks?: number;
      readonly features?: Partial<PoolFeatures>;
    } = {},
  ): PoolConfig {
    const { dataBlocks = 64, blockSectors = 128, lowWaterBlocks = 0, features = {} } = this.options;
    return {
      lengthSectors: (changes.dataBlocks ?? dataBlocks) * blockSectors,
      dataBlockSectors: blockSectors,
      lowWaterBlocks: changes.lowWaterBlocks ?? lowWaterBlocks,
      features: { ...NO_FEATURES, ...features, ...changes.features },
    };
  }

  thin(
    id: number,
    options: { readonly blocks?: number; readonly bytes?: number; readonly externalOrigin?: BlockDevice } = {},
  ): ThinDevice {
    const { blocks = this.options.thinBlocks ?? 128, bytes, externalOrigin } = options;
    const thin = this.pool.openThin(id, {
      name: `thin ${id}`,
      sizeBytes: bytes ?? blocks * this.blockBytes,
      ...(externalOrigin === undefined ? {} : { externalOrigin }),
    });
    this.#thins.push(thin);
    return thin;
  }

  /** A new device, opened. */
  async create(id: number): Promise<ThinDevice> {
    await this.pool.message(["create_thin", String(id)]);
    return this.thin(id);
  }

  message(text: string): Promise<void> {
    return this.pool.message(text.split(" "));
  }

  /** Suspends, changes the table line, resumes. */
  async reload(changes: Parameters<PoolBench["config"]>[0]): Promise<void> {
    await this.pool.suspend();
    const config = this.config(changes);
    this.data.resize(Math.max(this.data.sizeBytes, config.lengthSectors * 512));
    await this.pool.resume(config);
  }

  /** Closes, and holds what is left against the rules. */
  async close(options: { readonly mayLeakData?: boolean } = {}): Promise<MetadataReport> {
    for (const thin of this.#thins) await thin.close();
    await this.pool.close();
    return expectCleanPool(this.metadata, options);
  }

  /** Opens the same devices again. */
  async reopen(options: PoolBenchOptions = {}): Promise<PoolBench> {
    await this.close();
    return PoolBench.open({ ...this.options, ...options, from: this });
  }
}

/** Bytes of a pattern, as a device holds them at `offset`. */
export function pattern(offset: number, length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  fillPattern(bytes, offset, seed);
  return bytes;
}

export async function readBytes(device: BlockDevice, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length).fill(0xee);
  await device.read(offset, bytes);
  return bytes;
}

export async function expectBytes(device: BlockDevice, offset: number, wanted: Uint8Array): Promise<void> {
  const found = await readBytes(device, offset, wanted.length);
  if (Buffer.compare(found, wanted) === 0) return;
  const at = found.findIndex((byte, index) => byte !== wanted[index]);
  expect.fail(`byte ${offset + at} is ${found[at]}, wanted ${wanted[at]}`);
}

export async function expectZeros(device: BlockDevice, offset: number, length: number): Promise<void> {
  await expectBytes(device, offset, new Uint8Array(length));
}

/** The errno of what must fail. */
export async function codeOfFailure(run: () => unknown): Promise<string | undefined> {
  try {
    await run();
  } catch (error) {
    return codeOf(error) ?? String(error);
  }
  return "ok";
}

/** Some turns of the event loop, for what goes on by itself. */
export async function settle(turns = 20): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Whether a promise is still open after some turns. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let isOpen = true;
  const note = () => {
    isOpen = false;
  };
  promise.then(note, note);
  await settle();
  return isOpen;
}
