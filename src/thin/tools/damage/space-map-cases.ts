/** Both space maps: index, bitmaps, overflow trees, and the roots in the superblock. */
import { ENTRIES_PER_BITMAP, INDEX_ENTRY } from "../../../persistent-data/index.js";
import { Kind } from "../reader/problems.js";
import type { DamageArea, DamageCase } from "./damage-case.js";
import { cannot } from "./damage-case.js";
import { damageNode, NODE_DAMAGE, type NodeDamageId } from "./node-damage.js";
import type { FoundNode, Victim, WhichMap } from "./victim.js";

const RAW_TWO = 1;
const RAW_ONE = 2;
const MANY = 40;
const HALF_BYTES = 2048;
const HEADER_BYTES = 16;

function sealedCase(which: WhichMap, id: string, what: string, apply: (victim: Victim) => string): DamageCase {
  return {
    id: `${which}-${id}`,
    area: areaOf(which),
    what,
    isSealed: true,
    apply: (victim) => victim.hit(apply(victim)),
  };
}

function openCase(which: WhichMap, id: string, what: string, apply: (victim: Victim) => string): DamageCase {
  return { ...sealedCase(which, id, what, apply), isSealed: false };
}

function areaOf(which: WhichMap): DamageArea {
  return which === "data" ? "data map" : "metadata map";
}

function overflowCases(which: WhichMap, ways: readonly NodeDamageId[]): DamageCase[] {
  return ways.map((way) => ({
    id: `${which}-overflow-${way}`,
    area: areaOf(which),
    what: `The overflow tree of the ${which} space map ${NODE_DAMAGE[way].what}.`,
    isSealed: NODE_DAMAGE[way].isSealed,
    apply: (victim) => {
      const node = victim.overflowLeaf(which, Math.max(1, NODE_DAMAGE[way].atLeast));
      damageNode(victim, way, node, `overflow tree of the ${which} space map`);
    },
  }));
}

/** A block that is governed, inside the device, and counted so. */
function counted(victim: Victim, which: WhichMap, raw: number, what: string): number {
  return victim.blockWithRaw(
    which,
    raw,
    what,
    (block) => which === "data" || (block > 0 && victim.store.isInside(block)),
  );
}

/** What is the same for both maps, whose counts are stored alike. */
function bothMaps(which: WhichMap): DamageCase[] {
  const map = `the ${which} space map`;
  const blocks = `${which} block`;
  return [
    sealedCase(which, "root-zero", `The root of ${map} is all zeros.`, (victim) => {
      victim.editMapRoot(which, { nrBlocks: 0, nrAllocated: 0, bitmapRoot: 0, refCountRoot: 0 });
      return `superblock: the root of ${map} is zeros`;
    }),
    sealedCase(which, "index-outside", `The index of ${map} lies behind the end of the device.`, (victim) => {
      const root = victim.nrBlocks + victim.chance.between(0, 1000);
      victim.editMapRoot(which, { bitmapRoot: root });
      return `superblock: the index of ${map} is at ${root}`;
    }),
    sealedCase(
      which,
      "overflow-outside",
      `The overflow tree of ${map} lies behind the end of the device.`,
      (victim) => {
        const root = victim.nrBlocks + victim.chance.between(0, 1000);
        victim.editMapRoot(which, { refCountRoot: root });
        return `superblock: the overflow tree of ${map} is at ${root}`;
      },
    ),
    sealedCase(which, "overflow-zero", `The root of the overflow tree of ${map} is 0.`, (victim) => {
      victim.editMapRoot(which, { refCountRoot: 0 });
      return `superblock: the overflow tree of ${map} is at 0`;
    }),
    sealedCase(which, "size-small", `By its root ${map} governs a few blocks only.`, (victim) => {
      const nrBlocks = victim.chance.between(8, 32);
      victim.editMapRoot(which, { nrBlocks });
      return `superblock: ${map} governs ${nrBlocks} blocks`;
    }),
    sealedCase(which, "size-large", `By its root ${map} governs far more blocks than it has bitmaps for.`, (victim) => {
      const nrBlocks = victim.mapRoot(which).nrBlocks + 10 * ENTRIES_PER_BITMAP;
      victim.editMapRoot(which, { nrBlocks });
      return `superblock: ${map} governs ${nrBlocks} blocks`;
    }),
    sealedCase(which, "allocated-high", `The root of ${map} says that more blocks are used than are.`, (victim) => {
      const nrAllocated = victim.mapRoot(which).nrAllocated + victim.chance.between(2, 100);
      victim.editMapRoot(which, { nrAllocated });
      return `superblock: ${map} says ${nrAllocated} blocks are used`;
    }),
    sealedCase(which, "allocated-low", `The root of ${map} says that fewer blocks are used than are.`, (victim) => {
      const nrAllocated = Math.max(0, victim.mapRoot(which).nrAllocated - victim.chance.between(2, 5));
      victim.editMapRoot(which, { nrAllocated });
      return `superblock: ${map} says ${nrAllocated} blocks are used`;
    }),
    sealedCase(which, "entry-outside", `The index of ${map} puts a bitmap behind the end of the device.`, (victim) => {
      const { bitmap } = victim.pickBitmap(which);
      const blocknr = victim.nrBlocks + victim.chance.between(0, 1000);
      victim.editEntry(which, bitmap, (view, base) => INDEX_ENTRY.set.blocknr(view, blocknr, base));
      return `index of ${map}: bitmap ${bitmap} is at ${blocknr}`;
    }),
    sealedCase(which, "entry-zero", `The index of ${map} puts a bitmap at block 0.`, (victim) => {
      const { bitmap } = victim.pickBitmap(which);
      victim.editEntry(which, bitmap, (view, base) => INDEX_ENTRY.set.blocknr(view, 0, base));
      return `index of ${map}: bitmap ${bitmap} is at 0`;
    }),
    sealedCase(which, "entry-node", `The index of ${map} puts a bitmap where a leaf of mappings is.`, (victim) => {
      const { bitmap } = victim.pickBitmap(which);
      const { blocknr } = victim.mappingNode("leaf of mappings", (node) => node.isLeaf);
      victim.editEntry(which, bitmap, (view, base) => INDEX_ENTRY.set.blocknr(view, blocknr, base));
      return `index of ${map}: bitmap ${bitmap} is at ${blocknr}, a leaf`;
    }),
    sealedCase(which, "free-high", `The index of ${map} gives a bitmap more free blocks than it has.`, (victim) => {
      const { bitmap } = victim.pickBitmap(which);
      const more = victim.chance.between(2, 50);
      victim.editEntry(which, bitmap, (view, base) =>
        INDEX_ENTRY.set.nrFree(view, INDEX_ENTRY.get.nrFree(view, base) + more, base),
      );
      return `index of ${map}: bitmap ${bitmap} has ${more} free blocks more`;
    }),
    sealedCase(which, "free-zero", `The index of ${map} says that a bitmap has no free block left.`, (victim) => {
      const { bitmap } = victim.pickBitmap(which);
      victim.editEntry(which, bitmap, (view, base) => INDEX_ENTRY.set.nrFree(view, 0, base));
      return `index of ${map}: bitmap ${bitmap} has no free blocks`;
    }),
    sealedCase(
      which,
      "hint-high",
      `The index of ${map} hides the free blocks of a bitmap behind its hint.`,
      (victim) => {
        const { bitmap } = victim.pickBitmap(which);
        victim.editEntry(which, bitmap, (view, base) => INDEX_ENTRY.set.noneFreeBefore(view, ENTRIES_PER_BITMAP, base));
        return `index of ${map}: bitmap ${bitmap} has none free before ${ENTRIES_PER_BITMAP}`;
      },
    ),
    openCase(which, "bitmap-checksum", `A bitmap of ${map} has a wrong checksum.`, (victim) => {
      const { bitmap, blocknr } = victim.pickBitmap(which);
      const view = victim.edit(blocknr);
      view.setUint32(0, ~view.getUint32(0, true) >>> 0, true);
      return `${victim.name(blocknr, Kind.Bitmap)}, bitmap ${bitmap} of ${map}: the checksum is inverted`;
    }),
    sealedCase(which, "bitmap-number", `A bitmap of ${map} says it is another block.`, (victim) => {
      const { bitmap, blocknr } = victim.pickBitmap(which);
      victim.edit(blocknr).setBigUint64(8, BigInt(blocknr + 1), true);
      victim.seal(blocknr, Kind.Bitmap);
      return `${victim.name(blocknr, Kind.Bitmap)}, bitmap ${bitmap} of ${map}: it says it is block ${blocknr + 1}`;
    }),
    openCase(which, "bitmap-kind", `A bitmap of ${map} is sealed as a btree node.`, (victim) => {
      const { bitmap, blocknr } = victim.pickBitmap(which);
      victim.seal(blocknr, Kind.Node);
      return `${victim.name(blocknr, Kind.Bitmap)}, bitmap ${bitmap} of ${map}: sealed as a node`;
    }),
    openCase(which, "bitmap-zeroed", `A bitmap of ${map} is all zeros, its head too.`, (victim) => {
      const { bitmap, blocknr } = victim.pickBitmap(which);
      victim.zeroBlock(blocknr);
      return `${victim.name(blocknr, Kind.Bitmap)}, bitmap ${bitmap} of ${map}: zeros`;
    }),
    openCase(which, "bitmap-torn", `A bitmap of ${map} is half-written.`, (victim) => {
      const { bitmap, blocknr } = victim.pickBitmap(which);
      const view = victim.edit(blocknr);
      new Uint8Array(view.buffer, view.byteOffset + HEADER_BYTES, HALF_BYTES).fill(0xaa);
      return `${victim.name(blocknr, Kind.Bitmap)}, bitmap ${bitmap} of ${map}: its first half is of something else`;
    }),
    sealedCase(which, "bitmap-empty", `A bitmap of ${map} says that all its blocks are free.`, (victim) => {
      const { bitmap, blocknr } = victim.pickBitmap(which);
      const view = victim.edit(blocknr);
      new Uint8Array(view.buffer, view.byteOffset + HEADER_BYTES, view.byteLength - HEADER_BYTES).fill(0);
      victim.seal(blocknr, Kind.Bitmap);
      return `${victim.name(blocknr, Kind.Bitmap)}, bitmap ${bitmap} of ${map}: all free`;
    }),
    sealedCase(which, "count-zero", `A ${blocks} that is used once is counted as free.`, (victim) => {
      const block = counted(victim, which, RAW_ONE, `${blocks} that is used once`);
      victim.setCount(which, block, 0);
      return `${blocks} ${block}: counted 0`;
    }),
    sealedCase(which, "count-low", `A ${blocks} that is used twice is counted once.`, (victim) => {
      const block = counted(victim, which, RAW_TWO, `${blocks} that is used twice`);
      victim.setCount(which, block, 1);
      return `${blocks} ${block}: counted 1`;
    }),
    sealedCase(which, "count-high", `A ${blocks} that is used once is counted twice.`, (victim) => {
      const block = counted(victim, which, RAW_ONE, `${blocks} that is used once`);
      victim.setCount(which, block, 2);
      return `${blocks} ${block}: counted 2`;
    }),
    sealedCase(which, "leak", `A ${blocks} that nobody uses is counted.`, (victim) => {
      const block = counted(victim, which, 0, `free ${blocks}`);
      victim.setCount(which, block, 1);
      return `${blocks} ${block}: counted 1`;
    }),
    sealedCase(which, "leaks", `Many ${blocks}s that nobody uses are counted.`, (victim) => {
      const hits = Array.from({ length: MANY }, () => {
        const block = counted(victim, which, 0, `free ${blocks}`);
        victim.setCount(which, block, 1);
        return block;
      });
      return `${blocks}s ${hits.sort((a, b) => a - b).join(", ")}: counted 1`;
    }),
    sealedCase(which, "leak-twice", `A ${blocks} that nobody uses is counted twice.`, (victim) => {
      const block = counted(victim, which, 0, `free ${blocks}`);
      victim.setCount(which, block, 2);
      return `${blocks} ${block}: counted 2`;
    }),
    sealedCase(
      which,
      "overflow-missing",
      `The overflow tree of ${map} lacks a block whose bitmap sends there.`,
      (victim) => {
        const leaf = victim.overflowLeaf(which);
        const index = victim.chance.between(0, leaf.nr);
        const block = victim.keyAt(leaf, index);
        victim.removeEntries(leaf, index, index + 1);
        victim.sealNode(leaf);
        return `overflow tree of ${map}: ${blocks} ${block} is taken out`;
      },
    ),
    sealedCase(
      which,
      "overflow-stray",
      `The overflow tree of ${map} has a count for a block whose bitmap does not send there.`,
      (victim) => {
        const leaf = victim.overflowLeaf(which);
        const block = victim.keyAt(leaf, victim.chance.between(0, leaf.nr));
        victim.setRaw(which, block, RAW_TWO);
        return `bitmap of ${map}: ${blocks} ${block} says 2 there`;
      },
    ),
    sealedCase(which, "overflow-low", `The overflow tree of ${map} counts one owner too few.`, (victim) =>
      overflowCount(victim, which, -1),
    ),
    sealedCase(which, "overflow-high", `The overflow tree of ${map} counts one owner too many.`, (victim) =>
      overflowCount(victim, which, 1),
    ),
    ...overflowCases(which, ["checksum", "number", "unordered", "entries", "value-size", "zeroed"]),
  ];
}

function overflowCount(victim: Victim, which: WhichMap, by: number): string {
  const leaf = victim.overflowLeaf(which);
  const index = victim.chance.between(0, leaf.nr);
  const view = victim.edit(leaf.blocknr);
  const at = victim.valueOffset(leaf, index);
  const count = view.getUint32(at, true);
  view.setUint32(at, count + by, true);
  victim.sealNode(leaf);
  return `overflow tree of the ${which} space map: ${which} block ${victim.keyAt(leaf, index)} has ${count + by} owners, not ${count}`;
}

function indexNode(victim: Victim): FoundNode {
  const node = victim.findNode(victim.superblock.dataMap.bitmapRoot, (each) => each.isLeaf && each.nr > 0);
  if (node === undefined) throw cannot("index of the data space map");
  return node;
}

const DATA_INDEX_WAYS: readonly NodeDamageId[] = [
  "checksum",
  "number",
  "flags",
  "entries",
  "unordered",
  "zeroed",
  "torn",
];

export const DATA_MAP_CASES: readonly DamageCase[] = [
  ...bothMaps("data"),
  ...DATA_INDEX_WAYS.map(
    (way): DamageCase => ({
      id: `data-index-${way}`,
      area: "data map",
      what: `The index of the data space map ${NODE_DAMAGE[way].what}.`,
      isSealed: NODE_DAMAGE[way].isSealed,
      apply: (victim) => damageNode(victim, way, indexNode(victim), "index of the data space map"),
    }),
  ),
  sealedCase("data", "entry-missing", "The index of the data space map has lost its last bitmap.", (victim) => {
    const node = indexNode(victim);
    victim.removeEntries(node, node.nr - 1, node.nr);
    victim.sealNode(node);
    return `index of the data space map: its last of ${node.nr} bitmaps is taken out`;
  }),
  sealedCase("data", "entry-twice", "Two entries of the data space map's index lead to one bitmap.", (victim) => {
    if (victim.nrBitmaps("data") < 2) throw cannot("second bitmap in the data space map");
    const { blocknr } = victim.entryOf("data", 0);
    victim.editEntry("data", 1, (view, base) => INDEX_ENTRY.set.blocknr(view, blocknr, base));
    return `index of the data space map: bitmap 1 is at ${blocknr}, as bitmap 0`;
  }),
];

export const METADATA_MAP_CASES: readonly DamageCase[] = [
  ...bothMaps("metadata"),
  openCase("metadata", "index-checksum", "The index of the metadata space map has a wrong checksum.", (victim) => {
    const { bitmapRoot } = victim.superblock.metadataMap;
    const view = victim.edit(bitmapRoot);
    view.setUint32(0, ~view.getUint32(0, true) >>> 0, true);
    return `${victim.name(bitmapRoot, Kind.Index)}: the checksum is inverted`;
  }),
  sealedCase("metadata", "index-number", "The index of the metadata space map says it is another block.", (victim) => {
    const { bitmapRoot } = victim.superblock.metadataMap;
    victim.edit(bitmapRoot).setBigUint64(8, BigInt(bitmapRoot + 1), true);
    victim.seal(bitmapRoot, Kind.Index);
    return `${victim.name(bitmapRoot, Kind.Index)}: it says it is block ${bitmapRoot + 1}`;
  }),
  openCase("metadata", "index-zeroed", "The index of the metadata space map is all zeros.", (victim) => {
    const { bitmapRoot } = victim.superblock.metadataMap;
    victim.zeroBlock(bitmapRoot);
    return `${victim.name(bitmapRoot, Kind.Index)}: zeros`;
  }),
  openCase("metadata", "index-kind", "The index of the metadata space map is sealed as a bitmap.", (victim) => {
    const { bitmapRoot } = victim.superblock.metadataMap;
    victim.seal(bitmapRoot, Kind.Bitmap);
    return `${victim.name(bitmapRoot, Kind.Index)}: sealed as a bitmap`;
  }),
  sealedCase("metadata", "count-superblock", "The superblock is counted as a free block.", (victim) => {
    victim.setCount("metadata", 0, 0);
    return "metadata block 0: counted 0";
  }),
];
