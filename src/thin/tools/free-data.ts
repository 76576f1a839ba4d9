/**
 * Which data blocks of a pool nobody needs, told only of metadata that is sound: the space map alone is not believed. First
 * all of the metadata is checked, then the mappings of the pool and of its metadata snapshot are marked once more and held
 * against the counts, because who asks wants to throw away what is free.
 */
import { DamageError } from "../../errors/index.js";
import { checkMetadata, type Run } from "./check.js";
import type { Pace } from "./pace.js";
import { problemText } from "./problem-text.js";
import type { BlockStore } from "./reader/block-store.js";
import { ROOT_BYTES } from "./reader/devices.js";
import { numberAt } from "./reader/node.js";
import { NodeSweep } from "./reader/node-sweep.js";
import { Kind, type Problem } from "./reader/problems.js";
import { MAPPING_BYTES } from "./reader/run-cursor.js";
import {
  type BitmapCounts,
  ENTRIES_PER_BITMAP,
  eachBitmap,
  readDataIndex,
  type SpaceMapIndex,
} from "./reader/space-map.js";
import type { SuperblockValues } from "./reader/superblock.js";
import { damageError, soundSuperblock } from "./sound.js";

/** A bit for each data block: 128 MiB. Larger pools are looked at window by window, in whole bitmaps. */
const WINDOW_BITMAPS = 65536;
const WINDOW_BLOCKS = WINDOW_BITMAPS * ENTRIES_PER_BITMAP;

/** Bitmaps whose free runs are collected at once: four million blocks. */
const BATCH_BITMAPS = 256;

const HINT = "nothing was discarded; udm metadata check tells all that is wrong, udm metadata repair mends it";

export class FreeData {
  readonly superblock: SuperblockValues;
  /** Data blocks of the pool, and those that are free. */
  readonly totalBlocks: number;
  readonly freeBlocks: number;
  readonly #store: BlockStore;
  readonly #index: SpaceMapIndex;

  private constructor(store: BlockStore, superblock: SuperblockValues, index: SpaceMapIndex, freeBlocks: number) {
    this.#store = store;
    this.superblock = superblock;
    this.totalBlocks = superblock.dataMap.nrBlocks;
    this.freeBlocks = freeBlocks;
    this.#index = index;
  }

  /** @throws DamageError when anything is wrong that could make a free block a needed one */
  static async find(store: BlockStore, pace: Pace): Promise<FreeData> {
    const superblock = soundSuperblock(store, 0);
    const { verdict, findings } = await checkMetadata(store, { pace });
    if (verdict === "damaged") {
      const worst = findings.find(({ severity }) => severity === "damage");
      throw new DamageError(`${store.name}: the metadata is damaged: ${worst?.message ?? "see udm metadata check"}`, {
        hint: HINT,
      });
    }
    const index = readDataIndex(store, superblock.dataMap, (damage) => {
      throw damageError(store, damage, "the data space map");
    });
    const freeBlocks = await crossCheck(store, superblock, index, pace);
    return new FreeData(store, superblock, index, freeBlocks);
  }

  /** Free blocks as runs, in order, as long as they are. */
  async each(pace: Pace, visit: (run: Run) => void | Promise<void>): Promise<void> {
    const found: { begin: number; end: number }[] = [];
    const take = ({ counts, nr, first }: BitmapCounts) => {
      for (let entry = 0; entry < nr; entry++) {
        if (counts[entry] !== 0) continue;
        const begin = entry;
        while (entry < nr && counts[entry] === 0) entry++;
        const last = found.at(-1);
        if (last?.end === first + begin) last.end = first + entry;
        else found.push({ begin: first + begin, end: first + entry });
      }
    };
    const { nrBitmaps } = this.#index;
    for (let from = 0; from < nrBitmaps; from += BATCH_BITMAPS) {
      await eachBitmap(this.#store, this.#index, windowOptions(this.#store, pace, from, from + BATCH_BITMAPS), take);
      // The last one may go on in the next batch.
      for (const run of found.splice(0, found.length - 1)) await visit(run);
    }
    for (const run of found) await visit(run);
  }
}

/** Marks what is mapped, and looks at every count. @returns free blocks @throws DamageError */
async function crossCheck(
  store: BlockStore,
  superblock: SuperblockValues,
  index: SpaceMapIndex,
  pace: Pace,
): Promise<number> {
  const { nrBlocks } = superblock.dataMap;
  const mapped = new MappedWindow(Math.min(nrBlocks, WINDOW_BLOCKS));
  const mappings = await sweepMappings(store, superblock, pace, mapped);
  let free = 0;
  for (let fromBitmap = 0; fromBitmap < index.nrBitmaps; fromBitmap += WINDOW_BITMAPS) {
    if (fromBitmap > 0) {
      const first = fromBitmap * ENTRIES_PER_BITMAP;
      mapped.begin(first, Math.min(WINDOW_BLOCKS, nrBlocks - first));
      await mappings.revisitLeaves((_blocknr, words, _at, nr, values) => mapped.mark(words, values, nr));
    }
    const options = windowOptions(store, pace, fromBitmap, fromBitmap + WINDOW_BITMAPS);
    await eachBitmap(store, index, options, ({ counts, nr, first }) => {
      for (let entry = 0; entry < nr; entry++) {
        if (counts[entry] !== 0) continue;
        free++;
        if (!mapped.has(first + entry)) continue;
        throw new DamageError(`${store.name}: data block ${first + entry} is mapped, and counted as free`, {
          hint: HINT,
        });
      }
    });
  }
  return free;
}

async function sweepMappings(
  store: BlockStore,
  superblock: SuperblockValues,
  pace: Pace,
  mapped: MappedWindow,
): Promise<NodeSweep> {
  const references = new Uint32Array(store.nrBlocks);
  const onDamage = (blocknr: number, problem: Problem) => {
    throw new DamageError(`${store.name}: ${problemText(store, blocknr, problem, Kind.Node)}`, { hint: HINT });
  };
  const upper = new NodeSweep(store, { valueSize: ROOT_BYTES, references, onDamage, pace });
  const mappings = new NodeSweep(store, { valueSize: MAPPING_BYTES, references, onDamage, pace });
  upper.addRoot(superblock.mappingRoot);
  if (superblock.heldRoot !== 0) upper.addRoot(soundSuperblock(store, superblock.heldRoot).mappingRoot);
  await upper.run((_blocknr, words, _at, nr, values) => {
    for (let entry = 0; entry < nr; entry++) mappings.addRoot(numberAt(words, values + entry * 2));
  });
  await mappings.run((_blocknr, words, _at, nr, values) => mapped.mark(words, values, nr));
  return mappings;
}

function windowOptions(store: BlockStore, pace: Pace, fromBitmap: number, toBitmap: number) {
  return {
    pace,
    fromBitmap,
    toBitmap,
    onBitmapDamage: (_bitmap: number, blocknr: number, problem: Problem) => {
      throw new DamageError(`${store.name}: ${problemText(store, blocknr, problem, Kind.Bitmap)}`, { hint: HINT });
    },
    onOverflowDamage: (damage: Parameters<typeof damageError>[1]) => {
      throw damageError(store, damage, "the data space map");
    },
  };
}

class MappedWindow {
  readonly #bits: Uint8Array;
  #first = 0;
  #nr: number;

  constructor(nr: number) {
    this.#nr = nr;
    this.#bits = new Uint8Array(Math.ceil(nr / 8));
  }

  begin(first: number, nr: number): void {
    this.#first = first;
    this.#nr = nr;
    this.#bits.fill(0);
  }

  mark(words: Uint32Array, values: number, nr: number): void {
    const end = values + nr * 2;
    for (let word = values; word < end; word += 2) {
      const block = words[word + 1]! * 256 + (words[word]! >>> 24) - this.#first;
      if (block >= 0 && block < this.#nr) this.#bits[Math.floor(block / 8)]! |= 1 << (block % 8);
    }
  }

  has(block: number): boolean {
    const bit = block - this.#first;
    return (this.#bits[Math.floor(bit / 8)]! & (1 << (bit % 8))) !== 0;
  }
}
