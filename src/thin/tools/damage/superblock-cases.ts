/** The superblock, and the metadata snapshot it names. */
import { SUPERBLOCK } from "../../superblock.js";
import { Kind } from "../reader/problems.js";
import { cannot, type DamageArea, type DamageCase } from "./damage-case.js";
import type { Victim } from "./victim.js";

const { fields, set, get } = SUPERBLOCK;
const USED_BYTES = 364;
const MAP_ROOT_BYTES = 128;
const SECTOR_BYTES = 512;
const BOOT_SIGNATURE = 0xaa55;
const TYPE_AT = 450;
const HUGE = 2n ** 60n;

type FieldName =
  | "flags"
  | "version"
  | "time"
  | "dataBlockSize"
  | "metadataBlockSize"
  | "compatFlags"
  | "compatRoFlags"
  | "incompatFlags";

/** Fields of the superblock set to something else, and sealed. */
function field(id: string, what: string, name: FieldName, value: number, area: DamageArea = "superblock"): DamageCase {
  return {
    id,
    area,
    what,
    isSealed: true,
    apply: (victim) => {
      const before = get[name](victim.view(0));
      victim.editSuperblock((view) => set[name](view, value));
      victim.hit(`superblock: ${fields[name].meaning}: ${before} becomes ${value}`);
    },
  };
}

type RootName = "dataMappingRoot" | "deviceDetailsRoot" | "heldRoot" | "transId" | "metadataNrBlocks";

function root(
  id: string,
  what: string,
  name: RootName,
  value: (victim: Victim) => number | bigint,
  area: DamageArea = "superblock",
): DamageCase {
  return {
    id,
    area,
    what,
    isSealed: true,
    apply: (victim) => {
      const wanted = value(victim);
      const before = victim.view(0).getBigUint64(fields[name].offset, true);
      victim.editSuperblock((view) => view.setBigUint64(fields[name].offset, BigInt(wanted), true));
      victim.hit(`superblock: ${fields[name].meaning}: ${before} becomes ${wanted}`);
    },
  };
}

function raw(id: string, what: string, apply: (victim: Victim, view: DataView) => void): DamageCase {
  return {
    id,
    area: "superblock",
    what,
    isSealed: false,
    apply: (victim) => {
      apply(victim, victim.edit(0));
      victim.hit(`superblock: ${what}`);
    },
  };
}

function bytesOf(view: DataView, from: number, length: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + from, length);
}

const outside = (victim: Victim) => victim.nrBlocks + victim.chance.between(0, 1000);
const freeBlock = (victim: Victim) => victim.blockWithRaw("metadata", 0, "free metadata block");
const someLeaf = (victim: Victim) => victim.mappingNode("mapping leaf", (node) => node.isLeaf).blocknr;
const someBitmap = (victim: Victim) => victim.pickBitmap("data").blocknr;

export const SUPERBLOCK_CASES: readonly DamageCase[] = [
  raw("superblock-checksum", "The superblock's checksum is wrong.", (victim, view) => {
    view.setUint32(0, (view.getUint32(0, true) ^ (1 << victim.chance.between(0, 31))) >>> 0, true);
  }),
  raw("superblock-bit", "One bit of the superblock is flipped.", (victim, view) => {
    const at = victim.chance.between(4, USED_BYTES);
    view.setUint8(at, view.getUint8(at) ^ (1 << victim.chance.between(0, 8)));
  }),
  raw("superblock-zeroed", "The superblock is all zeros, as if nothing had ever been formatted.", (victim) => {
    victim.zeroBlock(0);
  }),
  raw("superblock-torn", "The superblock is half-written: what follows its uuid is zeros.", (_, view) => {
    bytesOf(view, fields.magic.offset, view.byteLength - fields.magic.offset).fill(0);
  }),
  raw("superblock-garbage", "The superblock holds bytes that mean nothing.", (victim, view) => {
    victim.chance.fill(bytesOf(view, 0, view.byteLength));
  }),
  raw("superblock-boot-sector", "A partition table was written over the first sector.", (_, view) => {
    bytesOf(view, 0, SECTOR_BYTES).fill(0);
    view.setUint8(TYPE_AT, 0x83);
    view.setUint16(SECTOR_BYTES - 2, BOOT_SIGNATURE, true);
  }),
  raw("superblock-kind", "The superblock is sealed as a btree node.", (victim) => victim.seal(0, Kind.Node)),
  {
    id: "superblock-magic",
    area: "superblock",
    what: "The superblock's magic is another one, under a right checksum.",
    isSealed: true,
    apply: (victim) => {
      victim.editSuperblock((view) => set.magic(view, get.magic(view) + 1));
      victim.hit("superblock: the magic is one more than it should be");
    },
  },
  {
    id: "superblock-number",
    area: "superblock",
    what: "The superblock says it is another block.",
    isSealed: true,
    apply: (victim) => {
      const number = victim.chance.between(1, victim.nrBlocks);
      victim.editSuperblock((view) => set.blocknr(view, number));
      victim.hit(`superblock: it says it is block ${number}`);
    },
  },
  field("superblock-version", "The format version is one that nobody has made yet.", "version", 3),
  field("superblock-version-zero", "The format version is 0.", "version", 0),
  field(
    "superblock-incompat",
    "A feature bit says that nobody who does not know it may open this pool.",
    "incompatFlags",
    1,
  ),
  field(
    "superblock-read-only",
    "A feature bit says that nobody who does not know it may write this pool.",
    "compatRoFlags",
    1,
  ),
  field("superblock-flags", "Flags are set that nobody knows.", "flags", 0x30),
  field("needs-check", "The pool asked for a check after a failure.", "flags", 1),
  field("block-size-zero", "Data blocks have no size.", "dataBlockSize", 0),
  field("block-size-odd", "Data blocks are of 100 sectors, which is no multiple of 128.", "dataBlockSize", 100),
  field("block-size-huge", "Data blocks are larger than the format has them.", "dataBlockSize", 2 ** 22),
  field("metadata-block-size", "Metadata blocks are of 16 sectors by the superblock.", "metadataBlockSize", 16),
  field("clock-overflow", "The clock of snapshots has run over.", "time", 2 ** 24),
  field("clock-behind", "The clock of snapshots was set back to 0, behind mappings and devices.", "time", 0),
  root("transaction-huge", "The transaction id is above 2^53.", "transId", () => HUGE),
  root("mapping-root-zero", "The root of the mappings is 0.", "dataMappingRoot", () => 0),
  root(
    "mapping-root-outside",
    "The root of the mappings lies behind the end of the device.",
    "dataMappingRoot",
    outside,
  ),
  root("mapping-root-huge", "The root of the mappings is above 2^53.", "dataMappingRoot", () => HUGE),
  root(
    "mapping-root-leaf",
    "The root of the mappings leads to a leaf of one device's mappings.",
    "dataMappingRoot",
    someLeaf,
  ),
  root("mapping-root-bitmap", "The root of the mappings leads to a bitmap.", "dataMappingRoot", someBitmap),
  root(
    "mapping-root-free",
    "The root of the mappings leads to a block that is not in use.",
    "dataMappingRoot",
    freeBlock,
  ),
  root("details-root-zero", "The root of the details is 0.", "deviceDetailsRoot", () => 0),
  root(
    "details-root-outside",
    "The root of the details lies behind the end of the device.",
    "deviceDetailsRoot",
    outside,
  ),
  root("details-root-leaf", "The root of the details leads to a leaf of mappings.", "deviceDetailsRoot", someLeaf),
  {
    id: "roots-exchanged",
    area: "superblock",
    what: "The roots of mappings and details are exchanged.",
    isSealed: true,
    apply: (victim) => {
      const { mappingRoot, detailsRoot } = victim.superblock;
      victim.editSuperblock((view) => {
        set.dataMappingRoot(view, detailsRoot);
        set.deviceDetailsRoot(view, mappingRoot);
      });
      victim.hit(`superblock: mappings now at ${detailsRoot}, details at ${mappingRoot}`);
    },
  },
  {
    id: "roots-lost",
    area: "superblock",
    what: "The roots of mappings, details and both space maps are 0.",
    isSealed: true,
    apply: (victim) => {
      victim.editSuperblock((view) => {
        bytesOf(view, fields.dataSpaceMapRoot.offset, 2 * MAP_ROOT_BYTES).fill(0);
        set.dataMappingRoot(view, 0);
        set.deviceDetailsRoot(view, 0);
      });
      victim.hit("superblock: all roots are 0");
    },
  },
  {
    id: "superblock-older",
    area: "superblock",
    what: "The metadata snapshot's copy was put back as the superblock: older roots, and no space maps.",
    isSealed: true,
    apply: (victim) => {
      const held = heldBlock(victim);
      const copy = victim.bytes(held).slice();
      victim.editSuperblock((view) => {
        bytesOf(view, 0, view.byteLength).set(copy);
        set.blocknr(view, 0);
      });
      victim.hit(`superblock: it is the copy in block ${held}`);
    },
  },
];

/** @throws StateError ENODATA */
function heldBlock(victim: Victim): number {
  const { heldRoot } = victim.superblock;
  if (heldRoot === 0 || !victim.isSoundAs(heldRoot, Kind.Superblock)) throw cannot("metadata snapshot");
  return heldRoot;
}

function heldField(id: string, what: string, change: (victim: Victim, view: DataView) => void): DamageCase {
  return {
    id,
    area: "snapshot",
    what,
    isSealed: true,
    apply: (victim) => {
      const held = heldBlock(victim);
      change(victim, victim.edit(held));
      victim.seal(held, Kind.Superblock);
      victim.hit(`metadata block ${held} (metadata snapshot): ${what}`);
    },
  };
}

function whenHeld(value: (victim: Victim) => number): (victim: Victim) => number {
  return (victim) => {
    heldBlock(victim);
    return value(victim);
  };
}

export const SNAPSHOT_CASES: readonly DamageCase[] = [
  root(
    "held-root-outside",
    "The metadata snapshot lies behind the end of the device.",
    "heldRoot",
    outside,
    "snapshot",
  ),
  root("held-root-node", "The held root leads to a leaf of mappings.", "heldRoot", someLeaf, "snapshot"),
  root("held-root-free", "The held root leads to a block that is not in use.", "heldRoot", freeBlock, "snapshot"),
  root(
    "held-root-forgotten",
    "The superblock has forgotten its metadata snapshot, whose blocks are still counted.",
    "heldRoot",
    whenHeld(() => 0),
    "snapshot",
  ),
  {
    id: "held-checksum",
    area: "snapshot",
    what: "The metadata snapshot's copy of the superblock has a wrong checksum.",
    isSealed: false,
    apply: (victim) => {
      const held = heldBlock(victim);
      const view = victim.edit(held);
      view.setUint32(0, ~view.getUint32(0, true) >>> 0, true);
      victim.hit(`metadata block ${held} (metadata snapshot): the checksum is inverted`);
    },
  },
  {
    id: "held-zeroed",
    area: "snapshot",
    what: "The metadata snapshot's copy of the superblock is all zeros.",
    isSealed: false,
    apply: (victim) => {
      const held = heldBlock(victim);
      victim.zeroBlock(held);
      victim.hit(`metadata block ${held} (metadata snapshot): zeros`);
    },
  },
  heldField("held-magic", "The metadata snapshot has another magic.", (_, view) =>
    set.magic(view, get.magic(view) ^ 1),
  ),
  heldField(
    "held-mappings-outside",
    "The metadata snapshot's mappings lie behind the end of the device.",
    (victim, view) => set.dataMappingRoot(view, outside(victim)),
  ),
  heldField("held-mappings-zero", "The metadata snapshot's root of mappings is 0.", (_, view) =>
    set.dataMappingRoot(view, 0),
  ),
  heldField(
    "held-details-outside",
    "The metadata snapshot's details lie behind the end of the device.",
    (victim, view) => set.deviceDetailsRoot(view, outside(victim)),
  ),
  heldField("held-roots-exchanged", "The metadata snapshot's roots are exchanged.", (_, view) => {
    const mappings = get.dataMappingRoot(view);
    set.dataMappingRoot(view, get.deviceDetailsRoot(view));
    set.deviceDetailsRoot(view, mappings);
  }),
];
