/**
 * The way down a tree that is being changed: every node on it is shadowed, and its parent patched to point at the shadow.
 * Only parent and current node are held, as splits and merges never look further up.
 */
import { invariant } from "../../errors/index.js";
import type { WriteBlock } from "../block-manager.js";
import { damaged } from "../validator.js";
import { BTREE_NODE, isLeaf, setChildAt, valueSizeOf } from "./node.js";
import { incChildren, MAX_DEPTH, type Tree } from "./tree.js";

export class Spine {
  #parent: WriteBlock | undefined;
  #current: WriteBlock | undefined;
  #root: number | undefined;
  #depth = 0;
  /** First key that belongs behind the current node. */
  high = Number.POSITIVE_INFINITY;
  /** A node on the way was full: the tree has another shape than it had when the way down began. */
  madeRoom = false;

  /** The node being worked on. */
  get current(): WriteBlock {
    invariant(this.#current !== undefined, "spine without a node");
    return this.#current;
  }

  get parent(): WriteBlock | undefined {
    return this.#parent;
  }

  /** Root of the tree as it is now. */
  rootOr(root: number): number {
    return this.#root ?? root;
  }

  /** Steps to a child (or the root) and shadows it. `index`: its entry in the node left behind. */
  step(tree: Tree, blocknr: number, index: number): WriteBlock {
    if (this.#depth++ >= MAX_DEPTH) {
      throw damaged(blocknr, "btree_node", `tree deeper than ${MAX_DEPTH} levels: a circle`, "EUCLEAN");
    }
    const block = shadowNode(tree, blocknr);
    this.#parent = this.#current;
    this.#current = block;
    this.#root ??= block.blocknr;
    if (this.#parent !== undefined) setChildAt(this.#parent.view, index, block.blocknr);
    return block;
  }

  /** A split moved the key: another node is the current one. */
  replaceCurrent(block: WriteBlock): void {
    this.#current = block;
  }

  /** The walk goes on in another tree whose root is a value of the current leaf. */
  enterTree(): void {
    this.#depth = 0;
    this.high = Number.POSITIVE_INFINITY;
    this.madeRoom = false;
  }
}

/** Shadows a node, and counts its children once more when both copies own them. */
export function shadowNode(tree: Tree, blocknr: number): WriteBlock {
  const { block, sharesChildren } = tree.transaction.shadow(blocknr, BTREE_NODE);
  if (isLeaf(block.view) && valueSizeOf(block.view) !== tree.value.size) {
    throw damaged(
      blocknr,
      "btree_node",
      `values of ${valueSizeOf(block.view)} bytes, wanted ${tree.value.size}`,
      "EUCLEAN",
    );
  }
  if (sharesChildren) incChildren(tree, block.view);
  return block;
}
