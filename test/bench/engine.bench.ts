/**
 * Lookups and provisions in the metadata of a warm pool: a device with a million mappings, every node cached.
 *
 * What bounds it (from a CPU profile). Random lookups: memory. The leaves are 28 MiB, most of the time goes to fetching
 * one line of a node's keys and one of its values; where keys are consecutive no search is made. Sequential lookups:
 * the two or three nodes of the way down, each held against its parent's keys. Provisions: the walk down the mapping
 * tree (a check for a shadow at each node) and the two space maps that every allocation asks.
 */
import { MemoryDevice } from "../../src/io/index.js";
import { Lookup, type OpenDevice, ThinMetadata } from "../../src/thin/index.js";
import { type Session, timed } from "./bench.js";

export const name = "engine";
export const summary = "lookups and provisions on a warm engine";

const MAPPINGS = 1_000_000;
const METADATA_BYTES = 2 ** 30;
const DATA_BLOCKS = 40_000_000;
const PROVISIONS = 200_000;
/** As a busy pool commits: not with every block, not only at the end. */
const PROVISIONS_PER_COMMIT = 10_000;
const LOOKUPS_PER_SECOND = 1_000_000;
const PROVISIONS_PER_SECOND = 100_000;

export async function run(session: Session): Promise<void> {
  const device = new MemoryDevice({ sizeBytes: METADATA_BYTES });
  const metadata = ThinMetadata.open(device.sync, METADATA_BYTES / 4096, {
    dataBlockSectors: 128,
    mayFormat: true,
    isDeviceReadOnly: false,
  });
  metadata.resizeData(DATA_BLOCKS);
  metadata.commit();
  metadata.createThin(0);
  const full = metadata.openDevice(0);
  provision(metadata, full, MAPPINGS, (index) => index);

  const found = new Lookup();
  const lookUp = (label: string, blockAt: (index: number) => number) => ({
    label,
    measure: async () => {
      let mapped = 0;
      const ms = await timed(() => {
        for (let index = 0; index < MAPPINGS; index++) {
          metadata.find(full, blockAt(index), 1, found);
          mapped += found.isMapped ? 1 : 0;
        }
      });
      if (mapped !== MAPPINGS) throw new Error(`${MAPPINGS - mapped} blocks were not found`);
      return perSecond(MAPPINGS, ms);
    },
  });
  await session.compare({
    title: "lookups, random",
    unit: "per second",
    // A full cycle: every block once, in an order no cache foresees.
    ours: lookUp("udm", (index) => (index * 736_339) % MAPPINGS),
    floors: [{ kind: "value", atLeast: LOOKUPS_PER_SECOND }],
  });
  await session.compare({
    title: "lookups, in order",
    unit: "per second",
    ours: lookUp("udm", (index) => index),
    floors: [{ kind: "value", atLeast: LOOKUPS_PER_SECOND }],
  });

  let nextId = 1;
  const provisions = (label: string, blockAt: (index: number) => number) => ({
    label,
    measure: async () => {
      const id = nextId++;
      metadata.createThin(id);
      const fresh = metadata.openDevice(id);
      const ms = await timed(() => provision(metadata, fresh, PROVISIONS, blockAt));
      metadata.closeDevice(fresh);
      return perSecond(PROVISIONS, ms);
    },
  });
  await session.compare({
    title: "provisions, random",
    unit: "per second",
    ours: provisions("udm", (index) => (index * 736_339) % MAPPINGS),
    floors: [{ kind: "value", atLeast: PROVISIONS_PER_SECOND }],
  });
  await session.compare({
    title: "provisions, in order",
    unit: "per second",
    ours: provisions("udm", (index) => index),
    floors: [{ kind: "value", atLeast: PROVISIONS_PER_SECOND }],
  });
}

function provision(
  metadata: ThinMetadata,
  device: OpenDevice,
  count: number,
  blockAt: (index: number) => number,
): void {
  for (let index = 0; index < count; index++) {
    metadata.insertMapping(device, blockAt(index), metadata.allocateDataBlock()!);
    if (index % PROVISIONS_PER_COMMIT === PROVISIONS_PER_COMMIT - 1) metadata.commit();
  }
  metadata.commit();
}

function perSecond(count: number, ms: number): number {
  return (count / ms) * 1000;
}
