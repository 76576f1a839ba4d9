/**
 * What the internal nodes of the mapping trees tell once every node was visited: how many mappings each device has, how
 * deep its tree is, and which ways lead to damage. Each internal node is read once more; leaves are not.
 */
import { BlockBuffer, type BlockStore } from "./reader/block-store.js";
import { childOf, entriesOf, isLeafNode, keyOf, MAX_TREE_DEPTH } from "./reader/node.js";
import type { NodeSweep } from "./reader/node-sweep.js";
import { Problem } from "./reader/problems.js";

enum State {
  Unknown = 0,
  Open,
  Whole,
  Broken,
}

/** Depth of a subtree whose leaves do not agree. */
const UNEVEN = 255;

/** A way from a root to a damaged block. */
export interface DamagedWay {
  readonly blocknr: number;
  readonly problem: Problem;
  readonly path: readonly number[];
  readonly low: number;
  readonly high: number;
}

export class ForestTotals {
  readonly #store: BlockStore;
  readonly #sweep: NodeSweep;
  readonly #entriesOf: Uint16Array;
  readonly #problemOf: (blocknr: number) => Problem;
  readonly #state: Uint8Array;
  readonly #height: Uint8Array;
  readonly #total: Float64Array;
  readonly #buffers: BlockBuffer[] = [];

  /**
   * @param entries of each leaf, by block
   * @param problemOf what is wrong with a block that the sweep found damaged
   */
  constructor(store: BlockStore, sweep: NodeSweep, entries: Uint16Array, problemOf: (blocknr: number) => Problem) {
    this.#store = store;
    this.#sweep = sweep;
    this.#entriesOf = entries;
    this.#problemOf = problemOf;
    this.#state = new Uint8Array(store.nrBlocks);
    this.#height = new Uint8Array(store.nrBlocks);
    this.#total = new Float64Array(store.nrBlocks);
  }

  /** Mappings below a root that can be read, and whether that is all of it. */
  of(root: number): { readonly mappings: number; readonly isWhole: boolean; readonly isEven: boolean } {
    if (root === 0 || !this.#store.isInside(root)) return { mappings: 0, isWhole: false, isEven: true };
    const state = this.#walk(root, 0);
    return {
      mappings: this.#total[root]!,
      isWhole: state === State.Whole,
      isEven: this.#height[root] !== UNEVEN,
    };
  }

  /** Every way from a root to damage, in the order of keys. @param most ways that are told */
  damageBelow(root: number, most: number, tell: (way: DamagedWay) => void): void {
    const path: number[] = [];
    let told = 0;
    const visit = (blocknr: number, low: number, high: number): void => {
      if (told >= most) return;
      path.push(blocknr);
      const problem = this.#judge(blocknr, path);
      if (problem !== Problem.None) {
        told++;
        tell({ blocknr, problem, path: [...path], low, high });
      } else if (!this.#sweep.isLeaf(blocknr) && this.#state[blocknr] !== State.Whole) {
        const { words } = this.#load(blocknr, path.length - 1);
        const nr = entriesOf(words, 0);
        for (let index = 0; index < nr; index++) {
          visit(childOf(words, 0, index), keyOf(words, 0, index), index + 1 < nr ? keyOf(words, 0, index + 1) : high);
        }
      }
      path.pop();
    };
    visit(root, 0, Number.POSITIVE_INFINITY);
  }

  #judge(blocknr: number, path: readonly number[]): Problem {
    if (blocknr === 0 || !this.#store.isInside(blocknr)) return Problem.Outside;
    if (path.indexOf(blocknr) < path.length - 1) return Problem.Circle;
    if (path.length > MAX_TREE_DEPTH) return Problem.Depth;
    return this.#sweep.isDamaged(blocknr) ? this.#problemOf(blocknr) : Problem.None;
  }

  #walk(blocknr: number, depth: number): State {
    if (blocknr === 0 || !this.#store.isInside(blocknr)) return State.Broken;
    const known = this.#state[blocknr]! as State;
    if (known === State.Open) return State.Broken;
    if (known !== State.Unknown) return known;
    if (depth > MAX_TREE_DEPTH || this.#sweep.isDamaged(blocknr) || !this.#sweep.isSeen(blocknr)) {
      return this.#finish(blocknr, State.Broken);
    }
    if (this.#sweep.isLeaf(blocknr)) {
      this.#total[blocknr] = this.#entriesOf[blocknr]!;
      this.#height[blocknr] = 1;
      return this.#finish(blocknr, State.Whole);
    }
    this.#state[blocknr] = State.Open;
    const { words } = this.#load(blocknr, depth);
    if (isLeafNode(words, 0)) return this.#finish(blocknr, State.Broken);
    const nr = entriesOf(words, 0);
    let state = State.Whole;
    let total = 0;
    let height = 0;
    for (let index = 0; index < nr; index++) {
      const child = childOf(words, 0, index);
      if (this.#walk(child, depth + 1) === State.Broken) state = State.Broken;
      if (!this.#store.isInside(child)) continue;
      total += this.#total[child]!;
      const below = this.#height[child]!;
      if (below !== 0 && height === 0) height = below;
      else if (below !== 0 && below !== height) height = UNEVEN;
    }
    this.#total[blocknr] = total;
    this.#height[blocknr] = height === UNEVEN || height === 0 ? height : height + 1;
    return this.#finish(blocknr, state);
  }

  #finish(blocknr: number, state: State): State {
    this.#state[blocknr] = state;
    return state;
  }

  #load(blocknr: number, depth: number): BlockBuffer {
    const buffer = this.#buffers[depth] ?? new BlockBuffer(1);
    this.#buffers[depth] = buffer;
    this.#store.loadOne(blocknr, buffer);
    return buffer;
  }
}
