/**
 * Where each data block behind the new end goes: the n-th of them, in ascending order, into the n-th of the chosen free
 * blocks. So runs stay runs but where a free stretch ends, and the way from a block to its new place needs no table: two
 * sets of bits, however scattered the blocks are.
 *
 * Short free stretches are left alone as long as the longer ones suffice.
 */
import { invariant } from "../../../errors/index.js";
import type { BitRank } from "./bit-rank.js";

/** `length` blocks in a row that go from `from` on to `to` on. */
export interface RelocatedRun {
  readonly from: number;
  readonly to: number;
  readonly length: number;
}

export class Relocation {
  /** First block behind the new end. */
  readonly limit: number;
  /** Behind the last block of the pool. */
  readonly end: number;
  /** Blocks to move, counted from `limit`. */
  readonly #sources: BitRank;
  readonly #targets: BitRank;

  /**
   * @param sources blocks in use behind the new end, counted from there @param targets free blocks below it; both are
   * the callee's from now on
   */
  constructor(sources: BitRank, targets: BitRank) {
    this.limit = targets.length;
    this.end = targets.length + sources.length;
    this.#sources = sources;
    this.#targets = targets;
    sources.index();
    targets.index();
    invariant(targets.count >= sources.count, "there is not enough room below the new end");
    leaveShortRuns(targets, sources.count);
    targets.index();
  }

  /** Blocks to move in all. */
  get count(): number {
    return this.#sources.count;
  }

  isMoved(block: number): boolean {
    return block >= this.limit && block < this.end && this.#sources.has(block - this.limit);
  }

  /** New place of a block that is moved. */
  target(block: number): number {
    return this.#targets.select(this.#sources.rank(block - this.limit));
  }

  /** How many blocks from `block` on, at most `max`, stay together: all where they are, or all moved as one run. */
  lengthFrom(block: number, max: number): number {
    if (block < this.limit) return Math.min(max, this.limit - block);
    const from = block - this.limit;
    const to = this.target(block);
    const length = this.#sources.nextOut(from, Math.min(this.#sources.length, from + max)) - from;
    return this.#targets.nextOut(to, Math.min(this.limit, to + length)) - to;
  }

  /** Blocks that are moved among [begin, end). */
  countIn(begin: number, end: number): number {
    return this.#sources.rank(end - this.limit) - this.#sources.rank(begin - this.limit);
  }

  /** Behind the `count`-th block that is moved from `begin` on. */
  endOf(begin: number, count: number): number {
    const sources = this.#sources;
    const last = sources.select(sources.rank(begin - this.limit) + count - 1);
    return this.limit + Math.min(last + 1, sources.length);
  }

  /** What is moved among [begin, end), in order. The object is used again for the next. */
  *runs(begin: number, end: number): Generator<RelocatedRun> {
    const { limit } = this;
    const sources = this.#sources;
    const targets = this.#targets;
    const run = { from: 0, to: 0, length: 0 };
    let from = sources.nextIn(begin - limit, end - limit);
    if (from >= end - limit) return;
    let to = targets.select(sources.rank(from));
    while (from < end - limit) {
      const sourceEnd = sources.nextOut(from, end - limit);
      while (from < sourceEnd) {
        const targetEnd = targets.nextOut(to, Math.min(limit, to + sourceEnd - from));
        run.from = limit + from;
        run.to = to;
        run.length = targetEnd - to;
        from += run.length;
        to = targets.nextIn(targetEnd, limit);
        yield run;
      }
      from = sources.nextIn(sourceEnd, end - limit);
    }
  }
}

/** Takes away the free runs below a length as long as enough is left for `needed`. */
function leaveShortRuns(targets: BitRank, needed: number): void {
  /** Blocks in runs of 2^k to 2^(k+1) - 1, by k. */
  const blocksBySize = new Float64Array(64);
  eachFreeRun(targets, (begin, end) => {
    blocksBySize[sizeClass(end - begin)]! += end - begin;
  });
  let least = blocksBySize.length;
  for (let sum = 0; sum < needed && least > 0; ) sum += blocksBySize[--least]!;
  if (least === 0) return;
  eachFreeRun(targets, (begin, end) => {
    if (sizeClass(end - begin) < least) targets.removeRange(begin, end);
  });
}

function eachFreeRun(targets: BitRank, visit: (begin: number, end: number) => void): void {
  const { length } = targets;
  for (let begin = targets.nextIn(0, length); begin < length; ) {
    const end = targets.nextOut(begin, length);
    visit(begin, end);
    begin = targets.nextIn(end, length);
  }
}

function sizeClass(length: number): number {
  return Math.floor(Math.log2(length));
}
