/**
 * What trees look like: nodes, leaves, depth, how full they are, what they share. Every node is read once, in the order of
 * keys, so that runs of mappings can be followed from leaf to leaf; where a tree goes on in a part that was seen before, a
 * run ends.
 */
import type { Pace } from "./pace.js";
import { BlockBuffer, type BlockStore } from "./reader/block-store.js";
import {
  capacityOf,
  checkNode,
  childOf,
  entriesOf,
  isLeafNode,
  MAX_TREE_DEPTH,
  nodeValueSize,
  valuesAt,
} from "./reader/node.js";
import type { LeafVisitor } from "./reader/node-sweep.js";
import { Kind, Problem } from "./reader/problems.js";

export interface TreeShape {
  readonly roots: number;
  readonly internals: number;
  readonly leaves: number;
  /** Levels of the deepest tree; 1 is a leaf alone. */
  readonly depth: number;
  /** In leaves, and what the leaves have room for. */
  readonly entries: number;
  readonly capacity: number;
  /** Nodes that more than one pointer leads to. */
  readonly shared: number;
  /** Pointers to nodes that cannot be used. */
  readonly damaged: number;
}

enum Seen {
  Not = 0,
  Sound,
  Damaged,
  Shared,
}

export class ShapeWalk {
  readonly #store: BlockStore;
  readonly #valueSize: number;
  readonly #pace: Pace;
  readonly #visitLeaf: LeafVisitor;
  readonly #onBreak: () => void;
  readonly #seen: Uint8Array;
  readonly #buffers: BlockBuffer[] = [];
  readonly #checkContent: (words: Uint32Array, at: number) => Problem;
  #roots = 0;
  #internals = 0;
  #leaves = 0;
  #depth = 0;
  #entries = 0;
  #capacity = 0;
  #shared = 0;
  #damaged = 0;

  /**
   * @param visitLeaf called with each sound leaf, once, in the order of keys
   * @param onBreak the next leaf does not go on where the last one ended
   */
  constructor(
    store: BlockStore,
    options: {
      readonly valueSize: number;
      readonly pace: Pace;
      readonly visitLeaf?: LeafVisitor;
      readonly onBreak?: () => void;
    },
  ) {
    this.#store = store;
    this.#valueSize = options.valueSize;
    this.#pace = options.pace;
    this.#visitLeaf = options.visitLeaf ?? (() => undefined);
    this.#onBreak = options.onBreak ?? (() => undefined);
    this.#seen = new Uint8Array(store.nrBlocks);
    this.#checkContent = (words, at) => checkNode(words, at, this.#valueSize);
  }

  get shape(): TreeShape {
    return {
      roots: this.#roots,
      internals: this.#internals,
      leaves: this.#leaves,
      depth: this.#depth,
      entries: this.#entries,
      capacity: this.#capacity,
      shared: this.#shared,
      damaged: this.#damaged,
    };
  }

  async walk(root: number): Promise<void> {
    this.#roots++;
    await this.#node(root, 1);
    this.#onBreak();
  }

  async #node(blocknr: number, depth: number): Promise<void> {
    const isPossible = blocknr > 0 && this.#store.isInside(blocknr) && depth <= MAX_TREE_DEPTH;
    if (!isPossible || this.#seen[blocknr] === Seen.Damaged) return this.#broken();
    if (this.#seen[blocknr] !== Seen.Not) {
      if (this.#seen[blocknr] === Seen.Sound) this.#shared++;
      this.#seen[blocknr] = Seen.Shared;
      this.#onBreak();
      return;
    }
    const buffer = this.#load(blocknr, depth);
    const { words } = buffer;
    if (!this.#isSound(blocknr, buffer)) {
      this.#seen[blocknr] = Seen.Damaged;
      return this.#broken();
    }
    this.#seen[blocknr] = Seen.Sound;
    const nr = entriesOf(words, 0);
    if (isLeafNode(words, 0)) {
      this.#leaves++;
      this.#entries += nr;
      this.#capacity += capacityOf(words, 0);
      this.#depth = Math.max(this.#depth, depth);
      this.#visitLeaf(blocknr, words, 0, nr, valuesAt(words, 0));
      return;
    }
    this.#internals++;
    if (this.#pace.isDue) await this.#pace.rest(this.#leaves + this.#internals);
    for (let index = 0; index < nr; index++) await this.#node(childOf(words, 0, index), depth + 1);
  }

  #broken(): void {
    this.#damaged++;
    this.#onBreak();
  }

  #isSound(blocknr: number, buffer: BlockBuffer): boolean {
    if (this.#store.check(blocknr, Kind.Node, buffer, 0, this.#checkContent) !== Problem.None) return false;
    return !isLeafNode(buffer.words, 0) || nodeValueSize(buffer.words, 0) === this.#valueSize;
  }

  /** Each level has a buffer of its own: a node is still needed when its children were visited. */
  #load(blocknr: number, depth: number): BlockBuffer {
    this.#buffers[depth] ??= new BlockBuffer(1);
    const buffer = this.#buffers[depth];
    this.#store.loadOne(blocknr, buffer);
    return buffer;
  }
}
