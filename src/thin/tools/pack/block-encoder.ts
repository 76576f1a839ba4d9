/**
 * Blocks to instructions. Nodes are where it pays: keys ascend, and so do the data blocks of mappings, often by the same
 * step for long. Everything else, and a node that does not come out smaller, is a literal for zlib to work on.
 */
import { invariant } from "../../../errors/index.js";
import { METADATA_BLOCK_BYTES, NODE_HEADER } from "../../../persistent-data/index.js";
import { capacityOf, isLeafNode, KEYS, nodeValueSize, numberAt } from "../reader/node.js";
import { MAX_BLOCK_BYTES, SHIFT_BITS, Tag, U64_BYTES } from "./format.js";

const TWO_24 = 2 ** SHIFT_BITS;
const LOW_24 = TWO_24 - 1;
const TWO_32 = 2 ** 32;
/** Counts and steps below stand in the instruction itself. */
const NIBBLE = 16;
/** Most numbers that fit a node. */
const MAX_NUMBERS = METADATA_BLOCK_BYTES / U64_BYTES;
/** A number takes at most a count of two bytes, a tag, and eight bytes. */
const MAX_NUMBER_BYTES = 11;
const SLACK_BYTES = 2 * MAX_NUMBERS * MAX_NUMBER_BYTES + METADATA_BLOCK_BYTES;

/** Collects the instructions of blocks, up to a number of them. */
export class BlockEncoder {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #numbers = new Float64Array(MAX_NUMBERS);
  readonly #low = new Float64Array(MAX_NUMBERS);
  #at = 0;

  constructor(blocks: number) {
    this.#bytes = new Uint8Array(blocks * (U64_BYTES + MAX_BLOCK_BYTES) + SLACK_BYTES);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** What was collected; valid until `clear`. */
  get encoded(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }

  clear(): void {
    this.#at = 0;
  }

  /** @param at first word of the block */
  node(blocknr: number, words: Uint32Array, at: number): void {
    this.#number(blocknr);
    const begin = this.#at;
    if (this.#tryNode(words, at) && this.#at - begin <= MAX_BLOCK_BYTES) return;
    this.#at = begin;
    this.#literal(words, at, 0, METADATA_BLOCK_BYTES);
  }

  other(blocknr: number, words: Uint32Array, at: number): void {
    this.#number(blocknr);
    this.#literal(words, at, 0, METADATA_BLOCK_BYTES);
  }

  #number(blocknr: number): void {
    invariant(this.#at + U64_BYTES + SLACK_BYTES <= this.#bytes.length, "more blocks than there is room for");
    this.#view.setUint32(this.#at, blocknr, true);
    this.#view.setUint32(this.#at + 4, Math.floor(blocknr / TWO_32), true);
    this.#at += U64_BYTES;
  }

  /** @returns false when its numbers do not fit, in the block or in a number of ours */
  #tryNode(words: Uint32Array, at: number): boolean {
    const room = capacityOf(words, at);
    const isLeaf = isLeafNode(words, at);
    const valuesAreNumbers = !isLeaf || nodeValueSize(words, at) === U64_BYTES;
    const end = NODE_HEADER.size + room * U64_BYTES * (valuesAreNumbers ? 2 : 1);
    if (end > METADATA_BLOCK_BYTES) return false;
    this.#literal(words, at, 0, NODE_HEADER.size);
    if (!this.#take(words, at + KEYS, room)) return false;
    this.#numbersOf(this.#numbers, room);
    const values = at + KEYS + room * 2;
    if (valuesAreNumbers && isLeaf) this.#mappings(words, values, room);
    else if (valuesAreNumbers) {
      if (!this.#take(words, values, room)) return false;
      this.#numbersOf(this.#numbers, room);
    }
    if (end < METADATA_BLOCK_BYTES) this.#literal(words, at, end, METADATA_BLOCK_BYTES);
    return true;
  }

  #take(words: Uint32Array, word: number, count: number): boolean {
    for (let index = 0; index < count; index++) {
      const value = numberAt(words, word + index * 2);
      if (value === Number.POSITIVE_INFINITY) return false;
      this.#numbers[index] = value;
    }
    return true;
  }

  /** Data blocks and times apart, which both change little from one to the next. */
  #mappings(words: Uint32Array, word: number, count: number): void {
    for (let index = 0; index < count; index++) {
      const low = words[word + index * 2]!;
      this.#numbers[index] = words[word + index * 2 + 1]! * 256 + (low >>> SHIFT_BITS);
      this.#low[index] = low & LOW_24;
    }
    this.#wide(Tag.Shifted, count);
    this.#numbersOf(this.#numbers, count);
    this.#numbersOf(this.#low, count);
  }

  #numbersOf(numbers: Float64Array, count: number): void {
    if (count === 0) return;
    let base = numbers[0]!;
    this.#sized(Tag.Set, base);
    for (let index = 1; index < count; ) {
      const step = numbers[index]! - base;
      let next = index + 1;
      while (next < count && numbers[next]! - numbers[next - 1]! === step) next++;
      const times = next - index;
      if (step === 0) {
        if (times < NIBBLE) this.#tag(Tag.Repeat, times);
        else this.#wide(Tag.RepeatWide, times);
      } else {
        if (times > 1) {
          if (times < NIBBLE) this.#tag(Tag.Times, times);
          else this.#wide(Tag.TimesWide, times);
        }
        const isUp = step > 0;
        const width = isUp ? step : -step;
        if (width < NIBBLE) this.#tag(isUp ? Tag.Add : Tag.Subtract, width);
        else this.#sized(isUp ? Tag.AddWide : Tag.SubtractWide, width);
      }
      base = numbers[next - 1]!;
      index = next;
    }
  }

  #tag(tag: Tag, operand: number): void {
    this.#bytes[this.#at++] = tag * NIBBLE + operand;
  }

  /** A tag with a count of twelve bits. */
  #wide(tag: Tag, count: number): void {
    this.#tag(tag, count >>> 8);
    this.#bytes[this.#at++] = count & 0xff;
  }

  /** A tag with a number behind it in as few bytes as it takes. */
  #sized(tag: Tag, value: number): void {
    const width = value < 256 ? 1 : value < 65536 ? 2 : value < TWO_32 ? 4 : 8;
    this.#tag(tag, width);
    if (width === 1) this.#bytes[this.#at] = value;
    else if (width === 2) this.#view.setUint16(this.#at, value, true);
    else this.#view.setUint32(this.#at, value % TWO_32, true);
    if (width === 8) this.#view.setUint32(this.#at + 4, Math.floor(value / TWO_32), true);
    this.#at += width;
  }

  /** Bytes [from, to) of a block. */
  #literal(words: Uint32Array, at: number, from: number, to: number): void {
    const length = to - from;
    if (length < NIBBLE) this.#tag(Tag.Literal, length);
    else this.#sized(Tag.LiteralWide, length);
    this.#bytes.set(new Uint8Array(words.buffer, words.byteOffset + at * 4 + from, length), this.#at);
    this.#at += length;
  }
}
