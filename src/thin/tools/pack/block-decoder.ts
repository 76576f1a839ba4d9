/** Instructions to blocks. Whatever stands in the file, a block never grows beyond its size, and every step consumes. */
import { DamageError } from "../../../errors/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { SHIFT_BITS, Tag, U64_BYTES } from "./format.js";

const TWO_32 = 2 ** 32;
const LOW_24 = 2 ** SHIFT_BITS - 1;

/** Where emitted bytes go. */
interface Page {
  readonly view: DataView;
  readonly bytes: Uint8Array;
  at: number;
  end: number;
}

function page(): Page {
  const bytes = new Uint8Array(METADATA_BLOCK_BYTES);
  return { bytes, view: new DataView(bytes.buffer), at: 0, end: METADATA_BLOCK_BYTES };
}

/** Walks over the blocks of one unpacked chunk. */
export class BlockDecoder {
  /** Number of the block that `next` moved to. */
  blocknr = 0;
  readonly #input: Uint8Array;
  readonly #view: DataView;
  readonly #block: Page;
  readonly #high = page();
  readonly #low = page();
  #out: Page;
  #at = 0;
  /** The register, in two halves. */
  #baseLow = 0;
  #baseHigh = 0;

  /** @param block 4096 bytes that `next` fills */
  constructor(input: Uint8Array, block: Uint8Array) {
    this.#input = input;
    this.#view = new DataView(input.buffer, input.byteOffset, input.byteLength);
    const view = new DataView(block.buffer, block.byteOffset, METADATA_BLOCK_BYTES);
    this.#block = { bytes: block, view, at: 0, end: METADATA_BLOCK_BYTES };
    this.#out = this.#block;
  }

  /** @returns false behind the last block @throws DamageError */
  next(): boolean {
    if (this.#at === this.#input.length) return false;
    this.#want(U64_BYTES);
    this.blocknr = this.#view.getUint32(this.#at + 4, true) * TWO_32 + this.#view.getUint32(this.#at, true);
    this.#at += U64_BYTES;
    this.#baseLow = 0;
    this.#baseHigh = 0;
    this.#fill(this.#block, METADATA_BLOCK_BYTES);
    return true;
  }

  /** Runs instructions until a page holds exactly `length` bytes. */
  #fill(target: Page, length: number): void {
    const before = this.#out;
    this.#out = target;
    target.at = 0;
    target.end = length;
    while (target.at < length) this.#step();
    this.#out = before;
  }

  #step(): void {
    let times = 1;
    let code = this.#byte();
    for (;;) {
      const tag: Tag = code >>> 4;
      if (tag === Tag.Times) times = code & 15;
      else if (tag === Tag.TimesWide) times = this.#count(code);
      else break;
      code = this.#byte();
    }
    this.#do(code >>> 4, code & 15, code, times);
  }

  #do(tag: Tag, operand: number, code: number, times: number): void {
    switch (tag) {
      case Tag.Set:
        return this.#set(operand, times);
      case Tag.Add:
        return this.#add(operand, 0, times);
      case Tag.Subtract:
        return this.#subtract(operand, 0, times);
      case Tag.AddWide: {
        const [low, high] = this.#sized(operand);
        return this.#add(low, high, times);
      }
      case Tag.SubtractWide: {
        const [low, high] = this.#sized(operand);
        return this.#subtract(low, high, times);
      }
      case Tag.Repeat:
        this.#once(times);
        return this.#repeat(operand);
      case Tag.RepeatWide:
        this.#once(times);
        return this.#repeat(this.#count(code));
      case Tag.Literal:
        this.#once(times);
        return this.#literal(operand);
      case Tag.LiteralWide: {
        this.#once(times);
        const [low, high] = this.#sized(operand);
        return this.#literal(high * TWO_32 + low);
      }
      case Tag.Shifted:
        this.#once(times);
        return this.#shifted(this.#count(code));
      case Tag.Times:
      case Tag.TimesWide:
        break;
    }
    throw this.#wrong(`instruction ${code} is unknown`);
  }

  #set(width: number, times: number): void {
    const [low, high] = this.#sized(width);
    this.#baseLow = low;
    this.#baseHigh = high;
    this.#repeat(times);
  }

  #add(low: number, high: number, times: number): void {
    for (let index = 0; index < times; index++) {
      const sum = this.#baseLow + low;
      this.#baseLow = sum >>> 0;
      this.#baseHigh = (this.#baseHigh + high + (sum >= TWO_32 ? 1 : 0)) >>> 0;
      this.#emit();
    }
  }

  #subtract(low: number, high: number, times: number): void {
    for (let index = 0; index < times; index++) {
      const difference = this.#baseLow - low;
      this.#baseLow = difference >>> 0;
      this.#baseHigh = (this.#baseHigh - high - (difference < 0 ? 1 : 0)) >>> 0;
      this.#emit();
    }
  }

  #repeat(times: number): void {
    for (let index = 0; index < times; index++) this.#emit();
  }

  #emit(): void {
    const out = this.#out;
    if (out.at + U64_BYTES > out.end) throw this.#wrong(`more than ${out.end} bytes come of it`);
    out.view.setUint32(out.at, this.#baseLow, true);
    out.view.setUint32(out.at + 4, this.#baseHigh, true);
    out.at += U64_BYTES;
  }

  #literal(length: number): void {
    const out = this.#out;
    if (out.at + length > out.end) throw this.#wrong(`more than ${out.end} bytes come of it`);
    this.#want(length);
    out.bytes.set(this.#input.subarray(this.#at, this.#at + length), out.at);
    out.at += length;
    this.#at += length;
  }

  #shifted(count: number): void {
    const length = count * U64_BYTES;
    const out = this.#out;
    if (out !== this.#block) throw this.#wrong("a run of shifted numbers in another");
    if (out.at + length > out.end) throw this.#wrong(`more than ${out.end} bytes come of it`);
    this.#fill(this.#high, length);
    this.#fill(this.#low, length);
    for (let at = 0; at < length; at += U64_BYTES) {
      const low = this.#high.view.getUint32(at, true);
      const high = this.#high.view.getUint32(at + 4, true);
      const time = this.#low.view.getUint32(at, true) & LOW_24;
      out.view.setUint32(out.at, (low << SHIFT_BITS) | time, true);
      out.view.setUint32(out.at + 4, (high << SHIFT_BITS) | (low >>> (32 - SHIFT_BITS)), true);
      out.at += U64_BYTES;
    }
  }

  #byte(): number {
    this.#want(1);
    return this.#input[this.#at++]!;
  }

  /** Twelve bits: operand and next byte. */
  #count(code: number): number {
    return (code & 15) * 256 + this.#byte();
  }

  /** @returns low and high half */
  #sized(width: number): readonly [number, number] {
    if (width !== 1 && width !== 2 && width !== 4 && width !== 8) {
      throw this.#wrong(`a number of ${width} bytes, wanted 1, 2, 4 or 8`);
    }
    this.#want(width);
    const at = this.#at;
    this.#at += width;
    if (width === 1) return [this.#input[at]!, 0];
    if (width === 2) return [this.#view.getUint16(at, true), 0];
    return [this.#view.getUint32(at, true), width === 8 ? this.#view.getUint32(at + 4, true) : 0];
  }

  #once(times: number): void {
    if (times !== 1) throw this.#wrong("an instruction that has a count of its own is repeated");
  }

  #want(length: number): void {
    if (this.#at + length > this.#input.length) throw this.#wrong("its instructions are cut off");
  }

  #wrong(what: string): DamageError {
    return new DamageError(`block ${this.blocknr}: ${what}`);
  }
}
