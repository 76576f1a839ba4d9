/**
 * Blocks of a metadata device, read in bulk and trusted in nothing. Blocks are looked at as 32-bit words in place; what
 * was found wrong with a block is kept as one byte, so a block met again costs no second checksum.
 */
import { endianness } from "node:os";
import { crc32c } from "../../../bytes/index.js";
import { invariant, StateError } from "../../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../../io/index.js";
import { MAX_METADATA_BLOCKS, METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { KIND_SALT, type Kind, Problem } from "./problems.js";

/** 32-bit words of a block. */
export const BLOCK_WORDS = METADATA_BLOCK_BYTES / 4;
/** Most blocks one system call reads. */
const SPAN_BLOCKS = 256;
/** A hole of this many blocks between two wanted ones is read too: cheaper than another call. */
const GAP_BLOCKS = 4;
const CSUM_START = 4;
/** Kinds and problems share a byte: kinds below; a problem on top of the kind, times this, that the block was looked at as. */
const PROBLEM_BASE = 16;
const ANY_KIND = 15 * PROBLEM_BASE;

/** Called with a block: its words begin at `words[at]`. They are valid until the call returns. */
export type BlockVisitor = (blocknr: number, words: Uint32Array, at: number) => void;

/** Blocks in memory, one slot behind the other. */
export class BlockBuffer {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly view: DataView;

  constructor(readonly capacity: number) {
    const memory = new ArrayBuffer(capacity * METADATA_BLOCK_BYTES);
    this.bytes = new Uint8Array(memory);
    this.words = new Uint32Array(memory);
    this.view = new DataView(memory);
  }

  slot(index: number): Uint8Array {
    return this.bytes.subarray(index * METADATA_BLOCK_BYTES, (index + 1) * METADATA_BLOCK_BYTES);
  }
}

export class BlockStore {
  readonly name: string;
  /** Whole blocks of the device, at most what the format can use. */
  readonly nrBlocks: number;
  readonly #io: SyncIo;
  /** By block: 0 not looked at, a kind it is sound as, or PROBLEM_BASE * kind + problem. */
  readonly #state: Uint8Array;
  readonly #span: BlockBuffer;
  #blocksRead = 0;

  /** @throws StateError EINVAL when the device is too small to hold a superblock, EOPNOTSUPP when it cannot be read at once */
  constructor(device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">) {
    invariant(endianness() === "LE", "blocks are looked at in place, which wants a little-endian machine");
    this.name = device.name;
    this.nrBlocks = Math.min(Math.floor(device.sizeBytes / METADATA_BLOCK_BYTES), MAX_METADATA_BLOCKS);
    if (device.sync === undefined) {
      throw new StateError("EOPNOTSUPP", `${device.name}: metadata must lie on a file or block device`);
    }
    if (this.nrBlocks === 0) {
      throw new StateError("EINVAL", `${device.name}: ${device.sizeBytes} bytes, wanted 4096 or more`, {
        hint: "this is no metadata device; name the pool's metadata, not its data",
      });
    }
    this.#io = device.sync;
    this.#span = new BlockBuffer(Math.min(SPAN_BLOCKS, this.nrBlocks));
    this.#state = new Uint8Array(this.nrBlocks);
  }

  /** For progress and tests: blocks that were read from the device so far, each time anew. */
  get blocksRead(): number {
    return this.#blocksRead;
  }

  /**
   * Reads blocks into slots from `slot` on, whatever they hold. `list` ascends; slots keep its order.
   * @returns nothing; blocks that cannot be read are filled with zeros and marked
   */
  load(list: Uint32Array, from: number, to: number, buffer: BlockBuffer, slot = 0): void {
    for (let index = from; index < to; ) {
      const first = list[index]!;
      let end = index + 1;
      while (end < to && list[end] === list[end - 1]! + 1) end++;
      const count = Math.min(end - index, buffer.capacity - slot);
      this.#readRun(first, count, buffer, slot);
      slot += count;
      index += count;
    }
  }

  /**
   * Visits blocks in the order of `list`, which ascends; near ones are read together.
   * @param stop asked before each read; true ends the walk. @returns index of the first block that was not visited
   */
  visit(list: Uint32Array, from: number, to: number, visitor: BlockVisitor, stop?: () => boolean): number {
    const { words } = this.#span;
    let index = from;
    while (index < to) {
      if (stop?.() === true) return index;
      const first = list[index]!;
      let end = index + 1;
      while (end < to && list[end]! - first < SPAN_BLOCKS && list[end]! - list[end - 1]! <= GAP_BLOCKS) end++;
      this.#readRun(first, list[end - 1]! - first + 1, this.#span, 0);
      for (; index < end; index++) visitor(list[index]!, words, (list[index]! - first) * BLOCK_WORDS);
    }
    return index;
  }

  /** One block into slot 0 of a buffer. @returns false when it lies outside or cannot be read */
  loadOne(blocknr: number, buffer: BlockBuffer, slot = 0): boolean {
    if (!this.isInside(blocknr)) return false;
    this.#readRun(blocknr, 1, buffer, slot);
    return this.problemOf(blocknr) !== Problem.Unreadable;
  }

  isInside(blocknr: number): boolean {
    return Number.isInteger(blocknr) && blocknr >= 0 && blocknr < this.nrBlocks;
  }

  /** What a block was found to be: its problem, or Problem.None when it is sound or was not looked at. */
  problemOf(blocknr: number): Problem {
    const state = this.#state[blocknr]!;
    return state >= PROBLEM_BASE ? state % PROBLEM_BASE : Problem.None;
  }

  /** The kind a block is sound as; undefined when it is not, or was not looked at. */
  kindOf(blocknr: number): Kind | undefined {
    const state = this.#state[blocknr]!;
    return state === 0 || state >= PROBLEM_BASE ? undefined : state;
  }

  /**
   * Checks number and checksum of a loaded block as one of `kind`, once; `content` looks at the rest and is called only
   * for blocks that pass. A block that is sound as another kind is a problem here, and stays sound there; one that was
   * asked for as what it is not is looked at again as what it may be.
   */
  check(
    blocknr: number,
    kind: Kind,
    buffer: { readonly words: Uint32Array; readonly view: DataView },
    at: number,
    content?: (words: Uint32Array, at: number) => Problem,
  ): Problem {
    const known = this.#state[blocknr]!;
    if (known === kind) return Problem.None;
    if (known >= PROBLEM_BASE) {
      const before = known % PROBLEM_BASE;
      // Only the checksum depends on the kind.
      if (before !== Problem.Checksum || known - before === PROBLEM_BASE * kind) return before;
    } else if (known !== 0) return Problem.Kind;
    let problem = checkHead(blocknr, kind, buffer.words, at, buffer.view);
    if (problem === Problem.None && content !== undefined) problem = content(buffer.words, at);
    // The size of values is a matter of the tree: for another one the node may be right.
    if (problem === Problem.ValueSize) return problem;
    if (problem === Problem.None) this.#state[blocknr] = kind;
    else if (known === 0) this.#state[blocknr] = PROBLEM_BASE * kind + problem;
    return problem;
  }

  /** Buffer behind `visit`, for `check` inside a visitor. */
  get visited(): BlockBuffer {
    return this.#span;
  }

  #readRun(first: number, count: number, buffer: BlockBuffer, slot: number): void {
    const start = slot * METADATA_BLOCK_BYTES;
    this.#blocksRead += count;
    try {
      this.#io.read(first * METADATA_BLOCK_BYTES, buffer.bytes.subarray(start, start + count * METADATA_BLOCK_BYTES));
    } catch {
      for (let index = 0; index < count; index++) this.#readAlone(first + index, buffer.slot(slot + index));
    }
  }

  /** One of them cannot be read; which one, and the others, are found out singly. */
  #readAlone(blocknr: number, bytes: Uint8Array): void {
    try {
      this.#io.read(blocknr * METADATA_BLOCK_BYTES, bytes);
    } catch {
      bytes.fill(0);
      this.#state[blocknr] = ANY_KIND + Problem.Unreadable;
    }
  }
}

/** Block number and checksum. */
export function checkHead(blocknr: number, kind: Kind, words: Uint32Array, at: number, view: DataView): Problem {
  const stored = words[at]!;
  const computed = crc32c(view, at * 4 + CSUM_START, (at + BLOCK_WORDS) * 4);
  if ((computed ^ KIND_SALT[kind]) >>> 0 !== stored) return Problem.Checksum;
  if (words[at + 2] !== blocknr || words[at + 3] !== 0) return Problem.Number;
  return Problem.None;
}

/** The checksum that a block has as one of a kind. */
export function checksumAs(kind: Kind, buffer: BlockBuffer, slot = 0): number {
  const start = slot * METADATA_BLOCK_BYTES;
  return (crc32c(buffer.view, start + CSUM_START, start + METADATA_BLOCK_BYTES) ^ KIND_SALT[kind]) >>> 0;
}
