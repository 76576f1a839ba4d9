/**
 * Trees among the nodes of a survey: what lies below each node, as far as it can be read. A child belongs to its parent
 * when it holds what its siblings hold, lies as deep as they do, and its keys lie where the parent says; what does not
 * was damaged, or was put to another use since the parent was written. Each node is resolved once.
 */
import { BlockBuffer } from "../reader/block-store.js";
import { childOf, entriesOf, keyOf, MAX_CHILDREN, MAX_TREE_DEPTH } from "../reader/node.js";
import { Role, type Survey } from "./survey.js";

enum State {
  Unknown = 0,
  Open,
  Done,
}

export interface KeyRange {
  readonly low: number;
  /** Infinity: to the end. */
  readonly high: number;
}

/** A place in a tree where a block should be, and is not. */
export interface Hole extends KeyRange {
  readonly blocknr: number;
  /** What lay there: 1 for a leaf, Infinity where it is not known. */
  readonly height: number;
}

/** More entries no tree has. */
const MOST_BELOW = 2 ** 52;

/** Children of an internal node, copied out of it. */
class Family {
  readonly block = new Float64Array(MAX_CHILDREN);
  readonly key = new Float64Array(MAX_CHILDREN + 1);
  nr = 0;
}

export class Forest {
  readonly survey: Survey;
  /** By node: all of it can be read, every leaf is as deep as the others. */
  readonly isWhole: Uint8Array;
  /** No node below it is less than a third full. */
  readonly isTidy: Uint8Array;
  /** 1 for a leaf; 0 for what is no tree. */
  readonly height: Uint8Array;
  /** A node of the same kind points at it. */
  readonly hasParent: Uint8Array;
  readonly #state: Uint8Array;
  readonly #buffer = new BlockBuffer(1);
  readonly #families: Family[] = [];

  constructor(survey: Survey) {
    this.survey = survey;
    this.isWhole = new Uint8Array(survey.nrBlocks);
    this.isTidy = new Uint8Array(survey.nrBlocks);
    this.height = new Uint8Array(survey.nrBlocks);
    this.hasParent = new Uint8Array(survey.nrBlocks);
    this.#state = new Uint8Array(survey.nrBlocks);
    for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) this.#resolve(blocknr, 0);
  }

  /** Whether a node is the root of a tree of a kind, or may be read as one. */
  isTree(blocknr: number, kind: number): boolean {
    return this.survey.isNode(blocknr) && this.height[blocknr] !== 0 && (this.survey.kinds[blocknr]! & kind) !== 0;
  }

  /**
   * Calls for each leaf below a node in the order of keys, and for each hole.
   * @param high no key may be this large or larger
   */
  walk(
    blocknr: number,
    high: number,
    visitLeaf: (blocknr: number) => void,
    visitHole: (hole: Hole) => void,
    depth = 0,
  ): void {
    const { survey } = this;
    if (survey.role[blocknr] === Role.Leaf) {
      if (survey.last[blocknr]! < high) visitLeaf(blocknr);
      else visitHole({ blocknr, low: survey.first[blocknr]!, high, height: 1 });
      return;
    }
    const family = this.#family(blocknr, depth);
    for (let index = 0; index < family.nr; index++) {
      const child = family.block[index]!;
      const low = family.key[index]!;
      const end = index + 1 < family.nr ? family.key[index + 1]! : high;
      if (this.#isChild(child, low, this.height[blocknr]! - 1, survey.kinds[blocknr]!)) {
        this.walk(child, Math.min(end, high), visitLeaf, visitHole, depth + 1);
      } else visitHole({ blocknr: child, low, high: Math.min(end, high), height: this.height[blocknr]! - 1 });
    }
  }

  /** Children of an internal node that belong to it. */
  eachChild(blocknr: number, visit: (child: number) => void): void {
    if (this.survey.role[blocknr] !== Role.Internal || this.height[blocknr] === 0) return;
    const family = this.#family(blocknr, 0);
    for (let index = 0; index < family.nr; index++) {
      const child = family.block[index]!;
      if (this.#isChild(child, family.key[index]!, this.height[blocknr]! - 1, this.survey.kinds[blocknr]!))
        visit(child);
    }
  }

  /** Marks a node and all below it. */
  mark(blocknr: number, marks: Uint8Array, depth = 0): void {
    if (marks[blocknr] !== 0) return;
    marks[blocknr] = 1;
    if (this.survey.role[blocknr] !== Role.Internal) return;
    const family = this.#family(blocknr, depth);
    const { nr } = family;
    for (let index = 0; index < nr; index++) {
      const child = family.block[index]!;
      if (this.#isChild(child, family.key[index]!, this.height[blocknr]! - 1, this.survey.kinds[blocknr]!)) {
        this.mark(child, marks, depth + 1);
      }
    }
  }

  #isChild(child: number, low: number, height: number, kinds: number): boolean {
    const { survey } = this;
    return (
      survey.isNode(child) &&
      this.height[child] === height &&
      (survey.kinds[child]! & kinds) !== 0 &&
      (survey.last[child]! < 0 || survey.first[child]! >= low)
    );
  }

  #resolve(blocknr: number, depth: number): void {
    const { survey } = this;
    if (this.#state[blocknr] !== State.Unknown) return;
    this.#state[blocknr] = State.Open;
    if (survey.role[blocknr] === Role.Leaf) {
      this.height[blocknr] = 1;
      this.isWhole[blocknr] = 1;
      this.isTidy[blocknr] = 1;
    } else if (survey.role[blocknr] === Role.Internal && depth < MAX_TREE_DEPTH) this.#resolveInternal(blocknr, depth);
    this.#state[blocknr] = State.Done;
  }

  #resolveInternal(blocknr: number, depth: number): void {
    const { survey } = this;
    const family = this.#family(blocknr, depth);
    for (let index = 0; index < family.nr; index++) {
      const child = family.block[index]!;
      if (survey.isNode(child)) this.#resolve(child, depth + 1);
    }
    const { height, kinds } = this.#majority(family);
    if (height === 0 || height >= MAX_TREE_DEPTH) return;
    let isWhole = 1;
    let isTidy = 1;
    let total = 0;
    let last = -1;
    let maxData = 0;
    let maxTime = 0;
    let timeSum = 0;
    for (let index = 0; index < family.nr; index++) {
      const child = family.block[index]!;
      const end = index + 1 < family.nr ? family.key[index + 1]! : Number.POSITIVE_INFINITY;
      if (!this.#isChild(child, family.key[index]!, height, kinds)) {
        isWhole = 0;
        continue;
      }
      if (survey.last[child]! >= end) {
        // Only what lies beyond the bound is left out, when it is walked; a bound on totals is enough here.
        isWhole = 0;
        last = Math.max(last, end - 1);
      } else last = Math.max(last, survey.last[child]!);
      this.hasParent[child] = 1;
      isWhole &= this.isWhole[child]!;
      isTidy &= this.isTidy[child]! & (survey.isUnderfull[child] === 1 ? 0 : 1);
      total += survey.total[child]!;
      maxData = Math.max(maxData, survey.maxData[child]!);
      maxTime = Math.max(maxTime, survey.maxTime[child]!);
      timeSum += survey.timeSum[child]!;
    }
    this.height[blocknr] = height + 1;
    this.isWhole[blocknr] = isWhole;
    this.isTidy[blocknr] = isTidy;
    survey.kinds[blocknr] = kinds;
    survey.total[blocknr] = total;
    survey.last[blocknr] = last;
    survey.maxData[blocknr] = maxData;
    survey.maxTime[blocknr] = maxTime;
    survey.timeSum[blocknr] = timeSum;
  }

  /** Height and kind of most children; of as many, those that hold more. */
  #majority(family: Family): { readonly height: number; readonly kinds: number } {
    const { survey } = this;
    const votes = new Map<number, number>();
    for (let index = 0; index < family.nr; index++) {
      const child = family.block[index]!;
      if (!survey.isNode(child) || this.height[child] === 0) continue;
      for (const kind of [1, 2, 4]) {
        if ((survey.kinds[child]! & kind) === 0) continue;
        const ballot = this.height[child]! * 8 + kind;
        votes.set(ballot, (votes.get(ballot) ?? 0) + 1 + Math.min(survey.total[child]! / MOST_BELOW, 1 / MAX_CHILDREN));
      }
    }
    let best = 0;
    let most = 0;
    for (const [ballot, count] of votes) {
      if (count > most) {
        best = ballot;
        most = count;
      }
    }
    return { height: Math.floor(best / 8), kinds: best % 8 };
  }

  #family(blocknr: number, depth: number): Family {
    const family = this.#families[depth] ?? new Family();
    this.#families[depth] = family;
    this.survey.store.loadOne(blocknr, this.#buffer);
    const { words } = this.#buffer;
    family.nr = entriesOf(words, 0);
    for (let index = 0; index < family.nr; index++) {
      family.block[index] = childOf(words, 0, index);
      family.key[index] = keyOf(words, 0, index);
    }
    return family;
  }
}
