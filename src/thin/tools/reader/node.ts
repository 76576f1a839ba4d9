/** Btree nodes in place, as words. Source: thin-engine 2.1. */
import { INTERNAL_NODE, LEAF_NODE, maxEntriesFor, NODE_HEADER } from "../../../persistent-data/index.js";
import { Problem } from "./problems.js";

const { fields, size } = NODE_HEADER;
const FLAGS = fields.flags.offset / 4;
const NR = fields.nrEntries.offset / 4;
const MAX = fields.maxEntries.offset / 4;
const VALUE_SIZE = fields.valueSize.offset / 4;
/** First key. */
export const KEYS = size / 4;
const KEY_WORDS = 2;
const TWO_32 = 4294967296;
/** Largest high half of a number that is exact. */
const MAX_HIGH = 0x1fffff;
const CHILD_BYTES = 8;

export const MAX_TREE_DEPTH = 16;
/** Most entries any node has. */
export const MAX_NODE_ENTRIES = maxEntriesFor(4);
/** Children of one internal node at most. */
export const MAX_CHILDREN = maxEntriesFor(CHILD_BYTES);

export function isLeafNode(words: Uint32Array, at: number): boolean {
  return words[at + FLAGS] === LEAF_NODE;
}

export function entriesOf(words: Uint32Array, at: number): number {
  return words[at + NR]!;
}

export function capacityOf(words: Uint32Array, at: number): number {
  return words[at + MAX]!;
}

export function nodeValueSize(words: Uint32Array, at: number): number {
  return words[at + VALUE_SIZE]!;
}

/** Key of an entry of a node that was checked. */
export function keyOf(words: Uint32Array, at: number, index: number): number {
  const word = at + KEYS + index * KEY_WORDS;
  return words[word + 1]! * TWO_32 + words[word]!;
}

/** Index of the first word of the values. */
export function valuesAt(words: Uint32Array, at: number): number {
  return at + KEYS + words[at + MAX]! * KEY_WORDS;
}

/** Block number of a child; what does not fit a number becomes Infinity, which lies outside every device. */
export function childOf(words: Uint32Array, at: number, index: number): number {
  return numberAt(words, valuesAt(words, at) + index * 2);
}

/** A u64 as a number; Infinity above 2^53. */
export function numberAt(words: Uint32Array, word: number): number {
  const high = words[word + 1]!;
  return high > MAX_HIGH ? Number.POSITIVE_INFINITY : high * TWO_32 + words[word]!;
}

/** Whether a node that is not a root holds less than a third of what it could. */
export function isUnderfull(words: Uint32Array, at: number): boolean {
  return words[at + NR]! < Math.floor(words[at + MAX]! / 3);
}

/** Header, room, and order of the keys of a node whose leaves hold values of `valueSize`. */
export function checkNode(words: Uint32Array, at: number, valueSize: number): Problem {
  const flags = words[at + FLAGS];
  if (flags !== INTERNAL_NODE && flags !== LEAF_NODE) return Problem.Flags;
  const size = flags === LEAF_NODE ? valueSize : CHILD_BYTES;
  if (words[at + VALUE_SIZE] !== size) return Problem.ValueSize;
  const max = words[at + MAX]!;
  if (max !== maxEntriesFor(size)) return Problem.Capacity;
  const nr = words[at + NR]!;
  if (nr > max || (nr === 0 && flags === INTERNAL_NODE)) return Problem.Entries;
  return judgeKeys(words, at, nr);
}

function judgeKeys(words: Uint32Array, at: number, nr: number): Problem {
  let low = 0;
  let high = -1;
  const end = at + KEYS + nr * KEY_WORDS;
  for (let word = at + KEYS; word < end; word += KEY_WORDS) {
    const keyLow = words[word]!;
    const keyHigh = words[word + 1]!;
    if (keyHigh < high || (keyHigh === high && keyLow <= low)) return Problem.KeyOrder;
    low = keyLow;
    high = keyHigh;
  }
  return high <= MAX_HIGH ? Problem.None : Problem.KeyLarge;
}
