/** What writing over a device would destroy. */
import type { BlockDevice } from "../../io/index.js";
import { BlockBuffer, BlockStore, isBlankReading, readSuperblock } from "../../thin/index.js";

const METADATA_BLOCK_BYTES = 4096;
/** Where a btrfs has its superblock. */
const BTRFS_BLOCK = 16;

interface Mark {
  readonly what: string;
  readonly block: number;
  readonly offset: number;
  /** As text, a byte a character. */
  readonly bytes: string;
}

/** What people keep on disks, by the bytes it is known by. Sources: each one's documentation of its format. */
const MARKS: readonly Mark[] = [
  { what: "ext file system", block: 0, offset: 1080, bytes: "\x53\xef" },
  { what: "xfs file system", block: 0, offset: 0, bytes: "XFSB" },
  { what: "btrfs file system", block: BTRFS_BLOCK, offset: 64, bytes: "_BHRfS_M" },
  { what: "LUKS volume", block: 0, offset: 0, bytes: "LUKS\xba\xbe" },
  { what: "swap space", block: 0, offset: 4086, bytes: "SWAPSPACE2" },
  { what: "partition table", block: 0, offset: 512, bytes: "EFI PART" },
  { what: "RAID member", block: 0, offset: 0, bytes: "\xfc\x4e\x2b\xa9" },
  { what: "RAID member", block: 1, offset: 0, bytes: "\xfc\x4e\x2b\xa9" },
  ...[0, 1, 2, 3].map((sector) => ({
    what: "LVM physical volume",
    block: 0,
    offset: sector * 512,
    bytes: "LABELONE",
  })),
  { what: "partition table", block: 0, offset: 510, bytes: "\x55\xaa" },
];

/** @returns the deed that wants to be confirmed; undefined for a device that begins with zeros and holds nothing known */
export function victimOf(device: BlockDevice, name: string): string | undefined {
  if (device.sizeBytes < METADATA_BLOCK_BYTES) return undefined;
  const pool = poolVictimOf(device, name);
  if (pool !== undefined) return pool;
  const store = new BlockStore(device);
  const known = MARKS.find((mark) => hasMark(store, mark));
  if (known !== undefined) return `overwrite the ${known.what} on '${name}'`;
  return isBlankReading(readSuperblock(store)) ? undefined : `overwrite what is on '${name}'`;
}

/** The same of pool metadata alone: for files, which hold all sorts of things. */
export function poolVictimOf(device: BlockDevice, name: string): string | undefined {
  if (device.sizeBytes < METADATA_BLOCK_BYTES) return undefined;
  const reading = readSuperblock(new BlockStore(device));
  if (reading.problem !== 0 || reading.values === undefined || isBlankReading(reading)) return undefined;
  return `overwrite the pool metadata on '${name}' (transaction ${reading.values.transactionId})`;
}

function hasMark(store: BlockStore, { block, offset, bytes }: Mark): boolean {
  if (block >= store.nrBlocks) return false;
  const buffer = new BlockBuffer(1);
  store.loadOne(block, buffer);
  return Buffer.from(buffer.bytes.buffer).toString("latin1", offset, offset + bytes.length) === bytes;
}
