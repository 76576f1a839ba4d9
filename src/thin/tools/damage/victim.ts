/**
 * Metadata that is about to be damaged. It is read through the reader that trusts nothing; changes are collected as whole
 * blocks and stretches of zeros, and nothing is written: a plan comes out that somebody may print first.
 *
 * Looking for something to hit is bounded whatever the size of the metadata: a few ways down chosen by chance, then the
 * first nodes in order.
 */
import { crc32c } from "../../../bytes/index.js";
import {
  ENTRIES_PER_BITMAP,
  INDEX_ENTRY,
  INTERNAL_NODE,
  LEAF_NODE,
  METADATA_BLOCK_BYTES,
  NODE_HEADER,
  SPACE_MAP_ROOT,
} from "../../../persistent-data/index.js";
import { SUPERBLOCK } from "../../superblock.js";
import type { Run } from "../check.js";
import { BlockBuffer, type BlockStore } from "../reader/block-store.js";
import { type DeviceReading, readDevices } from "../reader/devices.js";
import { MAX_TREE_DEPTH } from "../reader/node.js";
import { KIND_NAME, KIND_SALT, Kind } from "../reader/problems.js";
import { bitmapsFor } from "../reader/space-map.js";
import type { MapRoot, SuperblockValues } from "../reader/superblock.js";
import { soundSuperblock } from "../sound.js";
import type { Chance } from "./chance.js";
import { cannot } from "./damage-case.js";

const DESCENTS = 24;
const MAX_NODES_LOOKED_AT = 4096;
const MAX_BLOCKS_LOOKED_AT = 65536;
const MAX_BLOCKS_KEPT = 1024;
const HEADER_BYTES = NODE_HEADER.size;
const KEY_BYTES = 8;
const BITMAP_HEADER_BYTES = 16;

export type WhichMap = "data" | "metadata";

/** A node on the way down a tree. */
export interface FoundNode {
  readonly blocknr: number;
  readonly isLeaf: boolean;
  readonly nr: number;
  readonly max: number;
  readonly valueSize: number;
  /** 0: the root. */
  readonly depth: number;
  /** Node above, and which child of it this is. */
  readonly parent: FoundNode | undefined;
  readonly index: number;
}

/** Place of an index entry of a space map. */
interface EntryPlace {
  readonly blocknr: number;
  readonly offset: number;
  readonly kind: Kind;
}

export class Victim {
  readonly superblock: SuperblockValues;
  readonly devices: readonly DeviceReading[];
  readonly hits: string[] = [];
  readonly changed = new Map<number, Uint8Array>();
  readonly zeroed: Run[] = [];
  readonly #seen = new Map<number, Uint8Array>();
  /** Index entries of the data space map, by bitmap. */
  readonly #places = new Map<number, EntryPlace>();
  /** Blocks of the device afterwards, where it is cut or grown. */
  newNrBlocks: number | undefined;

  /** @throws DamageError when the superblock is not sound */
  constructor(
    readonly store: BlockStore,
    readonly chance: Chance,
  ) {
    this.superblock = soundSuperblock(store, 0);
    this.devices = readDevices(store, this.superblock, () => {});
  }

  get nrBlocks(): number {
    return this.store.nrBlocks;
  }

  hit(text: string): void {
    this.hits.push(text);
  }

  // --- blocks ---

  /** A block as it is by now, to be changed; behind the end of the device there are zeros. */
  edit(blocknr: number): DataView {
    const bytes = this.changed.get(blocknr) ?? this.#read(blocknr);
    this.changed.set(blocknr, bytes);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** As it is by now; not to be changed. */
  bytes(blocknr: number): Uint8Array {
    const known = this.changed.get(blocknr) ?? this.#seen.get(blocknr);
    if (known !== undefined) return known;
    const bytes = this.#read(blocknr);
    if (this.#seen.size >= MAX_BLOCKS_KEPT) this.#seen.clear();
    this.#seen.set(blocknr, bytes);
    return bytes;
  }

  view(blocknr: number): DataView {
    const bytes = this.bytes(blocknr);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #read(blocknr: number): Uint8Array {
    const buffer = new BlockBuffer(1);
    if (this.store.isInside(blocknr)) this.store.loadOne(blocknr, buffer);
    return buffer.bytes;
  }

  /** Sets the checksum right for a kind. */
  seal(blocknr: number, kind: Kind): void {
    const view = this.edit(blocknr);
    view.setUint32(0, (crc32c(view, 4) ^ KIND_SALT[kind]) >>> 0, true);
  }

  isSoundAs(blocknr: number, kind: Kind): boolean {
    const view = this.view(blocknr);
    const isSealed = (crc32c(view, 4) ^ KIND_SALT[kind]) >>> 0 === view.getUint32(0, true);
    return isSealed && view.getUint32(8, true) === blocknr && view.getUint32(12, true) === 0;
  }

  zeroBlock(blocknr: number): void {
    this.edit(blocknr);
    this.changed.get(blocknr)!.fill(0);
  }

  /** Changes fields of the superblock and seals it. */
  editSuperblock(change: (view: DataView) => void): void {
    change(this.edit(0));
    this.seal(0, Kind.Superblock);
  }

  editMapRoot(which: WhichMap, change: Partial<Record<keyof MapRoot, number>>): void {
    const { fields } = SUPERBLOCK;
    const base = (which === "data" ? fields.dataSpaceMapRoot : fields.metadataSpaceMapRoot).offset;
    this.editSuperblock((view) => {
      for (const [name, value] of Object.entries(change)) {
        SPACE_MAP_ROOT.set[name as keyof MapRoot](view, value, base);
      }
    });
  }

  // --- trees ---

  /** A node, where the block is one. */
  node(blocknr: number, parent?: FoundNode, index = 0): FoundNode | undefined {
    if (!this.store.isInside(blocknr) || blocknr === 0 || !this.isSoundAs(blocknr, Kind.Node)) return undefined;
    const view = this.view(blocknr);
    const flags = NODE_HEADER.get.flags(view);
    if (flags !== INTERNAL_NODE && flags !== LEAF_NODE) return undefined;
    const nr = NODE_HEADER.get.nrEntries(view);
    const max = NODE_HEADER.get.maxEntries(view);
    const valueSize = NODE_HEADER.get.valueSize(view);
    if (nr > max || HEADER_BYTES + max * (KEY_BYTES + valueSize) > METADATA_BLOCK_BYTES) return undefined;
    const depth = parent === undefined ? 0 : parent.depth + 1;
    return { blocknr, isLeaf: flags === LEAF_NODE, nr, max, valueSize, depth, parent, index };
  }

  keyAt(node: FoundNode, index: number): number {
    return Number(this.view(node.blocknr).getBigUint64(HEADER_BYTES + index * KEY_BYTES, true));
  }

  setKey(node: FoundNode, index: number, key: number | bigint): void {
    this.edit(node.blocknr).setBigUint64(HEADER_BYTES + index * KEY_BYTES, BigInt(key), true);
  }

  valueOffset(node: FoundNode, index: number): number {
    return HEADER_BYTES + node.max * KEY_BYTES + index * node.valueSize;
  }

  /** A value of eight bytes, or its first eight. */
  valueAt(node: FoundNode, index: number): number {
    return Number(this.view(node.blocknr).getBigUint64(this.valueOffset(node, index), true));
  }

  setValue(node: FoundNode, index: number, value: number | bigint): void {
    this.edit(node.blocknr).setBigUint64(this.valueOffset(node, index), BigInt(value), true);
  }

  /** Takes entries out of a node; those behind them move up. */
  removeEntries(node: FoundNode, from: number, to: number): void {
    const view = this.edit(node.blocknr);
    const bytes = this.changed.get(node.blocknr)!;
    const keys = HEADER_BYTES;
    bytes.copyWithin(keys + from * KEY_BYTES, keys + to * KEY_BYTES, keys + node.nr * KEY_BYTES);
    bytes.copyWithin(this.valueOffset(node, from), this.valueOffset(node, to), this.valueOffset(node, node.nr));
    NODE_HEADER.set.nrEntries(view, node.nr - (to - from));
  }

  sealNode(node: FoundNode): void {
    this.seal(node.blocknr, Kind.Node);
  }

  /** A node of a tree that is wanted: some ways down by chance, then all in order, up to a bound. */
  findNode(root: number, isWanted: (node: FoundNode) => boolean): FoundNode | undefined {
    const found = new Map<number, FoundNode>();
    for (let descent = 0; descent < DESCENTS; descent++) {
      for (const node of this.#descend(root)) if (isWanted(node)) found.set(node.blocknr, node);
    }
    if (found.size > 0) return this.chance.pick([...found.values()]);
    let left = MAX_NODES_LOOKED_AT;
    const search = (node: FoundNode | undefined): FoundNode | undefined => {
      if (node === undefined || left-- <= 0) return undefined;
      if (isWanted(node)) return node;
      if (node.isLeaf || node.depth >= MAX_TREE_DEPTH) return undefined;
      for (let index = 0; index < node.nr; index++) {
        const below = search(this.node(this.valueAt(node, index), node, index));
        if (below !== undefined) return below;
      }
      return undefined;
    };
    return search(this.node(root));
  }

  *#descend(root: number): Generator<FoundNode> {
    let node = this.node(root);
    while (node !== undefined) {
      yield node;
      if (node.isLeaf || node.nr === 0 || node.depth >= MAX_TREE_DEPTH) return;
      const index = this.chance.between(0, node.nr);
      node = this.node(this.valueAt(node, index), node, index);
    }
  }

  /** A node of some mapping tree. @throws StateError ENODATA */
  mappingNode(what: string, isWanted: (node: FoundNode) => boolean): FoundNode & { readonly device: number } {
    for (const { id, root } of this.chance.shuffled(this.devices)) {
      const node = root === undefined ? undefined : this.findNode(root, isWanted);
      if (node !== undefined) return { ...node, device: id };
    }
    throw cannot(what);
  }

  // --- space maps ---

  mapRoot(which: WhichMap): MapRoot {
    return which === "data" ? this.superblock.dataMap : this.superblock.metadataMap;
  }

  nrBitmaps(which: WhichMap): number {
    return bitmapsFor(this.mapRoot(which).nrBlocks);
  }

  /** Where the index entry of a bitmap stands. @throws StateError ENODATA */
  entryPlace(which: WhichMap, bitmap: number): EntryPlace {
    const root = this.mapRoot(which).bitmapRoot;
    if (which === "metadata") {
      return { blocknr: root, offset: BITMAP_HEADER_BYTES + bitmap * INDEX_ENTRY.size, kind: Kind.Index };
    }
    const known = this.#places.get(bitmap);
    if (known !== undefined) return known;
    const leaf = this.findNode(root, (node) => node.isLeaf && this.#indexOfKey(node, bitmap) >= 0);
    if (leaf === undefined) throw cannot("index entry");
    const offset = this.valueOffset(leaf, this.#indexOfKey(leaf, bitmap));
    const place = { blocknr: leaf.blocknr, offset, kind: Kind.Node };
    this.#places.set(bitmap, place);
    return place;
  }

  #indexOfKey(node: FoundNode, key: number): number {
    for (let index = 0; index < node.nr; index++) if (this.keyAt(node, index) === key) return index;
    return -1;
  }

  editEntry(which: WhichMap, bitmap: number, change: (view: DataView, base: number) => void): void {
    const { blocknr, offset, kind } = this.entryPlace(which, bitmap);
    change(this.edit(blocknr), offset);
    this.seal(blocknr, kind);
  }

  entryOf(
    which: WhichMap,
    bitmap: number,
  ): { readonly blocknr: number; readonly nrFree: number; readonly noneFreeBefore: number } {
    const { blocknr, offset } = this.entryPlace(which, bitmap);
    return INDEX_ENTRY.read(this.view(blocknr), offset);
  }

  /** Bitmap of a map, which has blocks in use where there is one. */
  pickBitmap(which: WhichMap): { readonly bitmap: number; readonly blocknr: number } {
    const all = this.nrBitmaps(which);
    for (let attempt = 0; attempt < DESCENTS; attempt++) {
      const bitmap = this.chance.between(0, all);
      const { blocknr } = this.entryOf(which, bitmap);
      const bytes = this.bytes(blocknr).subarray(BITMAP_HEADER_BYTES);
      if (bytes.some((byte) => byte !== 0)) return { bitmap, blocknr };
    }
    return { bitmap: 0, blocknr: this.entryOf(which, 0).blocknr };
  }

  /** The two bits of a block, as they stand. */
  raw(which: WhichMap, block: number): number {
    const { view, offset, shift } = this.#bits(which, block);
    return (view.getUint8(offset) >> shift) & 3;
  }

  #bits(which: WhichMap, block: number): { readonly view: DataView; readonly offset: number; readonly shift: number } {
    const { blocknr } = this.entryOf(which, Math.floor(block / ENTRIES_PER_BITMAP));
    const entry = block % ENTRIES_PER_BITMAP;
    return { view: this.view(blocknr), offset: BITMAP_HEADER_BYTES + (entry >> 2), shift: (entry & 3) * 2 };
  }

  setRaw(which: WhichMap, block: number, raw: number): void {
    const { blocknr } = this.entryOf(which, Math.floor(block / ENTRIES_PER_BITMAP));
    this.edit(blocknr);
    const { view, offset, shift } = this.#bits(which, block);
    view.setUint8(offset, (view.getUint8(offset) & ~(3 << shift)) | (raw << shift));
    this.seal(blocknr, Kind.Bitmap);
  }

  /** A count of 0 to 2, with index and superblock in step, so that nothing but the count is wrong. */
  setCount(which: WhichMap, block: number, count: 0 | 1 | 2): void {
    const before = this.raw(which, block);
    this.setRaw(which, block, RAW_OF_COUNT[count]!);
    const freed = (count === 0 ? 1 : 0) - (before === 0 ? 1 : 0);
    if (freed === 0) return;
    const bitmap = Math.floor(block / ENTRIES_PER_BITMAP);
    this.editEntry(which, bitmap, (view, base) => {
      INDEX_ENTRY.set.nrFree(view, INDEX_ENTRY.get.nrFree(view, base) + freed, base);
      const hint = INDEX_ENTRY.get.noneFreeBefore(view, base);
      if (count === 0) INDEX_ENTRY.set.noneFreeBefore(view, Math.min(hint, block % ENTRIES_PER_BITMAP), base);
    });
    const { fields } = SUPERBLOCK;
    const base = (which === "data" ? fields.dataSpaceMapRoot : fields.metadataSpaceMapRoot).offset;
    this.editMapRoot(which, { nrAllocated: SPACE_MAP_ROOT.get.nrAllocated(this.view(0), base) - freed });
  }

  /** A block whose two bits say `raw`, found from a place that chance chose. @throws StateError ENODATA */
  blockWithRaw(which: WhichMap, raw: number, what: string, isWanted: (block: number) => boolean = () => true): number {
    const { nrBlocks } = this.mapRoot(which);
    const limit = Math.min(nrBlocks, MAX_BLOCKS_LOOKED_AT);
    const start = raw === 0 ? this.chance.between(0, limit) : this.#startInUse(which, limit);
    for (let step = 0; step < limit; step++) {
      const block = (start + step) % limit;
      if (this.raw(which, block) === raw && isWanted(block)) return block;
    }
    throw cannot(what);
  }

  /** Blocks in use lie close together at the front. */
  #startInUse(which: WhichMap, limit: number): number {
    return this.chance.between(0, Math.min(limit, Math.max(1, this.mapRoot(which).nrAllocated)));
  }

  /** Marks a free metadata block as used once, everything in step. */
  takeFreeBlock(): number {
    const block = this.blockWithRaw("metadata", 0, "free metadata block", (each) => this.store.isInside(each));
    this.setCount("metadata", block, 1);
    return block;
  }

  overflowLeaf(which: WhichMap, atLeast = 1): FoundNode {
    const leaf = this.findNode(this.mapRoot(which).refCountRoot, (node) => node.isLeaf && node.nr >= atLeast);
    if (leaf === undefined) throw cannot(`block with three owners in the ${which} space map`);
    return leaf;
  }

  // --- words ---

  /** `metadata block 7 (btree node)`. */
  name(blocknr: number, kind: Kind): string {
    return `metadata block ${blocknr} (${KIND_NAME[kind]})`;
  }
}

/** How counts are written: high bit first. */
const RAW_OF_COUNT = [0, 2, 1] as const;
