/**
 * The mapping trees of all devices seen as what they are: one graph whose nodes are shared. A thousand snapshots of a
 * volume are a thousand roots over mostly the same leaves, and the graph is as large as one of them plus the differences.
 *
 * Two steps. First the internal nodes are walked, each read once or twice, and what is known of a node's parents flows
 * down to it: which party reaches it, through how many devices, whether the metadata snapshot does. Leaves are not read
 * for that, only recorded. Then `forEachLeaf` reads every leaf once, in the order in which they lie on the device.
 *
 * Nodes are told to be leaves by their first sibling, as trees of this format are equally deep everywhere; where one is
 * not, `forEachLeaf` finds the leaves below it and gives them what their ancestor has. State is a few bytes for each
 * block of the metadata device.
 */
import { getU64, type ReadView } from "../bytes/index.js";
import {
  BTREE_NODE,
  childAt,
  damaged,
  isLeaf,
  keyAt,
  nrEntriesOf,
  readNode,
  valueOffset,
  walkLeaves,
} from "../persistent-data/index.js";
import type { MetadataRoots, ReadableTrees, ThinMetadata } from "./metadata.js";

/** No live device reaches it. Parties are numbers from 1 on. */
export const NO_PARTY = 0;
/** More than one party reaches it. */
export const MANY_PARTIES = 0x3fffffff;

const UNSEEN = 0;
const INTERNAL = 1;
const LEAF = 2;

/**
 * Called with a leaf, its number of entries and the offset of its first value.
 * `party`: the one that reaches it, or NO_PARTY, or MANY_PARTIES. `devices`: how many live devices do.
 */
export type SharedLeafVisitor = (
  view: ReadView,
  nr: number,
  offset: number,
  party: number,
  devices: number,
  isHeld: boolean,
) => void;

export class MappingForest {
  readonly trees: ReadableTrees;
  readonly #kind: Uint8Array;
  readonly #isHeld: Uint8Array;
  readonly #party: Uint32Array;
  readonly #devices: Uint32Array;
  /** Internal nodes that refer to a node and have not passed on what they know. */
  readonly #waitingFor: Uint32Array;
  #internalNodes = 0;

  /**
   * Walks the internal nodes. The metadata must not change before the last `forEachLeaf`.
   * @param partyOf which party a device belongs to, 1 to MANY_PARTIES - 1
   * @throws DamageError, IoError
   */
  constructor(metadata: ThinMetadata, partyOf: (id: number) => number) {
    this.trees = metadata.treesForReading();
    const blocks = this.trees.metadataBlocks;
    this.#kind = new Uint8Array(blocks);
    this.#isHeld = new Uint8Array(blocks);
    this.#party = new Uint32Array(blocks);
    this.#devices = new Uint32Array(blocks);
    this.#waitingFor = new Uint32Array(blocks);
    const roots: number[] = [];
    eachDeviceRoot(metadata, (id, root) => {
      this.#discover(root, 0, 0, Number.POSITIVE_INFINITY);
      this.#reach(root, partyOf(id), 1, 0);
      roots.push(root);
    });
    const held = metadata.heldRoots();
    if (held !== undefined) {
      eachDeviceRoot(
        metadata,
        (_id, root) => {
          this.#discover(root, 0, 0, Number.POSITIVE_INFINITY);
          this.#reach(root, NO_PARTY, 0, 1);
          roots.push(root);
        },
        held,
      );
    }
    this.#passOn(roots);
  }

  /** Visits every leaf once, by block number. May be called again. */
  forEachLeaf(visit: SharedLeafVisitor): void {
    const kind = this.#kind;
    for (let blocknr = 0; blocknr < kind.length; blocknr++) {
      if (kind[blocknr] !== LEAF) continue;
      const isHeld = this.#isHeld[blocknr] === 1;
      this.#visitLeaves(blocknr, 0, this.#party[blocknr]!, this.#devices[blocknr]!, isHeld, visit);
    }
  }

  #discover(blocknr: number, depth: number, low: number, high: number): void {
    this.#checkRange(blocknr);
    const kind = this.#kind;
    if (kind[blocknr] !== UNSEEN) return;
    const { view } = readNode(this.trees.mappings, blocknr, depth, low, high);
    if (isLeaf(view)) {
      kind[blocknr] = LEAF;
      return;
    }
    kind[blocknr] = INTERNAL;
    this.#internalNodes++;
    const nr = nrEntriesOf(view);
    let areLeaves = false;
    for (let index = 0; index < nr; index++) {
      const child = childAt(view, index);
      if (areLeaves) {
        this.#checkRange(child);
        if (kind[child] === UNSEEN) kind[child] = LEAF;
      } else {
        this.#discover(child, depth + 1, keyAt(view, index), index + 1 < nr ? keyAt(view, index + 1) : high);
        areLeaves = kind[child] === LEAF;
      }
      this.#waitingFor[child]!++;
    }
  }

  /** A node hands on what it knows once all who refer to it have. */
  #passOn(roots: readonly number[]): void {
    const ready = [...new Set(roots)].filter((root) => this.#kind[root] === INTERNAL && this.#waitingFor[root] === 0);
    let left = this.#internalNodes;
    for (let blocknr = ready.pop(); blocknr !== undefined; blocknr = ready.pop()) {
      left--;
      const { view } = readNode(this.trees.mappings, blocknr, 0);
      const nr = nrEntriesOf(view);
      for (let index = 0; index < nr; index++) {
        const child = childAt(view, index);
        this.#reach(child, this.#party[blocknr]!, this.#devices[blocknr]!, this.#isHeld[blocknr]!);
        const waitingFor = this.#waitingFor[child]! - 1;
        this.#waitingFor[child] = waitingFor;
        if (waitingFor === 0 && this.#kind[child] === INTERNAL) ready.push(child);
      }
    }
    if (left > 0) {
      throw damaged(roots[0] ?? 0, BTREE_NODE.name, `${left} nodes of mapping trees form a circle`, "EUCLEAN");
    }
  }

  #reach(blocknr: number, party: number, devices: number, held: number): void {
    this.#party[blocknr] = mergeParties(this.#party[blocknr]!, party);
    this.#devices[blocknr]! += devices;
    if (held === 1) this.#isHeld[blocknr] = 1;
  }

  #visitLeaves(
    blocknr: number,
    depth: number,
    party: number,
    devices: number,
    isHeld: boolean,
    visit: SharedLeafVisitor,
  ): void {
    const { view } = readNode(this.trees.mappings, blocknr, depth);
    const nr = nrEntriesOf(view);
    if (isLeaf(view)) {
      if (nr > 0) visit(view, nr, valueOffset(view, 0), party, devices, isHeld);
      return;
    }
    for (let index = 0; index < nr; index++) {
      this.#visitLeaves(childAt(view, index), depth + 1, party, devices, isHeld, visit);
    }
  }

  #checkRange(blocknr: number): void {
    if (blocknr < this.#kind.length) return;
    throw damaged(blocknr, BTREE_NODE.name, `lies outside the metadata of ${this.#kind.length} blocks`, "EUCLEAN");
  }
}

export function mergeParties(left: number, right: number): number {
  if (left === right || right === NO_PARTY) return left;
  return left === NO_PARTY ? right : MANY_PARTIES;
}

/** Calls `visit` with every device of a state and the root of its mapping tree, by id. */
export function eachDeviceRoot(
  metadata: ThinMetadata,
  visit: (id: number, root: number) => void,
  roots?: MetadataRoots,
): void {
  const { devices, deviceRoot } = metadata.treesForReading(roots);
  walkLeaves(devices, deviceRoot, 0, Number.POSITIVE_INFINITY, (view, from, to) => {
    for (let index = from; index < to; index++) visit(keyAt(view, index), getU64(view, valueOffset(view, index)));
    return true;
  });
}
