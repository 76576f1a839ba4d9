/**
 * The NBD protocol: numbers, layouts of messages, errors. All integers are big-endian. Source: the protocol's
 * specification, sections "Values" and "Protocol phases".
 */
import { codeOf, invariant } from "../errors/index.js";

// Layouts

/** Where each field of a message begins, and how long the message is. */
export interface Layout<F extends Record<string, number>> {
  readonly size: number;
  readonly at: { readonly [K in keyof F]: number };
}

/** Declares a message of `size` bytes by the sizes of its fields, in order. */
function layout<const F extends Record<string, number>>(name: string, size: number, fields: F): Layout<F> {
  const at: Record<string, number> = {};
  let end = 0;
  for (const [key, bytes] of Object.entries(fields)) {
    at[key] = end;
    end += bytes;
  }
  invariant(end === size, `${name} covers ${end} bytes, wanted ${size}`);
  return { size, at: at as { readonly [K in keyof F]: number } };
}

/** What a server says first. */
export const GREETING = layout("greeting", 18, { magic: 8, optionMagic: 8, flags: 2 });
/** An option of a client; its data follow. */
export const OPTION = layout("option", 16, { magic: 8, option: 4, length: 4 });
/** The answer to an option; its data follow. */
export const OPTION_REPLY = layout("option reply", 20, { magic: 8, option: 4, type: 4, length: 4 });
/** The answer to EXPORT_NAME, without the zeros that follow unless they were agreed away. */
export const EXPORT_NAME_REPLY = layout("export name reply", 10, { size: 8, flags: 2 });
export const INFO_EXPORT = layout("info: export", 12, { type: 2, size: 8, flags: 2 });
export const INFO_BLOCK_SIZE = layout("info: block size", 14, { type: 2, minimum: 4, preferred: 4, maximum: 4 });
export const REQUEST = layout("request", 28, { magic: 4, flags: 2, type: 2, cookie: 8, offset: 8, length: 4 });
/** A READ's data follow when the error is 0. */
export const SIMPLE_REPLY = layout("simple reply", 16, { magic: 4, error: 4, cookie: 8 });
/** A chunk's payload follows. */
export const CHUNK = layout("chunk", 20, { magic: 4, flags: 2, type: 2, cookie: 8, length: 4 });
export const DATA_CHUNK = layout("data chunk", 28, { header: 20, offset: 8 });
export const HOLE_CHUNK = layout("hole chunk", 32, { header: 20, offset: 8, length: 4 });
/** A message follows. */
export const ERROR_CHUNK = layout("error chunk", 26, { header: 20, error: 4, length: 2 });
/** Extents of 8 bytes follow. */
export const STATUS_CHUNK = layout("status chunk", 24, { header: 20, context: 4 });

// Numbers

/** "NBDMAGIC", in two halves as all magic numbers of 8 bytes. */
export const NBD_MAGIC = [0x4e42444d, 0x41474943] as const;
/** "IHAVEOPT" */
export const OPTION_MAGIC = [0x49484156, 0x454f5054] as const;
export const OPTION_REPLY_MAGIC = [0x0003e889, 0x045565a9] as const;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const CHUNK_MAGIC = 0x668e33ef;

export const HANDSHAKE_FLAG = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

const ERROR_BIT = 0x80000000;
export const REP = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsupported: ERROR_BIT + 1,
  errPolicy: ERROR_BIT + 2,
  errInvalid: ERROR_BIT + 3,
  errPlatform: ERROR_BIT + 4,
  errTlsRequired: ERROR_BIT + 5,
  errUnknown: ERROR_BIT + 6,
  errShutdown: ERROR_BIT + 7,
  errBlockSizeRequired: ERROR_BIT + 8,
  errTooBig: ERROR_BIT + 9,
} as const;

export const INFO = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TRANSMISSION_FLAG = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  rotational: 16,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConn: 256,
  sendResize: 512,
  sendCache: 1024,
  sendFastZero: 2048,
} as const;

export const CMD = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CMD_FLAG = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16 } as const;

/** Flags that mean something to a command; FUA is tolerated on every one. Indexed by command. */
export const ALLOWED_FLAGS: readonly number[] = [
  CMD_FLAG.fua | CMD_FLAG.df,
  CMD_FLAG.fua,
  CMD_FLAG.fua,
  CMD_FLAG.fua,
  CMD_FLAG.fua,
  CMD_FLAG.fua,
  CMD_FLAG.fua | CMD_FLAG.noHole | CMD_FLAG.fastZero,
  CMD_FLAG.fua | CMD_FLAG.reqOne,
];

export const CHUNK_TYPE = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 32769,
  errorOffset: 32770,
} as const;
export const CHUNK_DONE = 1;

/** base:allocation */
export const BASE_ALLOCATION = "base:allocation";
export const STATE_HOLE = 1;
export const STATE_ZERO = 2;
/** Our own context: bit 0 nothing is mapped, bit 1 the blocks belong to other devices too. */
export const UDM_SHARED = "udm:shared";
export const SHARED_HOLE = 1;
export const SHARED_SHARED = 2;

export const NBD_ERROR = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdError = (typeof NBD_ERROR)[keyof typeof NBD_ERROR];

/** What the protocol has for a failure. No more is told: paths and names are nobody's business on the other side. */
export function nbdErrorOf(error: unknown): NbdError {
  switch (codeOf(error)) {
    case "EPERM":
    case "EACCES":
    case "EROFS":
      return NBD_ERROR.EPERM;
    case "ENOSPC":
    case "EFBIG":
    case "EDQUOT":
      return NBD_ERROR.ENOSPC;
    case "EINVAL":
      return NBD_ERROR.EINVAL;
    case "ENOMEM":
      return NBD_ERROR.ENOMEM;
    default:
      return NBD_ERROR.EIO;
  }
}

// Limits

export const MAX_NAME_BYTES = 4096;
/** Largest payload of a request or reply that is promised to clients. */
export const MAX_PAYLOAD_BYTES = 32 * 2 ** 20;
/** DF is honoured up to this, at least. */
export const MAX_OPTION_BYTES = 64 * 1024;
export const DEFAULT_PORT = 10809;

/** A 64-bit number of a message; NaN when it is beyond what is exact. */
export function readU64(view: DataView, at: number): number {
  const high = view.getUint32(at);
  return high > 0x1fffff ? Number.NaN : high * 4294967296 + view.getUint32(at + 4);
}

export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 4294967296));
  view.setUint32(at + 4, value % 4294967296);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
