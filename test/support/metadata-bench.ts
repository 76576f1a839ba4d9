/**
 * Persistent data without a pool around it: a metadata space map on a device in memory, a transaction manager, and a
 * commit that writes a superblock nobody reads. And images of single blocks, made field by field.
 */
import { crc32c } from "../../src/bytes/index.js";
import { MemoryDevice } from "../../src/io/index.js";
import {
  BlockManager,
  BTREE_NODE,
  keyAt,
  MetadataSpaceMap,
  makeValidator,
  TransactionManager,
  type Tree,
  walkLeaves,
} from "../../src/persistent-data/index.js";

export const BENCH_SUPERBLOCK = makeValidator({ name: "superblock", salt: 160774 });
const BLOCK_BYTES = 4096;

export interface Bench {
  readonly device: MemoryDevice;
  readonly blocks: BlockManager;
  readonly transaction: TransactionManager;
  readonly map: MetadataSpaceMap;
  commit(): void;
}

export function makeBench(nrBlocks = 2048, options: { readonly cacheBlocks?: number } = {}): Bench {
  const device = new MemoryDevice({ sizeBytes: nrBlocks * BLOCK_BYTES });
  const blocks = new BlockManager(device.sync, nrBlocks, options);
  const transaction = new TransactionManager(blocks);
  const map = MetadataSpaceMap.create(transaction, nrBlocks);
  blocks.commitFirst(BENCH_SUPERBLOCK, () => {});
  transaction.endTransaction();
  return {
    device,
    blocks,
    transaction,
    map,
    commit() {
      map.commit();
      blocks.commit(BENCH_SUPERBLOCK, () => {});
      transaction.endTransaction();
      blocks.trim();
    },
  };
}

/** A value of `size` bytes that begins with `number`. */
export function makeValue(size: number, number: number): DataView {
  const view = new DataView(new ArrayBuffer(size));
  view.setUint32(0, number, true);
  return view;
}

/** Keys of every leaf from left to right, as the engine's own walk gives them. */
export function leavesOf(tree: Tree, root: number): number[][] {
  const leaves: number[][] = [];
  walkLeaves(tree, root, 0, Number.POSITIVE_INFINITY, (view, from, to) => {
    leaves.push(Array.from({ length: to - from }, (_, index) => keyAt(view, from + index)));
    return true;
  });
  return leaves;
}

export interface NodeShape {
  readonly blocknr: number;
  readonly kind: "internal" | "leaf";
  readonly nrEntries: number;
  readonly depth: number;
  readonly firstKey: number | undefined;
}

/** Every node of a tree, parents first, read by the offsets of the format. */
export function nodesOf(transaction: TransactionManager, root: number): NodeShape[] {
  const found: NodeShape[] = [];
  const visit = (blocknr: number, depth: number): void => {
    const { view } = transaction.read(blocknr, BTREE_NODE);
    const isInternal = view.getUint32(4, true) === 1;
    const nr = view.getUint32(16, true);
    const firstKey = nr === 0 ? undefined : keyAt(view, 0);
    found.push({ blocknr, kind: isInternal ? "internal" : "leaf", nrEntries: nr, depth, firstKey });
    if (!isInternal) return;
    for (let index = 0; index < nr; index++) visit(view.getUint32(32 + 8 * 252 + 8 * index, true), depth + 1);
  };
  visit(root, 0);
  return found;
}

/** A block of 4 KiB with u32 or bytes put at offsets, and a checksum for its kind. */
export function makeBlock(salt: number, parts: Readonly<Record<number, number | readonly number[]>>): Uint8Array {
  const bytes = new Uint8Array(BLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [offset, part] of Object.entries(parts)) {
    if (typeof part === "number") view.setUint32(Number(offset), part, true);
    else bytes.set(part, Number(offset));
  }
  view.setUint32(0, (crc32c(view, 4) ^ salt) >>> 0, true);
  return bytes;
}
