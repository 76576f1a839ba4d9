/** Ways in which one btree node goes bad, whatever tree it belongs to. */
import { NODE_HEADER } from "../../../persistent-data/index.js";
import { Kind } from "../reader/problems.js";
import { cannot } from "./damage-case.js";
import type { FoundNode, Victim } from "./victim.js";

export interface NodeDamage {
  /** Ends of "a node of the tree whose ...". */
  readonly what: string;
  readonly isSealed: boolean;
  /** Entries the node has to have. */
  readonly atLeast: number;
  readonly act: (victim: Victim, node: FoundNode) => void;
}

const HALF_BYTES = 2048;
const SECTOR_BYTES = 512;
const HUGE_KEY = 2n ** 60n;

export const NODE_DAMAGE = {
  checksum: {
    what: "has a wrong checksum",
    isSealed: false,
    atLeast: 0,
    act: (victim, node) => {
      const view = victim.edit(node.blocknr);
      view.setUint32(0, (view.getUint32(0, true) ^ (1 << victim.chance.between(0, 31))) >>> 0, true);
    },
  },
  bit: {
    what: "has one bit of its entries flipped",
    isSealed: false,
    atLeast: 1,
    act: (victim, node) => {
      const view = victim.edit(node.blocknr);
      const at = victim.valueOffset(node, 0) + victim.chance.between(0, node.nr * node.valueSize);
      view.setUint8(at, view.getUint8(at) ^ (1 << victim.chance.between(0, 8)));
    },
  },
  number: {
    what: "says it is another block: a write that went astray",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => {
      const other = (node.blocknr + victim.chance.between(1, victim.nrBlocks - 1)) % victim.nrBlocks;
      NODE_HEADER.set.blocknr(victim.edit(node.blocknr), other);
    },
  },
  kind: {
    what: "is sealed as a bitmap",
    isSealed: false,
    atLeast: 0,
    act: (victim, node) => victim.seal(node.blocknr, Kind.Bitmap),
  },
  flags: {
    what: "is neither internal nor leaf",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => NODE_HEADER.set.flags(victim.edit(node.blocknr), 0),
  },
  "flags-both": {
    what: "is internal and leaf at once",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => NODE_HEADER.set.flags(victim.edit(node.blocknr), 3),
  },
  entries: {
    what: "has more entries than it has room for",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) =>
      NODE_HEADER.set.nrEntries(victim.edit(node.blocknr), node.max + victim.chance.between(1, 100)),
  },
  capacity: {
    what: "gives its room as three entries less than it has",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => NODE_HEADER.set.maxEntries(victim.edit(node.blocknr), node.max - 3),
  },
  "capacity-odd": {
    what: "gives room for a number of entries that is no multiple of three",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => NODE_HEADER.set.maxEntries(victim.edit(node.blocknr), node.max - 1),
  },
  "capacity-huge": {
    what: "gives room for more entries than fit a block",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => NODE_HEADER.set.maxEntries(victim.edit(node.blocknr), 3000),
  },
  "value-size": {
    what: "has values of another size than its tree",
    isSealed: true,
    atLeast: 0,
    act: (victim, node) => NODE_HEADER.set.valueSize(victim.edit(node.blocknr), node.valueSize + 4),
  },
  unordered: {
    what: "has two neighbouring keys exchanged",
    isSealed: true,
    atLeast: 3,
    act: (victim, node) => {
      const index = victim.chance.between(1, node.nr - 1);
      const key = victim.keyAt(node, index);
      victim.setKey(node, index, victim.keyAt(node, index + 1));
      victim.setKey(node, index + 1, key);
    },
  },
  duplicate: {
    what: "has one key twice",
    isSealed: true,
    atLeast: 2,
    act: (victim, node) => {
      const index = victim.chance.between(1, node.nr);
      victim.setKey(node, index, victim.keyAt(node, index - 1));
    },
  },
  "key-huge": {
    what: "has a last key above 2^53",
    isSealed: true,
    atLeast: 1,
    act: (victim, node) => victim.setKey(node, node.nr - 1, HUGE_KEY),
  },
  zeroed: {
    what: "is all zeros: never written, or discarded",
    isSealed: false,
    atLeast: 0,
    act: (victim, node) => victim.zeroBlock(node.blocknr),
  },
  torn: {
    what: "is half-written: its second half is of something else",
    isSealed: false,
    atLeast: 1,
    act: (victim, node) => {
      const view = victim.edit(node.blocknr);
      victim.chance.fill(new Uint8Array(view.buffer, view.byteOffset + HALF_BYTES, HALF_BYTES));
    },
  },
  sector: {
    what: "has one sector of zeros",
    isSealed: false,
    atLeast: 1,
    act: (victim, node) => {
      const view = victim.edit(node.blocknr);
      new Uint8Array(view.buffer, view.byteOffset, SECTOR_BYTES).fill(0);
    },
  },
  garbage: {
    what: "holds bytes that mean nothing",
    isSealed: false,
    atLeast: 0,
    act: (victim, node) => {
      const view = victim.edit(node.blocknr);
      victim.chance.fill(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    },
  },
} as const satisfies Readonly<Record<string, NodeDamage>>;

export type NodeDamageId = keyof typeof NODE_DAMAGE;

/** Damages a node and seals it where the way says so. */
export function damageNode(victim: Victim, id: NodeDamageId, node: FoundNode, name: string): void {
  const { act, isSealed, atLeast }: NodeDamage = NODE_DAMAGE[id];
  if (node.nr < atLeast) throw cannot(`${name} with ${atLeast} entries`);
  act(victim, node);
  if (isSealed) victim.sealNode(node);
  victim.hit(`${victim.name(node.blocknr, Kind.Node)}, ${name}: ${NODE_DAMAGE[id].what}`);
}
