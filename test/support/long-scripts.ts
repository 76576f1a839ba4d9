/** Random scripts that each lean on one part of the format: what `npm run test:long` puts to the kernel besides the usual. */
import type { PoolScript } from "./pool-script.js";
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
    "deep trees, sparse",
    {
      shape: {
        metadataBlocks: 8192,
        dataBlocks: 40_000,
        features: ["skip_block_zeroing"],
        thinBytes: 10_000_000 * BLOCK_BYTES,
      },
      mix: { sum: 0, group: 60, sequential: 30, discard: 10 },
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
