/**
 * System calls that node's fs does not have, through koffi: holes, locks bound to an open file, ioctls of block devices.
 *
 * koffi is loaded at the first use, so that a command which needs none of this does not pay for it. Where it cannot be
 * loaded (an architecture without a prebuilt binary, a 32-bit machine, a package installed without optional parts)
 * `nativeCalls()` is undefined, `nativeSupport()` says why, and callers take their slower way. See DECISIONS.md.
 *
 * All calls are synchronous. They throw the UdmError that the errno stands for; a call cut short by a signal is repeated.
 */
import { createRequire } from "node:module";
import { endianness } from "node:os";
import { messageOf, type UdmError } from "../errors/index.js";
import { errnoError, errnoName } from "./errno.js";

/** A stretch of a file, in bytes. `length` 0 in a lock: to the end, however far the file grows. */
export interface FileRange {
  readonly offset: number;
  readonly length: number;
}

export type LockKind = "read" | "write";

export interface Native {
  /** FALLOC_FL_PUNCH_HOLE: the range reads as zeros and takes no room; the file keeps its size. */
  punchHole(fd: number, range: FileRange): void;
  /** FALLOC_FL_ZERO_RANGE: the range reads as zeros, room stays allocated; the file keeps its size. */
  zeroRange(fd: number, range: FileRange): void;
  /** Allocates room; with `keepSize` beyond the end too, without growing the file. */
  allocate(fd: number, range: FileRange, options?: { readonly keepSize?: boolean }): void;
  /** First data at or after `offset`; undefined when only a hole is left. */
  seekData(fd: number, offset: number): number | undefined;
  /** First hole at or after `offset`, at the latest the end; undefined when `offset` is at or beyond the end. */
  seekHole(fd: number, offset: number): number | undefined;
  /** copy_file_range(2). @returns bytes copied, 0 at the end of the source */
  copyFileRange(from: { fd: number; offset: number }, to: { fd: number; offset: number }, length: number): number;
  /** Starts writing back dirty pages of the range, without waiting and without any promise. */
  startWriteback(fd: number, range: FileRange): void;
  /** OFD lock, without waiting. @returns false when somebody else's lock is in the way */
  lockRange(fd: number, kind: LockKind, range: FileRange): boolean;
  unlockRange(fd: number, range: FileRange): void;
  /** Kind of a lock that is in the way of `kind`, and its holder where the kernel knows one (never for OFD locks). */
  lockInTheWay(fd: number, kind: LockKind, range: FileRange): { kind: LockKind; pid: number | undefined } | undefined;
  /** flock(2), without waiting. @returns false when somebody else's lock is in the way */
  flock(fd: number, kind: "shared" | "exclusive" | "unlock"): boolean;
  /** BLKGETSIZE64 */
  blockDeviceBytes(fd: number): number;
  /** BLKSSZGET */
  logicalBlockBytes(fd: number): number;
  /** BLKPBSZGET */
  physicalBlockBytes(fd: number): number;
  /** BLKROGET */
  isBlockDeviceReadOnly(fd: number): boolean;
  /** BLKDISCARD */
  discard(fd: number, range: FileRange): void;
  /** BLKZEROOUT */
  zeroOut(fd: number, range: FileRange): void;
  /** LOOP_GET_STATUS64; undefined for an unused loop device. */
  loopStatus(fd: number): LoopStatus | undefined;
  /** LOOP_SET_CAPACITY: take up the backing file's size. */
  loopSetCapacity(fd: number): void;
  /** SO_PEERCRED: who is at the other end of a unix socket. */
  peerOf(fd: number): { readonly pid: number; readonly uid: number; readonly gid: number };
  /**
   * PR_SET_IO_FLUSHER: this thread serves writes that free memory, so it does not wait for such writes when it needs some.
   * @returns false where that is not allowed, or not known
   */
  becomeIoFlusher(): boolean;
  /** Memory at a page boundary, as O_DIRECT wants it; lives as long as the process. */
  pageAlignedBuffer(bytes: number): Uint8Array;
}

/** What the kernel says about a loop device. Source: struct loop_info64. */
export interface LoopStatus {
  /** Device number of the file system that the backing file is on, and its inode. */
  readonly backingDevice: bigint;
  readonly backingInode: bigint;
  /** Device number of the backing block device, 0 for a file. */
  readonly backingRdev: bigint;
  readonly offsetBytes: number;
  readonly sizeLimitBytes: number;
  readonly flags: number;
}

export const LOOP_FLAG_READ_ONLY = 1;
export const LOOP_FLAG_AUTOCLEAR = 4;
export const LOOP_FLAG_PARTSCAN = 8;
export const LOOP_FLAG_DIRECT_IO = 16;

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const LOCK_TYPE = { read: 0, write: 1 } as const;
const F_UNLCK = 2;
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;
const SYNC_FILE_RANGE_WRITE = 2;
const LOOP_GET_STATUS64 = 0x4c05;
const LOOP_SET_CAPACITY = 0x4c07;
const LOOP_INFO_BYTES = 232;
const SOL_SOCKET = process.arch.startsWith("mips") ? 0xffff : 1;
const SO_PEERCRED = process.arch.startsWith("mips") ? 18 : process.arch.startsWith("ppc") ? 21 : 17;
const PR_SET_IO_FLUSHER = 57;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

/** ioctl numbers carry a direction; PowerPC and MIPS encode it differently from everybody else. */
const OTHER_DIRECTIONS = process.arch === "ppc64" || process.arch.startsWith("mips");
const IOC_NONE = OTHER_DIRECTIONS ? 0x20000000 : 0;
const IOC_READ = OTHER_DIRECTIONS ? 0x40000000 : 0x80000000;
const BLKROGET = IOC_NONE + 0x125e;
const BLKSSZGET = IOC_NONE + 0x1268;
const BLKDISCARD = IOC_NONE + 0x1277;
const BLKPBSZGET = IOC_NONE + 0x127b;
const BLKZEROOUT = IOC_NONE + 0x127f;
const BLKGETSIZE64 = IOC_READ + 0x00081272;

const LITTLE = endianness() === "LE";
const WIDE_ARCHITECTURES: readonly string[] = ["x64", "arm64", "riscv64", "ppc64", "loong64", "s390x"];

export interface NativeSupport {
  readonly available: boolean;
  /** Why not, on one line. */
  readonly reason: string | undefined;
}

/** Bound once in a process: the functions of the C library don't change. */
let bound: { readonly native: Native | undefined; readonly reason: string | undefined } | undefined;

/** The calls, or undefined where they cannot be had. */
export function nativeCalls(): Native | undefined {
  bound ??= bind();
  return bound.native;
}

/** Whether the calls are there, and why not. For `udm doctor`. */
export function nativeSupport(): NativeSupport {
  bound ??= bind();
  return { available: bound.native !== undefined, reason: bound.reason };
}

function bind(): { native: Native | undefined; reason: string | undefined } {
  if (process.platform !== "linux") return { native: undefined, reason: `not on ${process.platform}` };
  // struct flock and off_t below are those of 64-bit machines.
  if (!WIDE_ARCHITECTURES.includes(process.arch)) return { native: undefined, reason: `not on ${process.arch}` };
  try {
    const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
    return { native: makeCalls(koffi), reason: undefined };
  } catch (error) {
    return { native: undefined, reason: `koffi does not load: ${messageOf(error)}` };
  }
}

function makeCalls(koffi: typeof import("koffi")): Native {
  const libc = koffi.load(null);
  const fallocate = libc.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)");
  const lseek = libc.func("int64_t lseek(int fd, int64_t offset, int whence)");
  const fcntl = libc.func("int fcntl(int fd, int command, ...)");
  const ioctl = libc.func("int ioctl(int fd, unsigned long request, ...)");
  const flock = libc.func("int flock(int fd, int operation)");
  const copyFileRange = libc.func(
    "int64_t copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, uint32_t flags)",
  );
  const syncFileRange = libc.func("int sync_file_range(int fd, int64_t offset, int64_t length, uint32_t flags)");
  const getsockopt = libc.func("int getsockopt(int fd, int level, int name, void *value, void *length)");
  const prctl = libc.func("int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)");
  const mmap = libc.func("void *mmap(void *at, size_t length, int protection, int flags, int fd, int64_t offset)");

  /** Result of a call that is -1 on failure; a failure is thrown unless it is one of `expected`. */
  function call(what: string, run: () => unknown, expected: readonly string[] = []): number | string {
    for (;;) {
      const result = Number(run());
      if (result !== -1) return result;
      const name = errnoName(koffi.errno());
      if (name === "EINTR") continue;
      if (expected.includes(name)) return name;
      throw failure(name, what);
    }
  }

  function allocateRange(what: string, fd: number, mode: number, { offset, length }: FileRange): void {
    call(what, () => fallocate(fd, mode, offset, length));
  }

  function seek(what: string, fd: number, offset: number, whence: number): number | undefined {
    const found = call(what, () => lseek(fd, offset, whence), ["ENXIO"]);
    return typeof found === "number" ? found : undefined;
  }

  /** struct flock: type, whence, start, length, pid. */
  function lockOf(type: number, { offset, length }: FileRange): DataView {
    const view = new DataView(new ArrayBuffer(32));
    view.setInt16(0, type, LITTLE);
    view.setBigInt64(8, BigInt(offset), LITTLE);
    view.setBigInt64(16, BigInt(length), LITTLE);
    return view;
  }

  function lockCall(fd: number, command: number, lock: DataView): number | string {
    const bytes = new Uint8Array(lock.buffer);
    return call("lock", () => fcntl(fd, command, "void *", bytes), ["EAGAIN", "EACCES"]);
  }

  function ioctlNumber(what: string, fd: number, request: number, bytes: 4 | 8): number {
    const out = new DataView(new ArrayBuffer(8));
    call(what, () => ioctl(fd, request, "void *", new Uint8Array(out.buffer)));
    return bytes === 4 ? out.getUint32(0, LITTLE) : Number(out.getBigUint64(0, LITTLE));
  }

  function ioctlRange(what: string, fd: number, request: number, { offset, length }: FileRange): void {
    const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
    call(what, () => ioctl(fd, request, "void *", range));
  }

  return {
    punchHole: (fd, range) => allocateRange("punching a hole", fd, PUNCH_HOLE | KEEP_SIZE, range),
    zeroRange: (fd, range) => allocateRange("zeroing a range", fd, ZERO_RANGE | KEEP_SIZE, range),
    allocate: (fd, range, options = {}) =>
      allocateRange("allocating room", fd, options.keepSize === true ? KEEP_SIZE : 0, range),
    seekData: (fd, offset) => seek("looking for data", fd, offset, SEEK_DATA),
    seekHole: (fd, offset) => seek("looking for a hole", fd, offset, SEEK_HOLE),
    copyFileRange(from, to, length) {
      const fromOffset = new BigInt64Array([BigInt(from.offset)]);
      const toOffset = new BigInt64Array([BigInt(to.offset)]);
      return Number(call("copying", () => copyFileRange(from.fd, fromOffset, to.fd, toOffset, length, 0)));
    },
    startWriteback(fd, { offset, length }) {
      call("starting write-back", () => syncFileRange(fd, offset, length, SYNC_FILE_RANGE_WRITE));
    },
    lockRange: (fd, kind, range) => lockCall(fd, F_OFD_SETLK, lockOf(LOCK_TYPE[kind], range)) === 0,
    unlockRange(fd, range) {
      lockCall(fd, F_OFD_SETLK, lockOf(F_UNLCK, range));
    },
    lockInTheWay(fd, kind, range) {
      const lock = lockOf(LOCK_TYPE[kind], range);
      lockCall(fd, F_OFD_GETLK, lock);
      const type = lock.getInt16(0, LITTLE);
      if (type === F_UNLCK) return undefined;
      const pid = lock.getInt32(24, LITTLE);
      return { kind: type === LOCK_TYPE.read ? "read" : "write", pid: pid > 0 ? pid : undefined };
    },
    flock(fd, kind) {
      const operation = { shared: LOCK_SH, exclusive: LOCK_EX, unlock: LOCK_UN }[kind];
      return call("lock", () => flock(fd, operation | LOCK_NB), ["EAGAIN"]) === 0;
    },
    blockDeviceBytes: (fd) => ioctlNumber("size of the device", fd, BLKGETSIZE64, 8),
    logicalBlockBytes: (fd) => ioctlNumber("logical block size", fd, BLKSSZGET, 4),
    physicalBlockBytes: (fd) => ioctlNumber("physical block size", fd, BLKPBSZGET, 4),
    isBlockDeviceReadOnly: (fd) => ioctlNumber("read-only flag", fd, BLKROGET, 4) !== 0,
    discard: (fd, range) => ioctlRange("discard", fd, BLKDISCARD, range),
    zeroOut: (fd, range) => ioctlRange("zeroing", fd, BLKZEROOUT, range),
    loopStatus(fd) {
      const info = new DataView(new ArrayBuffer(LOOP_INFO_BYTES));
      const bytes = new Uint8Array(info.buffer);
      const result = call("loop status", () => ioctl(fd, LOOP_GET_STATUS64, "void *", bytes), ["ENXIO"]);
      if (result === "ENXIO") return undefined;
      return {
        backingDevice: info.getBigUint64(0, LITTLE),
        backingInode: info.getBigUint64(8, LITTLE),
        backingRdev: info.getBigUint64(16, LITTLE),
        offsetBytes: Number(info.getBigUint64(24, LITTLE)),
        sizeLimitBytes: Number(info.getBigUint64(32, LITTLE)),
        flags: info.getUint32(52, LITTLE),
      };
    },
    loopSetCapacity(fd) {
      call("taking up the file's size", () => ioctl(fd, LOOP_SET_CAPACITY, "long", 0));
    },
    peerOf(fd) {
      const peer = new Uint32Array(3);
      const length = new Uint32Array([peer.byteLength]);
      call("asking who is connected", () => getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, length));
      return { pid: peer[0]!, uid: peer[1]!, gid: peer[2]! };
    },
    becomeIoFlusher: () => prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) === 0,
    pageAlignedBuffer(bytes) {
      const at = mmap(null, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
      if (at === null) throw failure("ENOMEM", `memory of ${bytes} bytes`);
      return new Uint8Array(koffi.view(at, bytes));
    },
  };
}

function failure(errno: string, what: string): UdmError {
  return errnoError(errno, what);
}
