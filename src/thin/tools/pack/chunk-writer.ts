/**
 * Chunks on their way to the file. While one is compressed on another thread, the next is collected; they are written in
 * the order they were begun, so that the same metadata gives the same file. Memory is three chunks, whatever comes.
 */
import { promisify } from "node:util";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { BlockEncoder } from "./block-encoder.js";
import { CHUNK_BLOCKS, CHUNK_RAW_BLOCKS, PACK_TRAILER, TRAILER_MAGIC, U64_BYTES } from "./format.js";

export type PackSink = (piece: Uint8Array) => void | Promise<void>;

/** Every tool loads this file; few need what it loads. */
const compress = (bytes: Uint8Array): Promise<Uint8Array> =>
  promisify(process.getBuiltinModule("node:zlib").deflate)(bytes) as Promise<Uint8Array>;
/** Chunks that are collected, compressed or written at one time. */
const SLOTS = 3;
const RAW_BYTES = U64_BYTES + METADATA_BLOCK_BYTES;

class Slot {
  readonly encoder = new BlockEncoder(CHUNK_BLOCKS);
  readonly raw = new Uint8Array(CHUNK_RAW_BLOCKS * RAW_BYTES);
  readonly #rawView = new DataView(this.raw.buffer);
  blocks = 0;
  rawBlocks = 0;

  get isFull(): boolean {
    return this.blocks === CHUNK_BLOCKS || this.rawBlocks === CHUNK_RAW_BLOCKS;
  }

  addRaw(blocknr: number, words: Uint32Array, at: number): void {
    const start = this.rawBlocks * RAW_BYTES;
    this.#rawView.setUint32(start, blocknr, true);
    this.#rawView.setUint32(start + 4, Math.floor(blocknr / 2 ** 32), true);
    this.raw.set(new Uint8Array(words.buffer, words.byteOffset + at * 4, METADATA_BLOCK_BYTES), start + U64_BYTES);
    this.rawBlocks++;
  }

  clear(): void {
    this.encoder.clear();
    this.blocks = 0;
    this.rawBlocks = 0;
  }
}

export class ChunkWriter {
  readonly #write: PackSink;
  readonly #free: Slot[] = [];
  #slot = new Slot();
  #slots = 1;
  #chunks = 0;
  /** All that was begun before, in order. */
  #written: Promise<void> = Promise.resolve();
  /** Slots that will come back, oldest first. */
  readonly #coming: Promise<void>[] = [];

  constructor(write: PackSink) {
    this.#write = write;
  }

  get isFull(): boolean {
    return this.#slot.isFull;
  }

  node(blocknr: number, words: Uint32Array, at: number): void {
    this.#slot.encoder.node(blocknr, words, at);
    this.#slot.blocks++;
  }

  other(blocknr: number, words: Uint32Array, at: number): void {
    this.#slot.encoder.other(blocknr, words, at);
    this.#slot.blocks++;
  }

  /** A block that 1.x would not take, as it is. */
  raw(blocknr: number, words: Uint32Array, at: number): void {
    this.#slot.addRaw(blocknr, words, at);
  }

  /** Sends the present chunk on its way; there is an empty one when the promise resolves. */
  async next(): Promise<void> {
    this.#send(false);
    if (this.#free.length === 0 && this.#slots < SLOTS) {
      this.#slots++;
      this.#slot = new Slot();
      return;
    }
    // Slots may have come back meanwhile, whose promises still stand in front.
    while (this.#free.length === 0) await this.#coming.shift();
    this.#slot = this.#free.pop()!;
  }

  /** Sends the last chunk; all is written when the promise resolves. */
  async finish(): Promise<void> {
    this.#send(true);
    await this.#written;
  }

  #send(isLast: boolean): void {
    const slot = this.#slot;
    const ordinal = this.#chunks++;
    const packed = packChunk(slot, isLast, ordinal);
    const before = this.#written;
    const written = (async () => {
      // A failure of one before it is told by that one; this one only must not be written any more.
      const [pieces] = await Promise.all([packed, before]);
      for (const piece of pieces) await this.#write(piece);
      slot.clear();
      this.#free.push(slot);
    })();
    written.catch(() => undefined);
    this.#written = written;
    this.#coming.push(written);
  }
}

async function packChunk(slot: Slot, isLast: boolean, ordinal: number): Promise<readonly Uint8Array[]> {
  const [stream, raw] = await Promise.all([
    compress(slot.encoder.encoded),
    slot.rawBlocks === 0 ? new Uint8Array(0) : compress(slot.raw.subarray(0, slot.rawBlocks * RAW_BYTES)),
  ]);
  const length = new DataView(new ArrayBuffer(U64_BYTES));
  length.setUint32(0, stream.length + PACK_TRAILER.size + raw.length, true);
  const trailer = new DataView(new ArrayBuffer(PACK_TRAILER.size));
  PACK_TRAILER.write(trailer, { magic: TRAILER_MAGIC, isLast: isLast ? 1 : 0, ordinal, rawBytes: raw.length });
  return [new Uint8Array(length.buffer), stream, new Uint8Array(trailer.buffer), raw];
}
