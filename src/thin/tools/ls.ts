/**
 * What each thin device has mapped, and how much of that no other device maps. Every mapping is looked at, twice: first it
 * is found out which data blocks have one owner, then they are counted for each.
 */
import { DamageError } from "../../errors/index.js";
import { ENTRIES_PER_BITMAP } from "../../persistent-data/index.js";
import type { Pace } from "./pace.js";
import { numberText } from "./problem-text.js";
import type { BlockStore } from "./reader/block-store.js";
import { eachDeviceDetails } from "./reader/devices.js";
import { RunCursor } from "./reader/run-cursor.js";
import type { SuperblockValues } from "./reader/superblock.js";
import { damageError, soundDevices, soundSuperblock } from "./sound.js";

export interface ListedDevice {
  readonly id: number;
  readonly mappedBlocks: number;
  /** Undefined when nobody asked for it. */
  readonly exclusiveBlocks: number | undefined;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}

export interface Listing {
  readonly dataBlockSectors: number;
  readonly devices: readonly ListedDevice[];
}

export interface ListOptions {
  readonly superblock: number;
  /** Costs a look at every mapping. */
  readonly exclusive: boolean;
  readonly pace: Pace;
}

/** Mappings per block of a full leaf, for progress. */
const MAPPINGS_PER_BLOCK = 252;
const MANY = 2;

/** @throws DamageError */
export async function listMetadata(store: BlockStore, options: ListOptions): Promise<Listing> {
  const superblock = soundSuperblock(store, options.superblock);
  const { dataBlockSectors } = superblock;
  if (!options.exclusive) return { dataBlockSectors, devices: devicesByDetails(store, superblock) };
  const found = soundDevices(store, superblock).map(({ id, root, details }) => {
    if (root === undefined || details === undefined) {
      throw new DamageError(
        `device ${id} has ${root === undefined ? "details and no mappings" : "mappings and no details"}`,
        {
          hint: "udm metadata check tells all that is damaged",
        },
      );
    }
    return { id, root, details };
  });
  // A metadata snapshot has no space maps; the pool it belongs to has never become smaller.
  const { nrBlocks } = options.superblock === 0 ? superblock.dataMap : soundSuperblock(store, 0).dataMap;
  const exclusive = await exclusiveBlocks(store, found, { pace: options.pace, nrDataBlocks: nrBlocks });
  return {
    dataBlockSectors,
    devices: found.map(({ id, details }) => ({ id, ...details, exclusiveBlocks: exclusive.get(id) })),
  };
}

/** The tree of details tells all of it: the others may be damaged. */
function devicesByDetails(store: BlockStore, { detailsRoot }: SuperblockValues): ListedDevice[] {
  const devices: ListedDevice[] = [];
  eachDeviceDetails(
    store,
    detailsRoot,
    (id, details) => devices.push({ id, ...details, exclusiveBlocks: undefined }),
    (damage) => {
      throw damageError(store, damage, "the details tree");
    },
  );
  return devices;
}

async function exclusiveBlocks(
  store: BlockStore,
  devices: readonly {
    readonly id: number;
    readonly root: number;
    readonly details: { readonly mappedBlocks: number };
  }[],
  { pace, nrDataBlocks }: { readonly pace: Pace; readonly nrDataBlocks: number },
): Promise<ReadonlyMap<number, number>> {
  const governable = store.nrBlocks * ENTRIES_PER_BITMAP;
  if (nrDataBlocks > governable) {
    throw new DamageError(
      `the pool has ${numberText(nrDataBlocks)} data blocks, ${store.nrBlocks} metadata blocks govern ${governable} at most`,
      { hint: "udm metadata check tells all that is damaged" },
    );
  }
  // A byte a block: no owner, one, or more.
  const owners = new Uint8Array(nrDataBlocks);
  const mapped = devices.reduce((sum, { details }) => sum + details.mappedBlocks, 0);
  pace.total = (2 * mapped) / MAPPINGS_PER_BLOCK;
  const eachRun = async (visit: (id: number, begin: number, end: number) => void) => {
    for (const { id, root, details } of devices) {
      const runs = new RunCursor(store, root, (damage) => {
        throw damageError(store, damage, `device ${id}`);
      });
      let done = 0;
      while (runs.next()) {
        const end = runs.dataBegin + runs.length;
        if (end > nrDataBlocks) {
          throw new DamageError(`device ${id} maps data block ${end - 1}, the pool has ${nrDataBlocks}`, {
            hint: "udm metadata check tells all that is damaged",
          });
        }
        visit(id, runs.dataBegin, end);
        done += runs.length;
        if (pace.isDue) await pace.rest(done / MAPPINGS_PER_BLOCK);
      }
      pace.base += details.mappedBlocks / MAPPINGS_PER_BLOCK;
    }
  };
  await eachRun((_id, begin, end) => {
    for (let block = begin; block < end; block++) if (owners[block]! < MANY) owners[block]!++;
  });
  const exclusive = new Map(devices.map(({ id }) => [id, 0]));
  await eachRun((id, begin, end) => {
    let count = 0;
    for (let block = begin; block < end; block++) if (owners[block] === 1) count++;
    if (count > 0) exclusive.set(id, exclusive.get(id)! + count);
  });
  return exclusive;
}
