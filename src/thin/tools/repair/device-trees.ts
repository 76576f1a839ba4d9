/** The trees of devices and of details that a survey found, the present ones and older versions of them. */
import { BlockBuffer, type BlockStore } from "../reader/block-store.js";
import { DETAILS_BYTES, type DetailsValues, detailsAt, ROOT_BYTES } from "../reader/devices.js";
import { entriesOf, keyOf, numberAt, valuesAt } from "../reader/node.js";
import type { Forest, Hole } from "./forest.js";
import { Role, type Survey, TreeKind } from "./survey.js";

/** Trees of one kind that are looked at. */
const MAX_TOPS = 64;
/** Entries of all versions together; where there are more, no version is asked. */
const MAX_VERSION_ENTRIES = 4_000_000;

export type Roots = ReadonlyMap<number, number>;
export type Details = ReadonlyMap<number, DetailsValues>;

/** A tree that is lost as a whole. */
export function holeOfTree(root: number): Hole {
  return { blocknr: root, low: 0, high: Number.POSITIVE_INFINITY, height: Number.POSITIVE_INFINITY };
}

export class DeviceTrees {
  readonly forest: Forest;
  readonly #survey: Survey;
  readonly #store: BlockStore;
  readonly #buffer = new BlockBuffer(1);
  #versions: readonly Roots[] | undefined;
  #named: Map<number, Set<number>> | undefined;
  readonly #tops = new Map<number, readonly number[]>();

  constructor(forest: Forest) {
    this.forest = forest;
    this.#survey = forest.survey;
    this.#store = forest.survey.store;
  }

  readRoots(root: number): { readonly roots: Roots; readonly holes: readonly Hole[] } {
    const roots = new Map<number, number>();
    const holes = this.#eachEntry(root, TreeKind.Devices, ROOT_BYTES / 4, (id, words, value) => {
      roots.set(id, numberAt(words, value));
    });
    return { roots, holes };
  }

  readDetails(root: number): { readonly details: Details; readonly holes: readonly Hole[] } {
    const details = new Map<number, DetailsValues>();
    const holes = this.#eachEntry(root, TreeKind.Details, DETAILS_BYTES / 4, (id, words, value) => {
      details.set(id, detailsAt(words, value));
    });
    return { details, holes };
  }

  /** Trees of a kind that no other node points at, the fullest first. */
  tops(kind: number): readonly number[] {
    const known = this.#tops.get(kind);
    if (known !== undefined) return known;
    const { total, nrBlocks } = this.#survey;
    const tops: number[] = [];
    for (let blocknr = 1; blocknr < nrBlocks; blocknr++) {
      const isTop = this.forest.hasParent[blocknr] === 0 && total[blocknr]! > 0;
      if (isTop && this.forest.isTree(blocknr, kind)) tops.push(blocknr);
    }
    const fullest = tops.sort((left, right) => total[right]! - total[left]!).slice(0, MAX_TOPS);
    this.#tops.set(kind, fullest);
    return fullest;
  }

  /** What each tree of devices says, and each leaf of one that is lost. */
  versions(): readonly Roots[] {
    if (this.#versions !== undefined) return this.#versions;
    const versions: Roots[] = [];
    let entries = 0;
    const { role, kinds, nrBlocks } = this.#survey;
    for (let blocknr = 1; blocknr < nrBlocks; blocknr++) {
      const isLeaf = role[blocknr] === Role.Leaf && (kinds[blocknr]! & TreeKind.Devices) !== 0;
      const isTop = this.forest.hasParent[blocknr] === 0 && this.forest.isTree(blocknr, TreeKind.Devices);
      if (!isLeaf && !isTop) continue;
      entries += this.#survey.total[blocknr]!;
      if (entries > MAX_VERSION_ENTRIES) break;
      versions.push(this.readRoots(blocknr).roots);
    }
    this.#versions = entries > MAX_VERSION_ENTRIES ? [] : versions;
    return this.#versions;
  }

  /** Whether a version names a root for a device. */
  isNamed(id: number, root: number): boolean {
    if (this.#named === undefined) {
      this.#named = new Map();
      for (const version of this.versions()) {
        for (const [device, own] of version) {
          const roots = this.#named.get(device) ?? new Set();
          this.#named.set(device, roots.add(own));
        }
      }
    }
    return this.#named.get(id)?.has(root) === true;
  }

  /** Two for each device that has as many mappings as its details say, less one for each that only one of the two knows. */
  agreement(roots: Roots, details: Details): number {
    let score = 0;
    for (const [id, root] of roots) {
      const known = details.get(id);
      if (known === undefined) score--;
      else if (this.isMappings(root) && this.#survey.total[root] === known.mappedBlocks) score += 2;
    }
    for (const id of details.keys()) if (!roots.has(id)) score--;
    return score;
  }

  isMappings(root: number | undefined): root is number {
    return root !== undefined && this.forest.isTree(root, TreeKind.Mappings);
  }

  #eachEntry(
    root: number,
    kind: number,
    valueWords: number,
    take: (key: number, words: Uint32Array, value: number) => void,
  ): Hole[] {
    if (!this.forest.isTree(root, kind)) return [holeOfTree(root)];
    const holes: Hole[] = [];
    const { words } = this.#buffer;
    const visit = (leaf: number): void => {
      this.#store.loadOne(leaf, this.#buffer);
      const values = valuesAt(words, 0);
      const nr = entriesOf(words, 0);
      for (let index = 0; index < nr; index++) take(keyOf(words, 0, index), words, values + index * valueWords);
    };
    this.forest.walk(root, Number.POSITIVE_INFINITY, visit, (hole) => holes.push(hole));
    return holes;
  }
}
