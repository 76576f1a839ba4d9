/**
 * A btree from entries in ascending order, bottom up: nodes are full, but for the last two of a level, which share what
 * is left so that none falls below a third. Of each level two nodes are in memory.
 *
 * Whole leaves of another tree can be taken in (`attach`): they are shared, or copied where the fill of their neighbours
 * asks for it.
 */
import { INTERNAL_NODE, LEAF_NODE, maxEntriesFor, NODE_HEADER } from "../../../persistent-data/index.js";
import { BLOCK_WORDS, BlockBuffer } from "../reader/block-store.js";
import { entriesOf, KEYS, keyOf, valuesAt } from "../reader/node.js";
import { Kind } from "../reader/problems.js";
import type { BlockAppender } from "./block-appender.js";

const { fields } = NODE_HEADER;
const FLAGS = fields.flags.offset / 4;
const NR = fields.nrEntries.offset / 4;
const MAX = fields.maxEntries.offset / 4;
const VALUE_SIZE = fields.valueSize.offset / 4;
const CHILD_BYTES = 8;
const TWO_32 = 4294967296;

/** A leaf that several trees may point at. */
export interface SharedLeaf {
  readonly blocknr: number;
  readonly firstKey: number;
  readonly nr: number;
}

class Level {
  readonly max: number;
  readonly valueWords: number;
  readonly values: number;
  /** Full, and not written yet: the one before the last. */
  held: Uint32Array | undefined;
  node: Uint32Array;
  nr = 0;
  #spare: Uint32Array | undefined;

  constructor(
    readonly kind: typeof INTERNAL_NODE | typeof LEAF_NODE,
    valueSize: number,
  ) {
    this.max = maxEntriesFor(valueSize);
    this.valueWords = valueSize / 4;
    this.values = KEYS + this.max * 2;
    this.node = this.#fresh();
  }

  #fresh(): Uint32Array {
    const words = this.#spare ?? new Uint32Array(BLOCK_WORDS);
    this.#spare = undefined;
    words.fill(0);
    words[FLAGS] = this.kind;
    words[MAX] = this.max;
    words[VALUE_SIZE] = this.valueWords * 4;
    return words;
  }

  /** The present node is full: it is held back, and the one held before is returned. */
  advance(): Uint32Array | undefined {
    const before = this.held;
    this.node[NR] = this.nr;
    this.held = this.node;
    this.node = this.#fresh();
    this.nr = 0;
    return before;
  }

  reuse(words: Uint32Array): void {
    this.#spare = words;
  }

  /** Divides the entries of the last two nodes evenly, or puts them into one where they fit. */
  even(): void {
    const left = this.held!;
    const nrLeft = left[NR]!;
    const total = nrLeft + this.nr;
    if (total <= this.max) {
      left.set(this.node.subarray(KEYS, KEYS + this.nr * 2), KEYS + nrLeft * 2);
      const from = this.node.subarray(this.values, this.values + this.nr * this.valueWords);
      left.set(from, this.values + nrLeft * this.valueWords);
      left[NR] = total;
      this.nr = 0;
      return;
    }
    const wanted = Math.ceil(total / 2);
    const moved = nrLeft - wanted;
    const { node, values, valueWords } = this;
    node.copyWithin(KEYS + moved * 2, KEYS, KEYS + this.nr * 2);
    node.copyWithin(values + moved * valueWords, values, values + this.nr * valueWords);
    node.set(left.subarray(KEYS + wanted * 2, KEYS + nrLeft * 2), KEYS);
    node.set(left.subarray(values + wanted * valueWords, values + nrLeft * valueWords), values);
    left.fill(0, KEYS + wanted * 2, KEYS + nrLeft * 2);
    left.fill(0, values + wanted * valueWords, values + nrLeft * valueWords);
    left[NR] = wanted;
    this.nr += moved;
  }
}

export class TreeBuilder {
  readonly #out: BlockAppender;
  readonly #leaf: Level;
  readonly #upper: Level[] = [];
  readonly #readBuffer = new BlockBuffer(1);
  /** Told when a leaf is copied, with its words: it has new entries for what it maps. */
  onCopy: ((words: Uint32Array) => void) | undefined;
  /** Told when a leaf that was taken in is pointed at. */
  onShare: ((leaf: SharedLeaf) => void) | undefined;
  /** Taken in last, and not pointed at yet. */
  #attached: SharedLeaf | undefined;
  /** Called with each leaf that is written. */
  readonly #onLeaf: ((leaf: SharedLeaf) => void) | undefined;

  constructor(out: BlockAppender, valueSize: number, onLeaf?: (leaf: SharedLeaf) => void) {
    this.#out = out;
    this.#leaf = new Level(LEAF_NODE, valueSize);
    this.#onLeaf = onLeaf;
  }

  /** An entry whose value is a u64 in two halves; keys ascend. */
  push(key: number, valueLow: number, valueHigh: number): void {
    const leaf = this.#room();
    const word = KEYS + leaf.nr * 2;
    leaf.node[word] = key >>> 0;
    leaf.node[word + 1] = Math.floor(key / TWO_32);
    const value = leaf.values + leaf.nr * 2;
    leaf.node[value] = valueLow;
    leaf.node[value + 1] = valueHigh;
    leaf.nr++;
  }

  /** An entry with a value of any size. */
  pushWords(key: number, value: ArrayLike<number>): void {
    const leaf = this.#room();
    const word = KEYS + leaf.nr * 2;
    leaf.node[word] = key >>> 0;
    leaf.node[word + 1] = Math.floor(key / TWO_32);
    leaf.node.set(value, leaf.values + leaf.nr * leaf.valueWords);
    leaf.nr++;
  }

  /** `length` mappings that go up together; `dataBegin` and `time` make their values. */
  pushRun(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    let key = virtualBegin;
    let data = dataBegin;
    for (let left = length; left > 0; ) {
      const leaf = this.#room();
      const count = Math.min(left, leaf.max - leaf.nr);
      const { node } = leaf;
      let word = KEYS + leaf.nr * 2;
      let value = leaf.values + leaf.nr * 2;
      for (let index = 0; index < count; index++) {
        node[word++] = key >>> 0;
        node[word++] = (key / TWO_32) | 0;
        node[value++] = ((data << 24) | time) >>> 0;
        node[value++] = Math.floor(data / 256);
        key++;
        data++;
      }
      leaf.nr += count;
      left -= count;
    }
  }

  /**
   * Takes in a whole leaf whose keys are above all so far. Whether it is shared or copied, `onShare` and `onCopy` tell.
   */
  attach(leaf: SharedLeaf): void {
    const own = this.#leaf;
    const least = Math.floor(own.max / 3);
    if (leaf.nr < least || (own.nr > 0 && own.nr < least && own.held === undefined)) {
      this.#copy(leaf);
      return;
    }
    this.#endOwnLeaves();
    this.#attached = leaf;
  }

  /** Words of a leaf made before; undefined for another kind of node. */
  peek(blocknr: number): Uint32Array | undefined {
    this.#out.readBack(blocknr, this.#readBuffer);
    const { words } = this.#readBuffer;
    return words[FLAGS] === LEAF_NODE ? words : undefined;
  }

  /** Writes what is left. @returns the block of the root */
  finish(): number {
    this.#endOwnLeaves();
    // No leaf was written or taken in: the tree is empty.
    if (this.#upper.length === 0) return this.#out.append(this.#leaf.node, Kind.Node);
    for (let depth = 0; ; depth++) {
      const level = this.#upper[depth]!;
      const isTop = depth === this.#upper.length - 1;
      if (isTop && level.held === undefined) return this.#top(level);
      this.#endLevel(level, depth + 1);
    }
  }

  /** The root: an internal node, or its only child. */
  #top(level: Level): number {
    if (level.nr === 1) return level.node[level.values]! + level.node[level.values + 1]! * TWO_32;
    level.node[NR] = level.nr;
    return this.#out.append(level.node, Kind.Node);
  }

  #room(): Level {
    const leaf = this.#leaf;
    if (leaf.nr < leaf.max) return leaf;
    // Below a node that has its third, one that was taken in can stay shared.
    this.#pointAtAttached();
    const before = leaf.advance();
    if (before !== undefined) {
      this.#point(0, this.#writeLeaf(before), keyOf(before, 0, 0));
      leaf.reuse(before);
    }
    return leaf;
  }

  /** Writes the leaves in memory; a remainder below a third is put together with what stands before it. */
  #endOwnLeaves(): void {
    const leaf = this.#leaf;
    if (leaf.nr === 0 && leaf.held === undefined) {
      this.#pointAtAttached();
      return;
    }
    const isSmall = leaf.nr > 0 && leaf.nr < Math.floor(leaf.max / 3);
    if (isSmall && leaf.held === undefined && this.#attached !== undefined) this.#unshare();
    this.#pointAtAttached();
    if (leaf.held !== undefined) {
      if (isSmall) leaf.even();
      const first = leaf.held;
      leaf.held = undefined;
      this.#point(0, this.#writeLeaf(first), keyOf(first, 0, 0));
      leaf.reuse(first);
    }
    if (leaf.nr === 0) return;
    leaf.advance();
    const last = leaf.held!;
    leaf.held = undefined;
    this.#point(0, this.#writeLeaf(last), keyOf(last, 0, 0));
    leaf.reuse(last);
  }

  #pointAtAttached(): void {
    const leaf = this.#attached;
    if (leaf === undefined) return;
    this.#attached = undefined;
    this.onShare?.(leaf);
    this.#point(0, leaf.blocknr, leaf.firstKey);
  }

  /** The leaf taken in last becomes our own again, to share entries with what follows. */
  #unshare(): void {
    const shared = this.#attached!;
    this.#attached = undefined;
    this.#out.readBack(shared.blocknr, this.#readBuffer);
    this.#leaf.held = this.#readBuffer.words.slice();
    this.onCopy?.(this.#leaf.held);
  }

  #copy(leaf: SharedLeaf): void {
    this.#out.readBack(leaf.blocknr, this.#readBuffer);
    const words = this.#readBuffer.words.slice();
    this.onCopy?.(words);
    const values = valuesAt(words, 0);
    const nr = entriesOf(words, 0);
    for (let index = 0; index < nr; index++) {
      this.push(keyOf(words, 0, index), words[values + index * 2]!, words[values + index * 2 + 1]!);
    }
  }

  #writeLeaf(words: Uint32Array): number {
    const blocknr = this.#out.append(words, Kind.Node);
    this.#onLeaf?.({ blocknr, firstKey: keyOf(words, 0, 0), nr: words[NR]! });
    return blocknr;
  }

  /** An entry of an internal level. */
  #point(depth: number, blocknr: number, key: number): void {
    let level = this.#upper[depth];
    if (level === undefined) {
      level = new Level(INTERNAL_NODE, CHILD_BYTES);
      this.#upper.push(level);
    }
    if (level.nr === level.max) {
      const before = level.advance();
      if (before !== undefined) {
        this.#point(depth + 1, this.#out.append(before, Kind.Node), keyOf(before, 0, 0));
        level.reuse(before);
      }
    }
    const word = KEYS + level.nr * 2;
    level.node[word] = key >>> 0;
    level.node[word + 1] = Math.floor(key / TWO_32);
    const value = level.values + level.nr * 2;
    level.node[value] = blocknr;
    level.node[value + 1] = 0;
    level.nr++;
  }

  /** Writes the nodes of a level that has a held one, and points at them from above. */
  #endLevel(level: Level, above: number): void {
    if (level.held !== undefined && level.nr > 0 && level.nr < Math.floor(level.max / 3)) level.even();
    if (level.held !== undefined) {
      this.#point(above, this.#out.append(level.held, Kind.Node), keyOf(level.held, 0, 0));
      level.held = undefined;
    }
    if (level.nr === 0) return;
    level.node[NR] = level.nr;
    this.#point(above, this.#out.append(level.node, Kind.Node), keyOf(level.node, 0, 0));
    level.nr = 0;
  }
}
