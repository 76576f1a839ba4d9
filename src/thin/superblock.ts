/**
 * Block 0 of a thin pool's metadata. All used bytes lie in its first sector, so that a torn write leaves the old or the
 * new one. What we don't understand (uuid, version, unknown flags, compat flags) is kept as found.
 * Source: the kernel's thin_disk_superblock, thin-engine 1.1.
 */
import { bytes, getU64, type ReadView, struct, u32, u64, type Values } from "../bytes/index.js";
import { StateError } from "../errors/index.js";
import {
  damaged,
  METADATA_BLOCK_BYTES,
  makeValidator,
  SPACE_MAP_ROOT,
  type SpaceMapRoot,
} from "../persistent-data/index.js";

const SPACE_MAP_ROOT_BYTES = 128;

export const SUPERBLOCK = struct("thin superblock", METADATA_BLOCK_BYTES, {
  csum: u32(0, "crc32c of the rest of the block, xored with the superblock salt"),
  flags: u32(4, "bit 0: needs_check"),
  blocknr: u64(8, "0"),
  uuid: bytes(16, 16, "never interpreted"),
  magic: u64(32, "27022010"),
  version: u32(40, "format version"),
  time: u32(44, "clock of snapshots"),
  transId: u64(48, "transaction id of the pool's user space"),
  heldRoot: u64(56, "block of the metadata snapshot, 0 for none"),
  dataSpaceMapRoot: bytes(64, SPACE_MAP_ROOT_BYTES, "root of the data space map, zero-padded"),
  metadataSpaceMapRoot: bytes(192, SPACE_MAP_ROOT_BYTES, "root of the metadata space map, zero-padded"),
  dataMappingRoot: u64(320, "root of the tree device id -> mapping tree"),
  deviceDetailsRoot: u64(328, "root of the tree device id -> details"),
  dataBlockSize: u32(336, "sectors per data block"),
  metadataBlockSize: u32(340, "sectors per metadata block, 8"),
  metadataNrBlocks: u64(344, "metadata blocks when the pool was formatted"),
  compatFlags: u32(352, "ignored"),
  compatRoFlags: u32(356, "any bit: not to be written by us"),
  incompatFlags: u32(360, "any bit: not to be opened by us"),
  padding: bytes(364, METADATA_BLOCK_BYTES - 364, "zero"),
});
export type Superblock = Values<typeof SUPERBLOCK>;

export const THIN_MAGIC = 27022010;
export const THIN_VERSION = 2;
export const FLAG_NEEDS_CHECK = 1;
export const SUPERBLOCK_LOCATION = 0;
const { get, fields } = SUPERBLOCK;

export const SUPERBLOCK_VALIDATOR = makeValidator({ name: "superblock", salt: 160774, checkFirst: checkMagic });

function checkMagic(view: ReadView): void {
  const low = view.getUint32(fields.magic.offset, true);
  const high = view.getUint32(fields.magic.offset + 4, true);
  if (low !== THIN_MAGIC || high !== 0) {
    throw damaged(SUPERBLOCK_LOCATION, "superblock", `magic ${high * 2 ** 32 + low}, wanted ${THIN_MAGIC}`);
  }
}

/**
 * Features and sizes of a sound superblock that this engine can work with, in the kernel's order.
 * @throws StateError EINVAL
 */
export function checkFeatures(view: ReadView, dataBlockSectors: number | undefined, canWrite: boolean): void {
  const onDisk = get.dataBlockSize(view);
  if (dataBlockSectors !== undefined && onDisk !== dataBlockSectors) {
    throw new StateError(
      "EINVAL",
      `the pool has data blocks of ${onDisk} sectors, the table asks for ${dataBlockSectors}`,
      {
        hint: `give block size ${onDisk}; it cannot be changed for an existing pool`,
      },
    );
  }
  const version = get.version(view);
  if (version < 1 || version > THIN_VERSION) {
    throw new StateError("EINVAL", `metadata format version ${version}, wanted ${THIN_VERSION}`, {
      hint: "a newer udm or kernel made this pool",
    });
  }
  const incompat = get.incompatFlags(view);
  if (incompat !== 0) throw unsupported("incompat", incompat);
  const compatRo = get.compatRoFlags(view);
  if (canWrite && compatRo !== 0) throw unsupported("compat_ro", compatRo);
}

function unsupported(kind: string, flags: number): StateError {
  return new StateError(
    "EINVAL",
    `metadata has unsupported optional features (${kind} flags 0x${flags.toString(16)})`,
    {
      hint: "open this pool with the program that made it",
    },
  );
}

export function readSpaceMapRoot(view: ReadView, which: "data" | "metadata"): SpaceMapRoot {
  return SPACE_MAP_ROOT.read(view, rootOffset(which));
}

export function writeSpaceMapRoot(view: DataView, which: "data" | "metadata", root: SpaceMapRoot): void {
  SPACE_MAP_ROOT.write(view, root, rootOffset(which));
}

function rootOffset(which: "data" | "metadata"): number {
  return (which === "data" ? fields.dataSpaceMapRoot : fields.metadataSpaceMapRoot).offset;
}

/** Whether a device is blank to dm-thin: its first metadata block is all zeros. */
export function isBlank(block: Uint8Array): boolean {
  return block.every((byte) => byte === 0);
}

/** Whether a block bears the magic of a thin superblock, sound or not. */
export function hasThinMagic(view: ReadView): boolean {
  return view.getUint32(fields.magic.offset + 4, true) === 0 && getU64(view, fields.magic.offset) === THIN_MAGIC;
}
