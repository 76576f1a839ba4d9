/**
 * What every block of a metadata device is, whoever points at it or nobody: the whole device is read once, in order, and
 * each block is judged by its checksum, number and layout alone. Copy-on-write leaves old versions behind, so there is
 * more than the present pool. State is some thirty bytes for each block.
 */
import { crc32c } from "../../../bytes/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import type { Pace } from "../pace.js";
import { BLOCK_WORDS, BlockBuffer, type BlockStore } from "../reader/block-store.js";
import { DETAILS_BYTES } from "../reader/devices.js";
import { checkNode, entriesOf, isLeafNode, isUnderfull, keyOf, nodeValueSize, valuesAt } from "../reader/node.js";
import { KIND_SALT, Kind, Problem } from "../reader/problems.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";

/** What a block is by itself. */
export enum Role {
  /** Empty, damaged, or not metadata. */
  Nothing = 0,
  Superblock,
  Internal,
  Leaf,
}

/** What a tree may hold, as bits: a leaf of few entries may be read in two ways. */
export const TreeKind = { Mappings: 1, Devices: 2, Details: 4 } as const;
const ANY_KIND = TreeKind.Mappings | TreeKind.Devices;

const SPAN_BLOCKS = 256;
const CSUM_START = 4;

export class Survey {
  readonly nrBlocks: number;
  readonly role: Uint8Array;
  /** Of leaves at once, of internal nodes once they are resolved. Bits of TreeKind. */
  readonly kinds: Uint8Array;
  readonly isUnderfull: Uint8Array;
  /** First key of a node. */
  readonly first: Float64Array;
  /** Last key of a leaf; of an internal node, once it is resolved, the last below it. -1 in an empty one. */
  readonly last: Float64Array;
  /** Entries of a leaf; of an internal node, once it is resolved, all below it. */
  readonly total: Float64Array;
  /** Largest data block, and time, that a leaf of mappings names, or any below a node. */
  readonly maxData: Float64Array;
  readonly maxTime: Uint32Array;
  /** Sum of the times of mappings: what is written later is of a later time, so of two states the newer has more. */
  readonly timeSum: Float64Array;
  /** Sound copies of a superblock, in order. */
  readonly superblocks: number[] = [];

  private constructor(readonly store: BlockStore) {
    const { nrBlocks } = store;
    this.nrBlocks = nrBlocks;
    this.role = new Uint8Array(nrBlocks);
    this.kinds = new Uint8Array(nrBlocks);
    this.isUnderfull = new Uint8Array(nrBlocks);
    this.first = new Float64Array(nrBlocks);
    this.last = new Float64Array(nrBlocks);
    this.total = new Float64Array(nrBlocks);
    this.maxData = new Float64Array(nrBlocks);
    this.maxTime = new Uint32Array(nrBlocks);
    this.timeSum = new Float64Array(nrBlocks);
  }

  /** Reads all blocks. What cannot be read is nothing. */
  static async take(store: BlockStore, pace: Pace): Promise<Survey> {
    const survey = new Survey(store);
    const buffer = new BlockBuffer(SPAN_BLOCKS);
    const list = new Uint32Array(SPAN_BLOCKS);
    for (let from = 0; from < store.nrBlocks; from += SPAN_BLOCKS) {
      const count = Math.min(SPAN_BLOCKS, store.nrBlocks - from);
      for (let index = 0; index < count; index++) list[index] = from + index;
      store.load(list, 0, count, buffer);
      for (let index = 0; index < count; index++) survey.#look(from + index, buffer, index * BLOCK_WORDS);
      await pace.rest(from + count);
    }
    return survey;
  }

  isNode(blocknr: number): boolean {
    if (blocknr <= 0 || !this.store.isInside(blocknr)) return false;
    return this.role[blocknr] === Role.Leaf || this.role[blocknr] === Role.Internal;
  }

  #look(blocknr: number, { words, view }: BlockBuffer, at: number): void {
    if (words[at + 2] !== blocknr || words[at + 3] !== 0) return;
    if (blocknr === 0 && words[at] === 0) return;
    const start = at * 4;
    const salt = (crc32c(view, start + CSUM_START, start + METADATA_BLOCK_BYTES) ^ words[at]!) >>> 0;
    if (salt === KIND_SALT[Kind.Superblock]) {
      this.role[blocknr] = Role.Superblock;
      this.superblocks.push(blocknr);
    } else if (salt === KIND_SALT[Kind.Node]) this.#node(blocknr, words, at);
  }

  #node(blocknr: number, words: Uint32Array, at: number): void {
    if (checkNode(words, at, isLeafNode(words, at) ? nodeValueSize(words, at) : MAPPING_BYTES) !== Problem.None) return;
    const nr = entriesOf(words, at);
    this.first[blocknr] = nr === 0 ? 0 : keyOf(words, at, 0);
    if (isUnderfull(words, at)) this.isUnderfull[blocknr] = 1;
    if (!isLeafNode(words, at)) {
      this.role[blocknr] = Role.Internal;
      return;
    }
    const size = nodeValueSize(words, at);
    if (size !== MAPPING_BYTES && size !== DETAILS_BYTES) return;
    this.role[blocknr] = Role.Leaf;
    this.total[blocknr] = nr;
    this.last[blocknr] = nr === 0 ? -1 : keyOf(words, at, nr - 1);
    if (size === DETAILS_BYTES) this.kinds[blocknr] = TreeKind.Details;
    else this.#values(blocknr, words, valuesAt(words, at), nr);
  }

  /** Roots of trees are below 2^24; of mappings only those of data block 0 are, and one device has but one. */
  #values(blocknr: number, words: Uint32Array, values: number, nr: number): void {
    let maxTime = 0;
    let timeSum = 0;
    let maxData = 0;
    let nrSmall = 0;
    const end = values + nr * 2;
    for (let word = values; word < end; word += 2) {
      const low = words[word]!;
      const high = words[word + 1]!;
      const data = high * 256 + (low >>> 24);
      const time = low & 0xffffff;
      if (data > maxData) maxData = data;
      if (time > maxTime) maxTime = time;
      timeSum += time;
      if (data === 0) nrSmall++;
    }
    this.maxTime[blocknr] = maxTime;
    this.timeSum[blocknr] = timeSum;
    this.maxData[blocknr] = maxData;
    // One small number may be either; of more, most are roots or none but one is.
    if (nr < 3 && nrSmall < 2 && nrSmall === Math.min(nr, 1)) this.kinds[blocknr] = ANY_KIND;
    else this.kinds[blocknr] = nrSmall * 2 >= nr ? TreeKind.Devices : TreeKind.Mappings;
  }
}
