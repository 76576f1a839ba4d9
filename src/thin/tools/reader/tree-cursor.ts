/**
 * One tree in the order of its keys, leaf by leaf, pulled by the caller. Children are read ahead in sorted batches. A
 * node that is damaged is told with the keys it should have held, and left out.
 */
import { BLOCK_WORDS, BlockBuffer, type BlockStore } from "./block-store.js";
import { checkNode, childOf, entriesOf, isLeafNode, keyOf, MAX_TREE_DEPTH, nodeValueSize, valuesAt } from "./node.js";
import { Kind, Problem } from "./problems.js";

/** A subtree that cannot be used: the keys in [low, high) are lost. */
export interface TreeDamage {
  readonly problem: Problem;
  readonly blocknr: number;
  /** Blocks from the root to this one, which is the last. */
  readonly path: readonly number[];
  readonly low: number;
  /** Infinity: to the end. */
  readonly high: number;
}

/** In place of a slot: outside the device; to be read when it is wanted. */
const OUTSIDE = -1;
const LATER = -2;

/** Children read ahead at once. */
const BATCH = 64;

const NO_BLOCKS = new BlockBuffer(0);

class Frame {
  readonly node = new BlockBuffer(1);
  /** Room for as many children as were ever read ahead. */
  children = NO_BLOCKS;
  readonly #order = new Float64Array(BATCH);
  readonly #list = new Uint32Array(BATCH);
  readonly slotOf = new Int16Array(BATCH);
  blocknr = 0;
  index = 0;
  nr = 0;
  high = 0;
  /** Children [from, to) are loaded, or are left for when they are wanted. */
  from = 0;
  to = 0;
  isMarked = false;

  enter(blocknr: number, words: Uint32Array, at: number, high: number): void {
    this.node.words.set(words.subarray(at, at + BLOCK_WORDS));
    this.blocknr = blocknr;
    this.nr = entriesOf(this.node.words, 0);
    this.high = high;
    this.index = 0;
    this.from = 0;
    this.to = 0;
  }

  /** Loads the next batch, by block number; slots tell where each child lies. */
  readAhead(store: BlockStore, taken: Uint8Array | undefined): void {
    this.from = this.index;
    this.to = Math.min(this.nr, this.from + BATCH);
    let count = 0;
    for (let index = this.from; index < this.to; index++) {
      const child = childOf(this.node.words, 0, index);
      const isInside = child > 0 && store.isInside(child);
      const isTaken = isInside && taken !== undefined && taken[child] === 1;
      this.slotOf[index - this.from] = isInside ? LATER : OUTSIDE;
      if (!isInside || isTaken) continue;
      if (taken !== undefined) taken[child] = 1;
      this.#order[count++] = child * BATCH + (index - this.from);
    }
    if (count > this.children.capacity) this.children = new BlockBuffer(Math.min(BATCH, 2 * count));
    const sorted = this.#order.subarray(0, count).sort();
    for (let slot = 0; slot < count; slot++) {
      const child = Math.floor(sorted[slot]! / BATCH);
      this.#list[slot] = child;
      this.slotOf[sorted[slot]! - child * BATCH] = slot;
    }
    store.load(this.#list, 0, count, this.children, 0);
  }
}

export class TreeCursor {
  /** The leaf that `next` moved to: its words begin at `words[at]`, its values at `words[values]`. */
  words: Uint32Array;
  at = 0;
  values = 0;
  nr = 0;
  blocknr = 0;
  readonly #store: BlockStore;
  readonly #valueSize: number;
  readonly #onDamage: (damage: TreeDamage) => void;
  readonly #checkContent: (words: Uint32Array, at: number) => Problem;
  /** Blocks that some cursor has read ahead: the others leave them until they are wanted. */
  readonly #taken: Uint8Array | undefined;
  readonly #root: number;
  readonly #frames: Frame[] = [];
  /** For a node that is read by itself. */
  readonly #alone = new BlockBuffer(1);
  #depth = -1;
  #isStarted = false;
  #marksNext = false;
  #isMarked = false;

  /**
   * @param valueSize bytes of a value in the leaves
   * @param taken by block, 1: read ahead; shared by cursors that pass over what another one visits
   */
  constructor(
    store: BlockStore,
    root: number,
    valueSize: number,
    onDamage: (damage: TreeDamage) => void,
    taken?: Uint8Array,
  ) {
    this.#store = store;
    this.#root = root;
    this.#valueSize = valueSize;
    this.#checkContent = (words, at) => checkNode(words, at, valueSize);
    this.#onDamage = onDamage;
    this.#taken = taken;
    this.words = this.#alone.words;
  }

  /** Whether the present leaf lies in a subtree that was marked. */
  get isMarked(): boolean {
    return this.#isMarked;
  }

  /** Whether the subtree that comes next lies in one that was marked. */
  get isNextMarked(): boolean {
    const frame = this.#frameOfNext();
    return frame?.isMarked === true;
  }

  /** Block of the subtree that comes next: a child of the last node that has more, the root before the begin. 0: none. */
  peek(): number {
    if (!this.#isStarted) return this.#root;
    const frame = this.#frameOfNext();
    return frame === undefined ? 0 : childOf(frame.node.words, 0, frame.index);
  }

  /** Passes over the subtree that comes next. */
  skip(): void {
    const frame = this.#frameOfNext();
    if (frame !== undefined) frame.index++;
    this.#isStarted = true;
  }

  /** Marks the subtree that comes next. */
  markNext(): void {
    this.#marksNext = true;
  }

  /** Blocks from the root to the present leaf. */
  path(): number[] {
    const path = this.#frames.slice(0, this.#depth + 1).map((frame) => frame.blocknr);
    path.push(this.blocknr);
    return path;
  }

  /** Moves to the next leaf that has entries. @returns false at the end */
  next(): boolean {
    if (!this.#isStarted) {
      this.#isStarted = true;
      if (this.#start()) return true;
    }
    for (let frame = this.#frameOfNext(); frame !== undefined; frame = this.#frameOfNext()) {
      // What was passed over may have been more than a batch.
      if (frame.index >= frame.to) frame.readAhead(this.#store, this.#taken);
      const index = frame.index++;
      const low = keyOf(frame.node.words, 0, index);
      const high = index + 1 < frame.nr ? keyOf(frame.node.words, 0, index + 1) : frame.high;
      const blocknr = childOf(frame.node.words, 0, index);
      const slot = frame.slotOf[index - frame.from]!;
      this.#isMarked = frame.isMarked || this.#marksNext;
      this.#marksNext = false;
      if (slot === OUTSIDE) this.#damaged(Problem.Outside, blocknr, low, high);
      else if (slot === LATER) {
        this.#store.loadOne(blocknr, this.#alone);
        if (this.#take(blocknr, this.#alone, 0, low, high)) return true;
      } else if (this.#take(blocknr, frame.children, slot * BLOCK_WORDS, low, high)) return true;
    }
    return false;
  }

  /** The lowest node that has more children; those that have none are left. */
  #frameOfNext(): Frame | undefined {
    while (this.#depth >= 0) {
      const frame = this.#frames[this.#depth]!;
      if (frame.index < frame.nr) return frame;
      this.#depth--;
    }
    return undefined;
  }

  #start(): boolean {
    const root = this.#root;
    const buffer = this.#alone;
    this.#isMarked = this.#marksNext;
    this.#marksNext = false;
    if (root === 0 || !this.#store.isInside(root)) {
      this.#damaged(Problem.Outside, root, 0, Number.POSITIVE_INFINITY);
      return false;
    }
    this.#store.loadOne(root, buffer);
    return this.#take(root, buffer, 0, 0, Number.POSITIVE_INFINITY);
  }

  /** @returns whether it is a leaf with entries */
  #take(blocknr: number, buffer: BlockBuffer, at: number, low: number, high: number): boolean {
    const { words } = buffer;
    const problem = this.#judge(blocknr, buffer, at, low, high);
    if (problem !== Problem.None) {
      this.#damaged(problem, blocknr, low, high);
      return false;
    }
    if (!isLeafNode(words, at)) {
      this.#depth++;
      const frame = this.#frames[this.#depth] ?? new Frame();
      this.#frames[this.#depth] = frame;
      frame.enter(blocknr, words, at, high);
      frame.isMarked = this.#isMarked;
      return false;
    }
    this.words = words;
    this.at = at;
    this.values = valuesAt(words, at);
    this.nr = entriesOf(words, at);
    this.blocknr = blocknr;
    return this.nr > 0;
  }

  #judge(blocknr: number, buffer: BlockBuffer, at: number, low: number, high: number): Problem {
    const { words } = buffer;
    const size = this.#valueSize;
    const problem = this.#store.check(blocknr, Kind.Node, buffer, at, this.#checkContent);
    if (problem !== Problem.None) return problem;
    const isLeaf = isLeafNode(words, at);
    if (isLeaf && nodeValueSize(words, at) !== size) return Problem.ValueSize;
    const nr = entriesOf(words, at);
    if (nr > 0 && (keyOf(words, at, 0) < low || keyOf(words, at, nr - 1) >= high)) return Problem.KeyRange;
    if (isLeaf) return Problem.None;
    for (let depth = 0; depth <= this.#depth; depth++) {
      if (this.#frames[depth]!.blocknr === blocknr) return Problem.Circle;
    }
    return this.#depth + 1 >= MAX_TREE_DEPTH ? Problem.Depth : Problem.None;
  }

  #damaged(problem: Problem, blocknr: number, low: number, high: number): void {
    const path = this.#frames.slice(0, this.#depth + 1).map((frame) => frame.blocknr);
    path.push(blocknr);
    this.#onDamage({ problem, blocknr, path, low, high });
  }
}
