/** What kinds of blocks lie on a device, for one whose superblock leads nowhere: each block is judged by itself. */
import type { Pace } from "./pace.js";
import { BLOCK_WORDS, BlockBuffer, type BlockStore, checkHead } from "./reader/block-store.js";
import { isLeafNode, nodeValueSize } from "./reader/node.js";
import { Kind, Problem } from "./reader/problems.js";

export interface Census {
  readonly superblocks: number;
  readonly internals: number;
  /** Leaves by the bytes of their values: 4 counts, 8 mappings and roots, 16 bitmaps of an index, 24 details. */
  readonly leaves: readonly { readonly valueBytes: number; readonly blocks: number }[];
  readonly bitmaps: number;
  readonly indexes: number;
  /** Neither sound metadata in its place. */
  readonly others: number;
}

const SPAN_BLOCKS = 256;
const KINDS: readonly Kind[] = [Kind.Node, Kind.Bitmap, Kind.Superblock, Kind.Index];

export async function countKinds(store: BlockStore, pace: Pace): Promise<Census> {
  const buffer = new BlockBuffer(SPAN_BLOCKS);
  const list = new Uint32Array(SPAN_BLOCKS);
  const leaves = new Map<number, number>();
  const kinds = new Map<Kind | undefined, number>();
  let internals = 0;
  pace.total = store.nrBlocks;
  for (let first = 0; first < store.nrBlocks; first += SPAN_BLOCKS) {
    const count = Math.min(SPAN_BLOCKS, store.nrBlocks - first);
    for (let index = 0; index < count; index++) list[index] = first + index;
    store.load(list, 0, count, buffer);
    for (let index = 0; index < count; index++) {
      const at = index * BLOCK_WORDS;
      // Four checksums of a block that is none of them; most of those are zeros, which cannot be one.
      const isZero = buffer.words[at] === 0 && buffer.words[at + 1] === 0;
      const kind = isZero
        ? undefined
        : KINDS.find((each) => checkHead(first + index, each, buffer.words, at, buffer.view) === Problem.None);
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      if (kind !== Kind.Node) continue;
      if (isLeafNode(buffer.words, at)) {
        const size = nodeValueSize(buffer.words, at);
        leaves.set(size, (leaves.get(size) ?? 0) + 1);
      } else internals++;
    }
    await pace.rest(first);
  }
  return {
    superblocks: kinds.get(Kind.Superblock) ?? 0,
    internals,
    leaves: [...leaves].sort(([a], [b]) => a - b).map(([valueBytes, blocks]) => ({ valueBytes, blocks })),
    bitmaps: kinds.get(Kind.Bitmap) ?? 0,
    indexes: kinds.get(Kind.Index) ?? 0,
    others: kinds.get(undefined) ?? 0,
  };
}
