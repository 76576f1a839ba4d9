/**
 * The pools that the damage goldens begin with, made by the engine: everything a case can want to hit is in one of them.
 * Mappings run in steps, so that an image packs into a few kilobytes.
 */
import { MemoryDevice } from "../../src/io/index.js";
import { ThinMetadata } from "../../src/thin/index.js";
import { METADATA_BLOCK_BYTES } from "./metadata-image.js";

const DATA_BLOCK_SECTORS = 128;

export class PoolMaker {
  readonly #device: MemoryDevice;
  readonly metadata: ThinMetadata;

  constructor(
    readonly metadataBlocks: number,
    dataBlocks: number,
  ) {
    this.#device = new MemoryDevice({ sizeBytes: metadataBlocks * METADATA_BLOCK_BYTES });
    this.metadata = ThinMetadata.open(this.#device.sync, metadataBlocks, {
      dataBlockSectors: DATA_BLOCK_SECTORS,
      mayFormat: true,
      isDeviceReadOnly: false,
    });
    this.metadata.resizeData(dataBlocks);
    this.metadata.commit();
  }

  /** Maps `count` blocks from `first` on, `step` apart; what was mapped before is given up. */
  write(id: number, first: number, count: number, step = 1): void {
    const { metadata } = this;
    const device = metadata.openDevice(id);
    for (let index = 0; index < count; index++) {
      const block = metadata.allocateDataBlock();
      if (block === undefined) throw new Error("the data device of the pool is full");
      metadata.insertMapping(device, first + index * step, block);
    }
    metadata.closeDevice(device);
    metadata.commit();
  }

  trim(id: number, begin: number, end: number): void {
    const device = this.metadata.openDevice(id);
    this.metadata.removeMappings(device, begin, end);
    this.metadata.closeDevice(device);
    this.metadata.commit();
  }

  snap(id: number, origin: number): void {
    this.metadata.createSnapshot(id, origin);
    this.metadata.commit();
  }

  image(): Uint8Array {
    this.metadata.commit();
    const bytes = new Uint8Array(this.metadataBlocks * METADATA_BLOCK_BYTES);
    this.#device.sync.read(0, bytes);
    return bytes;
  }
}

/**
 * Some devices: large ones with snapshots that share leaves, share roots and went their own ways, a small one, an empty
 * one, a sparse one; a metadata snapshot that is older than the rest; counts of three and more in both maps.
 */
export function makeUsualPool(): Uint8Array {
  const maker = new PoolMaker(160, 40_000);
  const { metadata } = maker;
  metadata.createThin(1);
  maker.write(1, 0, 2200);
  maker.write(1, 5000, 400, 3);
  maker.snap(2, 1);
  maker.write(1, 100, 60);
  maker.snap(3, 1);
  maker.snap(4, 3);
  maker.write(4, 1900, 500);
  metadata.createThin(5);
  maker.write(5, 10, 12, 7);
  metadata.createThin(6);
  metadata.setTransactionId(0, 3);
  maker.snap(8, 5);
  metadata.reserveSnapshot();
  metadata.commit();
  metadata.createThin(7);
  maker.write(7, 0, 700, 1000);
  maker.write(5, 17, 5, 7);
  maker.trim(2, 300, 700);
  maker.snap(9, 3);
  maker.write(1, 6000, 30);
  metadata.setTransactionId(3, 7);
  return maker.image();
}

/** Three hundred devices, most of them snapshots that share all: the trees of devices and of details have two levels. */
export function makeManyDevices(): Uint8Array {
  const maker = new PoolMaker(96, 20_000);
  maker.metadata.createThin(1);
  maker.write(1, 0, 600);
  for (let id = 2; id <= 300; id++) maker.metadata.createSnapshot(id, id % 50 === 0 ? id - 1 : 1);
  maker.write(300, 40, 20);
  maker.metadata.setTransactionId(0, 300);
  return maker.image();
}

/** A pool in which nothing was ever made. */
export function makeEmptyPool(): Uint8Array {
  return new PoolMaker(64, 1000).image();
}

export const DAMAGE_BASES = { usual: makeUsualPool, many: makeManyDevices } as const;
export type DamageBase = keyof typeof DAMAGE_BASES;
