/**
 * Blocks of new metadata, one behind the other: numbered, checksummed and written in large pieces. When the device is
 * full the counting goes on, so that the size that is needed can be told.
 */
import { crc32c } from "../../../bytes/index.js";
import type { SyncIo } from "../../../io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { BLOCK_WORDS, BlockBuffer } from "../reader/block-store.js";
import { KIND_SALT, type Kind } from "../reader/problems.js";

const BUFFER_BLOCKS = 256;
const CSUM_START = 4;
const BLOCKNR_WORD = 2;

export class BlockAppender {
  readonly nrBlocks: number;
  readonly #io: SyncIo;
  readonly #buffer = new BlockBuffer(BUFFER_BLOCKS);
  /** Blocks [#first, #next) are in the buffer. */
  #first: number;
  #next: number;

  /** @param first block to begin at */
  constructor(io: SyncIo, nrBlocks: number, first: number) {
    this.#io = io;
    this.nrBlocks = nrBlocks;
    this.#first = first;
    this.#next = first;
  }

  /** Number of the next block. */
  get next(): number {
    return this.#next;
  }

  get isFull(): boolean {
    return this.#next > this.nrBlocks;
  }

  /** Copies a block behind the others. @returns its number */
  append(words: Uint32Array, kind: Kind): number {
    const blocknr = this.#next++;
    if (blocknr >= this.nrBlocks) return blocknr;
    const at = (blocknr - this.#first) * BLOCK_WORDS;
    const buffer = this.#buffer;
    buffer.words.set(words, at);
    buffer.words[at + BLOCKNR_WORD] = blocknr;
    buffer.words[at + BLOCKNR_WORD + 1] = 0;
    const start = at * 4;
    const crc = crc32c(buffer.view, start + CSUM_START, start + METADATA_BLOCK_BYTES);
    buffer.words[at] = (crc ^ KIND_SALT[kind]) >>> 0;
    if (blocknr - this.#first + 1 === BUFFER_BLOCKS) this.flush();
    return blocknr;
  }

  /** Words of a block that was appended. */
  readBack(blocknr: number, into: BlockBuffer): void {
    this.flush();
    this.#io.read(blocknr * METADATA_BLOCK_BYTES, into.slot(0));
  }

  flush(): void {
    const end = Math.min(this.#next, this.nrBlocks);
    if (end > this.#first) {
      const bytes = this.#buffer.bytes.subarray(0, (end - this.#first) * METADATA_BLOCK_BYTES);
      this.#io.write(this.#first * METADATA_BLOCK_BYTES, bytes);
    }
    this.#first = this.#next;
  }
}
