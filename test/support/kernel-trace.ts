/** The trace of section 11.4 of the engine's specification as a script, with a checkpoint behind each of its lines. */
import type { PoolScript, PoolStep } from "./pool-script.js";

const BLOCK_BYTES = 65536;

function write(id: number, block: number, lengthBytes: number, seed: number): PoolStep {
  return { kind: "write", id, offsetBytes: block * BLOCK_BYTES, lengthBytes, seed };
}

const LINES: readonly (readonly [title: string, ...steps: PoolStep[]])[] = [
  ["format and first resume"],
  ["create_thin 0", { kind: "create-thin", id: 0 }],
  ["write block 5", { kind: "activate", id: 0 }, write(0, 5, BLOCK_BYTES, 1), { kind: "flush", id: 0 }],
  [
    "write blocks 0 1 2 in one commit",
    write(0, 0, BLOCK_BYTES, 2),
    write(0, 1, BLOCK_BYTES, 3),
    write(0, 2, BLOCK_BYTES, 4),
    { kind: "flush", id: 0 },
  ],
  ["create_snap 1 of 0", { kind: "create-snap", id: 1, origin: 0 }],
  ["write 4 KiB to block 0 of 0", write(0, 0, 4096, 5), { kind: "flush", id: 0 }],
  ["reserve_metadata_snap", { kind: "reserve" }],
  ["create_snap 2 of 1", { kind: "create-snap", id: 2, origin: 1 }],
  ["release_metadata_snap", { kind: "release" }],
  ["delete 1", { kind: "delete", id: 1 }],
  ["set_transaction_id 0 7", { kind: "set-transaction-id", from: 0, to: 7 }],
];

export const KERNEL_TRACE: PoolScript = {
  name: "trace 11.4",
  shape: {
    metadataBlocks: 2048,
    dataBlocks: 2048,
    blockSectors: 128,
    lowWaterBlocks: 0,
    features: [],
    thinBytes: 1024 * BLOCK_BYTES,
  },
  steps: LINES.flatMap(([title, ...steps]) => [...steps, { kind: "checkpoint", title } satisfies PoolStep]),
};
