/** Random scripts that each lean on one part of the format: what `npm run test:long` puts to the kernel besides the usual. */
import { PoolModel } from "./pool-model.js";
import type { PoolScript } from "./pool-script.js";
import { PoolScriptRecorder } from "./pool-script-recorder.js";
import { Random } from "./random.js";
import { type RandomScriptOptions, randomPoolScript } from "./random-pool-script.js";

const BLOCK_BYTES = 65536;

const VARIANTS: readonly (readonly [
  name: string,
  options: Omit<RandomScriptOptions, "seed" | "operations" | "checkpointEvery">,
])[] = [
  ["as usual", {}],
  [
    "hundreds of devices: two leaves of details, two of roots",
    { maxDevices: 400, mix: { createThin: 40, createSnap: 60, delete: 12 } },
  ],
  [
    "a data device that wraps round",
    { shape: { dataBlocks: 300, thinBytes: 200 * BLOCK_BYTES }, mix: { discard: 40, delete: 8, growData: 0 } },
  ],
  [
    "two metadata bitmaps, more by growth",
    { shape: { metadataBlocks: 16300 }, mix: { growMetadata: 2, reserve: 5, release: 5 } },
  ],
  ["more data bitmaps than one index leaf holds", { shape: { dataBlocks: 2_700_000 }, mix: { growData: 10, sum: 0 } }],
  [
    "sparse mappings, three data bitmaps",
    {
      shape: {
        metadataBlocks: 8192,
        dataBlocks: 40_000,
        features: ["skip_block_zeroing"],
        thinBytes: 10_000_000 * BLOCK_BYTES,
      },
      mix: { sum: 0, group: 60, sequential: 30, discard: 10, delete: 0.3, createThin: 1, createSnap: 2 },
      maxDevices: 6,
    },
  ],
  ["much shared, much held", { mix: { createSnap: 30, reserve: 8, release: 8, delete: 15, discard: 30 } }],
  ["often opened again", { mix: { reopen: 15, growData: 3, growMetadata: 3 } }],
];

/** @param round other seeds for the same variants */
export function longScripts(round: number): PoolScript[] {
  return VARIANTS.map(([name, options], index) => ({
    ...randomPoolScript({ seed: 1000 * round + index, operations: 2000, checkpointEvery: 200, ...options }),
    name: `${name}, round ${round}`,
  }));
}

/** One device with enough mappings, in random order, for a mapping tree of three levels; then shared, changed, thinned out. */
export function deepTreeScript(seed: number, mappings = 45_000): PoolScript {
  const virtualBlocks = 400_000;
  const model = new PoolModel({
    metadataBlocks: 4096,
    dataBlocks: mappings + 10_000,
    blockSectors: 128,
    lowWaterBlocks: 0,
    features: ["skip_block_zeroing"],
    thinBytes: virtualBlocks * BLOCK_BYTES,
  });
  const recorder = new PoolScriptRecorder(model);
  const random = new Random(seed);
  const randomBlocks = (count: number): number[] =>
    Array.from({ length: count }, () => random.between(0, virtualBlocks - 1));
  const burst = (id: number, count: number): void => {
    // The first write has its own commit, so that the kernel's timer starts anew before the group.
    recorder.write(id, randomBlocks(1), { seed, pages: 1 }).write(id, randomBlocks(count - 1), { seed, pages: 1 });
  };
  recorder.do({ kind: "create-thin", id: 0 }, { kind: "activate", id: 0 });
  for (let done = 0; done < mappings; done += 250) burst(0, 250);
  recorder.do({ kind: "checkpoint", title: "three levels" }, { kind: "create-snap", id: 1, origin: 0 });
  for (let round = 0; round < 12; round++) burst(0, 100);
  recorder.do({ kind: "checkpoint", title: "shared and changed" }, { kind: "activate", id: 1 });
  for (let round = 0; round < 60; round++) {
    const id = round % 2;
    const offsetBytes = random.between(0, virtualBlocks - 6000) * BLOCK_BYTES;
    const lengthBytes = random.between(1, 6000) * BLOCK_BYTES;
    recorder.write(id, randomBlocks(1), { seed, pages: 1 });
    recorder.do({ kind: "discard", id, offsetBytes, lengthBytes }, { kind: "flush", id });
  }
  recorder.do({ kind: "checkpoint", title: "thinned out" });
  recorder.do({ kind: "deactivate", id: 0 }, { kind: "delete", id: 0 }, { kind: "checkpoint", title: "deleted" });
  return recorder.script("a mapping tree of three levels");
}
