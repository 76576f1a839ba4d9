/**
 * Copies mapping trees to new metadata. What is whole and tidy is copied node by node, so that what devices share stays
 * shared; of a tree that is not, the leaves are copied and the nodes above them built anew. Every leaf comes once.
 */
import type { Pace } from "../pace.js";
import { BLOCK_WORDS, BlockBuffer, type BlockStore } from "../reader/block-store.js";
import { childOf, entriesOf, isLeafNode, KEYS, keyOf, MAX_TREE_DEPTH, valuesAt } from "../reader/node.js";
import { Kind } from "../reader/problems.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";
import type { BlockAppender } from "../restore/block-appender.js";
import { type SharedLeaf, TreeBuilder } from "../restore/tree-builder.js";
import type { CandidateDevice, CandidateHead } from "./candidate.js";
import type { Forest } from "./forest.js";
import { Role, type Survey } from "./survey.js";

/** Children read at once. */
const BATCH = 64;
const NR = 4;

export class ForestCopier {
  readonly #forest: Forest;
  readonly #survey: Survey;
  readonly #store: BlockStore;
  readonly #out: BlockAppender;
  readonly #nrDataBlocks: number;
  readonly #timeLimit: number;
  readonly #pace: Pace;
  /** By block of the source: its copy. */
  readonly #copyOf: Uint32Array;
  /** Roots of trees that were built anew, by their old root. */
  readonly #rebuilt = new Map<number, number>();
  /** Leaves from which mappings were taken, with what is left. */
  readonly #thinned = new Map<number, SharedLeaf>();
  readonly #buffers: BlockBuffer[] = [];
  readonly #leaf = new BlockBuffer(1);

  constructor(forest: Forest, out: BlockAppender, options: { readonly head: CandidateHead; readonly pace: Pace }) {
    const { head, pace } = options;
    this.#pace = pace;
    this.#forest = forest;
    this.#survey = forest.survey;
    this.#store = forest.survey.store;
    this.#out = out;
    this.#nrDataBlocks = head.nrDataBlocks;
    this.#timeLimit = head.timeLimit;
    this.#copyOf = new Uint32Array(this.#survey.nrBlocks);
  }

  /** @returns root of the device's tree; when the output is full, something */
  async copy({ root, adoptions }: Pick<CandidateDevice, "root" | "adoptions">): Promise<number> {
    if (root !== 0 && adoptions.length === 0) {
      if (this.#isSound(root)) return this.#copyNode(root, 0);
      const known = this.#rebuilt.get(root);
      if (known !== undefined) return known;
    }
    const made = await this.#rebuild(this.#leavesOf(root, adoptions));
    if (root !== 0 && adoptions.length === 0) this.#rebuilt.set(root, made);
    return made;
  }

  /** Leaves that are left, in the order of keys, with those that were adopted in their places. */
  #leavesOf(root: number, adoptions: CandidateDevice["adoptions"]): number[] {
    const leaves: number[] = [];
    const adopted = new Map(adoptions.map(({ hole, blocks }) => [hole, blocks]));
    const take = (leaf: number) => leaves.push(leaf);
    const fill = (hole: number): void => {
      for (const blocknr of adopted.get(hole) ?? []) {
        // Within a walk: nodes are kept by depth.
        this.#forest.walk(blocknr, Number.POSITIVE_INFINITY, take, () => {}, MAX_TREE_DEPTH);
      }
    };
    if (root !== 0) this.#forest.walk(root, Number.POSITIVE_INFINITY, take, (hole) => fill(hole.blocknr));
    // The root itself was the hole.
    else for (const hole of adopted.keys()) fill(hole);
    return leaves;
  }

  async #rebuild(leaves: readonly number[]): Promise<number> {
    const tree = new TreeBuilder(this.#out, MAPPING_BYTES);
    for (const leaf of leaves) {
      const copied = this.#copyLeaf(leaf);
      if (this.#out.isFull || copied.blocknr >= this.#out.nrBlocks) return 0;
      if (copied.nr > 0) tree.attach(copied);
      if (this.#pace.isDue) await this.#pace.rest(this.#out.next);
    }
    return tree.finish();
  }

  /** Whether a node and all below it can be copied as they are. */
  #isSound(blocknr: number): boolean {
    const forest = this.#forest;
    return forest.isWhole[blocknr] === 1 && forest.isTidy[blocknr] === 1 && !this.#isChanged(blocknr);
  }

  #isChanged(blocknr: number): boolean {
    const { maxData, maxTime, total } = this.#survey;
    return total[blocknr]! > 0 && (maxData[blocknr]! >= this.#nrDataBlocks || maxTime[blocknr]! >= this.#timeLimit);
  }

  async #copyNode(blocknr: number, depth: number): Promise<number> {
    const known = this.#copyOf[blocknr]!;
    if (known !== 0) return known;
    const node = this.#bufferAt(depth * 2, 1);
    this.#store.loadOne(blocknr, node);
    if (!isLeafNode(node.words, 0)) {
      await this.#copyChildren(node, depth);
      if (this.#pace.isDue) await this.#pace.rest(this.#out.next);
    }
    const made = this.#out.append(node.words, Kind.Node);
    this.#copyOf[blocknr] = made;
    return made;
  }

  /** Copies what a node points at, in the order of keys, and lets it point at the copies. */
  async #copyChildren(node: BlockBuffer, depth: number): Promise<void> {
    const nr = entriesOf(node.words, 0);
    const values = valuesAt(node.words, 0);
    const children = new Uint32Array(nr);
    for (let index = 0; index < nr; index++) children[index] = childOf(node.words, 0, index);
    for (let from = 0; from < nr; from += BATCH) {
      const to = Math.min(nr, from + BATCH);
      this.#copyLeaves(children.subarray(from, to), depth);
      for (let index = from; index < to; index++) {
        const child = children[index]!;
        // A leaf was copied with its batch: nothing to wait for.
        const copy = this.#copyOf[child] || (await this.#copyNode(child, depth + 1));
        node.words[values + index * 2] = copy;
        node.words[values + index * 2 + 1] = 0;
      }
    }
  }

  /** Those of a batch that are leaves and not yet copied: read by block number, written by key. */
  #copyLeaves(children: Uint32Array, depth: number): void {
    const wanted = children.filter((child) => this.#copyOf[child] === 0 && this.#survey.role[child] === Role.Leaf);
    if (wanted.length < 2) return;
    const buffer = this.#bufferAt(depth * 2 + 1, BATCH);
    const sorted = wanted.slice().sort();
    this.#store.load(sorted, 0, sorted.length, buffer);
    const slotOf = new Map<number, number>();
    for (let slot = 0; slot < sorted.length; slot++) slotOf.set(sorted[slot]!, slot);
    for (const child of wanted) {
      if (this.#copyOf[child] !== 0) continue;
      const at = slotOf.get(child)! * BLOCK_WORDS;
      this.#copyOf[child] = this.#out.append(buffer.words.subarray(at, at + BLOCK_WORDS), Kind.Node);
    }
  }

  #copyLeaf(blocknr: number): SharedLeaf {
    const { first, total } = this.#survey;
    if (!this.#isChanged(blocknr)) {
      let copy = this.#copyOf[blocknr]!;
      if (copy === 0) {
        this.#store.loadOne(blocknr, this.#leaf);
        copy = this.#out.append(this.#leaf.words, Kind.Node);
        this.#copyOf[blocknr] = copy;
      }
      return { blocknr: copy, firstKey: first[blocknr]!, nr: total[blocknr]! };
    }
    const known = this.#thinned.get(blocknr);
    if (known !== undefined) return known;
    const made = this.#changedLeaf(blocknr);
    this.#thinned.set(blocknr, made);
    return made;
  }

  /** Without the mappings that lead behind the data device; those newer than the clock are of time 0, and so count as shared. */
  #changedLeaf(blocknr: number): SharedLeaf {
    this.#store.loadOne(blocknr, this.#leaf);
    const { words } = this.#leaf;
    const values = valuesAt(words, 0);
    const before = entriesOf(words, 0);
    let nr = 0;
    for (let index = 0; index < before; index++) {
      const low = words[values + index * 2]!;
      const high = words[values + index * 2 + 1]!;
      if (high * 256 + (low >>> 24) >= this.#nrDataBlocks) continue;
      words[KEYS + nr * 2] = words[KEYS + index * 2]!;
      words[KEYS + nr * 2 + 1] = words[KEYS + index * 2 + 1]!;
      const isNewer = (low & 0xffffff) >= this.#timeLimit;
      words[values + nr * 2] = isNewer ? (low & 0xff000000) >>> 0 : low;
      words[values + nr * 2 + 1] = high;
      nr++;
    }
    words.fill(0, KEYS + nr * 2, KEYS + before * 2);
    words.fill(0, values + nr * 2, values + before * 2);
    words[NR] = nr;
    if (nr === 0) return { blocknr: 0, firstKey: 0, nr };
    return { blocknr: this.#out.append(words, Kind.Node), firstKey: keyOf(words, 0, 0), nr };
  }

  #bufferAt(index: number, capacity: number): BlockBuffer {
    const buffer = this.#buffers[index] ?? new BlockBuffer(capacity);
    this.#buffers[index] = buffer;
    return buffer;
  }
}
