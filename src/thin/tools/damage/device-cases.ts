/** Whole regions, and the size of the device. */
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { Kind } from "../reader/problems.js";
import { cannot, type DamageCase } from "./damage-case.js";
import type { Victim, WhichMap } from "./victim.js";

const FEW = 8;
const STRIPES = 16;

function region(id: string, what: string, apply: (victim: Victim) => string): DamageCase {
  return { id, area: "device", what, isSealed: false, apply: (victim) => victim.hit(apply(victim)) };
}

function zero(victim: Victim, begin: number, end: number): string {
  const to = Math.min(end, victim.nrBlocks);
  victim.zeroed.push({ begin, end: to });
  return `metadata blocks ${begin} to ${to - 1}: zeros`;
}

/** The last block in use, and one more: where the metadata ends for all that matters. */
function usedEnd(victim: Victim): number {
  const nr = Math.min(victim.superblock.metadataMap.nrBlocks, victim.nrBlocks);
  for (let block = nr - 1; block > 0; block--) if (victim.raw("metadata", block) !== 0) return block + 1;
  return 1;
}

function zeroMap(victim: Victim, which: WhichMap): number[] {
  const { bitmapRoot, refCountRoot } = victim.mapRoot(which);
  const blocks = new Set([bitmapRoot, refCountRoot]);
  for (let bitmap = 0; bitmap < victim.nrBitmaps(which); bitmap++) blocks.add(victim.entryOf(which, bitmap).blocknr);
  for (const block of blocks) victim.zeroBlock(block);
  return [...blocks].sort((a, b) => a - b);
}

function usedBlocks(victim: Victim): number[] {
  const end = usedEnd(victim);
  return Array.from({ length: end - 1 }, (_, index) => index + 1).filter(
    (block) => victim.raw("metadata", block) !== 0,
  );
}

export const WHOLE_DEVICE_CASES: readonly DamageCase[] = [
  region("device-truncated", "The device was cut off in the middle of what is used.", (victim) => {
    victim.newNrBlocks = Math.max(2, Math.floor(usedEnd(victim) / 2));
    return `the device: cut to ${victim.newNrBlocks} of ${victim.nrBlocks} blocks`;
  }),
  region("device-truncated-free", "The device was cut off behind the last block that is used.", (victim) => {
    const end = usedEnd(victim);
    if (end >= victim.nrBlocks) throw cannot("free end");
    victim.newNrBlocks = end;
    return `the device: cut to ${end} of ${victim.nrBlocks} blocks`;
  }),
  region("device-one-block", "The device was cut to its superblock.", (victim) => {
    victim.newNrBlocks = 1;
    return `the device: cut to 1 of ${victim.nrBlocks} blocks`;
  }),
  region("device-empty", "The device was cut to nothing.", (victim) => {
    victim.newNrBlocks = 0;
    return `the device: cut to 0 of ${victim.nrBlocks} blocks`;
  }),
  region("device-larger", "The device is larger than the pool knows: somebody grew it.", (victim) => {
    victim.newNrBlocks = victim.nrBlocks + 64;
    return `the device: grown to ${victim.newNrBlocks} blocks`;
  }),
  region("region-first", "The first blocks are zeros: somebody began to make a file system.", (victim) =>
    zero(victim, 0, FEW),
  ),
  region("region-first-64", "The first 64 blocks are zeros, superblock and all.", (victim) => zero(victim, 0, 64)),
  region("region-behind-superblock", "What follows the superblock is zeros.", (victim) =>
    zero(victim, 1, (usedBlocks(victim)[FEW] ?? FEW) + 1),
  ),
  region("region-last-half", "The second half of what is used is zeros.", (victim) => {
    const end = usedEnd(victim);
    return zero(victim, Math.ceil(end / 2), end);
  }),
  region("region-all-but-superblock", "Everything but the superblock is zeros.", (victim) =>
    zero(victim, 1, victim.nrBlocks),
  ),
  region("region-everything", "The whole device is zeros.", (victim) => zero(victim, 0, victim.nrBlocks)),
  region("region-stripe", "One stripe of a broken array is gone: every sixteenth block is zeros.", (victim) => {
    const end = usedEnd(victim);
    const first = victim.chance.between(1, STRIPES);
    for (let block = first; block < end; block += STRIPES) victim.zeroed.push({ begin: block, end: block + 1 });
    return `metadata blocks ${first}, ${first + STRIPES}, ... to ${end - 1}: zeros`;
  }),
  region("region-garbage", "A stretch of used blocks was overwritten with something else.", (victim) => {
    const end = usedEnd(victim);
    const begin = victim.chance.between(1, Math.max(2, end - FEW));
    for (let block = begin; block < Math.min(end, begin + FEW); block++) {
      const view = victim.edit(block);
      victim.chance.fill(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    }
    return `metadata blocks ${begin} to ${Math.min(end, begin + FEW) - 1}: bytes that mean nothing`;
  }),
  region("blocks-exchanged", "Two used blocks have exchanged their places.", (victim) => {
    const [one, other] = victim.chance.shuffled(usedBlocks(victim));
    if (one === undefined || other === undefined) throw cannot("two used blocks");
    const [first, second] = [victim.bytes(one).slice(), victim.bytes(other).slice()];
    for (const [block, bytes] of [
      [one, second],
      [other, first],
    ] as const) {
      const view = victim.edit(block);
      new Uint8Array(view.buffer, view.byteOffset, METADATA_BLOCK_BYTES).set(bytes);
    }
    return `metadata blocks ${one} and ${other}: contents exchanged`;
  }),
  region("space-maps-gone", "All blocks of both space maps are zeros.", (victim) => {
    const blocks = [...zeroMap(victim, "data"), ...zeroMap(victim, "metadata")];
    return `metadata blocks ${blocks.join(", ")}: zeros`;
  }),
  region(
    "data-map-gone",
    "All blocks of the data space map are zeros.",
    (victim) => `metadata blocks ${zeroMap(victim, "data").join(", ")}: zeros`,
  ),
  region(
    "metadata-map-gone",
    "All blocks of the metadata space map are zeros.",
    (victim) => `metadata blocks ${zeroMap(victim, "metadata").join(", ")}: zeros`,
  ),
  region("roots-gone", "The roots of the mappings and of the details are zeros on the device.", (victim) => {
    const { mappingRoot, detailsRoot } = victim.superblock;
    victim.zeroBlock(mappingRoot);
    victim.zeroBlock(detailsRoot);
    return `metadata blocks ${mappingRoot} and ${detailsRoot}: zeros`;
  }),
  region("mapping-roots-gone", "The root of every device's mappings is zeros on the device.", (victim) => {
    const roots = [...new Set(victim.devices.flatMap(({ root }) => (root === undefined ? [] : [root])))].slice(0, 1000);
    const inside = roots.filter((root) => victim.store.isInside(root) && root > 0);
    for (const root of inside) victim.zeroBlock(root);
    return `metadata blocks ${inside.join(", ")}: zeros`;
  }),
  region("superblock-and-space-maps-gone", "Superblock and space maps are zeros; the trees are whole.", (victim) => {
    const blocks = [...zeroMap(victim, "data"), ...zeroMap(victim, "metadata")];
    victim.zeroBlock(0);
    return `metadata blocks 0, ${blocks.join(", ")}: zeros`;
  }),
  region(
    "superblock-and-devices-gone",
    "Superblock and tree of devices are zeros; the mappings are whole.",
    (victim) => {
      const { mappingRoot } = victim.superblock;
      victim.zeroBlock(0);
      victim.zeroBlock(mappingRoot);
      return `metadata blocks 0 and ${mappingRoot}: zeros`;
    },
  ),
  {
    id: "several",
    area: "device",
    what: "Several things at once: a leaf without checksum, a leaked block, a wrong number of mappings.",
    isSealed: false,
    apply: (victim) => {
      const node = victim.mappingNode("leaf of mappings", (each) => each.isLeaf && each.depth > 0);
      victim.edit(node.blocknr).setUint32(0, 0, true);
      const block = victim.blockWithRaw("data", 0, "free data block");
      victim.setCount("data", block, 1);
      const details = victim.findNode(victim.superblock.detailsRoot, (each) => each.isLeaf && each.nr > 0);
      if (details === undefined) throw cannot("details");
      victim.setValue(details, 0, victim.valueAt(details, 0) + 1);
      victim.seal(details.blocknr, Kind.Node);
      victim.hit(
        `metadata block ${node.blocknr}: checksum 0; data block ${block}: counted 1; device ${victim.keyAt(details, 0)}: one mapping more`,
      );
    },
  },
];
