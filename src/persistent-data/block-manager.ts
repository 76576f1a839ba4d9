/**
 * The only handle to a metadata device. Blocks of 4 KiB are cached with a bound, checked once when they enter the cache,
 * and written back either when the cache is full (never over a block that the last commit reaches, the space maps see
 * to that) or by `commit`, the one function that writes the superblock: every other block first, a flush, the superblock,
 * a flush.
 *
 * Clean blocks may be dropped at any time, dirty ones only in `trim`, which callers run between operations: so a write
 * handle stays valid for the length of an operation. A read handle shows the block as it was; after a shadow the handle
 * that the shadow returned is the one to use.
 */
import type { ReadView } from "../bytes/index.js";
import { type Code, invariant, StateError, UdmError } from "../errors/index.js";
import type { SyncIo } from "../io/index.js";
import { damaged, METADATA_BLOCK_BYTES, type Validator } from "./validator.js";

/** A cached block that may be looked at. */
export interface ReadBlock {
  readonly blocknr: number;
  readonly view: ReadView;
  readonly bytes: Readonly<Uint8Array>;
}

/** A cached block that may be changed; given out by the transaction manager alone. */
export interface WriteBlock {
  readonly blocknr: number;
  readonly view: DataView;
  readonly bytes: Uint8Array;
}

class CachedBlock {
  readonly view: DataView;
  dirty = false;
  /** Second chance of the clock that picks victims. */
  referenced = true;
  constructor(
    readonly blocknr: number,
    readonly bytes: Uint8Array,
    public validator: Validator,
    /** Place in the clock. */
    public slot: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
}

/** Blocks written by one device write at most. */
const RUN_BLOCKS = 64;
/** 48 MiB; with what the collector has yet to find, a process that works in a large pool stays below 200 MiB. */
export const DEFAULT_CACHE_BLOCKS = 12_288;
const SUPERBLOCK = 0;

export class BlockManager {
  readonly #io: SyncIo;
  readonly #cache = new Map<number, CachedBlock>();
  readonly #clock: CachedBlock[] = [];
  readonly #limit: number;
  #hand = 0;
  #dirtyCount = 0;
  #isReadOnly: boolean;
  readonly #staging: Uint8Array;

  /**
   * @param options.nrBlocks blocks of the device that may be used
   * @param options.cacheBlocks bound of the cache
   */
  constructor(
    io: SyncIo,
    public nrBlocks: number,
    options: { readonly cacheBlocks?: number; readonly isReadOnly?: boolean } = {},
  ) {
    this.#io = io;
    this.#limit = Math.max(options.cacheBlocks ?? DEFAULT_CACHE_BLOCKS, 16);
    this.#isReadOnly = options.isReadOnly ?? false;
    this.#staging = new Uint8Array(RUN_BLOCKS * METADATA_BLOCK_BYTES);
  }

  get isReadOnly(): boolean {
    return this.#isReadOnly;
  }

  /** While set, every change is refused with EPERM. */
  setReadOnly(isReadOnly: boolean): void {
    this.#isReadOnly = isReadOnly;
  }

  get cachedBlocks(): number {
    return this.#cache.size;
  }

  get dirtyBlocks(): number {
    return this.#dirtyCount;
  }

  /** @throws DamageError when the block is not a sound block of this kind, IoError when it cannot be read */
  read(blocknr: number, validator: Validator): ReadBlock {
    return this.#get(blocknr, validator);
  }

  /** A block to be changed in place. Only for blocks that belong to the running transaction. */
  write(blocknr: number, validator: Validator): WriteBlock {
    this.#refuseIfReadOnly();
    const block = this.#get(blocknr, validator);
    this.#markDirty(block);
    return block;
  }

  /** A block that is filled from nothing: all zeros, nothing is read. */
  writeZeroed(blocknr: number, validator: Validator): WriteBlock {
    this.#refuseIfReadOnly();
    this.#checkRange(blocknr, validator.name);
    let block = this.#cache.get(blocknr);
    if (block === undefined) {
      block = this.#insert(blocknr, new Uint8Array(METADATA_BLOCK_BYTES), validator);
    } else {
      block.bytes.fill(0);
      block.validator = validator;
    }
    this.#markDirty(block);
    return block;
  }

  /** Brings the cache back to its bound, writing dirty blocks where clean ones do not suffice. */
  trim(): void {
    while (this.#cache.size > this.#limit) {
      if (this.#dirtyCount > this.#limit / 2) this.#writeBack();
      if (!this.#evictOne()) return;
    }
  }

  /** Forgets everything that was not written, and everything read. */
  forget(): void {
    this.#cache.clear();
    this.#clock.length = 0;
    this.#hand = 0;
    this.#dirtyCount = 0;
  }

  /**
   * Writes and flushes every dirty block, then lets `fill` change the superblock, writes and flushes that. When it throws,
   * the device holds the last commit (or, if the very last flush failed, possibly this one).
   */
  commit(superblock: Validator, fill: (superblock: WriteBlock) => void): void {
    for (const _ of this.commitSteps(superblock, fill)) this.#io.flush();
  }

  /**
   * The same for a caller who flushes by himself, and may wait for that: he has to at each step, and nothing may be changed
   * meanwhile.
   */
  *commitSteps(superblock: Validator, fill: (superblock: WriteBlock) => void): Generator<"flush", void, void> {
    this.#refuseIfReadOnly();
    this.#writeBack();
    yield "flush";
    const block = this.#get(SUPERBLOCK, superblock);
    fill(block);
    superblock.prepare(block.view, SUPERBLOCK);
    this.#io.write(SUPERBLOCK, block.bytes);
    yield "flush";
  }

  /** What was written is durable. */
  flush(): void {
    this.#io.flush();
  }

  /** First superblock of a device that has none. The same order as `commit`. */
  commitFirst(superblock: Validator, fill: (superblock: WriteBlock) => void): void {
    invariant(!this.#cache.has(SUPERBLOCK), "a superblock is cached already");
    this.#insert(SUPERBLOCK, new Uint8Array(METADATA_BLOCK_BYTES), superblock);
    this.commit(superblock, fill);
  }

  /** Bytes of a block as they lie on the device, unchecked and uncached. */
  readRaw(blocknr: number): Uint8Array {
    const bytes = new Uint8Array(METADATA_BLOCK_BYTES);
    this.#io.read(blocknr * METADATA_BLOCK_BYTES, bytes);
    return bytes;
  }

  #get(blocknr: number, validator: Validator): CachedBlock {
    const cached = this.#cache.get(blocknr);
    if (cached !== undefined) {
      if (cached.validator !== validator) {
        throw damaged(blocknr, validator.name, `is used as ${cached.validator.name} too`, "EUCLEAN");
      }
      cached.referenced = true;
      return cached;
    }
    this.#checkRange(blocknr, validator.name);
    const bytes = new Uint8Array(METADATA_BLOCK_BYTES);
    this.#io.read(blocknr * METADATA_BLOCK_BYTES, bytes);
    const view = new DataView(bytes.buffer);
    validator.check(view, blocknr);
    return this.#insert(blocknr, bytes, validator);
  }

  #insert(blocknr: number, bytes: Uint8Array, validator: Validator): CachedBlock {
    if (this.#cache.size >= this.#limit) this.#evictOne();
    const block = new CachedBlock(blocknr, bytes, validator, this.#clock.length);
    this.#clock.push(block);
    this.#cache.set(blocknr, block);
    return block;
  }

  /** Drops one clean block that was not used of late. @returns false when every block is dirty */
  #evictOne(): boolean {
    if (this.#dirtyCount >= this.#cache.size) return false;
    const clock = this.#clock;
    for (let steps = 2 * clock.length + 2; steps > 0; steps--) {
      if (this.#hand >= clock.length) this.#hand = 0;
      const candidate = clock[this.#hand]!;
      if (candidate.dirty) {
        this.#hand++;
      } else if (candidate.referenced) {
        candidate.referenced = false;
        this.#hand++;
      } else {
        this.#remove(candidate);
        return true;
      }
    }
    return false;
  }

  #remove(block: CachedBlock): void {
    this.#cache.delete(block.blocknr);
    const last = this.#clock.pop()!;
    if (last !== block) {
      this.#clock[block.slot] = last;
      last.slot = block.slot;
    }
  }

  #markDirty(block: CachedBlock): void {
    if (block.dirty || block.blocknr === SUPERBLOCK) return;
    block.dirty = true;
    this.#dirtyCount++;
  }

  /** Writes all dirty blocks but the superblock in ascending order, neighbours as one write. */
  #writeBack(): void {
    if (this.#dirtyCount === 0) return;
    const dirty = this.#clock.filter((block) => block.dirty).sort((a, b) => a.blocknr - b.blocknr);
    for (let at = 0; at < dirty.length; ) {
      let length = 1;
      const first = dirty[at]!;
      while (length < RUN_BLOCKS && dirty[at + length]?.blocknr === first.blocknr + length) length++;
      this.#writeRun(dirty, at, length);
      at += length;
    }
  }

  #writeRun(dirty: readonly CachedBlock[], at: number, length: number): void {
    for (let index = 0; index < length; index++) {
      const block = dirty[at + index]!;
      block.validator.prepare(block.view, block.blocknr);
      if (length > 1) this.#staging.set(block.bytes, index * METADATA_BLOCK_BYTES);
    }
    const first = dirty[at]!;
    const bytes = length === 1 ? first.bytes : this.#staging.subarray(0, length * METADATA_BLOCK_BYTES);
    this.#io.write(first.blocknr * METADATA_BLOCK_BYTES, bytes);
    for (let index = 0; index < length; index++) dirty[at + index]!.dirty = false;
    this.#dirtyCount -= length;
  }

  #checkRange(blocknr: number, kind: string): void {
    if (blocknr < 0 || blocknr >= this.nrBlocks) {
      throw damaged(blocknr, kind, `lies outside the metadata device of ${this.nrBlocks} blocks`, "EUCLEAN");
    }
  }

  #refuseIfReadOnly(): void {
    if (this.#isReadOnly) {
      throw new StateError("EPERM", "the metadata is read-only now", {
        hint: "see the mode with 'udm pool status'; a pool that needs a check must be repaired first",
      });
    }
  }
}

/** Whether a thrown value carries one of these codes. */
export function hasCode(error: unknown, ...codes: readonly Code[]): boolean {
  return error instanceof UdmError && codes.includes(error.code);
}
