/**
 * A set of block numbers as bits, which tells the place of a member among the others (rank) and the member at a place
 * (select). One bit a block and a number for each 512 of them, however scattered the members are.
 */

/** Words between two entries of the directory. */
const SPAN_WORDS = 16;
/** Most blocks a set can be over: bits in the largest array. */
export const MAX_BITS = 2 ** 34;

export class BitRank {
  readonly #words: Uint32Array;
  /** Members before each span; filled by `index`. */
  #before = new Float64Array(0);
  #count = 0;

  /** A set over [0, length). */
  constructor(readonly length: number) {
    this.#words = new Uint32Array(Math.ceil(length / 32));
  }

  /** Members, once `index` was called. */
  get count(): number {
    return this.#count;
  }

  add(block: number): void {
    const word = Math.floor(block / 32);
    this.#words[word] = this.#words[word]! | (1 << (block % 32));
  }

  has(block: number): boolean {
    return ((this.#words[Math.floor(block / 32)]! >>> (block % 32)) & 1) === 1;
  }

  removeRange(begin: number, end: number): void {
    for (let block = begin; block < end; ) {
      const word = Math.floor(block / 32);
      if (block % 32 === 0 && end - block >= 32) {
        this.#words[word] = 0;
        block += 32;
      } else {
        this.#words[word] = this.#words[word]! & ~(1 << (block % 32));
        block++;
      }
    }
  }

  /** The members are known: prepares `rank` and `select`. */
  index(): void {
    const words = this.#words;
    const spans = Math.ceil(words.length / SPAN_WORDS);
    this.#before = new Float64Array(spans);
    let count = 0;
    for (let span = 0, word = 0; span < spans; span++) {
      this.#before[span] = count;
      const end = Math.min(words.length, word + SPAN_WORDS);
      for (; word < end; word++) if (words[word] !== 0) count += bitsIn(words[word]!);
    }
    this.#count = count;
  }

  /** Members below `block`. */
  rank(block: number): number {
    if (block >= this.length) return this.#count;
    const words = this.#words;
    const last = Math.floor(block / 32);
    let word = last - (last % SPAN_WORDS);
    let count = this.#before[word / SPAN_WORDS]!;
    for (; word < last; word++) count += bitsIn(words[word]!);
    // A shift by 32 would be none.
    return block % 32 === 0 ? count : count + bitsIn(words[last]! << (32 - (block % 32)));
  }

  /** The member with `place` members below it; `length` when there are not so many. */
  select(place: number): number {
    if (place >= this.#count) return this.length;
    const before = this.#before;
    let low = 0;
    let high = before.length;
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if (before[middle]! <= place) low = middle;
      else high = middle;
    }
    let left = place - before[low]!;
    let word = low * SPAN_WORDS;
    for (;;) {
      const bits = bitsIn(this.#words[word]!);
      if (left < bits) break;
      left -= bits;
      word++;
    }
    let bits = this.#words[word]!;
    for (; left > 0; left--) bits &= bits - 1;
    return word * 32 + 31 - Math.clz32(bits & -bits);
  }

  /** First member from `from` on; `end` when there is none before it. */
  nextIn(from: number, end: number): number {
    return this.#search(from, end, 0);
  }

  /** First block from `from` on that is no member; `end` when there is none before it. */
  nextOut(from: number, end: number): number {
    return this.#search(from, end, ~0);
  }

  #search(from: number, end: number, flip: number): number {
    if (from >= end) return end;
    let word = Math.floor(from / 32);
    let bits = (this.#words[word]! ^ flip) & (~0 << (from % 32));
    while (bits === 0) {
      word++;
      if (word * 32 >= end) return end;
      bits = this.#words[word]! ^ flip;
    }
    return Math.min(end, word * 32 + 31 - Math.clz32(bits & -bits));
  }
}

function bitsIn(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  bits = (bits + (bits >>> 4)) & 0x0f0f0f0f;
  return (Math.imul(bits, 0x01010101) >>> 24) & 0xff;
}
