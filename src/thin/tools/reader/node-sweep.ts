/**
 * Many trees as the one graph they are: every node is read once, whoever and however many point at it, level by level
 * and within a level by block number. On the way every pointer is counted. For what does not depend on the order of
 * keys: checks, counts, totals. State is a few bytes for each block of the device.
 */
import type { Pace } from "../pace.js";
import type { BlockStore } from "./block-store.js";
import { checkNode, childOf, entriesOf, isLeafNode, isUnderfull, keyOf, nodeValueSize, valuesAt } from "./node.js";
import { Kind, Problem } from "./problems.js";

/** What a block is to the sweep. */
enum Role {
  Unseen = 0,
  Waiting,
  Internal,
  Leaf,
  Damaged,
}

/** Called with each leaf, once: entries, where keys begin is `at + KEYS`, where values begin `values`. */
export type LeafVisitor = (blocknr: number, words: Uint32Array, at: number, nr: number, values: number) => void;

export interface SweepOptions {
  /** Bytes of a value in the leaves. */
  readonly valueSize: number;
  /** Pointers to each block; counted up by the sweep. May be shared by several sweeps. */
  readonly references: Uint32Array;
  /** Called once for each damaged block; for Outside, for each pointer. */
  readonly onDamage: (blocknr: number, problem: Problem) => void;
  /** A node that is no root and less than a third full. */
  readonly onUnderfull?: (blocknr: number) => void;
  readonly pace: Pace;
}

export class NodeSweep {
  readonly #store: BlockStore;
  readonly #options: SweepOptions;
  readonly #checkContent: (words: Uint32Array, at: number) => Problem;
  readonly #role: Uint8Array;
  readonly #isRoot: Uint8Array;
  /** Before a node is read: what its parents allow; afterwards its first and last key. */
  readonly #low: Float64Array;
  readonly #high: Float64Array;
  #waiting = new Uint32Array(1024);
  #nrWaiting = 0;
  #leaves = 0;
  #internals = 0;

  constructor(store: BlockStore, options: SweepOptions) {
    this.#store = store;
    this.#options = options;
    this.#checkContent = (words, at) => checkNode(words, at, options.valueSize);
    this.#role = new Uint8Array(store.nrBlocks);
    this.#isRoot = new Uint8Array(store.nrBlocks);
    this.#low = new Float64Array(store.nrBlocks);
    this.#high = new Float64Array(store.nrBlocks);
  }

  get nrLeaves(): number {
    return this.#leaves;
  }

  get nrInternals(): number {
    return this.#internals;
  }

  isLeaf(blocknr: number): boolean {
    return this.#role[blocknr] === Role.Leaf;
  }

  isDamaged(blocknr: number): boolean {
    return this.#role[blocknr] === Role.Damaged;
  }

  isSeen(blocknr: number): boolean {
    return this.#role[blocknr] !== Role.Unseen;
  }

  /** A pointer to the root of a tree. */
  addRoot(root: number): void {
    if (this.#store.isInside(root) && root > 0) this.#isRoot[root] = 1;
    this.#point(root, 0, Number.POSITIVE_INFINITY);
  }

  /** Visits what can be reached and was not visited. Roots may be added afterwards, for another run. */
  async run(visitLeaf: LeafVisitor): Promise<void> {
    const { pace } = this.#options;
    while (this.#nrWaiting > 0) {
      const level = this.#waiting.subarray(0, this.#nrWaiting).sort();
      this.#waiting = new Uint32Array(1024);
      this.#nrWaiting = 0;
      for (let index = 0; index < level.length; ) {
        index = this.#store.visit(
          level,
          index,
          level.length,
          (blocknr, words, at) => this.#visit(blocknr, words, at, visitLeaf),
          () => pace.isDue,
        );
        await pace.rest(this.#leaves + this.#internals);
      }
    }
  }

  /** Visits all sound leaves again, by block number. */
  async revisitLeaves(visitLeaf: LeafVisitor): Promise<void> {
    const { pace } = this.#options;
    const list = new Uint32Array(this.#leaves);
    let count = 0;
    for (let blocknr = 0; blocknr < this.#role.length; blocknr++) {
      if (this.#role[blocknr] === Role.Leaf) list[count++] = blocknr;
    }
    for (let index = 0; index < list.length; ) {
      index = this.#store.visit(
        list,
        index,
        list.length,
        (blocknr, words, at) => visitLeaf(blocknr, words, at, entriesOf(words, at), valuesAt(words, at)),
        () => pace.isDue,
      );
      await pace.rest(index);
    }
  }

  #visit(blocknr: number, words: Uint32Array, at: number, visitLeaf: LeafVisitor): void {
    const problem = this.#judge(blocknr, words, at);
    if (problem !== Problem.None) {
      this.#damaged(blocknr, problem);
      return;
    }
    const nr = entriesOf(words, at);
    if (this.#options.onUnderfull !== undefined && this.#isRoot[blocknr] === 0 && isUnderfull(words, at)) {
      this.#options.onUnderfull(blocknr);
    }
    const high = this.#high[blocknr]!;
    if (nr > 0) {
      this.#low[blocknr] = keyOf(words, at, 0);
      this.#high[blocknr] = keyOf(words, at, nr - 1);
    }
    if (isLeafNode(words, at)) {
      this.#role[blocknr] = Role.Leaf;
      this.#leaves++;
      visitLeaf(blocknr, words, at, nr, valuesAt(words, at));
      return;
    }
    this.#role[blocknr] = Role.Internal;
    this.#internals++;
    for (let index = 0; index < nr; index++) {
      const childHigh = index + 1 < nr ? keyOf(words, at, index + 1) : high;
      this.#point(childOf(words, at, index), keyOf(words, at, index), childHigh);
    }
  }

  #judge(blocknr: number, words: Uint32Array, at: number): Problem {
    const { valueSize } = this.#options;
    const problem = this.#store.check(blocknr, Kind.Node, this.#store.visited, at, this.#checkContent);
    if (problem !== Problem.None) return problem;
    if (isLeafNode(words, at) && nodeValueSize(words, at) !== valueSize) return Problem.ValueSize;
    const nr = entriesOf(words, at);
    if (nr === 0) return Problem.None;
    const isInRange = keyOf(words, at, 0) >= this.#low[blocknr]! && keyOf(words, at, nr - 1) < this.#high[blocknr]!;
    return isInRange ? Problem.None : Problem.KeyRange;
  }

  /** A pointer to a node that should hold keys in [low, high). */
  #point(blocknr: number, low: number, high: number): void {
    if (blocknr === 0 || !this.#store.isInside(blocknr)) {
      this.#options.onDamage(blocknr, Problem.Outside);
      return;
    }
    this.#options.references[blocknr]!++;
    switch (this.#role[blocknr]! as Role) {
      case Role.Unseen:
        this.#role[blocknr] = Role.Waiting;
        this.#low[blocknr] = low;
        this.#high[blocknr] = high;
        this.#push(blocknr);
        return;
      case Role.Waiting:
        if (low > this.#low[blocknr]!) this.#low[blocknr] = low;
        if (high < this.#high[blocknr]!) this.#high[blocknr] = high;
        return;
      case Role.Internal:
      case Role.Leaf:
        // It was read already, through a tree of another depth.
        if (this.#low[blocknr]! < low || this.#high[blocknr]! >= high) this.#damaged(blocknr, Problem.KeyRange);
        return;
      case Role.Damaged:
        return;
    }
  }

  #damaged(blocknr: number, problem: Problem): void {
    if (this.#role[blocknr] === Role.Leaf) this.#leaves--;
    else if (this.#role[blocknr] === Role.Internal) this.#internals--;
    this.#role[blocknr] = Role.Damaged;
    this.#options.onDamage(blocknr, problem);
  }

  #push(blocknr: number): void {
    if (this.#nrWaiting === this.#waiting.length) {
      const larger = new Uint32Array(this.#waiting.length * 2);
      larger.set(this.#waiting);
      this.#waiting = larger;
    }
    this.#waiting[this.#nrWaiting++] = blocknr;
  }
}
