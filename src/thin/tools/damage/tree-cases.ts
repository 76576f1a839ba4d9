/** The tree of devices, their details, and the mapping trees below. */

import { DATA_BLOCK_LIMIT, TIME_LIMIT } from "../../block-time.js";
import { DEVICE_DETAILS } from "../../device-details.js";
import { Kind } from "../reader/problems.js";
import { cannot, type DamageArea, type DamageCase } from "./damage-case.js";
import { damageNode, NODE_DAMAGE, type NodeDamageId } from "./node-damage.js";
import type { FoundNode, Victim } from "./victim.js";

const TIMES = 2 ** 24;
const MAPPING_BYTES = 8;

interface Target {
  readonly prefix: string;
  readonly area: DamageArea;
  /** For the sentence: "A leaf of mappings". */
  readonly subject: string;
  readonly name: string;
  readonly find: (victim: Victim, atLeast: number) => FoundNode;
}

function topNode(victim: Victim, root: number, atLeast: number, name: string): FoundNode {
  const node = victim.findNode(root, (each) => each.isLeaf && each.nr >= Math.max(1, atLeast));
  if (node === undefined) throw cannot(`${name} with ${Math.max(1, atLeast)} entries`);
  return node;
}

export const TARGETS = {
  devices: {
    prefix: "devices",
    area: "devices",
    subject: "The tree of devices",
    name: "tree of devices",
    find: (victim, atLeast) => topNode(victim, victim.superblock.mappingRoot, atLeast, "tree of devices"),
  },
  details: {
    prefix: "details",
    area: "details",
    subject: "The details of devices",
    name: "details of devices",
    find: (victim, atLeast) => topNode(victim, victim.superblock.detailsRoot, atLeast, "details tree"),
  },
  "devices-internal": {
    prefix: "devices-internal",
    area: "devices",
    subject: "The root of the tree of devices, above its leaves,",
    name: "root of the tree of devices",
    find: (victim) => {
      const node = victim.findNode(victim.superblock.mappingRoot, (each) => !each.isLeaf);
      if (node === undefined) throw cannot("tree of devices of two levels");
      return node;
    },
  },
  "details-internal": {
    prefix: "details-internal",
    area: "details",
    subject: "The root of the details, above their leaves,",
    name: "root of the details",
    find: (victim) => {
      const node = victim.findNode(victim.superblock.detailsRoot, (each) => !each.isLeaf);
      if (node === undefined) throw cannot("details tree of two levels");
      return node;
    },
  },
  leaf: {
    prefix: "leaf",
    area: "mappings",
    subject: "A leaf of mappings",
    name: "leaf of mappings",
    find: (victim, atLeast) =>
      victim.mappingNode(
        "leaf of mappings",
        (node) => node.isLeaf && node.depth > 0 && node.nr >= Math.max(1, atLeast),
      ),
  },
  internal: {
    prefix: "internal",
    area: "mappings",
    subject: "An internal node of mappings",
    name: "internal node of mappings",
    find: (victim) => internal(victim, 3),
  },
} as const satisfies Readonly<Record<string, Target>>;

/** Every way that makes sense for a node, one case each. */
export function nodeCases(target: Target, ways: readonly NodeDamageId[]): DamageCase[] {
  return ways.map((way) => ({
    id: `${target.prefix}-${way}`,
    area: target.area,
    what: `${target.subject} ${NODE_DAMAGE[way].what}.`,
    isSealed: NODE_DAMAGE[way].isSealed,
    apply: (victim) => {
      const node = target.find(victim, NODE_DAMAGE[way].atLeast);
      const device = (node as Partial<{ device: number }>).device;
      damageNode(victim, way, node, device === undefined ? target.name : `${target.name} of device ${device}`);
    },
  }));
}

function sealed(id: string, area: DamageArea, what: string, apply: (victim: Victim) => string): DamageCase {
  return { id, area, what, isSealed: true, apply: (victim) => victim.hit(apply(victim)) };
}

// --- finding what to hit ---

function internal(victim: Victim, atLeast: number): FoundNode & { readonly device: number } {
  return victim.mappingNode(`internal node with ${atLeast} children`, (node) => !node.isLeaf && node.nr >= atLeast);
}

/** A leaf with a parent. */
function leaf(victim: Victim, atLeast = 4): FoundNode & { readonly device: number; readonly parent: FoundNode } {
  const node = victim.mappingNode(
    "leaf below another node",
    (each) => each.isLeaf && each.depth > 0 && each.nr >= atLeast,
  );
  return { ...node, parent: node.parent! };
}

interface Entry {
  readonly node: FoundNode;
  readonly index: number;
  readonly id: number;
}

/** An entry of the tree of devices or of the details. */
function entryOf(victim: Victim, tree: "mappingRoot" | "detailsRoot"): Entry {
  const node = topNode(victim, victim.superblock[tree], 1, "tree of devices");
  const index = victim.chance.between(0, node.nr);
  return { node, index, id: victim.keyAt(node, index) };
}

/** Two entries of one leaf of the tree of devices whose roots are not the same. */
function twoDevices(victim: Victim): { readonly node: FoundNode; readonly one: number; readonly other: number } {
  const node = topNode(victim, victim.superblock.mappingRoot, 2, "tree of devices");
  const order = victim.chance.shuffled(Array.from({ length: node.nr }, (_, index) => index));
  const one = order[0]!;
  const other = order.find((index) => victim.valueAt(node, index) !== victim.valueAt(node, one));
  if (other === undefined) throw cannot("two devices with mappings of their own");
  return { node, one, other };
}

function where(node: FoundNode & { readonly device: number }): string {
  return `metadata block ${node.blocknr} (btree node), ${node.isLeaf ? "leaf" : "internal node"} of device ${node.device}`;
}

function setMapping(victim: Victim, node: FoundNode, index: number, block: number, time: number): void {
  victim.setValue(node, index, BigInt(block) * BigInt(TIMES) + BigInt(time));
  victim.sealNode(node);
}

function mappingAt(victim: Victim, node: FoundNode, index: number): { readonly block: number; readonly time: number } {
  const value = victim.view(node.blocknr).getBigUint64(victim.valueOffset(node, index), true);
  return { block: Number(value / BigInt(TIMES)), time: Number(value % BigInt(TIMES)) };
}

function setChild(victim: Victim, node: FoundNode, index: number, child: number | bigint): void {
  victim.setValue(node, index, child);
  victim.sealNode(node);
}

function editDetails(victim: Victim, change: (view: DataView, base: number) => void): number {
  const { node, index, id } = entryOf(victim, "detailsRoot");
  change(victim.edit(node.blocknr), victim.valueOffset(node, index));
  victim.sealNode(node);
  return id;
}

/** A sound leaf of mappings that nothing uses any more: what an earlier transaction left. */
function leftOverLeaf(victim: Victim): FoundNode {
  const isLeft = (block: number) => {
    const node = victim.node(block);
    return node?.isLeaf === true && node.valueSize === MAPPING_BYTES && node.nr > 0;
  };
  return victim.node(victim.blockWithRaw("metadata", 0, "left-over leaf", isLeft))!;
}

// --- cases ---

export const DEVICE_CASES: readonly DamageCase[] = [
  ...nodeCases(TARGETS.devices, [
    "checksum",
    "number",
    "kind",
    "flags",
    "entries",
    "capacity",
    "value-size",
    "unordered",
    "duplicate",
    "zeroed",
    "torn",
  ]),
  ...nodeCases(TARGETS["devices-internal"], ["checksum", "entries", "zeroed"]),
  sealed("device-root-zero", "devices", "The root of one device's mappings is 0.", (victim) => {
    const { node, index, id } = entryOf(victim, "mappingRoot");
    setChild(victim, node, index, 0);
    return `device ${id}: its mapping tree is at 0`;
  }),
  sealed(
    "device-root-outside",
    "devices",
    "The root of one device's mappings lies behind the end of the device.",
    (victim) => {
      const { node, index, id } = entryOf(victim, "mappingRoot");
      const root = victim.nrBlocks + victim.chance.between(0, 1000);
      setChild(victim, node, index, root);
      return `device ${id}: its mapping tree is at ${root}`;
    },
  ),
  sealed("device-root-huge", "devices", "The root of one device's mappings is above 2^53.", (victim) => {
    const { node, index, id } = entryOf(victim, "mappingRoot");
    setChild(victim, node, index, 2n ** 62n);
    return `device ${id}: its mapping tree is at 2^62`;
  }),
  sealed(
    "device-root-details",
    "devices",
    "The root of one device's mappings leads to the details of devices.",
    (victim) => {
      const { node, index, id } = entryOf(victim, "mappingRoot");
      setChild(victim, node, index, victim.superblock.detailsRoot);
      return `device ${id}: its mapping tree is at ${victim.superblock.detailsRoot}, where the details are`;
    },
  ),
  sealed("device-root-bitmap", "devices", "The root of one device's mappings leads to a bitmap.", (victim) => {
    const { node, index, id } = entryOf(victim, "mappingRoot");
    const { blocknr } = victim.pickBitmap("data");
    setChild(victim, node, index, blocknr);
    return `device ${id}: its mapping tree is at ${blocknr}, a bitmap`;
  }),
  sealed(
    "device-root-shared",
    "devices",
    "Two devices have one mapping tree, which is counted for one of them only.",
    (victim) => {
      const { node, one, other } = twoDevices(victim);
      const root = victim.valueAt(node, other);
      setChild(victim, node, one, root);
      return `device ${victim.keyAt(node, one)}: its mapping tree is at ${root}, that of device ${victim.keyAt(node, other)}`;
    },
  ),
  sealed("device-roots-exchanged", "devices", "Two devices have each other's mapping trees.", (victim) => {
    const { node, one, other } = twoDevices(victim);
    const root = victim.valueAt(node, one);
    setChild(victim, node, one, victim.valueAt(node, other));
    setChild(victim, node, other, root);
    return `devices ${victim.keyAt(node, one)} and ${victim.keyAt(node, other)}: mapping trees exchanged`;
  }),
  sealed(
    "device-without-mappings",
    "devices",
    "A device is in the details and not in the tree of devices.",
    (victim) => {
      const { node, index, id } = entryOf(victim, "mappingRoot");
      victim.removeEntries(node, index, index + 1);
      victim.sealNode(node);
      return `device ${id}: taken out of the tree of devices`;
    },
  ),
  sealed(
    "device-number-changed",
    "devices",
    "A device has another number in the tree of devices than in the details.",
    (victim) => {
      const { node, id } = entryOf(victim, "mappingRoot");
      const last = victim.keyAt(node, node.nr - 1);
      victim.setKey(node, node.nr - 1, last + 1000);
      victim.sealNode(node);
      return `device ${last}: the tree of devices calls it ${last + 1000}${id === last ? "" : ""}`;
    },
  ),
];

export const DETAILS_CASES: readonly DamageCase[] = [
  ...nodeCases(TARGETS.details, [
    "checksum",
    "number",
    "flags",
    "entries",
    "capacity",
    "value-size",
    "unordered",
    "zeroed",
    "torn",
  ]),
  ...nodeCases(TARGETS["details-internal"], ["checksum", "zeroed"]),
  sealed(
    "device-without-details",
    "details",
    "A device is in the tree of devices and not in the details.",
    (victim) => {
      const { node, index, id } = entryOf(victim, "detailsRoot");
      victim.removeEntries(node, index, index + 1);
      victim.sealNode(node);
      return `device ${id}: taken out of the details`;
    },
  ),
  sealed("mapped-count-high", "details", "The details of a device give more mappings than it has.", (victim) => {
    const more = victim.chance.between(1, 1000);
    const id = editDetails(victim, (view, base) =>
      DEVICE_DETAILS.set.mappedBlocks(view, DEVICE_DETAILS.get.mappedBlocks(view, base) + more, base),
    );
    return `device ${id}: ${more} mappings more by the details`;
  }),
  sealed("mapped-count-zero", "details", "The details of a device with mappings say that it has none.", (victim) => {
    const { node, index, id } = mappedEntry(victim);
    DEVICE_DETAILS.set.mappedBlocks(victim.edit(node.blocknr), 0, victim.valueOffset(node, index));
    victim.sealNode(node);
    return `device ${id}: no mappings by the details`;
  }),
  sealed("mapped-count-huge", "details", "The details of a device give a number of mappings above 2^53.", (victim) => {
    const id = editDetails(victim, (view, base) => view.setBigUint64(base, 2n ** 63n, true));
    return `device ${id}: 2^63 mappings by the details`;
  }),
  sealed("details-transaction", "details", "A device was created in a transaction that has not come yet.", (victim) => {
    const wanted = victim.superblock.transactionId + 1000;
    const id = editDetails(victim, (view, base) => DEVICE_DETAILS.set.transactionId(view, wanted, base));
    return `device ${id}: created in transaction ${wanted}`;
  }),
  sealed("details-time", "details", "A device was created, and snapshot, later than the pool's clock.", (victim) => {
    const wanted = victim.superblock.time + 100;
    const id = editDetails(victim, (view, base) => {
      DEVICE_DETAILS.set.creationTime(view, wanted, base);
      DEVICE_DETAILS.set.snapshottedTime(view, wanted, base);
    });
    return `device ${id}: created at time ${wanted}`;
  }),
];

/** Details of a device that has mappings. */
function mappedEntry(victim: Victim): Entry {
  for (const { id, details } of victim.chance.shuffled(victim.devices)) {
    if (details === undefined || details.mappedBlocks === 0) continue;
    const found = victim.findNode(
      victim.superblock.detailsRoot,
      (node) => node.isLeaf && Array.from({ length: node.nr }, (_, index) => victim.keyAt(node, index)).includes(id),
    );
    if (found === undefined) continue;
    const index = Array.from({ length: found.nr }, (_, each) => victim.keyAt(found, each)).indexOf(id);
    return { node: found, index, id };
  }
  throw cannot("device with mappings");
}

const EVERY_WAY = Object.keys(NODE_DAMAGE) as NodeDamageId[];

export const MAPPING_CASES: readonly DamageCase[] = [
  ...nodeCases(TARGETS.leaf, EVERY_WAY),
  ...nodeCases(
    TARGETS.internal,
    EVERY_WAY.filter((way) => !["kind", "capacity-huge", "key-huge", "sector"].includes(way)),
  ),
  sealed("leaf-shared", "mappings", "A leaf that several devices share says it is another block.", (victim) => {
    const node = victim.mappingNode("leaf that is shared", (each) => each.isLeaf && isShared(victim, each));
    damageNode(victim, "number", node, `leaf of device ${node.device}`);
    return `metadata block ${node.blocknr}: shared by several devices`;
  }),
  sealed(
    "leaf-older",
    "mappings",
    "A leaf was put back as it was before its last mappings: a write was lost.",
    (victim) => {
      const node = leaf(victim, 8);
      victim.removeEntries(node, Math.floor((node.nr * 3) / 4), node.nr);
      victim.sealNode(node);
      return `${where(node)}: its last quarter of ${node.nr} mappings is gone`;
    },
  ),
  sealed(
    "leaf-older-copy",
    "mappings",
    "A leaf that an earlier transaction left behind was put in the place of one in use.",
    (victim) => {
      const old = leftOverLeaf(victim);
      const node = victim.mappingNode("other leaf", (each) => each.isLeaf);
      const bytes = victim.bytes(old.blocknr).slice();
      const view = victim.edit(node.blocknr);
      new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(bytes);
      view.setBigUint64(8, BigInt(node.blocknr), true);
      victim.sealNode(node);
      return `${where(node)}: holds what block ${old.blocknr} was left with`;
    },
  ),
  sealed("leaf-below-parent", "mappings", "The first key of a leaf is below what its parent gives it.", (victim) => {
    const node = victim.mappingNode(
      "leaf behind another",
      (each) => each.isLeaf && each.depth > 0 && each.index > 0 && each.nr > 1,
    );
    const key = victim.keyAt(node, 0);
    victim.setKey(node, 0, Math.max(0, key - 1));
    victim.sealNode(node);
    return `${where(node)}: its first key ${key} becomes ${key - 1}`;
  }),
  sealed("leaf-overlap", "mappings", "The last key of a leaf belongs into the next one.", (victim) => {
    const node = victim.mappingNode(
      "leaf before another",
      (each) => each.isLeaf && each.parent !== undefined && each.index + 1 < each.parent.nr && each.nr > 1,
    );
    const next = victim.keyAt(node.parent!, node.index + 1);
    victim.setKey(node, node.nr - 1, next);
    victim.sealNode(node);
    return `${where(node)}: its last key becomes ${next}, the first of the next leaf`;
  }),
  sealed("leaf-underfull", "mappings", "A leaf has one mapping, and was left so.", (victim) => {
    const node = leaf(victim);
    victim.removeEntries(node, 1, node.nr);
    victim.sealNode(node);
    return `${where(node)}: one of ${node.nr} mappings is left`;
  }),
  sealed("leaf-empty", "mappings", "A leaf below another node has no mapping at all.", (victim) => {
    const node = leaf(victim);
    victim.removeEntries(node, 0, node.nr);
    victim.sealNode(node);
    return `${where(node)}: none of ${node.nr} mappings is left`;
  }),
  sealed(
    "leaf-as-internal",
    "mappings",
    "A leaf says it is an internal node, so data blocks are taken for nodes.",
    (victim) => {
      const node = leaf(victim);
      victim.edit(node.blocknr).setUint32(4, 1, true);
      victim.sealNode(node);
      return `${where(node)}: flags say internal`;
    },
  ),
  sealed("mapping-outside", "mappings", "A mapping leads behind the end of the data device.", (victim) => {
    const node = leaf(victim, 1);
    const index = victim.chance.between(0, node.nr);
    const block = victim.superblock.dataMap.nrBlocks + victim.chance.between(0, 1000);
    setMapping(victim, node, index, block, mappingAt(victim, node, index).time);
    return `${where(node)}: virtual block ${victim.keyAt(node, index)} leads to data block ${block}`;
  }),
  sealed("mapping-huge", "mappings", "A mapping leads to the last data block there can be.", (victim) => {
    const node = leaf(victim, 1);
    const index = victim.chance.between(0, node.nr);
    setMapping(victim, node, index, DATA_BLOCK_LIMIT - 1, 0);
    return `${where(node)}: virtual block ${victim.keyAt(node, index)} leads to data block ${DATA_BLOCK_LIMIT - 1}`;
  }),
  sealed("mapping-time", "mappings", "A mapping is newer than the pool's clock.", (victim) => {
    const node = leaf(victim, 1);
    const index = victim.chance.between(0, node.nr);
    const { block } = mappingAt(victim, node, index);
    const time = Math.min(TIME_LIMIT - 1, victim.superblock.time + victim.chance.between(1, 1000));
    setMapping(victim, node, index, block, time);
    return `${where(node)}: virtual block ${victim.keyAt(node, index)} is of time ${time}`;
  }),
  sealed(
    "mapping-doubled",
    "mappings",
    "Two virtual blocks lead to one data block, which is counted once.",
    (victim) => {
      const node = leaf(victim, 2);
      const index = victim.chance.between(1, node.nr);
      const { block, time } = mappingAt(victim, node, index - 1);
      setMapping(victim, node, index, block, time);
      return `${where(node)}: virtual blocks ${victim.keyAt(node, index - 1)} and ${victim.keyAt(node, index)} lead to data block ${block}`;
    },
  ),
  sealed("mapping-lost", "mappings", "One mapping is gone from its leaf, and everything still counts it.", (victim) => {
    const node = leaf(victim);
    const index = victim.chance.between(1, node.nr);
    const key = victim.keyAt(node, index);
    victim.removeEntries(node, index, index + 1);
    victim.sealNode(node);
    return `${where(node)}: virtual block ${key} is taken out`;
  }),
  sealed("internal-empty", "mappings", "An internal node has no children.", (victim) => {
    const node = internal(victim, 1);
    victim.removeEntries(node, 0, node.nr);
    victim.sealNode(node);
    return `${where(node)}: none of ${node.nr} children is left`;
  }),
  sealed(
    "internal-older",
    "mappings",
    "An internal node was put back as it was before its last children: a write was lost.",
    (victim) => {
      const node = internal(victim, 3);
      victim.removeEntries(node, node.nr - 2, node.nr);
      victim.sealNode(node);
      return `${where(node)}: the last two of ${node.nr} children are gone`;
    },
  ),
  sealed(
    "internal-as-leaf",
    "mappings",
    "An internal node says it is a leaf, so children are taken for mappings.",
    (victim) => {
      const node = internal(victim, 2);
      victim.edit(node.blocknr).setUint32(4, 2, true);
      victim.sealNode(node);
      return `${where(node)}: flags say leaf`;
    },
  ),
  sealed(
    "internal-first-key",
    "mappings",
    "The first key of an internal node is above that of its first child.",
    (victim) => {
      const node = internal(victim, 2);
      const key = victim.keyAt(node, 0);
      victim.setKey(node, 0, key + 1);
      victim.sealNode(node);
      return `${where(node)}: its first key ${key} becomes ${key + 1}`;
    },
  ),
  sealed("child-zero", "mappings", "A child is block 0, the superblock.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(0, node.nr);
    setChild(victim, node, index, 0);
    return `${where(node)}: child ${index} is block 0`;
  }),
  sealed("child-outside", "mappings", "A child lies behind the end of the device.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(0, node.nr);
    const child = victim.nrBlocks + victim.chance.between(0, 1000);
    setChild(victim, node, index, child);
    return `${where(node)}: child ${index} is block ${child}`;
  }),
  sealed("child-huge", "mappings", "A child is a block above 2^53.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(0, node.nr);
    setChild(victim, node, index, 2n ** 64n - 1n);
    return `${where(node)}: child ${index} is block 2^64 - 1`;
  }),
  sealed("child-loop", "mappings", "A node is its own child.", (victim) => {
    const node = internal(victim, 2);
    setChild(victim, node, 0, node.blocknr);
    return `${where(node)}: child 0 is itself`;
  }),
  sealed("child-twice", "mappings", "A node has one child twice, in the place of another.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(1, node.nr);
    setChild(victim, node, index, victim.valueAt(node, index - 1));
    return `${where(node)}: child ${index} is child ${index - 1} again`;
  }),
  sealed(
    "child-of-another",
    "mappings",
    "A child is the first leaf of another device, which is not counted for it.",
    (victim) => {
      const node = internal(victim, 2);
      const before = victim.valueAt(node, 0);
      const first = victim.keyAt(node, 0);
      const other = victim.mappingNode(
        "leaf of another device with the same keys",
        (each) =>
          each.isLeaf &&
          each.blocknr !== before &&
          each.nr > 0 &&
          victim.keyAt(each, 0) === first &&
          lastKeyBelow(victim, each, node),
      );
      setChild(victim, node, 0, other.blocknr);
      return `${where(node)}: child 0 is block ${other.blocknr}, of device ${other.device}`;
    },
  ),
  sealed("child-free", "mappings", "A child is a leaf that is not in use any more.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(0, node.nr);
    const old = leftOverLeaf(victim);
    setChild(victim, node, index, old.blocknr);
    return `${where(node)}: child ${index} is block ${old.blocknr}, which is free`;
  }),
  sealed("child-bitmap", "mappings", "A child is a bitmap of the space map.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(0, node.nr);
    const { blocknr } = victim.pickBitmap("metadata");
    setChild(victim, node, index, blocknr);
    return `${where(node)}: child ${index} is block ${blocknr}, a bitmap`;
  }),
  sealed("children-exchanged", "mappings", "Two children of a node are exchanged.", (victim) => {
    const node = internal(victim, 2);
    const index = victim.chance.between(1, node.nr);
    const child = victim.valueAt(node, index);
    setChild(victim, node, index, victim.valueAt(node, index - 1));
    setChild(victim, node, index - 1, child);
    return `${where(node)}: children ${index - 1} and ${index} are exchanged`;
  }),
  sealed(
    "levels-exchanged",
    "mappings",
    "A node and its child have exchanged their places, each with its number right.",
    (victim) => {
      const node = leaf(victim);
      const [upper, lower] = [node.parent.blocknr, node.blocknr];
      const [above, below] = [victim.bytes(upper).slice(), victim.bytes(lower).slice()];
      for (const [blocknr, bytes] of [
        [upper, below],
        [lower, above],
      ] as const) {
        const view = victim.edit(blocknr);
        new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(bytes);
        view.setBigUint64(8, BigInt(blocknr), true);
        victim.seal(blocknr, Kind.Node);
      }
      return `metadata blocks ${upper} and ${lower} of device ${node.device}: contents exchanged`;
    },
  ),
  sealed(
    "depth-uneven",
    "mappings",
    "One leaf lies a level deeper than its neighbours, everything counted.",
    (victim) => {
      const node = leaf(victim);
      const between = victim.takeFreeBlock();
      const view = victim.edit(between);
      new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(victim.bytes(node.parent.blocknr).slice());
      view.setBigUint64(8, BigInt(between), true);
      view.setUint32(16, 1, true);
      const inserted = { ...node.parent, blocknr: between, nr: 1 };
      victim.setKey(inserted, 0, victim.keyAt(node.parent, node.index));
      setChild(victim, inserted, 0, node.blocknr);
      setChild(victim, node.parent, node.index, between);
      return `metadata block ${between}: put between ${node.parent.blocknr} and ${node.blocknr} of device ${node.device}`;
    },
  ),
];

function lastKeyBelow(victim: Victim, leafNode: FoundNode, parent: FoundNode): boolean {
  return parent.nr < 2 || victim.keyAt(leafNode, leafNode.nr - 1) < victim.keyAt(parent, 1);
}

/** Whether the counts give a node, or one above it, more than one owner. */
function isShared(victim: Victim, node: FoundNode): boolean {
  for (let each: FoundNode | undefined = node; each !== undefined; each = each.parent) {
    const raw = victim.raw("metadata", each.blocknr);
    if (raw === 1 || raw === 3) return true;
  }
  return false;
}
