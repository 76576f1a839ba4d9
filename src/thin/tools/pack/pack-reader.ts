/**
 * A packed file, read from front to back, checked at every step: head, length and checksum of each chunk, instructions,
 * block numbers, the checksum of every block. Memory is a chunk, packed and not.
 */
import { promisify } from "node:util";
import { DamageError, messageOf, StateError } from "../../../errors/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { BlockBuffer } from "../reader/block-store.js";
import { BlockDecoder } from "./block-decoder.js";
import {
  MAX_CHUNK_BYTES,
  MAX_PACKED_BLOCKS,
  PACK_HEAD,
  PACK_MAGIC,
  PACK_TRAILER,
  PACK_VERSION,
  TRAILER_MAGIC,
  U64_BYTES,
} from "./format.js";
import { isSound } from "./recognise.js";

/** Called with each block; its bytes are valid until the call returns. */
export type PackedBlockVisitor = (blocknr: number, bytes: Uint8Array) => void;

interface Inflated {
  readonly buffer: Uint8Array;
  readonly engine: { readonly bytesWritten: number };
}

type InflateWithEnd = (
  bytes: Uint8Array,
  options: { readonly info: true; readonly maxOutputLength: number },
) => Promise<Inflated>;

const RAW_BYTES = U64_BYTES + METADATA_BLOCK_BYTES;
const CUT_HINT = "the file was cut off or changed on its way; get it again from where it was packed";

export class PackReader {
  /** What messages call the file. */
  readonly name: string;
  /** Blocks of the device that was packed. */
  readonly nrBlocks: number;
  readonly #source: ByteSource;
  readonly #seen: Uint8Array;
  readonly #block = new BlockBuffer(1);
  #chunks = 0;
  /** Whether the chunks have trailers; not known before the first. */
  #hasTrailers = false;
  #isWhole = false;
  #sound = 0;
  #damaged = 0;

  /**
   * Reads the head.
   * @throws StateError EINVAL when it is not packed metadata, or of another version; DamageError when it is cut off
   */
  static async open(name: string, pieces: AsyncIterable<Uint8Array>): Promise<PackReader> {
    const source = new ByteSource(pieces);
    const head = await source.take(PACK_HEAD.size);
    return new PackReader(name, source, checkHead(name, head));
  }

  private constructor(name: string, source: ByteSource, nrBlocks: number) {
    this.name = name;
    this.nrBlocks = nrBlocks;
    this.#source = source;
    this.#seen = new Uint8Array(Math.ceil(nrBlocks / 8));
  }

  /** Blocks so far. */
  get counts(): { readonly sound: number; readonly damaged: number } {
    return { sound: this.#sound, damaged: this.#damaged };
  }

  /** Bytes of the file so far. */
  get bytesRead(): number {
    return this.#source.taken;
  }

  hasBlock(blocknr: number): boolean {
    return (this.#seen[blocknr >>> 3]! & (1 << (blocknr & 7))) !== 0;
  }

  /** Reads the next chunk and visits its blocks. @returns false at the end of the file @throws DamageError */
  async nextChunk(visit: PackedBlockVisitor): Promise<boolean> {
    const begin = this.#source.taken;
    const lengthBytes = await this.#source.take(U64_BYTES);
    if (lengthBytes.length === 0) {
      if (this.#chunks === 0) throw this.#cut("it ends behind its head");
      if (!this.#hasTrailers || this.#isWhole) return false;
      throw this.#cut(`it ends behind chunk ${this.#chunks - 1}, which is not the last`);
    }
    if (this.#isWhole) throw this.#damage(begin, "something stands behind the last chunk");
    const chunk = await this.#chunkBytes(begin, lengthBytes);
    const { buffer, engine } = await this.#inflate(begin, chunk);
    this.#visitBlocks(begin, buffer, visit);
    const rest = chunk.subarray(engine.bytesWritten);
    const trailer = trailerOf(rest);
    if (this.#chunks === 0) this.#hasTrailers = trailer !== undefined;
    if (this.#hasTrailers) {
      if (trailer === undefined || trailer.ordinal !== this.#chunks || trailer.isLast > 1) {
        throw this.#damage(begin, `it is chunk ${trailer?.ordinal ?? "of another file"}, wanted ${this.#chunks}`);
      }
      this.#isWhole = trailer.isLast === 1;
      if (trailer.rawBytes > 0) await this.#visitRaw(begin, rest.subarray(PACK_TRAILER.size), trailer.rawBytes, visit);
    }
    this.#chunks++;
    return true;
  }

  async #chunkBytes(begin: number, lengthBytes: Uint8Array): Promise<Uint8Array> {
    if (lengthBytes.length < U64_BYTES) throw this.#cut(`it ends at byte ${this.#source.taken}, within a length`);
    const view = new DataView(lengthBytes.buffer, lengthBytes.byteOffset, U64_BYTES);
    const length = view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
    if (length === 0 || length > MAX_CHUNK_BYTES) {
      throw this.#damage(begin, `it says it has ${length} bytes, wanted 1 to ${MAX_CHUNK_BYTES}`);
    }
    const chunk = await this.#source.take(length);
    if (chunk.length === length) return chunk;
    throw this.#cut(
      `it ends at byte ${this.#source.taken}, within a chunk that goes on to ${begin + U64_BYTES + length}`,
    );
  }

  async #inflate(begin: number, bytes: Uint8Array): Promise<Inflated> {
    try {
      // Every tool loads this file; few need what it loads.
      const inflateWithEnd = promisify(process.getBuiltinModule("node:zlib").inflate) as unknown as InflateWithEnd;
      return await inflateWithEnd(bytes, { info: true, maxOutputLength: MAX_CHUNK_BYTES });
    } catch (error) {
      throw this.#damage(begin, `it cannot be unpacked (${messageOf(error)})`, error);
    }
  }

  #visitBlocks(begin: number, instructions: Uint8Array, visit: PackedBlockVisitor): void {
    const { bytes, words, view } = this.#block;
    const decoder = new BlockDecoder(instructions, bytes);
    try {
      while (decoder.next()) {
        this.#count(decoder.blocknr);
        if (!isSound(words, view)) throw new DamageError(`block ${decoder.blocknr}: its checksum is wrong`);
        this.#sound++;
        visit(decoder.blocknr, bytes);
      }
    } catch (error) {
      // What the visitor throws is its own.
      if (!(error instanceof DamageError)) throw error;
      throw this.#damage(begin, error.message, error);
    }
  }

  async #visitRaw(begin: number, rest: Uint8Array, length: number, visit: PackedBlockVisitor): Promise<void> {
    if (length !== rest.length) throw this.#damage(begin, `${rest.length} bytes of raw blocks, wanted ${length}`);
    const { buffer } = await this.#inflate(begin, rest);
    if (buffer.length % RAW_BYTES !== 0) throw this.#damage(begin, "a raw block is cut off");
    const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    for (let at = 0; at < buffer.length; at += RAW_BYTES) {
      const blocknr = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
      try {
        this.#count(blocknr);
      } catch (error) {
        throw this.#damage(begin, messageOf(error), error);
      }
      this.#damaged++;
      visit(blocknr, buffer.subarray(at + U64_BYTES, at + RAW_BYTES));
    }
  }

  #count(blocknr: number): void {
    if (blocknr >= this.nrBlocks) {
      throw new DamageError(`block ${blocknr} is not on a device of ${this.nrBlocks} blocks`);
    }
    if (this.hasBlock(blocknr)) throw new DamageError(`block ${blocknr} is there twice`);
    this.#seen[blocknr >>> 3]! |= 1 << (blocknr & 7);
  }

  #damage(begin: number, what: string, cause?: unknown): DamageError {
    return new DamageError(`${this.name}: chunk ${this.#chunks} at byte ${begin}: ${what}`, { hint: CUT_HINT, cause });
  }

  #cut(what: string): DamageError {
    return new DamageError(`${this.name}: cut off: ${what}`, { hint: CUT_HINT });
  }
}

function checkHead(name: string, head: Uint8Array): number {
  const isPack = PACK_MAGIC.every((byte, index) => head[index] === byte);
  if (head.length < PACK_MAGIC.length || !isPack) {
    throw new StateError("EINVAL", `${name}: no packed metadata: it does not begin with its magic`, {
      hint: "udm metadata pack and thin_metadata_pack 1.x make such files",
    });
  }
  if (head.length < PACK_HEAD.size) {
    throw new DamageError(`${name}: cut off: ${head.length} bytes, the head alone has ${PACK_HEAD.size}`, {
      hint: CUT_HINT,
    });
  }
  const { version, blockBytes, nrBlocks } = numbersOf(head);
  if (version !== PACK_VERSION) {
    throw new StateError("EINVAL", `${name}: packed metadata of version ${version}, wanted ${PACK_VERSION}`, {
      hint: "unpack it with the program that packed it",
    });
  }
  if (blockBytes !== METADATA_BLOCK_BYTES || nrBlocks === 0 || nrBlocks > MAX_PACKED_BLOCKS) {
    const found = `${nrBlocks} blocks of ${blockBytes} bytes`;
    throw new DamageError(`${name}: ${found}, wanted 1 to ${MAX_PACKED_BLOCKS} of ${METADATA_BLOCK_BYTES}`, {
      hint: CUT_HINT,
    });
  }
  return nrBlocks;
}

/** As they are, or rounded: too large a one is refused anyway. */
function numbersOf(head: Uint8Array): Record<"version" | "blockBytes" | "nrBlocks", number> {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const at = (offset: number) => view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
  const { version, blockBytes, nrBlocks } = PACK_HEAD.fields;
  return { version: at(version.offset), blockBytes: at(blockBytes.offset), nrBlocks: at(nrBlocks.offset) };
}

function trailerOf(rest: Uint8Array): { isLast: number; ordinal: number; rawBytes: number } | undefined {
  if (rest.length < PACK_TRAILER.size || !TRAILER_MAGIC.every((byte, index) => rest[index] === byte)) return undefined;
  return PACK_TRAILER.read(new DataView(rest.buffer, rest.byteOffset, PACK_TRAILER.size));
}

/** Pieces of any size as stretches of wanted size. */
class ByteSource {
  /** Bytes handed out so far. */
  taken = 0;
  readonly #pieces: AsyncIterator<Uint8Array>;
  #piece = new Uint8Array(0);
  #at = 0;

  constructor(pieces: AsyncIterable<Uint8Array>) {
    this.#pieces = pieces[Symbol.asyncIterator]();
  }

  /** Fewer bytes than wanted only at the end. */
  async take(length: number): Promise<Uint8Array> {
    const found: Uint8Array[] = [];
    let missing = length;
    while (missing > 0) {
      if (this.#at === this.#piece.length) {
        const next = await this.#pieces.next();
        if (next.done === true) break;
        this.#piece = next.value as Uint8Array<ArrayBuffer>;
        this.#at = 0;
        continue;
      }
      const part = this.#piece.subarray(this.#at, this.#at + missing);
      found.push(part);
      this.#at += part.length;
      missing -= part.length;
    }
    this.taken += length - missing;
    if (found.length === 1) return found[0]!;
    const bytes = new Uint8Array(length - missing);
    let at = 0;
    for (const part of found) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }
}
