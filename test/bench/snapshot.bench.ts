/**
 * A snapshot of a device with a million mappings: of the device itself, and of the end of a chain of a thousand
 * snapshots, each of which broke the sharing of a block. Through the engine: message to the pool, commit, both flushes.
 *
 * What bounds it. In memory: the commit, which writes a handful of blocks (superblock, details, device tree, bitmaps);
 * the mappings are not touched, their tree gains a reference. On a file: two fdatasync calls, that is, the disk.
 */
import { join } from "node:path";
import { type BlockDevice, FileDevice, MemoryDevice } from "../../src/io/index.js";
import { NO_FEATURES, Pool, type PoolConfig } from "../../src/thin/index.js";
import { type Session, timed } from "./bench.js";

export const name = "snapshot";
export const summary = "snapshot of a million mappings, at depth 1 and 1,000";

const MAPPINGS = 1_000_000;
const DEPTH = 1000;
const METADATA_BYTES = 256 * 2 ** 20;
const BLOCK_BYTES = 64 * 1024;
const DATA_BLOCKS = 2 * MAPPINGS;
const MOST_MS = 5;
const SNAPSHOTS_PER_MEASURE = 200;

export async function run(session: Session): Promise<void> {
  await compareDepths(session, "in memory", new MemoryDevice({ sizeBytes: METADATA_BYTES }));
  const path = join(session.folder, "metadata");
  await using file = FileDevice.open(path, { createBytes: METADATA_BYTES });
  await compareDepths(session, "metadata on a file", file);
}

async function compareDepths(session: Session, where: string, metadata: BlockDevice): Promise<void> {
  const data = new MemoryDevice({ sizeBytes: DATA_BLOCKS * BLOCK_BYTES });
  const config: PoolConfig = {
    lengthSectors: (DATA_BLOCKS * BLOCK_BYTES) / 512,
    dataBlockSectors: BLOCK_BYTES / 512,
    lowWaterBlocks: 0,
    features: NO_FEATURES,
  };
  const pool = Pool.load({ name: "bench", metadata, data, config, commitPeriodMs: 0 });
  await pool.resume();
  await pool.message(["create_thin", "0"]);
  mapBlocks(pool, 0, MAPPINGS, (index) => index);
  for (let id = 1; id <= DEPTH; id++) {
    pool.metadata.createSnapshot(id, id - 1);
    mapBlocks(pool, id, 1, () => (id * 7919) % MAPPINGS);
  }
  await pool.commit();

  let nextId = DEPTH + 1;
  const snapshotsOf = (origin: number, label: string) => ({
    label,
    measure: async () => {
      const ms = await timed(async () => {
        for (let done = 0; done < SNAPSHOTS_PER_MEASURE; done++) {
          await pool.message(["create_snap", `${nextId++}`, `${origin}`]);
        }
      });
      return ms / SNAPSHOTS_PER_MEASURE;
    },
  });
  await session.compare({
    title: `depth 1,000, ${where}`,
    unit: "ms",
    ours: snapshotsOf(DEPTH, "depth 1,000"),
    peer: snapshotsOf(0, "the same at depth 1"),
    rounds: 9,
    // Equal work: what is above 1 by more than this is more than the machine's own unrest.
    floors: [
      { kind: "ratio", atMost: 1.1 },
      { kind: "value", atMost: MOST_MS },
    ],
  });
  await pool.close();
}

function mapBlocks(pool: Pool, id: number, count: number, blockAt: (index: number) => number): void {
  const { metadata } = pool;
  const device = metadata.openDevice(id);
  for (let index = 0; index < count; index++) {
    metadata.insertMapping(device, blockAt(index), metadata.allocateDataBlock()!);
  }
  metadata.commit();
  metadata.closeDevice(device);
}
