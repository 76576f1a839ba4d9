/**
 * Pools for shrinking: random mappings of devices and snapshots over most of the data device, shared in every way, then
 * thinned out. Each data block in use bears its number, first and last, so that a block can be told wherever it went.
 */
import { expect } from "vitest";
import type { BlockDevice } from "../../src/io/index.js";
import { ThinMetadata } from "../../src/thin/index.js";
import { checkMetadata, deviceSource, type MetadataReport } from "./check-metadata.js";
import { ForkDevice } from "./fork-device.js";
import { Random } from "./random.js";

const SECTOR = 512;
const METADATA_BLOCK = 4096;

export interface ShrinkPoolOptions {
  readonly seed: number;
  readonly dataBlocks: number;
  readonly metadataBlocks: number;
  readonly blockSectors?: number;
  /** Devices without an origin. */
  readonly devices?: number;
  readonly snapshots?: number;
  /** Share of the data device that is mapped at most. */
  readonly fill?: number;
  /** Share of the mappings that is taken away again. */
  readonly thinning?: number;
  /** Longest run written at once. */
  readonly run?: number;
  readonly holdsSnapshot?: boolean;
}

export interface ShrinkPool {
  /** The two devices may be forked; they were not changed since `before`. */
  readonly metadata: ForkDevice;
  readonly data: ForkDevice;
  readonly blockBytes: number;
  /** What it was like when it was made. */
  readonly before: MetadataReport;
}

export function makeShrinkPool(options: ShrinkPoolOptions): ShrinkPool {
  const { seed, dataBlocks, metadataBlocks, blockSectors = 128, devices = 2, snapshots = 4 } = options;
  const { fill = 0.9, thinning = 0.5, run = 40 } = options;
  const random = new Random(seed);
  const metadata = new ForkDevice("metadata", metadataBlocks * METADATA_BLOCK);
  const blockBytes = blockSectors * SECTOR;
  const data = new ForkDevice("data", dataBlocks * blockBytes);
  const engine = ThinMetadata.open(metadata.sync, metadataBlocks, {
    dataBlockSectors: blockSectors,
    mayFormat: true,
    isDeviceReadOnly: false,
  });
  engine.resizeData(dataBlocks);
  engine.commit();
  const virtualBlocks = dataBlocks * 2;
  const write = (id: number, blocks: number, begin: number, end: number): void => {
    const device = engine.openDevice(id);
    for (let left = blocks; left > 0; ) {
      const length = Math.min(left, random.between(1, run));
      const first = random.between(begin, Math.max(begin, end - length));
      engine.insertMappings(
        device,
        first,
        Array.from({ length }, () => engine.allocateDataBlock()!),
      );
      left -= length;
    }
    engine.closeDevice(device);
  };
  const thinOut = (id: number, blocks: number, begin: number, end: number): void => {
    const device = engine.openDevice(id);
    for (let left = blocks; left > 0; ) {
      const length = Math.min(left, random.between(1, run * 2));
      const first = random.between(begin, end - 1);
      engine.removeMappings(device, first, Math.min(end, first + length));
      left -= length;
    }
    engine.closeDevice(device);
  };
  for (let id = 0; id < devices; id++) engine.createThin(id);
  engine.commit();
  // Half of it everywhere in the first devices; snapshots then differ from their origins in a window each, and share the
  // nodes of all the rest.
  const room = Math.floor(dataBlocks * fill);
  const ofEach = Math.floor(room / 2 / devices);
  for (let id = 0; id < devices; id++) write(id, ofEach, 0, virtualBlocks);
  engine.commit();
  for (let id = 0; id < devices; id++) thinOut(id, Math.floor((virtualBlocks * thinning) / devices), 0, virtualBlocks);
  engine.commit();
  const ofSnapshot = Math.floor(room / 2 / (snapshots + 1));
  const width = Math.max(run * 2, Math.floor(virtualBlocks / 10));
  for (let round = 0; round <= snapshots; round++) {
    const id = random.between(0, devices + round - 1);
    const begin = random.between(0, Math.max(0, virtualBlocks - width));
    write(id, ofSnapshot, begin, begin + width);
    thinOut(id, Math.floor(width * thinning), begin, begin + width);
    engine.commit();
    if (round === snapshots) break;
    engine.createSnapshot(devices + round, random.between(0, devices + round - 1));
    engine.commit();
  }
  if (options.holdsSnapshot === true) {
    engine.reserveSnapshot();
    engine.commit();
    thinOut(0, Math.floor(virtualBlocks / 20), 0, virtualBlocks);
    engine.commit();
  }
  const before = checkMetadata(deviceSource(metadata));
  expect(before.damage).toEqual([]);
  for (const block of usedBlocks(before)) stamp(data, block, blockBytes);
  return { metadata, data, blockBytes, before };
}

export function usedBlocks({ pool, held }: MetadataReport): Set<number> {
  const devices = [...pool.devices, ...(held?.devices ?? [])];
  return new Set(devices.flatMap(({ mappings }) => mappings.map(([, block]) => block)));
}

/** Least size the pool can be given, and one block more than the highest in use. */
export function boundsOf(report: MetadataReport): { readonly least: number; readonly highest: number } {
  const used = usedBlocks(report);
  return { least: used.size, highest: Math.max(0, ...used) + 1 };
}

function stamp(data: ForkDevice, block: number, blockBytes: number): void {
  const sector = new Uint8Array(SECTOR);
  new DataView(sector.buffer).setUint32(0, block + 1, true);
  data.sync.write(block * blockBytes, sector);
  data.sync.write((block + 1) * blockBytes - SECTOR, sector);
}

function stampOf(data: Pick<BlockDevice, "sync">, block: number, blockBytes: number): number {
  const sector = new Uint8Array(SECTOR);
  const view = new DataView(sector.buffer);
  data.sync!.read(block * blockBytes, sector);
  const first = view.getUint32(0, true);
  data.sync!.read((block + 1) * blockBytes - SECTOR, sector);
  return view.getUint32(0, true) === first ? first - 1 : -1;
}

/**
 * A whole pool with the devices, times and bytes it had, whose data blocks may lie elsewhere; what was shared is shared,
 * nodes of trees included.
 */
export function expectSamePool(
  pool: ShrinkPool,
  devices: { readonly metadata: Parameters<typeof deviceSource>[0]; readonly data: Pick<BlockDevice, "sync"> },
  title = "",
): MetadataReport {
  const after = checkMetadata(deviceSource(devices.metadata));
  expect(after.damage, title).toEqual([]);
  const { before, blockBytes } = pool;
  expect(headOf(after), title).toEqual(headOf(before));
  const origin = new Map<number, number>();
  for (const [index, device] of after.pool.devices.entries()) {
    const wanted = before.pool.devices[index]!;
    const found = device.mappings.map(([virtual, block, time]) => {
      let stamp = origin.get(block);
      if (stamp === undefined) {
        stamp = stampOf(devices.data, block, blockBytes);
        origin.set(block, stamp);
      }
      return [virtual, stamp, time];
    });
    expect(found, `${title}: device ${device.id}`).toEqual(wanted.mappings);
  }
  expect(new Set(origin.values()).size, `${title}: blocks shared`).toBe(origin.size);
  expect(nodesOf(after), `${title}: nodes of mapping trees`).toBe(nodesOf(before));
  return after;
}

function headOf({ pool, flags }: MetadataReport): unknown {
  const { time, transactionId, dataBlockSectors } = pool;
  const devices = pool.devices.map(({ mappings: _, ...details }) => details);
  return { time, transactionId, dataBlockSectors, flags, devices };
}

/** Nodes of mapping trees, each once. */
export function nodesOf({ blocks }: MetadataReport): number {
  return [...blocks.values()].filter(({ role }) => role === "mapping").length;
}
