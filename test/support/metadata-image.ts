/**
 * Reads a pool's metadata image without the engine, and compares two of them in every used byte: the superblock, the
 * bitmaps and the index whole, of btree nodes the head, the keys and the values that are in use. What lies behind them is
 * left over from earlier contents and stands for nothing.
 */
import { crc32c } from "../../src/bytes/index.js";

export const METADATA_BLOCK_BYTES = 4096;
const SALTS = { superblock: 160774, node: 121107, bitmap: 240779, index: 160478 } as const;
const ENTRIES_PER_BITMAP = 16320;
const SUPERBLOCK_MAGIC = 27022010;

type BlockKind = keyof typeof SALTS;

export interface UsedBlock {
  readonly number: number;
  readonly kind: BlockKind;
  /** How it is reached, for messages: "superblock > mapping 37 > 20". */
  readonly path: string;
}

/** A metadata image; blocks beyond its end read as zeros. */
export class MetadataImage {
  readonly #view: DataView;

  constructor(readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u32(block: number, offset: number): number {
    return this.#view.getUint32(block * METADATA_BLOCK_BYTES + offset, true);
  }

  u64(block: number, offset: number): number {
    return Number(this.#view.getBigUint64(block * METADATA_BLOCK_BYTES + offset, true));
  }

  block(number: number): Uint8Array {
    return this.bytes.subarray(number * METADATA_BLOCK_BYTES, (number + 1) * METADATA_BLOCK_BYTES);
  }

  hasRightChecksum(number: number, kind: BlockKind): boolean {
    const block = this.block(number);
    const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
    return (crc32c(view, 4) ^ SALTS[kind]) >>> 0 === view.getUint32(0, true);
  }

  get transactionId(): number {
    return this.u64(0, 48);
  }

  get heldRoot(): number {
    return this.u64(0, 56);
  }

  /** Blocks with a count above 0 according to the metadata space map. */
  allocated(): number[] {
    const index = this.u64(0, 192 + 16);
    const blocks = this.u64(0, 192);
    const found: number[] = [];
    for (let bitmap = 0; bitmap * ENTRIES_PER_BITMAP < blocks; bitmap++) {
      const bits = this.block(this.u64(index, 16 + 16 * bitmap));
      for (let entry = 0; entry < ENTRIES_PER_BITMAP; entry++) {
        if (((bits[16 + (entry >> 2)]! >> (2 * (entry & 3))) & 3) !== 0)
          found.push(bitmap * ENTRIES_PER_BITMAP + entry);
      }
    }
    return found;
  }

  /** Every block that is reached from the superblock, each once, roots first. */
  used(): UsedBlock[] {
    const blocks: UsedBlock[] = [{ number: 0, kind: "superblock", path: "superblock" }];
    const seen = new Set([0]);
    const add = (number: number, kind: BlockKind, path: string): boolean => {
      if (seen.has(number)) return false;
      seen.add(number);
      blocks.push({ number, kind, path: `${path} ${number}` });
      return true;
    };
    const tree = (root: number, path: string, leaf: (node: number, entry: number, path: string) => void): void => {
      if (!add(root, "node", path)) return;
      for (let entry = 0; entry < this.nrEntries(root); entry++) {
        if ((this.u32(root, 4) & 1) !== 0) tree(this.value(root, entry), `${path} ${root} >`, leaf);
        else leaf(root, entry, `${path} ${root} >`);
      }
    };
    const nothing = (): void => {};
    const index = this.u64(0, 192 + 16);
    add(index, "index", "metadata space map index");
    for (let bitmap = 0; bitmap * ENTRIES_PER_BITMAP < this.u64(0, 192); bitmap++) {
      add(this.u64(index, 16 + 16 * bitmap), "bitmap", "metadata bitmap");
    }
    tree(this.u64(0, 192 + 24), "metadata overflow", nothing);
    tree(this.u64(0, 64 + 16), "data index", (node, entry, path) => void add(this.value(node, entry), "bitmap", path));
    tree(this.u64(0, 64 + 24), "data overflow", nothing);
    const mappings = (superblock: number, path: string): void => {
      tree(this.u64(superblock, 320), `${path}mapping`, (node, entry, where) =>
        tree(this.value(node, entry), where, nothing),
      );
      tree(this.u64(superblock, 328), `${path}details`, nothing);
    };
    mappings(0, "");
    if (this.heldRoot !== 0) {
      add(this.heldRoot, "superblock", "held root");
      mappings(this.heldRoot, "held root > ");
    }
    return blocks;
  }

  nrEntries(node: number): number {
    return this.u32(node, 16);
  }

  value(node: number, entry: number): number {
    return this.u64(node, 32 + 8 * this.u32(node, 20) + this.u32(node, 24) * entry);
  }

  /** Ranges of a block that mean something, [from, to) in bytes; the checksum counts only in blocks used whole. */
  usedRanges({ number, kind }: UsedBlock): readonly (readonly [number, number])[] {
    if (kind !== "node") return [[0, METADATA_BLOCK_BYTES]];
    const values = 32 + 8 * this.u32(number, 20);
    const entries = this.nrEntries(number);
    return [
      [4, 32 + 8 * entries],
      [values, values + this.u32(number, 24) * entries],
    ];
  }
}

/** The first used byte in which `ours` is not `theirs`, in words; undefined when there is none. */
export function imageDifference(ours: MetadataImage, theirs: MetadataImage): string | undefined {
  const blocks = theirs.used();
  for (const used of blocks) {
    for (const [from, to] of theirs.usedRanges(used)) {
      const a = ours.block(used.number).subarray(from, to);
      const b = theirs.block(used.number).subarray(from, to);
      if (Buffer.compare(a, b) === 0) continue;
      const at = a.findIndex((byte, index) => byte !== b[index]);
      const where = `${used.path}: byte ${from + Math.max(at, 0)}`;
      return `${where}: ${hex(a, at)}, wanted ${hex(b, at)} (block ${used.number}, ${used.kind}); ${rootsText(ours, theirs)}`;
    }
    if (!ours.hasRightChecksum(used.number, used.kind)) return `${used.path}: wrong checksum`;
  }
  return undefined;
}

/** Used blocks whose bytes differ somewhere, leftovers included. */
export function differentBlocks(ours: MetadataImage, theirs: MetadataImage): number[] {
  return theirs
    .used()
    .map(({ number }) => number)
    .filter((number) => Buffer.compare(ours.block(number), theirs.block(number)) !== 0);
}

/** Damage an image may show without any knowledge of its history: unreachable or uncounted blocks, wrong checksums. */
export function imageDamage(image: MetadataImage): string[] {
  const damage: string[] = [];
  if (image.u64(0, 32) !== SUPERBLOCK_MAGIC) return ["no superblock"];
  const used = image.used();
  for (const block of used) {
    if (!image.hasRightChecksum(block.number, block.kind)) damage.push(`${block.path}: wrong checksum`);
    if (image.u64(block.number, 8) !== block.number) damage.push(`${block.path}: wrong block number`);
  }
  const reached = new Set(used.map(({ number }) => number));
  const allocated = new Set(image.allocated());
  for (const number of reached) if (!allocated.has(number)) damage.push(`block ${number} is used and not counted`);
  for (const number of allocated) if (!reached.has(number)) damage.push(`block ${number} is counted and not used`);
  return damage;
}

function hex(bytes: Uint8Array, at: number): string {
  return Buffer.from(bytes.subarray(at, at + 8)).toString("hex");
}

/** Where both have their trees: the first thing to look at when they differ. */
function rootsText(ours: MetadataImage, theirs: MetadataImage): string {
  const roots = (image: MetadataImage): string =>
    `mapping ${image.u64(0, 320)}, details ${image.u64(0, 328)}, data ${image.u64(0, 72)}/${image.u64(0, 80)}/${image.u64(0, 88)}, ` +
    `metadata ${image.u64(0, 200)}/${image.u64(0, 208)}/${image.u64(0, 216)}`;
  return `roots ${roots(ours)}, wanted ${roots(theirs)}`;
}
