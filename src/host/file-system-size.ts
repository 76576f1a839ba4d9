/** How large a file system says it is: ext2 to ext4, xfs, btrfs. Sources: the superblocks in each one's documentation. */
import type { BlockDevice } from "../io/index.js";

const HEAD_BYTES = 4096;
const BTRFS_SUPERBLOCK = 65536;

/** Bytes, or undefined when none of these is on the device. */
export async function fileSystemBytes(device: BlockDevice): Promise<number | undefined> {
  const head = await readAt(device, 0);
  const found = head === undefined ? undefined : (extBytes(head) ?? xfsBytes(head));
  if (found !== undefined) return found;
  const btrfs = await readAt(device, BTRFS_SUPERBLOCK);
  return btrfs === undefined ? undefined : btrfsBytes(btrfs);
}

async function readAt(device: BlockDevice, offset: number): Promise<Buffer | undefined> {
  if (device.sizeBytes < offset + HEAD_BYTES) return undefined;
  const buffer = Buffer.alloc(HEAD_BYTES);
  await device.read(offset, buffer);
  return buffer;
}

/** The ext superblock at byte 1024: magic, block count in two halves, block size as a shift. */
function extBytes(head: Buffer): number | undefined {
  const at = 1024;
  if (head.readUInt16LE(at + 0x38) !== 0xef53) return undefined;
  const shift = head.readUInt32LE(at + 0x18);
  if (shift > 6) return undefined;
  const has64Bit = (head.readUInt32LE(at + 0x60) & 0x80) !== 0;
  const high = has64Bit ? head.readUInt32LE(at + 0x150) : 0;
  return usable((high * 2 ** 32 + head.readUInt32LE(at + 0x4)) * 1024 * 2 ** shift);
}

/** The xfs superblock at byte 0, big-endian: magic, block size, data blocks. */
function xfsBytes(head: Buffer): number | undefined {
  if (head.toString("latin1", 0, 4) !== "XFSB") return undefined;
  const blocks = head.readUInt32BE(8) * 2 ** 32 + head.readUInt32BE(12);
  return usable(blocks * head.readUInt32BE(4));
}

/** The btrfs superblock: magic, and this device's own size in its device item. */
function btrfsBytes(block: Buffer): number | undefined {
  if (block.toString("latin1", 0x40, 0x48) !== "_BHRfS_M") return undefined;
  return usable(block.readUInt32LE(0xd5) * 2 ** 32 + block.readUInt32LE(0xd1));
}

function usable(bytes: number): number | undefined {
  return bytes > 0 && Number.isSafeInteger(bytes) ? bytes : undefined;
}
