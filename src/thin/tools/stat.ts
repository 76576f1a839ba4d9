/**
 * Figures of a pool's metadata: its trees, who shares what, reference counts, runs. Nothing is trusted: what cannot be read
 * is counted, and the rest is told.
 */
import { type Census, countKinds } from "./census.js";
import type { Pace } from "./pace.js";
import type { BlockStore } from "./reader/block-store.js";
import { DETAILS_BYTES, ROOT_BYTES } from "./reader/devices.js";
import { KEYS, keyOf, numberAt } from "./reader/node.js";
import { Problem } from "./reader/problems.js";
import { MAPPING_BYTES } from "./reader/run-cursor.js";
import {
  COUNT_BYTES,
  eachBitmap,
  INDEX_ENTRY_BYTES,
  readDataIndex,
  readMetadataIndex,
  type SpaceMapIndex,
} from "./reader/space-map.js";
import { readSuperblock, type SuperblockValues } from "./reader/superblock.js";
import { ShapeWalk, type TreeShape } from "./tree-shape.js";

export type TreeName = "devices" | "details" | "mappings" | "data index" | "data overflow" | "metadata overflow";

/** Blocks by the count that the space map has for them. */
export interface CountHistogram {
  readonly blocks: number;
  readonly used: number;
  /** Sum of all counts. */
  readonly references: number;
  /** By count, ascending; of blocks that are in use. */
  readonly counts: readonly { readonly count: number; readonly blocks: number }[];
  /** Blocks whose count cannot be read. */
  readonly unknown: number;
}

export interface RunTotals {
  readonly runs: number;
  readonly mappings: number;
  readonly longest: number;
  /** Runs by length in powers of two: [from, to). */
  readonly lengths: readonly {
    readonly from: number;
    readonly to: number;
    readonly runs: number;
    readonly mappings: number;
  }[];
}

export interface MetadataStat {
  readonly superblock: SuperblockValues | undefined;
  /** What is wrong with the superblock. */
  readonly problem: keyof typeof Problem | "magic" | undefined;
  readonly metadataBlocks: number;
  readonly devices: number;
  readonly trees: readonly (TreeShape & { readonly name: TreeName })[];
  /** Undefined in a metadata snapshot, which has no space maps. */
  readonly data: CountHistogram | undefined;
  readonly metadata: CountHistogram | undefined;
  /** Each mapping once, however many devices share it. */
  readonly runs: RunTotals;
  /** Of all blocks there are, where the superblock leads nowhere. */
  readonly census: Census | undefined;
}

export async function statMetadata(
  store: BlockStore,
  options: { readonly superblock: number; readonly pace: Pace },
): Promise<MetadataStat> {
  const { pace } = options;
  const { values, problem } = readSuperblock(store, options.superblock);
  const trees: (TreeShape & { name: TreeName })[] = [];
  const runs = new RunCounter();
  const devices = new Set<number>();
  const base = {
    superblock: values,
    problem: problem === Problem.None ? undefined : problem === "magic" ? problem : nameOf(problem),
    metadataBlocks: store.nrBlocks,
    census: undefined,
  };
  if (values === undefined || problem !== Problem.None) {
    const census = await countKinds(store, pace);
    return { ...base, devices: 0, trees, data: undefined, metadata: undefined, runs: runs.totals, census };
  }
  const hasMaps = options.superblock === 0;
  pace.total = hasMaps ? Math.min(values.metadataMap.nrAllocated, store.nrBlocks) : store.nrBlocks;
  const roots: number[] = [];
  const add = async (name: TreeName, valueSize: number, from: readonly number[], rest: Partial<Visits> = {}) => {
    const walk = new ShapeWalk(store, { valueSize, pace, ...rest });
    for (const root of from) await walk.walk(root);
    trees.push({ name, ...walk.shape });
    pace.base += walk.shape.leaves + walk.shape.internals;
  };
  await add("devices", ROOT_BYTES, [values.mappingRoot], {
    visitLeaf: (_blocknr, words, at, nr, at2) => {
      for (let entry = 0; entry < nr; entry++) {
        devices.add(keyOf(words, at, entry));
        roots.push(numberAt(words, at2 + entry * 2));
      }
    },
  });
  await add("details", DETAILS_BYTES, [values.detailsRoot]);
  await add("mappings", MAPPING_BYTES, roots, {
    visitLeaf: (_blocknr, words, at, nr, at2) => runs.leaf(words, at, nr, at2),
    onBreak: () => runs.end(),
  });
  runs.end();
  if (!hasMaps)
    return { ...base, devices: devices.size, trees, data: undefined, metadata: undefined, runs: runs.totals };
  await add("data index", INDEX_ENTRY_BYTES, [values.dataMap.bitmapRoot]);
  await add("data overflow", COUNT_BYTES, [values.dataMap.refCountRoot]);
  await add("metadata overflow", COUNT_BYTES, [values.metadataMap.refCountRoot]);
  const data = await countHistogram(
    store,
    readDataIndex(store, values.dataMap, () => undefined),
    pace,
  );
  const metadata = await countHistogram(
    store,
    readMetadataIndex(store, values.metadataMap, () => undefined),
    pace,
  );
  return { ...base, devices: devices.size, trees, data, metadata, runs: runs.totals };
}

type Visits = Pick<ConstructorParameters<typeof ShapeWalk>[1], "visitLeaf" | "onBreak">;

function nameOf(problem: Problem): keyof typeof Problem {
  return Problem[problem] as keyof typeof Problem;
}

/** Counts below are kept in an array: nearly all of them. */
const SMALL_COUNTS = 4096;

async function countHistogram(store: BlockStore, index: SpaceMapIndex, pace: Pace): Promise<CountHistogram> {
  const nrBlocks = Math.min(index.root.nrBlocks, Number.MAX_SAFE_INTEGER);
  const small = new Float64Array(SMALL_COUNTS);
  const large = new Map<number, number>();
  let known = 0;
  await eachBitmap(
    store,
    index,
    { pace, onBitmapDamage: () => undefined, onOverflowDamage: () => undefined },
    ({ counts, nr }) => {
      known += nr;
      for (let entry = 0; entry < nr; entry++) {
        const count = counts[entry]!;
        if (count < SMALL_COUNTS) small[count]!++;
        else large.set(count, (large.get(count) ?? 0) + 1);
      }
    },
  );
  const counts = [
    ...[...small].map((blocks, count) => ({ count, blocks })).filter(({ count, blocks }) => count > 0 && blocks > 0),
    ...[...large].sort(([a], [b]) => a - b).map(([count, blocks]) => ({ count, blocks })),
  ];
  return {
    blocks: nrBlocks,
    used: counts.reduce((sum, { blocks }) => sum + blocks, 0),
    references: counts.reduce((sum, { count, blocks }) => sum + count * blocks, 0),
    counts,
    unknown: nrBlocks - known,
  };
}

/** Powers of two up to the largest number of blocks. */
const CLASSES = 54;

/** Runs as a dump has them: virtual and data blocks that go up together, of one time. */
class RunCounter {
  readonly #runs = new Float64Array(CLASSES);
  readonly #mappings = new Float64Array(CLASSES);
  #longest = 0;
  #length = 0;
  #virtual = 0;
  #data = 0;
  #time = 0;

  leaf(words: Uint32Array, at: number, nr: number, values: number): void {
    for (let entry = 0; entry < nr; entry++) {
      const key = at + KEYS + entry * 2;
      const virtual = words[key + 1]! * 2 ** 32 + words[key]!;
      const low = words[values + entry * 2]!;
      const data = words[values + entry * 2 + 1]! * 256 + (low >>> 24);
      const time = low & 0xffffff;
      const isNext =
        this.#length > 0 &&
        virtual === this.#virtual + this.#length &&
        data === this.#data + this.#length &&
        time === this.#time;
      if (isNext) {
        this.#length++;
        continue;
      }
      this.end();
      this.#virtual = virtual;
      this.#data = data;
      this.#time = time;
      this.#length = 1;
    }
  }

  end(): void {
    const length = this.#length;
    if (length === 0) return;
    const size = Math.floor(Math.log2(length));
    this.#runs[size]!++;
    this.#mappings[size]! += length;
    this.#longest = Math.max(this.#longest, length);
    this.#length = 0;
  }

  get totals(): RunTotals {
    const lengths = [...this.#runs]
      .map((runs, size) => ({ from: 2 ** size, to: 2 ** (size + 1), runs, mappings: this.#mappings[size]! }))
      .filter(({ runs }) => runs > 0);
    return {
      runs: lengths.reduce((sum, { runs }) => sum + runs, 0),
      mappings: lengths.reduce((sum, { mappings }) => sum + mappings, 0),
      longest: this.#longest,
      lengths,
    };
  }
}
