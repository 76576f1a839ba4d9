/** Blocks as the kernel writes them, field by field: sections 1.5, 2.1, 11.1 and 11.2 of the engine's specification. */
import { describe, expect, test } from "vitest";
import { DamageError } from "../../src/errors/index.js";
import { MemoryDevice } from "../../src/io/index.js";
import {
  BITMAP,
  BTREE_NODE,
  METADATA_INDEX,
  maxEntriesFor,
  type Validator,
  valueOffset,
} from "../../src/persistent-data/index.js";
import { SUPERBLOCK_VALIDATOR, ThinMetadata } from "../../src/thin/index.js";
import { makeBlock } from "../support/metadata-bench.js";

const SALTS = { superblock: 160774, node: 121107, bitmap: 240779, index: 160478 };

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function prepared(validator: Validator, blocknr: number, parts: Readonly<Record<number, number | readonly number[]>>) {
  const view = viewOf(makeBlock(0, parts));
  validator.prepare(view, blocknr);
  return view;
}

function codeOfCheck(validator: Validator, bytes: Uint8Array, blocknr: number): string | undefined {
  try {
    validator.check(viewOf(bytes), blocknr);
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(DamageError);
    return (error as DamageError).code;
  }
}

describe("checksums", () => {
  test.each([
    [SUPERBLOCK_VALIDATOR, 0x58cfd397],
    [BTREE_NODE, 0x58cc7e82],
    [BITMAP, 0x58ce0b1a],
    [METADATA_INDEX, 0x58cfd54f],
  ] as const)("$name: an all-zero block", (validator, csum) => {
    expect(prepared(validator, 0, {}).getUint32(0, true)).toBe(csum);
  });

  test.each([
    [
      "a level-2 leaf",
      7,
      { 4: 2, 16: 2, 20: 252, 24: 8, 32: 1, 40: 1000, 2048: [5, 0, 0, 3], 2056: [6, 0, 0, 0xef, 0xcd, 0xab] },
      0xecacf609,
    ],
    ["block 5 mapped to 0", 20, { 4: 2, 16: 1, 20: 252, 24: 8, 32: 5 }, 0xdd701621],
    ["a level-1 leaf", 19, { 4: 2, 16: 1, 20: 252, 24: 8, 2048: 20 }, 0x208dfa8b],
    ["a details leaf", 21, { 4: 2, 16: 1, 20: 126, 24: 24, 1040: 1 }, 0x04173aaf],
    [
      "a data index leaf",
      22,
      { 4: 2, 16: 1, 20: 168, 24: 16, 1376: [0x11, 0, 0, 0, 0, 0, 0, 0, 0xbf, 0x3f, 0, 0, 1] },
      0x525c1dfb,
    ],
    ["an overflow leaf", 47, { 4: 2, 16: 1, 20: 336, 24: 4, 32: 27, 2720: 3 }, 0xfcbefe32],
    ["an empty leaf of counts", 2, { 4: 2, 20: 336, 24: 4 }, 0xc360e452],
    ["an empty data index", 4, { 4: 2, 20: 168, 24: 16 }, 0x787f52c8],
    ["an empty mapping root", 6, { 4: 2, 20: 252, 24: 8 }, 0xcb3dda35],
    ["an empty details root", 7, { 4: 2, 20: 126, 24: 24 }, 0xb1c81346],
  ] as const)("btree node: %s", (_name, blocknr, parts, csum) => {
    const view = prepared(BTREE_NODE, blocknr, parts);
    expect(view.getUint32(0, true)).toBe(csum);
    BTREE_NODE.check(view, blocknr);
  });

  test.each([
    ["counts 1 2 3+ 0 1 1 2", 9, [0x36, 0x1a], 0xf81520bb],
    ["one block of data", 17, [0x02], 0x2d2a9542],
    ["metadata blocks 0 2 5 17-23", 18, [0x22, 0x08, 0, 0, 0xa8, 0xaa], 0x54bb8b5b],
    ["counts 2 1 2 2 1", 35, [0x59, 0x02], 0x498671db],
    ["a formatted device", 3, [0xaa, 0xaa], 0xa19f6375],
  ] as const)("bitmap: %s", (_name, blocknr, data, csum) => {
    expect(prepared(BITMAP, blocknr, { 16: data }).getUint32(0, true)).toBe(csum);
  });

  test("index block", () => {
    expect(prepared(METADATA_INDEX, 23, { 16: 18, 24: 16310, 28: 1 }).getUint32(0, true)).toBe(0x17827cdd);
    expect(prepared(METADATA_INDEX, 1, { 16: 3, 24: 16312, 28: 8 }).getUint32(0, true)).toBe(0x18e0660a);
  });

  test("superblock of the specification's trace", () => {
    const parts = {
      32: 27022010,
      40: 2,
      64: 2048,
      72: 1,
      80: 22,
      88: 5,
      192: 2048,
      200: 10,
      208: 23,
      216: 2,
      320: 19,
      328: 21,
      336: 128,
      340: 8,
      344: 2048,
    };
    expect(prepared(SUPERBLOCK_VALIDATOR, 0, parts).getUint32(0, true)).toBe(0xa718da1c);
  });
});

describe("what a reader refuses", () => {
  test("number before checksum before content, with the kernel's errno", () => {
    const sound = { 4: 2, 8: 7, 20: 252, 24: 8 };
    const check = (parts: Readonly<Record<number, number>>, salt = SALTS.node) =>
      codeOfCheck(BTREE_NODE, makeBlock(salt, parts), 7);
    expect(check(sound)).toBeUndefined();
    expect(check({ ...sound, 8: 8 }, 0)).toBe("ENOTBLK");
    expect(check(sound, SALTS.bitmap)).toBe("EILSEQ");
    expect(check({ ...sound, 20: 255 })).toBe("EILSEQ");
    expect(check({ ...sound, 16: 253 })).toBe("EILSEQ");
    expect(check({ ...sound, 4: 0 })).toBe("EILSEQ");
    expect(check({ ...sound, 4: 4 })).toBe("EILSEQ");
  });

  test("what the kernel lets pass and a damaged pool may hold", () => {
    const check = (parts: Readonly<Record<number, number>>) =>
      codeOfCheck(BTREE_NODE, makeBlock(SALTS.node, { 8: 7, ...parts }), 7);
    expect(check({ 4: 2, 20: 251, 24: 8 })).toBe("EUCLEAN");
    expect(check({ 4: 1, 16: 1, 20: 126, 24: 24 })).toBe("EUCLEAN");
    expect(check({ 4: 1, 16: 0, 20: 252, 24: 8 })).toBe("EUCLEAN");
    expect(check({ 4: 3, 16: 0, 20: 252, 24: 8 })).toBe("EILSEQ");
    expect(check({ 4: 2, 16: 2, 20: 252, 24: 8, 32: 5, 40: 5 })).toBe("EUCLEAN");
    expect(check({ 4: 2, 16: 2, 20: 252, 24: 8, 32: 5, 40: 4 })).toBe("EUCLEAN");
    expect(check({ 4: 2, 16: 1, 20: 252, 24: 8, 36: 0x200000 })).toBe("EUCLEAN");
    expect(check({ 4: 2, 16: 1, 20: 252, 24: 8, 12: 0x80000000 })).toBe("ENOTBLK");
  });

  test("superblock: number, then magic, then checksum", () => {
    const check = (parts: Readonly<Record<number, number>>, salt = SALTS.superblock) =>
      codeOfCheck(SUPERBLOCK_VALIDATOR, makeBlock(salt, parts), 0);
    expect(check({ 32: 27022010 })).toBeUndefined();
    expect(check({ 8: 1, 32: 1 }, 0)).toBe("ENOTBLK");
    expect(check({ 32: 123 })).toBe("EILSEQ");
    expect(check({ 32: 27022010, 36: 1 })).toBe("EILSEQ");
    expect(check({ 32: 27022010 }, SALTS.node)).toBe("EILSEQ");
  });
});

describe("node layout", () => {
  test("room for entries by value size, a multiple of three", () => {
    expect([4, 8, 16, 24].map(maxEntriesFor)).toEqual([336, 252, 168, 126]);
  });

  test("values stand behind room for all keys", () => {
    for (const [size, offset] of [
      [4, 2720],
      [8, 2048],
      [16, 1376],
      [24, 1040],
    ] as const) {
      const view = viewOf(makeBlock(0, { 4: 2, 20: maxEntriesFor(size), 24: size }));
      expect(valueOffset(view, 0)).toBe(offset);
      expect(valueOffset(view, 3)).toBe(offset + 3 * size);
    }
  });
});

describe("a formatted device", () => {
  const format = (blocks: number) => {
    const device = new MemoryDevice({ sizeBytes: blocks * 4096 });
    ThinMetadata.open(device.sync, blocks, { dataBlockSectors: 128, mayFormat: true, isDeviceReadOnly: false });
    return device;
  };
  const block = (device: MemoryDevice, number: number) => {
    const bytes = new Uint8Array(4096);
    device.sync.read(number * 4096, bytes);
    return viewOf(bytes);
  };

  test("of 2048 blocks is the specification's example, byte for byte", () => {
    const device = format(2048);
    const csums = [0x069ac8d3, 0x18e0660a, 0xc360e452, 0xa19f6375, 0x787f52c8, 0x41bfaa04, 0xcb3dda35, 0xb1c81346];
    expect(csums.map((_, number) => block(device, number).getUint32(0, true))).toEqual(csums);
    expect(device.allocatedBytes).toBe(8 * 4096);
  });

  test.each([16320, 16321, 40000, 4161600, 5000000])("of %i blocks has as many bitmaps as it needs", (blocks) => {
    const device = format(blocks);
    const usable = Math.min(blocks, 4161600);
    const bitmaps = Math.ceil(usable / 16320);
    const superblock = block(device, 0);
    expect(superblock.getUint32(192, true)).toBe(usable);
    expect(superblock.getUint32(200, true)).toBe(7 + bitmaps);
    expect(superblock.getUint32(344, true)).toBe(usable);
    expect([320, 328].map((at) => superblock.getUint32(at, true))).toEqual([5 + bitmaps, 6 + bitmaps]);
    expect(device.allocatedBytes).toBe((7 + bitmaps) * 4096);
  });
});
