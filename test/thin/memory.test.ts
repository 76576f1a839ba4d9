/** Memory follows the bound of the cache, not the size of the pool. */
import { expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { ThinMetadata } from "../../src/thin/index.js";
import { expectCleanPool } from "../support/check-metadata.js";

const MAPPINGS = 2_000_000;
const METADATA_BLOCKS = 20_000;
const BOUND = 64;

function open(device: MemoryDevice): ThinMetadata {
  return ThinMetadata.open(device.sync, METADATA_BLOCKS, {
    dataBlockSectors: 128,
    mayFormat: true,
    isDeviceReadOnly: false,
    cacheBlocks: BOUND,
  });
}

test("two million mappings are made, opened, walked, shared, half removed and deleted within 64 cached blocks", () => {
  const device = new MemoryDevice({ sizeBytes: METADATA_BLOCKS * 4096 });
  let metadata = open(device);
  let most = 0;
  const look = () => {
    most = Math.max(most, metadata.cachedBlocks);
  };
  metadata.resizeData(MAPPINGS + 1000);
  metadata.createThin(0);
  let thin = metadata.openDevice(0);
  for (let block = 0; block < MAPPINGS; block++) {
    metadata.insertMapping(thin, block, metadata.allocateDataBlock()!);
    if (block % 100_000 === 0) {
      look();
      metadata.commit();
    }
  }
  metadata.closeDevice(thin);
  metadata.commit();
  look();

  metadata = open(device);
  let walked = 0;
  metadata.forEachMapping(0, 0, Number.MAX_SAFE_INTEGER, (_virtual, _data, _time, count) => {
    walked += count;
    look();
  });
  expect(walked).toBe(MAPPINGS);
  expect(metadata.highestMappedBlock(0)).toBe(MAPPINGS - 1);
  metadata.createSnapshot(1, 0);
  metadata.commit();
  look();
  thin = metadata.openDevice(0);
  expect(metadata.removeMappings(thin, 100_000, 300_000)).toBe(200_000);
  look();
  metadata.commit();
  look();
  metadata.closeDevice(thin);
  metadata.deleteThin(1);
  look();
  metadata.commit();
  look();
  expectCleanPool(device, { countsOnly: true });
  // An operation may hold more than the bound while it runs; between operations only what is dirty beyond it stays.
  expect(most).toBeLessThanOrEqual(BOUND);
});
