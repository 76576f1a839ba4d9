/**
 * The long part of a CRC-32C as a WebAssembly function: code that is fast from its first call on, where JavaScript has to
 * be run a while before it is. A checksum's own chain of lookups, each of which waits for the one before, is what bounds
 * it; so a piece of a fixed length is cut into four streams that are worked on side by side, and their registers are put
 * together at the end: feeding a register so many zeros is linear, and takes four lookups.
 *
 * The module is put together here, byte by byte: two dozen instructions, repeated for each byte of a step.
 */

/** Bytes that one call takes: nearly all of a metadata block behind its checksum. */
export const PIECE_BYTES = 4064;

export interface PieceChecksum {
  /** Where the piece has to be put. */
  readonly piece: Uint8Array;
  /** Register after feeding the piece to `crc`. */
  feed(crc: number): number;
}

/** What is used of it: the types of node do not have it, those of browsers do. */
interface Runtime {
  readonly Memory: new (size: {
    readonly initial: number;
    readonly maximum: number;
  }) => { readonly buffer: ArrayBuffer };
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: object,
  ) => { readonly exports: { readonly f: (crc: number) => number } };
}

const STREAMS = 4;
const STREAM_BYTES = PIECE_BYTES / STREAMS;
const STEP_BYTES = 8;
const TABLE_BYTES = 1024;
/** Places in memory: tables of a step, tables of a stream's length of zeros, the piece. */
const STEP_TABLES = 0;
const ZEROS_TABLES = STEP_BYTES * TABLE_BYTES;
const PIECE = 16384;

/**
 * @param tables of 256 entries each; table n is for a byte that n bytes follow
 * @returns undefined where there is no WebAssembly
 */
export function makePieceChecksum(tables: readonly Uint32Array[]): PieceChecksum | undefined {
  const { WebAssembly: runtime } = globalThis as unknown as { readonly WebAssembly?: Runtime };
  if (runtime === undefined) return undefined;
  let memory: { readonly buffer: ArrayBuffer };
  let feed: (crc: number) => number;
  try {
    memory = new runtime.Memory({ initial: 1, maximum: 1 });
    feed = new runtime.Instance(new runtime.Module(moduleBytes()), { "": { m: memory } }).exports.f;
  } catch {
    // Address space is limited (ulimit -v): it is reserved generously.
    return undefined;
  }
  const words = new Uint32Array(memory.buffer);
  for (let table = 0; table < STEP_BYTES; table++) words.set(tables[table]!, (STEP_TABLES + table * TABLE_BYTES) / 4);
  fillZerosTables(words.subarray(ZEROS_TABLES / 4, ZEROS_TABLES / 4 + 1024), tables[0]!);
  return { piece: new Uint8Array(memory.buffer, PIECE, PIECE_BYTES), feed };
}

/** What becomes of each byte of a register when a stream's length of zeros is fed to it. */
function fillZerosTables(words: Uint32Array, first: Uint32Array): void {
  for (let bit = 0; bit < 32; bit++) {
    let crc = 2 ** bit;
    for (let fed = 0; fed < STREAM_BYTES; fed++) crc = (crc >>> 8) ^ first[crc & 0xff]!;
    const table = words.subarray((bit >>> 3) * 256, (bit >>> 3) * 256 + 256);
    for (let index = 0; index < 256; index++) {
      if ((index >>> (bit & 7)) & 1) table[index] = table[index]! ^ crc;
    }
  }
}

// --- the module; numbers are those of the WebAssembly binary format ---

const I32 = 0x7f;
const I64 = 0x7e;
const LOCAL_GET = 0x20;
const LOCAL_SET = 0x21;
const I32_LOAD = [0x28, 2];
const I64_LOAD = [0x29, 3];
const I32_CONST = 0x41;
const I64_CONST = 0x42;
const I32_LT_U = 0x49;
const I32_ADD = 0x6a;
const I32_AND = 0x71;
const I32_XOR = 0x73;
const I32_SHL = 0x74;
const I32_SHR_U = 0x76;
const I64_XOR = 0x85;
const I64_SHR_U = 0x88;
const I32_WRAP = 0xa7;
const I64_EXTEND_U = 0xad;
const LOOP_VOID = [0x03, 0x40];
const BR_IF_0 = [0x0d, 0];
const END = 0x0b;
/** A byte times four: the offset of its entry. */
const ENTRY_MASK = 0xff * 4;

/** Locals: the register that is the parameter, those of the other streams, the words of a step, where it stands. */
const CRC = (stream: number) => stream;
const LOW = STREAMS;
const HIGH = STREAMS + 1;
const AT = STREAMS + 2;
const WORD = STREAMS + 3;

function moduleBytes(): Uint8Array<ArrayBuffer> {
  const locals = [2, ...unsigned(WORD - 1), I32, 1, I64];
  const body = [...locals, ...code(), END];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 1, I32, 1, I32]),
    ...section(2, [1, 0, 1, 0x6d, 2, 1, 1, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x66, 0, 0]),
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]);
}

function code(): number[] {
  const steps = Array.from({ length: STREAMS }, (_, stream) => step(stream)).flat();
  const joined = Array.from({ length: STREAMS - 1 }, (_, stream) => join(stream)).flat();
  return [
    ...[...LOOP_VOID, ...steps],
    ...[LOCAL_GET, AT, I32_CONST, STEP_BYTES, I32_ADD, LOCAL_SET, AT],
    ...[LOCAL_GET, AT, I32_CONST, ...signed(STREAM_BYTES), I32_LT_U, ...BR_IF_0, END],
    ...joined,
    ...[LOCAL_GET, CRC(STREAMS - 1)],
  ];
}

/** Feeds the next eight bytes of a stream to its register. */
function step(stream: number): number[] {
  const load = [LOCAL_GET, AT, ...I64_LOAD, ...unsigned(PIECE + stream * STREAM_BYTES)];
  return [
    ...[...load, LOCAL_GET, CRC(stream), I64_EXTEND_U, I64_XOR, LOCAL_SET, WORD],
    ...[LOCAL_GET, WORD, I32_WRAP, LOCAL_SET, LOW],
    ...[LOCAL_GET, WORD, I64_CONST, 32, I64_SHR_U, I32_WRAP, LOCAL_SET, HIGH],
    ...lookups(LOW, STEP_TABLES + 4 * TABLE_BYTES),
    ...[...lookups(HIGH, STEP_TABLES), I32_XOR],
    ...[LOCAL_SET, CRC(stream)],
  ];
}

/** Feeds the length of the next stream in zeros to a register, and adds it to the next one's. */
function join(stream: number): number[] {
  const tables = [0, 1, 2, 3].flatMap((byte) => [
    ...entryOf(CRC(stream), byte),
    ...[...I32_LOAD, ...unsigned(ZEROS_TABLES + byte * TABLE_BYTES), ...(byte === 0 ? [] : [I32_XOR])],
  ]);
  return [...tables, LOCAL_GET, CRC(stream + 1), I32_XOR, LOCAL_SET, CRC(stream + 1)];
}

/** The four bytes of a local, the last of which is looked up in the table at `tables`; leaves one value. */
function lookups(local: number, tables: number): number[] {
  return [0, 1, 2, 3].flatMap((byte) => [
    ...entryOf(local, byte),
    ...[...I32_LOAD, ...unsigned(tables + (3 - byte) * TABLE_BYTES), ...(byte === 0 ? [] : [I32_XOR])],
  ]);
}

/** Offset of a byte's entry within a table. */
function entryOf(local: number, byte: number): number[] {
  const shift = byte === 0 ? [I32_CONST, 2, I32_SHL] : [I32_CONST, byte * 8 - 2, I32_SHR_U];
  return [LOCAL_GET, local, ...shift, I32_CONST, ...signed(ENTRY_MASK), I32_AND];
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...unsigned(content.length), ...content];
}

/** LEB128. */
function unsigned(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  return [...bytes, rest];
}

function signed(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x3f; rest >>= 7) bytes.push((rest & 0x7f) | 0x80);
  return [...bytes, rest];
}
