/**
 * Metadata of large pools, made by the engine as a pool in use makes it: an origin that was written from front to back
 * or all over, then snapshots of it, with some of the origin overwritten after each. The same every time.
 */
import { FileDevice } from "../../src/io/index.js";
import { type OpenDevice, ThinMetadata } from "../../src/thin/index.js";
import { Random } from "./random.js";

export interface LargeMetadata {
  readonly layout: "sequential" | "random";
  /** Mappings of the origin, and so of each snapshot. */
  readonly originMappings: number;
  readonly snapshots: number;
  /** What part of the origin is overwritten after each snapshot. */
  readonly divergence: number;
}

/** The origin is device 1, snapshots are 2 and so on: each is older than the next. */
export const ORIGIN = 1;

const BLOCK_SECTORS = 128;
const METADATA_BLOCK_BYTES = 4096;
/** Entries of a leaf that was written in random order, with some to spare. */
const LEAST_FILL = 160;
/** Blocks that are overwritten in a row. */
const STRETCH_BLOCKS = 64;
const RUN_BLOCKS = 8192;
const ALL_IN_MEMORY = 2 ** 24;

/** Writes a new file of metadata. */
export function makeLargeMetadata(path: string, shape: LargeMetadata): void {
  const { layout, originMappings, snapshots, divergence } = shape;
  const changed = Math.ceil((originMappings * divergence) / STRETCH_BLOCKS) * STRETCH_BLOCKS;
  const dataBlocks = originMappings + snapshots * changed + 1024;
  const leaves = originMappings / LEAST_FILL + snapshots * (changed / 32 + 64);
  const metadataBlocks = Math.ceil(leaves * 1.2 + dataBlocks / 8000) + 4096;
  const device = FileDevice.open(path, { createBytes: metadataBlocks * METADATA_BLOCK_BYTES });
  const metadata = ThinMetadata.open(device.sync, metadataBlocks, {
    dataBlockSectors: BLOCK_SECTORS,
    mayFormat: true,
    isDeviceReadOnly: false,
    // Nodes that are new in a transaction stay where they are: with all of them in memory one transaction will do.
    cacheBlocks: ALL_IN_MEMORY,
  });
  metadata.resizeData(dataBlocks);
  metadata.createThin(ORIGIN);
  const origin = metadata.openDevice(ORIGIN);
  if (layout === "sequential") fillInOrder(metadata, origin, originMappings);
  else fillAllOver(metadata, origin, originMappings);
  metadata.commit();
  const random = new Random(7);
  for (let snapshot = 0; snapshot < snapshots; snapshot++) {
    metadata.createSnapshot(ORIGIN + 1 + snapshot, ORIGIN);
    overwrite(metadata, origin, shape, changed, random);
    metadata.commit();
  }
  metadata.closeDevice(origin);
  device.sync.flush();
  void device.close();
}

function fillInOrder(metadata: ThinMetadata, origin: OpenDevice, mappings: number): void {
  for (let block = 0; block < mappings; block += RUN_BLOCKS) {
    const count = Math.min(RUN_BLOCKS, mappings - block);
    metadata.insertMappings(origin, block, allocate(metadata, count));
  }
}

/** Each block once, in an order that jumps: steps of a length that has no divisor in common with the number. */
function fillAllOver(metadata: ThinMetadata, origin: OpenDevice, mappings: number): void {
  const step = coprimeStep(mappings);
  for (let count = 0, block = 0; count < mappings; count++) {
    metadata.insertMapping(origin, block, metadata.allocateDataBlock()!);
    block += step;
    if (block >= mappings) block -= mappings;
  }
}

function coprimeStep(mappings: number): number {
  const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));
  let step = Math.floor(mappings * 0.6180339887);
  while (gcd(step, mappings) !== 1) step++;
  return step;
}

function overwrite(
  metadata: ThinMetadata,
  origin: OpenDevice,
  { layout, originMappings }: LargeMetadata,
  changed: number,
  random: Random,
): void {
  for (let done = 0; done < changed; done += STRETCH_BLOCKS) {
    const first = random.between(0, Math.max(0, Math.floor(originMappings / STRETCH_BLOCKS) - 1)) * STRETCH_BLOCKS;
    const count = Math.min(STRETCH_BLOCKS, originMappings - first);
    const blocks = allocate(metadata, count);
    metadata.insertMappings(origin, first, layout === "random" ? blocks.reverse() : blocks);
  }
}

function allocate(metadata: ThinMetadata, count: number): number[] {
  return Array.from({ length: count }, () => metadata.allocateDataBlock()!);
}
