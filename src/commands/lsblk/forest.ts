/** Who stands on whom: block devices as a forest, from the bottom up or from the top down. */
import { unmangle } from "../../device-registry/index.js";
import type { BlockNode } from "../../host/index.js";

export type Compare = (left: BlockNode, right: BlockNode) => number;

/** A number may belong to a device of udm and to one of the machine; below a device of udm, udm's own is meant. */
export class BlockForest {
  readonly #nodes: readonly BlockNode[];
  /** What is drawn under a node, and what a node is drawn under. */
  readonly #under = new Map<BlockNode, BlockNode[]>();
  readonly #over = new Map<BlockNode, BlockNode[]>();

  constructor(nodes: readonly BlockNode[], options: { readonly isInverse: boolean; readonly compare: Compare }) {
    this.#nodes = [...nodes].sort(options.compare);
    const byNumber = new Map(nodes.map((node) => [`${node.owner} ${node.majMin}`, node]));
    // In order, so that what is drawn under a node comes in order too.
    for (const node of this.#nodes) {
      const parents = node.parents.map((number) => {
        const own = node.owner === "udm" ? byNumber.get(`udm ${number}`) : undefined;
        return own ?? byNumber.get(`machine ${number}`);
      });
      if (node.attachedTo !== undefined) parents.push(byNumber.get(`udm ${node.attachedTo}`));
      for (const parent of new Set(parents)) {
        if (parent === undefined || parent === node) continue;
        append(options.isInverse ? this.#over : this.#under, parent, node);
        append(options.isInverse ? this.#under : this.#over, node, parent);
      }
    }
    if (options.isInverse) for (const list of this.#under.values()) list.sort(options.compare);
  }

  /** Drawn under nothing. */
  roots(): readonly BlockNode[] {
    return this.#nodes.filter((node) => !this.#over.has(node));
  }

  children(node: BlockNode): readonly BlockNode[] {
    return this.#under.get(node) ?? [];
  }

  /** What the node is drawn under. */
  parents(node: BlockNode): readonly BlockNode[] {
    return this.#over.get(node) ?? [];
  }

  /** A device by name, kernel name, path or number; udm's before the machine's. */
  find(dev: string): BlockNode | undefined {
    const path = /^\/dev\/mapper\/([^/]+)$/.exec(dev)?.[1];
    const isNamed = (node: BlockNode) =>
      [node.name, node.kname, node.path, node.majMin, `/dev/${node.kname}`].includes(dev) ||
      (node.path.startsWith("/dev/mapper/") && unmangle(node.name) === (path ?? dev));
    return this.#nodes.find((node) => node.owner === "udm" && isNamed(node)) ?? this.#nodes.find(isNamed);
  }
}

/** By device number, udm's before the machine's. */
export function byDeviceNumber(left: BlockNode, right: BlockNode): number {
  const [leftMajor, leftMinor] = deviceNumbers(left);
  const [rightMajor, rightMinor] = deviceNumbers(right);
  return (
    leftMajor - rightMajor || leftMinor - rightMinor || Number(right.owner === "udm") - Number(left.owner === "udm")
  );
}

export function deviceNumbers({ majMin }: BlockNode): readonly [number, number] {
  const colon = majMin.indexOf(":");
  return [Number(majMin.slice(0, colon)), Number(majMin.slice(colon + 1))];
}

function append(map: Map<BlockNode, BlockNode[]>, key: BlockNode, value: BlockNode): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
