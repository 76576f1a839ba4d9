/**
 * A checker of pool metadata that shares nothing with the engine but the checksum (which has its own test vectors). It
 * walks an image from the superblock, counts every reference again, and holds the image against all rules of the format:
 * checksums, block numbers, kinds, key order, ranges, fill, depth, reference counts of both space maps, free counts and
 * bounds of the index, overflow trees, allocated blocks, mapped blocks of every device, the metadata snapshot. It does
 * not stop at the first finding, and it gives what the pool holds in the words of the model.
 */
import { expect } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import type { DumpModel } from "./pool-model.js";

const BLOCK_BYTES = 4096;
const EPB = 16320;
const INDEX_ENTRIES = 255;
const MAGIC = 27022010;
const SALT = { superblock: 160774, node: 121107, bitmap: 240779, index: 160478 } as const;
type Kind = keyof typeof SALT;
/** Deeper trees are circles. */
const MAX_DEPTH = 12;
const MAX_FINDINGS = 50;

/** Where blocks come from. A block behind the end is undefined. */
export interface BlockSource {
  block(number: number): Uint8Array | undefined;
}

export interface CheckOptions {
  /** Data blocks with a count above what maps them are no damage: a machine stopped between allocation and mapping. */
  readonly mayLeakData?: boolean;
  /** Leave out the mappings of the result, for pools with millions of them. */
  readonly countsOnly?: boolean;
}

type Mapping = readonly [virtualBlock: number, dataBlock: number, time: number];

export interface MetadataReport {
  readonly damage: readonly string[];
  /** Data blocks whose count is above what maps them. */
  readonly leakedData: readonly number[];
  readonly pool: DumpModel;
  readonly held: DumpModel | undefined;
  readonly flags: number;
  readonly heldRoot: number;
  /** Blocks reached, by what they are. */
  readonly blocks: ReadonlyMap<number, { readonly kind: Kind; readonly role: string }>;
}

/** An image in one piece. */
export function imageSource(bytes: Uint8Array): BlockSource {
  return {
    block: (number) =>
      (number + 1) * BLOCK_BYTES <= bytes.length
        ? bytes.subarray(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES)
        : undefined,
  };
}

/** A device that can be read at once. */
export function deviceSource(device: {
  readonly sizeBytes: number;
  readonly sync: { read(offset: number, buffer: Uint8Array): void } | undefined;
}): BlockSource {
  return {
    block: (number) => {
      if ((number + 1) * BLOCK_BYTES > device.sizeBytes) return undefined;
      const bytes = new Uint8Array(BLOCK_BYTES);
      device.sync!.read(number * BLOCK_BYTES, bytes);
      return bytes;
    },
  };
}

export function checkMetadata(source: BlockSource, options: CheckOptions = {}): MetadataReport {
  return new Checker(source, options).check();
}

/** What every test does with a pool it closed. @returns the report */
export function expectCleanPool(
  metadata: Parameters<typeof deviceSource>[0],
  options: CheckOptions = {},
  title = "",
): MetadataReport {
  const report = checkMetadata(deviceSource(metadata), options);
  expect(report.damage, title).toEqual([]);
  return report;
}

interface Root {
  readonly nrBlocks: number;
  readonly nrAllocated: number;
  readonly bitmapRoot: number;
  readonly refCountRoot: number;
}

/** What is known of a tree node once it was read. */
interface Node {
  readonly isLeaf: boolean;
  readonly nr: number;
  readonly max: number;
  readonly first: number;
  readonly last: number;
  /** Levels below; undefined while it is being walked: who meets it then has found a circle. */
  height: number | undefined;
  /** Entries of all leaves below. */
  entries: number;
  mappings: Mapping[];
}

interface TreeKind {
  readonly role: string;
  readonly valueSize: number;
  /** Called for each entry of a leaf when the leaf is first met. */
  readonly onEntry?: (key: number, view: DataView, offset: number) => void;
  readonly collects?: boolean;
}

class Checker {
  readonly #damage: string[] = [];
  readonly #leaked: number[] = [];
  readonly #references = new Map<number, number>();
  readonly #dataReferences = new Map<number, number>();
  readonly #nodes = new Map<number, Node>();
  readonly #kinds = new Map<number, { kind: Kind; role: string }>();

  constructor(
    readonly source: BlockSource,
    readonly options: CheckOptions,
  ) {}

  check(): MetadataReport {
    const superblock = this.#superblock(0, "superblock");
    const nothing = { time: 0, transactionId: 0, dataBlockSectors: 0, dataBlocks: 0, devices: [] };
    if (superblock === undefined) return this.#report(nothing, undefined, 0, 0);
    const flags = superblock.getUint32(4, true);
    const heldRoot = u64(superblock, 56);
    const data = readRoot(superblock, 64);
    const metadata = readRoot(superblock, 192);
    if (superblock.getUint32(360, true) !== 0) this.#find("incompat flags are set");
    this.#reach(0);
    const pool = this.#pool(superblock, data.nrBlocks, "");
    let held: DumpModel | undefined;
    if (heldRoot !== 0) {
      this.#reach(heldRoot);
      const view = this.#superblock(heldRoot, "held root");
      if (view !== undefined) {
        for (let at = 64; at < 320; at++)
          if (view.getUint8(at) !== 0) this.#find("held root: space map roots not wiped");
        if (u64(view, 56) !== 0) this.#find("held root: has a held root itself");
        held = this.#pool(view, data.nrBlocks, "held ");
      }
    }
    // Both maps are read before counts are compared: they own metadata blocks too.
    const dataCounts = this.#dataMap(data);
    const metadataCounts = this.#metadataMap(metadata);
    this.#compare("metadata", metadata.nrBlocks, this.#references, metadataCounts, undefined);
    this.#compare("data", data.nrBlocks, this.#dataReferences, dataCounts, this.#leaked);
    return this.#report(pool, held, flags, heldRoot);
  }

  #report(pool: DumpModel, held: DumpModel | undefined, flags: number, heldRoot: number): MetadataReport {
    return { damage: this.#damage, leakedData: this.#leaked, pool, held, flags, heldRoot, blocks: this.#kinds };
  }

  #find(what: string): void {
    if (this.#damage.length < MAX_FINDINGS) this.#damage.push(what);
  }

  #reach(block: number): number {
    const count = (this.#references.get(block) ?? 0) + 1;
    this.#references.set(block, count);
    return count;
  }

  #block(number: number, kind: Kind, role: string): DataView | undefined {
    const bytes = this.source.block(number);
    if (bytes === undefined) {
      this.#find(`${role} ${number}: outside the device`);
      return undefined;
    }
    const known = this.#kinds.get(number);
    if (known !== undefined && known.role !== role) this.#find(`block ${number} is ${known.role} and ${role}`);
    this.#kinds.set(number, { kind, role });
    const view = new DataView(bytes.buffer, bytes.byteOffset, BLOCK_BYTES);
    if (u64(view, 8) !== number) this.#find(`${role} ${number}: says it is block ${u64(view, 8)}`);
    if ((crc32c(view, 4) ^ SALT[kind]) >>> 0 !== view.getUint32(0, true)) {
      this.#find(`${role} ${number}: wrong checksum`);
      return undefined;
    }
    return view;
  }

  #superblock(number: number, role: string): DataView | undefined {
    const view = this.#block(number, "superblock", role);
    if (view === undefined) return undefined;
    if (u64(view, 32) !== MAGIC) this.#find(`${role}: wrong magic`);
    if (view.getUint32(340, true) !== 8) this.#find(`${role}: metadata block size ${view.getUint32(340, true)}`);
    return view;
  }

  // --- devices ---

  #pool(superblock: DataView, dataBlocks: number, prefix: string): DumpModel {
    const time = superblock.getUint32(44, true);
    const roots = new Map<number, number>();
    const details = new Map<number, readonly number[]>();
    this.#tree(u64(superblock, 328), { role: "details", valueSize: 24 });
    this.#eachEntry(u64(superblock, 328), (id, view, at) =>
      details.set(id, [u64(view, at), u64(view, at + 8), view.getUint32(at + 16, true), view.getUint32(at + 20, true)]),
    );
    this.#tree(u64(superblock, 320), {
      role: "devices",
      valueSize: 8,
      onEntry: (_id, view, at) => this.#mappingTree(u64(view, at), dataBlocks, time),
    });
    this.#eachEntry(u64(superblock, 320), (id, view, at) => roots.set(id, u64(view, at)));
    for (const id of details.keys()) if (!roots.has(id)) this.#find(`${prefix}device ${id}: details and no mappings`);
    const devices = [...roots]
      .sort(([a], [b]) => a - b)
      .map(([id, root]) => {
        const found = details.get(id);
        if (found === undefined) this.#find(`${prefix}device ${id}: no details`);
        const [mappedBlocks = 0, transactionId = 0, creationTime = 0, snapshottedTime = 0] = found ?? [];
        const tree = this.#nodes.get(root);
        if (tree !== undefined && tree.entries !== mappedBlocks) {
          this.#find(`${prefix}device ${id}: ${tree.entries} mappings, its details say ${mappedBlocks}`);
        }
        if (creationTime > time || snapshottedTime > time) this.#find(`${prefix}device ${id}: times from the future`);
        return { id, mappedBlocks, transactionId, creationTime, snapshottedTime, mappings: tree?.mappings ?? [] };
      });
    return {
      time,
      transactionId: u64(superblock, 48),
      dataBlockSectors: superblock.getUint32(336, true),
      dataBlocks,
      devices,
    };
  }

  #mappingTree(root: number, dataBlocks: number, time: number): void {
    this.#tree(root, {
      role: "mapping",
      valueSize: 8,
      collects: this.options.countsOnly !== true,
      onEntry: (key, view, at) => {
        const block = dataBlockOf(view, at);
        if (block >= dataBlocks) this.#find(`virtual block ${key} is mapped to ${block} of ${dataBlocks}`);
        // A tree frozen in the metadata snapshot is first met from the live pool, whose clock is never behind.
        if ((view.getUint32(at, true) & 0xffffff) > time) this.#find(`virtual block ${key}: mapped in the future`);
        this.#dataReferences.set(block, (this.#dataReferences.get(block) ?? 0) + 1);
      },
    });
  }

  // --- trees ---

  /** Counts one more reference to a tree, and walks what was not met before. */
  #tree(root: number, kind: TreeKind): void {
    this.#node(root, kind, 0, 0, Number.POSITIVE_INFINITY);
  }

  #node(number: number, kind: TreeKind, depth: number, low: number, high: number): Node | undefined {
    const isFirst = this.#reach(number) === 1;
    const where = `${kind.role} node ${number}`;
    if (depth > MAX_DEPTH) {
      this.#find(`${where}: deeper than ${MAX_DEPTH}`);
      return undefined;
    }
    let node = this.#nodes.get(number);
    if (isFirst) {
      const view = this.#block(number, "node", kind.role);
      if (view === undefined) return undefined;
      node = this.#readNode(view, where, kind, high);
      if (node === undefined) return undefined;
      this.#nodes.set(number, node);
      this.#descend(view, node, where, kind, depth, low, high);
    } else if (node !== undefined && node.height === undefined) this.#find(`${where}: is part of a circle`);
    if (node === undefined) return undefined;
    if (this.#kinds.get(number)?.role !== kind.role) this.#find(`${where}: is ${this.#kinds.get(number)?.role} too`);
    if (node.nr > 0 && (node.first < low || node.last >= high)) {
      this.#find(`${where}: keys ${node.first} to ${node.last}, its parent wants ${low} to below ${high}`);
    }
    if (depth > 0 && node.nr < Math.floor(node.max / 3)) this.#find(`${where}: ${node.nr} of ${node.max} entries`);
    return node;
  }

  #readNode(view: DataView, where: string, kind: TreeKind, high: number): Node | undefined {
    const flags = view.getUint32(4, true);
    const nr = view.getUint32(16, true);
    const max = view.getUint32(20, true);
    const valueSize = view.getUint32(24, true);
    const wantedSize = flags === 1 ? 8 : kind.valueSize;
    const wantedMax = 3 * Math.floor(Math.floor(4064 / (8 + wantedSize)) / 3);
    if (flags !== 1 && flags !== 2) this.#find(`${where}: flags ${flags}`);
    else if (valueSize !== wantedSize) this.#find(`${where}: values of ${valueSize} bytes`);
    else if (max !== wantedMax) this.#find(`${where}: room for ${max}, wanted ${wantedMax}`);
    else if (nr > max) this.#find(`${where}: ${nr} of ${max} entries`);
    else if (flags === 1 && nr === 0) this.#find(`${where}: internal and empty`);
    else {
      for (let index = 1; index < nr; index++) {
        if (keyOf(view, index) <= keyOf(view, index - 1)) this.#find(`${where}: keys out of order at entry ${index}`);
      }
      const first = nr > 0 ? keyOf(view, 0) : 0;
      const last = nr > 0 ? keyOf(view, nr - 1) : 0;
      if (last >= high) this.#find(`${where}: key ${last} behind its parent's range`);
      return { isLeaf: flags === 2, nr, max, first, last, height: undefined, entries: 0, mappings: [] };
    }
    return undefined;
  }

  #descend(view: DataView, node: Node, where: string, kind: TreeKind, depth: number, low: number, high: number): void {
    const values = 32 + 8 * node.max;
    if (node.isLeaf) {
      for (let index = 0; index < node.nr; index++) {
        const at = values + kind.valueSize * index;
        kind.onEntry?.(keyOf(view, index), view, at);
        if (kind.collects === true) {
          node.mappings.push([keyOf(view, index), dataBlockOf(view, at), view.getUint32(at, true) & 0xffffff]);
        }
      }
      node.entries = node.nr;
      node.height = 0;
      return;
    }
    const heights = new Set<number>();
    for (let index = 0; index < node.nr; index++) {
      const childHigh = index + 1 < node.nr ? keyOf(view, index + 1) : high;
      const from = Math.max(low, keyOf(view, index));
      const child = this.#node(u64(view, values + 8 * index), kind, depth + 1, from, childHigh);
      if (child === undefined) continue;
      node.entries += child.entries;
      if (kind.collects === true) for (const mapping of child.mappings) node.mappings.push(mapping);
      if (child.height !== undefined) heights.add(child.height);
    }
    if (heights.size > 1) this.#find(`${where}: leaves at different depths`);
    node.height = 1 + Math.max(0, ...heights);
  }

  /** Entries of a tree that was walked already, each once. */
  #eachEntry(root: number, visit: (key: number, view: DataView, offset: number) => void, depth = 0): void {
    const node = this.#nodes.get(root);
    const bytes = node === undefined || depth > MAX_DEPTH ? undefined : this.source.block(root);
    if (node === undefined || bytes === undefined) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, BLOCK_BYTES);
    const size = view.getUint32(24, true);
    for (let index = 0; index < node.nr; index++) {
      const at = 32 + 8 * node.max + size * index;
      if (node.isLeaf) visit(keyOf(view, index), view, at);
      else this.#eachEntry(u64(view, at), visit, depth + 1);
    }
  }

  // --- space maps ---

  #dataMap(root: Root): Map<number, number> {
    const entries = new Map<number, readonly number[]>();
    const addEntry = (key: number, view: DataView, at: number): void => {
      entries.set(key, [u64(view, at), view.getUint32(at + 8, true), view.getUint32(at + 12, true)]);
    };
    this.#tree(root.bitmapRoot, { role: "data index", valueSize: 16, onEntry: addEntry });
    return this.#spaceMap("data", root, entries);
  }

  #metadataMap(root: Root): Map<number, number> {
    const entries = new Map<number, readonly number[]>();
    this.#reach(root.bitmapRoot);
    const view = this.#block(root.bitmapRoot, "index", "metadata index");
    const bitmaps = Math.ceil(root.nrBlocks / EPB);
    if (view !== undefined) {
      for (let index = 0; index < INDEX_ENTRIES; index++) {
        const at = 16 + 16 * index;
        const entry = [u64(view, at), view.getUint32(at + 8, true), view.getUint32(at + 12, true)];
        if (index < bitmaps) entries.set(index, entry);
        else if (entry.some((number) => number !== 0)) this.#find(`metadata index: entry ${index} is in use`);
      }
    }
    return this.#spaceMap("metadata", root, entries);
  }

  /** @returns counts above 0 */
  #spaceMap(name: string, root: Root, entries: ReadonlyMap<number, readonly number[]>): Map<number, number> {
    const overflow = new Map<number, number>();
    const addCount = (block: number, view: DataView, at: number): void => {
      overflow.set(block, view.getUint32(at, true));
    };
    this.#tree(root.refCountRoot, { role: `${name} overflow`, valueSize: 4, onEntry: addCount });
    const counts = new Map<number, number>();
    const bitmaps = Math.ceil(root.nrBlocks / EPB);
    if (entries.size !== bitmaps) this.#find(`${name} map: ${entries.size} bitmaps, wanted ${bitmaps}`);
    for (let index = 0; index < bitmaps; index++) {
      const [blocknr = 0, nrFree = 0, noneFreeBefore = 0] = entries.get(index) ?? [];
      if (!entries.has(index)) this.#find(`${name} map: no bitmap ${index}`);
      else this.#bitmap(name, root, { index, blocknr, nrFree, noneFreeBefore }, overflow, counts);
    }
    if (counts.size !== root.nrAllocated)
      this.#find(`${name} map: ${counts.size} allocated, its root says ${root.nrAllocated}`);
    for (const [block, count] of overflow) {
      if (count < 3) this.#find(`${name} overflow: block ${block} has count ${count}`);
      if (counts.get(block) !== count) this.#find(`${name} overflow: block ${block} does not say so in its bitmap`);
    }
    return counts;
  }

  #bitmap(
    name: string,
    root: Root,
    entry: {
      readonly index: number;
      readonly blocknr: number;
      readonly nrFree: number;
      readonly noneFreeBefore: number;
    },
    overflow: ReadonlyMap<number, number>,
    counts: Map<number, number>,
  ): void {
    this.#reach(entry.blocknr);
    const view = this.#block(entry.blocknr, "bitmap", `${name} bitmap`);
    if (view === undefined) return;
    const base = entry.index * EPB;
    const exists = Math.min(EPB, root.nrBlocks - base);
    let used = 0;
    let firstFree = EPB;
    for (let byte = 0; byte < EPB / 4; byte++) {
      const bits = view.getUint8(16 + byte);
      if (bits === 0) {
        firstFree = Math.min(firstFree, 4 * byte);
        continue;
      }
      for (let slot = 0; slot < 4; slot++) {
        // Stored high bit first: the bit at 2k is worth two.
        const count = ((bits >> (2 * slot)) & 1) * 2 + ((bits >> (2 * slot + 1)) & 1);
        const at = 4 * byte + slot;
        if (count === 0) {
          firstFree = Math.min(firstFree, at);
          continue;
        }
        used++;
        if (at >= exists) this.#find(`${name} bitmap ${entry.index}: entry ${at} behind the end is in use`);
        if (count === 3 && !overflow.has(base + at))
          this.#find(`${name} map: no overflow count for block ${base + at}`);
        counts.set(base + at, count < 3 ? count : (overflow.get(base + at) ?? 3));
      }
    }
    if (entry.nrFree !== EPB - used)
      this.#find(`${name} index entry ${entry.index}: ${entry.nrFree} free, wanted ${EPB - used}`);
    if (entry.noneFreeBefore > firstFree) {
      this.#find(`${name} index entry ${entry.index}: none free before ${entry.noneFreeBefore}, ${firstFree} is`);
    }
  }

  #compare(
    name: string,
    nrBlocks: number,
    expected: ReadonlyMap<number, number>,
    found: ReadonlyMap<number, number>,
    leaks: number[] | undefined,
  ): void {
    for (const [block, count] of expected) {
      if (block >= nrBlocks) this.#find(`${name} block ${block} is used, the map ends at ${nrBlocks}`);
      const stored = found.get(block) ?? 0;
      if (stored === count) continue;
      if (leaks !== undefined && stored > count) leaks.push(block);
      if (leaks === undefined || stored < count || this.options.mayLeakData !== true) {
        this.#find(
          `${name} block ${block}: count ${stored}, ${count} references (${this.#kinds.get(block)?.role ?? ""})`,
        );
      }
    }
    for (const [block, stored] of found) {
      if (expected.has(block)) continue;
      leaks?.push(block);
      if (leaks === undefined || this.options.mayLeakData !== true) {
        this.#find(`${name} block ${block}: count ${stored}, no reference`);
      }
    }
  }
}

function readRoot(view: DataView, at: number): Root {
  return {
    nrBlocks: u64(view, at),
    nrAllocated: u64(view, at + 8),
    bitmapRoot: u64(view, at + 16),
    refCountRoot: u64(view, at + 24),
  };
}

function keyOf(view: DataView, index: number): number {
  return u64(view, 32 + 8 * index);
}

/** Numbers above 2^53 lose their low bits; they are out of every range all the same. */
function u64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 4294967296 + view.getUint32(at, true);
}

function dataBlockOf(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 256 + (view.getUint32(at, true) >>> 24);
}
