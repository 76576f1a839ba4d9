/** Who stands on whom: block devices as a forest, from the bottom up or from the top down. */
import type { BlockNode } from "../host/index.js";

/** A number may belong to a device of udm and to one of the machine; below a device of udm, udm's own is meant. */
export class BlockForest {
  readonly #nodes: readonly BlockNode[];
  readonly #above = new Map<BlockNode, BlockNode[]>();
  readonly #below = new Map<BlockNode, BlockNode[]>();
  readonly #isInverse: boolean;

  constructor(nodes: readonly BlockNode[], isInverse: boolean) {
    this.#nodes = nodes;
    this.#isInverse = isInverse;
    const byNumber = new Map(nodes.map((node) => [`${node.owner} ${node.majMin}`, node]));
    for (const node of nodes) {
      for (const number of new Set(node.parents)) {
        const own = node.owner === "udm" ? byNumber.get(`udm ${number}`) : undefined;
        const parent = own ?? byNumber.get(`machine ${number}`);
        if (parent === undefined || parent === node) continue;
        append(this.#above, parent, node);
        append(this.#below, node, parent);
      }
    }
  }

  roots(): readonly BlockNode[] {
    const up = this.#isInverse ? this.#above : this.#below;
    const roots = this.ordered(this.#nodes.filter((node) => !up.has(node)));
    if (!this.#isInverse) return roots;
    // From the top down the order is that of the first disk each leads to, as in lsblk.
    const first = new Map<BlockNode, number>();
    this.ordered(this.#nodes.filter((node) => !this.#below.has(node))).forEach((node, index) => {
      this.#mark(node, index, first);
    });
    return [...roots].sort((left, right) => (first.get(left) ?? 0) - (first.get(right) ?? 0));
  }

  #mark(node: BlockNode, index: number, first: Map<BlockNode, number>): void {
    if (first.has(node)) return;
    first.set(node, index);
    for (const child of this.#above.get(node) ?? []) this.#mark(child, index, first);
  }

  children(node: BlockNode): readonly BlockNode[] {
    return this.ordered((this.#isInverse ? this.#below : this.#above).get(node) ?? []);
  }

  /** By device number, udm's before the machine's. */
  ordered(nodes: readonly BlockNode[]): readonly BlockNode[] {
    return [...nodes].sort((left, right) => {
      const [leftMajor, leftMinor] = numbers(left);
      const [rightMajor, rightMinor] = numbers(right);
      return (
        leftMajor - rightMajor || leftMinor - rightMinor || Number(right.owner === "udm") - Number(left.owner === "udm")
      );
    });
  }

  /** A device by name, kernel name, path or number. */
  find(dev: string): BlockNode | undefined {
    const isNamed = (node: BlockNode) =>
      [node.name, node.kname, node.path, node.majMin, `/dev/${node.kname}`].includes(dev);
    return this.#nodes.find((node) => node.owner === "udm" && isNamed(node)) ?? this.#nodes.find(isNamed);
  }
}

function append(map: Map<BlockNode, BlockNode[]>, key: BlockNode, value: BlockNode): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}

function numbers(node: BlockNode): [number, number] {
  const [major = 0, minor = 0] = node.majMin.split(":").map(Number);
  return [major, minor];
}
