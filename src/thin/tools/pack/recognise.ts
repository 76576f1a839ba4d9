/** Which blocks of a device are metadata: by their checksum, as 1.x has it, or by what they look like. */
import { crc32c } from "../../../bytes/index.js";
import { maxEntriesFor } from "../../../persistent-data/index.js";
import { SUPERBLOCK, SUPERBLOCK_LOCATION, THIN_MAGIC } from "../../superblock.js";
import { BLOCK_WORDS } from "../reader/block-store.js";
import { capacityOf, isLeafNode, nodeValueSize } from "../reader/node.js";
import { KIND_SALT, Kind } from "../reader/problems.js";

/** Constants in the checksums of blocks that pools do not have: arrays, superblocks of caches and eras. */
const FOREIGN_SALTS: readonly number[] = [595846735, 9031977, 146538381];
const SALTS: ReadonlySet<number> = new Set([...Object.values(KIND_SALT), ...FOREIGN_SALTS]);
const CSUM_BYTES = 4;
/** Bytes of the values in the trees of a pool: counts, mappings and roots, index entries, details. */
const VALUE_SIZES: readonly number[] = [4, 8, 16, 24];
const BLOCKNR_WORD = 2;
const MAGIC_WORD = SUPERBLOCK.fields.magic.offset / 4;

/** What a block is to a pack. */
export enum Standing {
  /** All zeros. */
  Empty = 0,
  Node,
  /** Sound, and no node. */
  Other,
  /** Not sound, but it looks like metadata. */
  Damaged,
  Unknown,
}

/** @param at first word of the block */
export function standingOf(blocknr: number, words: Uint32Array, view: DataView, at: number): Standing {
  if (isEmpty(words, at)) return Standing.Empty;
  const salt = saltOf(words, view, at);
  if (salt === KIND_SALT[Kind.Node]) return Standing.Node;
  if (SALTS.has(salt)) return Standing.Other;
  return looksLikeMetadata(blocknr, words, at) ? Standing.Damaged : Standing.Unknown;
}

/** Whether the checksum of a block is right as that of any kind. */
export function isSound(words: Uint32Array, view: DataView): boolean {
  return SALTS.has(saltOf(words, view, 0));
}

function saltOf(words: Uint32Array, view: DataView, at: number): number {
  return (crc32c(view, at * 4 + CSUM_BYTES, (at + BLOCK_WORDS) * 4) ^ words[at]!) >>> 0;
}

function isEmpty(words: Uint32Array, at: number): boolean {
  const end = at + BLOCK_WORDS;
  for (let word = at; word < end; word++) if (words[word] !== 0) return false;
  return true;
}

/** It says which block it is, or it has the head of a node or of a superblock; block 0 always does. */
function looksLikeMetadata(blocknr: number, words: Uint32Array, at: number): boolean {
  if (blocknr === SUPERBLOCK_LOCATION) return true;
  if (words[at + BLOCKNR_WORD] === blocknr && words[at + BLOCKNR_WORD + 1] === 0) return true;
  if (words[at + MAGIC_WORD] === THIN_MAGIC && words[at + MAGIC_WORD + 1] === 0) return true;
  const size = nodeValueSize(words, at);
  if (!VALUE_SIZES.includes(size) || capacityOf(words, at) !== maxEntriesFor(size)) return false;
  return isLeafNode(words, at) || size === 8;
}
