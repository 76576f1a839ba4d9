/** What is wrong with a block, in words. */

import { crc32c } from "../../bytes/index.js";
import { BLOCK_WORDS, BlockBuffer, type BlockStore } from "./reader/block-store.js";
import { KIND_NAME, KIND_SALT, Kind, Problem } from "./reader/problems.js";

/** `metadata block 7: checksum 0x1c, wanted 0x2f (path 0 > 5 > 7)`. The block is read again for the numbers. */
export function problemText(
  store: BlockStore,
  blocknr: number,
  problem: Problem,
  kind: Kind = Kind.Node,
  path: readonly number[] = [],
): string {
  const where = `metadata block ${numberText(blocknr)} (${KIND_NAME[kind]})`;
  const way = path.length > 1 ? ` (path ${path.map(numberText).join(" > ")})` : "";
  return `${where}: ${words(store, blocknr, problem, kind)}${way}`;
}

/** Numbers that do not fit read as Infinity. */
export function numberText(number: number): string {
  return Number.isFinite(number) ? String(number) : "above 2^53";
}

function words(store: BlockStore, blocknr: number, problem: Problem, kind: Kind): string {
  const buffer = new BlockBuffer(1);
  const at = (word: number) => {
    store.loadOne(blocknr, buffer);
    return buffer.words[word % BLOCK_WORDS]!;
  };
  switch (problem) {
    case Problem.None:
      return "nothing is wrong";
    case Problem.Outside:
      return blocknr === 0 ? "block 0 is the superblock" : `lies outside the device of ${store.nrBlocks} blocks`;
    case Problem.Unreadable:
      return "cannot be read: the device answers with an error";
    case Problem.Checksum: {
      const stored = at(0);
      const wanted = (crc32c(buffer.view, 4) ^ KIND_SALT[kind]) >>> 0;
      return `checksum 0x${stored.toString(16)}, wanted 0x${wanted.toString(16)}${otherKind(stored, wanted ^ KIND_SALT[kind], kind)}`;
    }
    case Problem.Number:
      return `says it is block ${at(2) + at(3) * 2 ** 32}`;
    case Problem.Kind:
      return `is used as a ${KIND_NAME[store.kindOf(blocknr) ?? kind]} too`;
    case Problem.Flags:
      return `flags 0x${at(1).toString(16)}, wanted 1 (internal) or 2 (leaf)`;
    case Problem.ValueSize:
      return `values of ${at(6)} bytes, which this tree does not have`;
    case Problem.Capacity:
      return `room for ${at(5)} entries of ${at(6)} bytes, which is not what fits`;
    case Problem.Entries:
      return `${at(4)} entries, room for ${at(5)}`;
    case Problem.KeyOrder:
      return "keys are out of order";
    case Problem.KeyLarge:
      return "a key is above 2^53";
    case Problem.KeyRange:
      return "keys lie outside what its parent gives it";
    case Problem.Circle:
      return "lies below itself";
    case Problem.Depth:
      return "lies deeper than any tree is";
  }
}

function otherKind(stored: number, crc: number, kind: Kind): string {
  const other = ([Kind.Superblock, Kind.Node, Kind.Bitmap, Kind.Index] as const).find(
    (each) => each !== kind && (crc ^ KIND_SALT[each]) >>> 0 === stored,
  );
  return other === undefined ? "" : `; it is a sound ${KIND_NAME[other]}`;
}
