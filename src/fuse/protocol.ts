/**
 * The messages of /dev/fuse, as far as a folder of block images needs them. Source: section 1 of fuse-and-nbd.
 *
 * A request is a header of 40 bytes and a body that its opcode decides; a reply is a header of 16 bytes and a body, sent as
 * one piece. Everything is in the machine's byte order, which has to be little-endian here (`isFuseByteOrder`). Nothing in
 * this file knows a descriptor: bytes in, values out.
 */
import { endianness } from "node:os";
import { bytes, struct, u16, u32, u64, type Values } from "../bytes/index.js";

/** The tables below are little-endian, the protocol has the machine's own order. */
export const isFuseByteOrder = endianness() === "LE";

/** Version spoken here; both sides go on with the smaller minor. */
export const FUSE_MAJOR = 7;
export const FUSE_MINOR = 38;

export const ROOT_NODE = 1;

export const OPCODE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  RENAME2: 45,
  LSEEK: 46,
} as const;

export const INIT_FLAG = {
  ASYNC_READ: 1 << 0,
  BIG_WRITES: 1 << 5,
  ASYNC_DIO: 1 << 15,
  PARALLEL_DIROPS: 1 << 18,
  MAX_PAGES: 1 << 22,
} as const;

export const OPEN_FLAG = { DIRECT_IO: 1, NOFLUSH: 32, PARALLEL_DIRECT_WRITES: 64 } as const;

/** Modes of FALLOCATE. */
export const FALLOC = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 16 } as const;

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Bits of `valid` in SETATTR. */
export const SETATTR_SIZE = 8;

export const REQUEST_HEADER = struct("request header", 40, {
  len: u32(0, "the whole request with this header"),
  opcode: u32(4, "what is asked for"),
  unique: bytes(8, 8, "to be repeated in the reply, bit for bit"),
  nodeid: u64(16, "1 is the root"),
  uid: u32(24, "who asks"),
  gid: u32(28, "and their group"),
  pid: u32(32, "and their process"),
  totalExtlen: u16(36, "extensions, none unless agreed"),
  padding: u16(38, "zero"),
});

export const REPLY_HEADER = struct("reply header", 16, {
  len: u32(0, "the whole reply with this header"),
  error: u32(4, "0, or a negative errno"),
  unique: bytes(8, 8, "of the request; 0 in a notification"),
});

/** Kernels before 7.36 send the first 16 bytes only. */
export const INIT_IN = struct("init request", 16, {
  major: u32(0, "7"),
  minor: u32(4, "what the kernel speaks"),
  maxReadahead: u32(8, "bytes"),
  flags: u32(12, "what the kernel can"),
});

export const INIT_OUT = struct("init reply", 64, {
  major: u32(0, "7"),
  minor: u32(4, "what we speak"),
  maxReadahead: u32(8, "bytes"),
  flags: u32(12, "what both can"),
  maxBackground: u16(16, "asynchronous requests under way"),
  congestionThreshold: u16(18, "from here on the kernel holds back"),
  maxWrite: u32(20, "bytes a request"),
  timeGran: u32(24, "resolution of times, ns"),
  maxPages: u16(28, "pages a request"),
  mapAlignment: u16(30, "of shared memory, not used"),
  flags2: u32(32, "bits 32 to 63"),
  maxStackDepth: u32(36, "of passthrough, not used"),
  requestTimeout: u16(40, "not used"),
  unused: bytes(42, 22, "zero"),
});

export const ATTR = struct("attributes", 88, {
  ino: u64(0, "inode number"),
  size: u64(8, "bytes"),
  blocks: u64(16, "of 512 bytes"),
  atime: u64(24, "seconds"),
  mtime: u64(32, "seconds"),
  ctime: u64(40, "seconds"),
  atimensec: u32(48, "and nanoseconds"),
  mtimensec: u32(52, "and nanoseconds"),
  ctimensec: u32(56, "and nanoseconds"),
  mode: u32(60, "kind and permissions"),
  nlink: u32(64, "names"),
  uid: u32(68, "owner"),
  gid: u32(72, "group"),
  rdev: u32(76, "device number"),
  blksize: u32(80, "bytes, advice"),
  flags: u32(84, "none"),
});

export const ATTR_OUT_HEAD = struct("attribute reply", 16, {
  attrValid: u64(0, "seconds"),
  attrValidNsec: u32(8, "and nanoseconds"),
  dummy: u32(12, "zero"),
});

export const ENTRY_OUT_HEAD = struct("entry reply", 40, {
  nodeid: u64(0, "node"),
  generation: u64(8, "of the node"),
  entryValid: u64(16, "seconds"),
  attrValid: u64(24, "seconds"),
  entryValidNsec: u32(32, "and nanoseconds"),
  attrValidNsec: u32(36, "and nanoseconds"),
});

export const OPEN_IN = struct("open request", 8, {
  flags: u32(0, "of open(2)"),
  openFlags: u32(4, "of the protocol"),
});

export const OPEN_OUT = struct("open reply", 16, {
  fh: u64(0, "handle"),
  openFlags: u32(8, "OPEN_FLAG"),
  backingId: u32(12, "zero"),
});

/** Of READ, READDIR and WRITE; a WRITE's data follows. */
export const TRANSFER_IN = struct("transfer request", 40, {
  fh: u64(0, "handle"),
  offset: u64(8, "bytes"),
  size: u32(16, "bytes"),
  transferFlags: u32(20, "1: written back from the page cache"),
  lockOwner: bytes(24, 8, "not used"),
  flags: u32(32, "of open(2)"),
  padding: u32(36, "zero"),
});

export const WRITE_OUT = struct("write reply", 8, {
  size: u32(0, "bytes written"),
  padding: u32(4, "zero"),
});

export const FALLOCATE_IN = struct("fallocate request", 32, {
  fh: u64(0, "handle"),
  offset: u64(8, "bytes"),
  length: u64(16, "bytes"),
  mode: u32(24, "FALLOC"),
  padding: u32(28, "zero"),
});

export const LSEEK_IN = struct("lseek request", 24, {
  fh: u64(0, "handle"),
  offset: u64(8, "bytes"),
  whence: u32(16, "SEEK_DATA or SEEK_HOLE"),
  padding: u32(20, "zero"),
});

/** The beginning of SETATTR, as far as it is looked at. */
export const SETATTR_IN = struct("setattr request", 24, {
  valid: u32(0, "which fields count"),
  padding: u32(4, "zero"),
  fh: u64(8, "handle"),
  size: bytes(16, 8, "wanted"),
});

export const STATFS_OUT = struct("statfs reply", 80, {
  blocks: u64(0, "in all"),
  bfree: u64(8, "free"),
  bavail: u64(16, "free for others"),
  files: u64(24, "inodes"),
  ffree: u64(32, "free ones"),
  bsize: u32(40, "bytes; a loop device's discard granularity"),
  namelen: u32(44, "longest name"),
  frsize: u32(48, "bytes a block"),
  spare: bytes(52, 28, "zero"),
});

export const DIRENT_HEAD = struct("directory entry", 24, {
  ino: u64(0, "inode number"),
  off: u64(8, "where the next one begins"),
  namelen: u32(16, "bytes"),
  type: u32(20, "4 folder, 8 file"),
});

export const INVAL_INODE_OUT = struct("inode notification", 24, {
  nodeid: u64(0, "whose attributes have changed"),
  offset: bytes(8, 8, "-1: attributes only"),
  length: u64(16, "zero"),
});
export const NOTIFY_INVAL_INODE = 2;

/** Data of a WRITE begins here in the message. */
export const WRITE_DATA_AT = REQUEST_HEADER.size + TRANSFER_IN.size;

export interface Attributes {
  readonly ino: number;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly nlink: number;
  readonly timeMs: number;
}

const S_IFDIR = 0o40000;
export const S_IFREG = 0o100000;

export function isFolderMode(mode: number): boolean {
  return (mode & 0o170000) === S_IFDIR;
}

export function folderMode(permissions: number): number {
  return S_IFDIR | permissions;
}

/** Fills all of ATTR. Owner is root: only root mounts. */
export function writeAttributes(view: DataView, base: number, attributes: Attributes): void {
  const seconds = Math.floor(attributes.timeMs / 1000);
  const nanoseconds = Math.floor(attributes.timeMs % 1000) * 1_000_000;
  ATTR.write(
    view,
    {
      ino: attributes.ino,
      size: attributes.sizeBytes,
      blocks: Math.ceil(attributes.sizeBytes / 512),
      atime: seconds,
      mtime: seconds,
      ctime: seconds,
      atimensec: nanoseconds,
      mtimensec: nanoseconds,
      ctimensec: nanoseconds,
      mode: attributes.mode,
      nlink: attributes.nlink,
      uid: 0,
      gid: 0,
      rdev: 0,
      blksize: 4096,
      flags: 0,
    },
    base,
  );
}

/** What is agreed on. `maxWrite` bytes of data fit into a request. */
export interface InitAnswer {
  readonly reply: Values<typeof INIT_OUT>;
  /** Another INIT follows: the kernel is newer than the protocol we know. */
  readonly isRetry: boolean;
}

export interface InitLimits {
  readonly maxWriteBytes: number;
  readonly maxBackground: number;
}

/** @returns undefined for a kernel that is too old to talk to */
export function answerInit(request: Values<typeof INIT_IN>, limits: InitLimits): InitAnswer | undefined {
  if (request.major < FUSE_MAJOR || (request.major === FUSE_MAJOR && request.minor < 31)) return undefined;
  const wanted =
    INIT_FLAG.ASYNC_READ | INIT_FLAG.BIG_WRITES | INIT_FLAG.ASYNC_DIO | INIT_FLAG.PARALLEL_DIROPS | INIT_FLAG.MAX_PAGES;
  const isRetry = request.major > FUSE_MAJOR;
  return {
    isRetry,
    reply: {
      major: FUSE_MAJOR,
      minor: isRetry ? FUSE_MINOR : Math.min(request.minor, FUSE_MINOR),
      maxReadahead: request.maxReadahead,
      flags: (request.flags & wanted) >>> 0,
      maxBackground: limits.maxBackground,
      congestionThreshold: Math.floor((limits.maxBackground * 3) / 4),
      maxWrite: limits.maxWriteBytes,
      timeGran: 1,
      maxPages: Math.ceil(limits.maxWriteBytes / 4096),
      mapAlignment: 0,
      flags2: 0,
      maxStackDepth: 0,
      requestTimeout: 0,
      unused: new Uint8Array(22),
    },
  };
}

export interface FolderEntry {
  readonly ino: number;
  readonly name: string;
  readonly isFolder: boolean;
}

/** Entries from `from` on, as many as fit whole into `room` bytes. `from` is what the last entry gave as its `off`. */
export function packFolder(entries: readonly FolderEntry[], from: number, room: number): Uint8Array {
  const out = new Uint8Array(room);
  const view = new DataView(out.buffer);
  let at = 0;
  for (let index = from; index < entries.length; index++) {
    const { ino, name, isFolder } = entries[index]!;
    const text = Buffer.from(name, "utf8");
    const padded = Math.ceil((DIRENT_HEAD.size + text.length) / 8) * 8;
    if (at + padded > room) break;
    DIRENT_HEAD.write(view, { ino, off: index + 1, namelen: text.length, type: isFolder ? 4 : 8 }, at);
    out.set(text, at + DIRENT_HEAD.size);
    at += padded;
  }
  return out.subarray(0, at);
}

/** The name behind a LOOKUP's header, without its NUL; undefined when it does not end with one. */
export function lookupName(message: Uint8Array, bytes: number): string | undefined {
  const end = message.indexOf(0, REQUEST_HEADER.size);
  if (end < 0 || end >= bytes) return undefined;
  return Buffer.from(message.buffer, message.byteOffset + REQUEST_HEADER.size, end - REQUEST_HEADER.size).toString();
}
