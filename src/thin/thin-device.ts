/**
 * A thin device: reads, writes, discards and flushes, mapped to runs of data blocks. What is mapped and not shared goes
 * to the data device at once, neighbouring blocks as one transfer, without a promise when the data device is synchronous.
 * The rest takes the long way: new blocks are filled where the write does not cover them (zeros, the shared block, the
 * external origin), and only then mapped. Source: thin-engine section 7.
 */
import { IoError, StateError, type UdmError } from "../errors/index.js";
import type { BlockDevice, Extent, Located } from "../io/index.js";
import { Lookup, type OpenDevice } from "./metadata.js";
import type { Pool } from "./pool.js";
import type { RangeLocks } from "./range-locks.js";

export interface ThinOptions {
  readonly name: string;
  readonly sizeBytes: number;
  /** Read where nothing is mapped; its size is taken as it is now. */
  readonly externalOrigin?: BlockDevice;
}

/** A stretch of a device, and whose its blocks are. */
export interface Sharing {
  readonly offset: number;
  readonly length: number;
  readonly kind: "hole" | "own" | "shared";
}

const SECTOR_BYTES = 512;
/** Data blocks provisioned, and bytes copied or zeroed, in one go. */
const MAX_GROUP_BLOCKS = 1024;
const CHUNK_BYTES = 1 << 20;
const ZEROS = new Uint8Array(CHUNK_BYTES);
/** Blocks up to this size are copied or zeroed at once, and writes up to this are made at once: some tens of microseconds. */
const MAX_QUICK_BLOCK_BYTES = 256 * 1024;
const MAX_QUICK_BYTES = 512 * 1024;

/** Where the parts of a new block come from that a write does not cover. */
type Source =
  | { readonly kind: "zeros" }
  | { readonly kind: "nothing" }
  | { readonly kind: "block"; readonly block: number }
  | { readonly kind: "origin" };

export class ThinDevice implements BlockDevice {
  readonly name: string;
  readonly sync = undefined;
  readonly isReadOnly = false;
  readonly #pool: Pool;
  readonly #device: OpenDevice;
  /** Shared by all who have this device open. */
  readonly #locks: RangeLocks;
  readonly #lookup = new Lookup();
  readonly #origin: BlockDevice | undefined;
  #originBytes: number;
  #sizeBytes: number;
  #isClosed = false;
  /** Under way, or waiting for a resume or for space. */
  #requests = 0;
  /** A block that is put together before it is written. */
  #scratch: Uint8Array | undefined;

  constructor(pool: Pool, device: OpenDevice, options: ThinOptions) {
    this.#pool = pool;
    this.#device = device;
    this.#locks = device.locks;
    this.name = options.name;
    this.#sizeBytes = options.sizeBytes;
    this.#origin = options.externalOrigin;
    this.#originBytes = options.externalOrigin?.sizeBytes ?? 0;
  }

  get id(): number {
    return this.#device.id;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get logicalBlockBytes(): number {
    return this.#pool.data.logicalBlockBytes;
  }

  get discardGranularityBytes(): number {
    return this.#pool.config.features.ignoreDiscard ? 0 : this.#pool.blockBytes;
  }

  /** What is not mapped here shows another device. */
  get hasExternalOrigin(): boolean {
    return this.#origin !== undefined;
  }

  /** Zeros are holes, where holes are not another device's bytes. */
  get zeroGranularityBytes(): number {
    return this.#canUnmapForZeros() ? this.#pool.blockBytes : 0;
  }

  get mappedBlocks(): number {
    return this.#device.mappedBlocks;
  }

  /** `MAPPED_SECTORS HIGHEST_SECTOR`, or the kernel's word for trouble. Source: thin-engine 8.3. */
  statusParams(): string {
    if (this.#pool.mode === "fail") return "Fail";
    const blockSectors = this.#pool.config.dataBlockSectors;
    try {
      const highest = this.#pool.metadata.highestMappedBlock(this.id);
      const last = highest === undefined ? "-" : (highest + 1) * blockSectors - 1;
      return `${this.#device.mappedBlocks * blockSectors} ${last}`;
    } catch {
      return "Error";
    }
  }

  /** Nothing of the metadata changes: a thin device's size is its table's alone. */
  resize(sizeBytes: number): void {
    this.#sizeBytes = sizeBytes;
  }

  async refreshSize(): Promise<void> {
    await this.#origin?.refreshSize();
    this.#originBytes = this.#origin?.sizeBytes ?? 0;
  }

  // --- BlockDevice ---

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.#checkRange("read", offset, buffer.length);
    const done = this.tryRead(offset, buffer);
    if (done === buffer.length) return;
    await this.#request(() => this.#readRest(offset + done, buffer.subarray(done)));
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    this.#checkRange("write", offset, buffer.length);
    const done = this.tryWrite(offset, buffer);
    if (done < buffer.length) await this.#request(() => this.#writeRest(offset + done, buffer.subarray(done)));
    if (options?.fua === true) await this.flush();
  }

  /** What was written to this device before is durable when it resolves. @throws IoError EIO */
  async flush(): Promise<void> {
    await this.#request(async () => {
      // A commit under way takes along what is mapped; whoever waited for it has only data left to flush.
      while (this.#pool.isCommitting) await this.#pool.untilCommitted();
      this.#refuseFailed();
      if (this.#device.isAborted) {
        throw new IoError(
          "EIO",
          `${this.name}: writes since the last commit were lost when the pool's transaction was aborted`,
          {
            hint: "check the pool, then read back what was written",
          },
        );
      }
      if (this.#device.isChanged) await this.#pool.commit();
      else await this.#pool.data.flush();
    });
  }

  /** Unmaps the whole blocks in the range. Parts of blocks are kept. */
  async discard(offset: number, length: number): Promise<void> {
    this.#checkRange("discard", offset, length);
    if (this.#pool.config.features.ignoreDiscard) {
      throw new StateError("EOPNOTSUPP", `${this.name}: the pool ignores discards`, {
        hint: "reload the pool without ignore_discard",
      });
    }
    const { blockBytes } = this.#pool;
    const begin = Math.ceil(offset / blockBytes);
    const end = Math.floor((offset + length) / blockBytes);
    if (begin >= end) return;
    await this.#request(async () => {
      this.#refuseFailed();
      if (!this.#pool.canChangeMetadata) return;
      const release = await this.#locks.take(begin, end);
      try {
        await this.#discardBlocks(begin, end);
      } finally {
        release();
      }
    });
  }

  /** Whole blocks are unmapped where that reads as zeros, the rest is written. */
  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#checkRange("write", offset, length);
    const { blockBytes } = this.#pool;
    const begin = this.#canUnmapForZeros() ? Math.ceil(offset / blockBytes) * blockBytes : offset + length;
    const end = Math.floor((offset + length) / blockBytes) * blockBytes;
    if (begin >= end) return this.#writeZerosOut(offset, offset + length);
    await this.#writeZerosOut(offset, begin);
    await this.discard(begin, end - begin);
    await this.#writeZerosOut(end, offset + length);
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.#checkRange("map", offset, length);
    const { blockBytes, metadata } = this.#pool;
    const end = offset + length;
    const found: Extent[] = [];
    let at = offset;
    const gap = async (to: number) => {
      if (to <= at) return;
      for (const extent of await this.#originExtents(at, to)) push(found, extent);
      at = to;
    };
    const runs: [number, number][] = [];
    metadata.forEachMapping(
      this.id,
      Math.floor(offset / blockBytes),
      Math.ceil(end / blockBytes),
      (virtualBlock, _data, _time, count) => {
        runs.push([virtualBlock * blockBytes, (virtualBlock + count) * blockBytes]);
        return true;
      },
    );
    for (const [from, to] of runs) {
      await gap(Math.max(from, offset));
      const stop = Math.min(to, end);
      if (stop > at) push(found, { offset: at, length: stop - at, kind: "data" });
      at = Math.max(at, stop);
    }
    await gap(end);
    return found;
  }

  /**
   * Stretches of a range in order: holes, blocks of this device alone, blocks that it may have in common with others, so that
   * a write makes a copy. As the kernel, it goes by the time of the last snapshot: the other may have been deleted since.
   */
  sharing(offset: number, length: number): readonly Sharing[] {
    this.#checkRange("map", offset, length);
    const { blockBytes, metadata } = this.#pool;
    const end = offset + length;
    const found: Sharing[] = [];
    let at = offset;
    const upTo = (to: number, kind: Sharing["kind"]) => {
      const stop = Math.min(to, end);
      if (stop <= at) return;
      const last = found.at(-1);
      if (last?.kind === kind) found[found.length - 1] = { ...last, length: last.length + stop - at };
      else found.push({ offset: at, length: stop - at, kind });
      at = stop;
    };
    metadata.forEachMapping(
      this.id,
      Math.floor(offset / blockBytes),
      Math.ceil(end / blockBytes),
      (virtualBlock, _data, time, count) => {
        upTo(virtualBlock * blockBytes, "hole");
        upTo((virtualBlock + count) * blockBytes, this.#device.snapshottedTime > time ? "shared" : "own");
        return true;
      },
    );
    upTo(end, "hole");
    return found;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#pool.forgetThin(this);
    if (this.#requests === 0) this.#pool.metadata.closeDevice(this.#device);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // --- without waiting ---

  /**
   * Reads as much as can be read at once: mapped blocks and holes, as long as the data device is synchronous and nobody
   * is changing these blocks. @returns bytes done from the front
   */
  tryRead(offset: number, buffer: Uint8Array): number {
    const io = this.#pool.dataSync;
    if (io === undefined || !this.#isQuiet()) return 0;
    const { blockBytes } = this.#pool;
    let done = 0;
    while (done < buffer.length) {
      const at = offset + done;
      const { inBlock, bytes } = this.#lookUp(at, buffer.length - done);
      const { isMapped, block } = this.#lookup;
      const part = bytes === buffer.length ? buffer : buffer.subarray(done, done + bytes);
      if (isMapped) io.read(block * blockBytes + inBlock, part);
      else if (this.#origin === undefined) part.fill(0);
      else return done;
      done += bytes;
    }
    return done;
  }

  /**
   * Writes as much as can be written at once: into blocks that are mapped and not shared, and into new ones as long as they
   * are to be had without a commit and what they need besides is little. @returns bytes done from the front
   */
  tryWrite(offset: number, buffer: Uint8Array): number {
    const io = this.#pool.dataSync;
    if (io === undefined || !this.#isQuiet()) return 0;
    const { blockBytes } = this.#pool;
    let done = 0;
    while (done < buffer.length) {
      const { inBlock, bytes } = this.#lookUp(offset + done, buffer.length - done);
      const { isMapped, isShared, block } = this.#lookup;
      const part = bytes === buffer.length ? buffer : buffer.subarray(done, done + bytes);
      if (isMapped && !isShared) {
        io.write(block * blockBytes + inBlock, part);
        done += bytes;
        continue;
      }
      const provisioned = this.#tryProvision(offset + done, part, isMapped ? block : undefined);
      if (provisioned === 0) return done;
      done += provisioned;
    }
    return done;
  }

  /** As `#provision`, where nothing has to be waited for. @returns bytes written, 0 when it takes the long way */
  #tryProvision(offset: number, buffer: Uint8Array, sharedFrom: number | undefined): number {
    const pool = this.#pool;
    const { blockBytes } = pool;
    if (pool.mode !== "write" || pool.isCommitting || this.#originBytes > 0) return 0;
    if (blockBytes > MAX_QUICK_BLOCK_BYTES || buffer.length > MAX_QUICK_BYTES) return 0;
    // Others may still be reading what is shared, or writing what this one must not overtake.
    if (sharedFrom !== undefined && !pool.isDataIdle) return 0;
    const first = Math.floor(offset / blockBytes);
    const head = offset - first * blockBytes;
    const blocks: number[] = [];
    pool.allocateAtOnce(Math.ceil((head + buffer.length) / blockBytes), blocks);
    if (blocks.length === 0) return 0;
    const bytes = Math.min(buffer.length, blocks.length * blockBytes - head);
    try {
      this.#fillAtOnce(head, bytes === buffer.length ? buffer : buffer.subarray(0, bytes), blocks, sharedFrom);
      pool.change("dm_thin_insert_block", () => pool.metadata.insertMappings(this.#device, first, blocks));
    } catch (error) {
      this.#free(blocks);
      throw error;
    }
    return bytes;
  }

  /** Writes `buffer` into new blocks, `head` bytes behind the beginning of the first, and what it leaves uncovered. */
  #fillAtOnce(head: number, buffer: Uint8Array, blocks: readonly number[], sharedFrom: number | undefined): void {
    const { blockBytes } = this.#pool;
    const io = this.#pool.dataSync!;
    for (let index = 0; index < blocks.length; ) {
      const start = index * blockBytes - head;
      const target = blocks[index]! * blockBytes;
      if (start < 0 || start + blockBytes > buffer.length) {
        const from = Math.max(0, start);
        const part = buffer.subarray(from, Math.min(buffer.length, start + blockBytes));
        this.#fillPartly(target, from - start, part, sharedFrom === undefined ? undefined : sharedFrom + index);
        index++;
        continue;
      }
      let run = 1;
      while (blocks[index + run] === blocks[index]! + run && start + (run + 1) * blockBytes <= buffer.length) run++;
      io.write(target, buffer.subarray(start, start + run * blockBytes));
      index += run;
    }
  }

  /** A block of which `part` covers only some, at `at`. */
  #fillPartly(target: number, at: number, part: Uint8Array, sharedBlock: number | undefined): void {
    const { blockBytes, config } = this.#pool;
    const io = this.#pool.dataSync!;
    if (sharedBlock === undefined) {
      if (config.features.skipBlockZeroing || io.knownZeroes(target, blockBytes) === blockBytes) {
        io.write(target + at, part);
        return;
      }
    }
    this.#scratch ??= new Uint8Array(blockBytes);
    if (sharedBlock === undefined) this.#scratch.fill(0);
    else io.read(sharedBlock * blockBytes, this.#scratch);
    this.#scratch.set(part, at);
    io.write(target, this.#scratch);
  }

  // --- reading ---

  async #readRest(offset: number, buffer: Uint8Array): Promise<void> {
    const { blockBytes, data } = this.#pool;
    let done = 0;
    while (done < buffer.length) {
      this.#refuseFailed();
      const at = offset + done;
      if (!this.#locks.isIdle) {
        await this.#locks.untilFree(Math.floor(at / blockBytes), Math.ceil((offset + buffer.length) / blockBytes));
        this.#refuseFailed();
      }
      const { inBlock, bytes } = this.#lookUp(at, buffer.length - done);
      const { isMapped, block } = this.#lookup;
      const part = buffer.subarray(done, done + bytes);
      if (isMapped) await this.#pool.track(data.read(block * blockBytes + inBlock, part));
      else await this.#readOrigin(at, part);
      done += bytes;
    }
  }

  /** Bytes of the external origin; zeros without one and behind its end. */
  async #readOrigin(offset: number, buffer: Uint8Array): Promise<void> {
    const available = Math.max(0, Math.min(buffer.length, this.#originBytes - offset));
    buffer.fill(0, available);
    if (available > 0) await this.#origin!.read(offset, buffer.subarray(0, available));
  }

  async #originExtents(from: number, to: number): Promise<readonly Extent[]> {
    const end = Math.min(to, this.#originBytes);
    const inside = end > from ? await this.#origin!.extents(from, end - from) : [];
    const rest = Math.max(from, end);
    return to > rest ? [...inside, { offset: rest, length: to - rest, kind: "zeros" }] : inside;
  }

  /** Undefined also where an external origin shows through. */
  locate(offset: number, length: number): readonly Located[] | undefined {
    this.#checkRange("map", offset, length);
    const { blockBytes, metadata, data } = this.#pool;
    if (this.#origin !== undefined || data.locate === undefined || !this.#isQuiet()) return undefined;
    const end = offset + length;
    const found: Located[] = [];
    let canTell = true;
    metadata.forEachMapping(
      this.id,
      Math.floor(offset / blockBytes),
      Math.ceil(end / blockBytes),
      (virtualBlock, dataBlock, _time, count) => {
        const from = Math.max(offset, virtualBlock * blockBytes);
        const to = Math.min(end, (virtualBlock + count) * blockBytes);
        const shift = (dataBlock - virtualBlock) * blockBytes;
        const below = data.locate?.(from + shift, to - from);
        if (below === undefined) canTell = false;
        else for (const each of below) found.push({ ...each, offset: each.offset - shift });
        return canTell;
      },
    );
    return canTell ? found : undefined;
  }

  // --- writing ---

  async #writeRest(offset: number, buffer: Uint8Array): Promise<void> {
    const { blockBytes } = this.#pool;
    const first = Math.floor(offset / blockBytes);
    const last = Math.ceil((offset + buffer.length) / blockBytes);
    for (let done = 0; done < buffer.length; ) {
      // Short locks: a long write does not hold up others for its whole length, and waits for space without one.
      const begin = Math.max(first, Math.floor((offset + done) / blockBytes));
      const release = await this.#locks.take(begin, Math.min(last, begin + MAX_GROUP_BLOCKS));
      let wrote = 0;
      try {
        wrote = await this.#writeSome(offset + done, buffer.subarray(done));
      } finally {
        release();
      }
      done += wrote;
      if (wrote === 0) await this.#waitForSpace();
    }
  }

  /** Writes a run of blocks that are alike. @returns bytes written, 0 when space must be waited for */
  async #writeSome(offset: number, buffer: Uint8Array): Promise<number> {
    this.#refuseFailed();
    const { blockBytes, data } = this.#pool;
    const { inBlock, bytes } = this.#lookUp(
      offset,
      Math.min(buffer.length, MAX_GROUP_BLOCKS * blockBytes - (offset % blockBytes)),
    );
    const { isMapped, isShared, block } = this.#lookup;
    const part = buffer.subarray(0, bytes);
    if (isMapped && !isShared) {
      await this.#pool.track(data.write(block * blockBytes + inBlock, part));
      return bytes;
    }
    if (this.#pool.mode !== "write") {
      if (this.#mayWait()) return 0;
      throw this.#pool.writeRefusal();
    }
    return this.#provision(offset, part, isMapped ? block : undefined);
  }

  /** Gives new blocks to a stretch that has none of its own. @param sharedFrom first of the blocks shared so far */
  async #provision(offset: number, buffer: Uint8Array, sharedFrom: number | undefined): Promise<number> {
    const pool = this.#pool;
    const { blockBytes } = pool;
    const first = Math.floor(offset / blockBytes);
    const wanted = Math.ceil((offset + buffer.length) / blockBytes) - first;
    while (pool.isCommitting) await pool.untilCommitted();
    const blocks: number[] = [];
    let writing = false;
    pool.takeInHand(blocks);
    try {
      pool.allocateAtOnce(wanted, blocks);
      if (blocks.length === 0) {
        await pool.allocate(blocks);
        while (pool.isCommitting) await pool.untilCommitted();
        if (blocks.length > 0) pool.allocateAtOnce(wanted, blocks);
      }
      if (blocks.length === 0) {
        if (this.#mayWait()) return 0;
        throw pool.writeRefusal();
      }
      const bytes = Math.min(buffer.length, (first + blocks.length) * blockBytes - offset);
      writing = true;
      await this.#fillBlocks(offset, buffer.subarray(0, bytes), blocks, sharedFrom);
      while (pool.isCommitting) await pool.untilCommitted();
      if (sharedFrom !== undefined) await pool.untilDataIdle();
      while (pool.isCommitting) await pool.untilCommitted();
      pool.change("dm_thin_insert_block", () => pool.metadata.insertMappings(this.#device, first, blocks));
      return bytes;
    } catch (error) {
      if (writing) await this.#giveBack(blocks);
      throw error;
    } finally {
      pool.putDown(blocks);
    }
  }

  /** Blocks that were taken but could not be filled or mapped are nobody's: they are freed. */
  async #giveBack(blocks: readonly number[]): Promise<void> {
    while (this.#pool.isCommitting) await this.#pool.untilCommitted();
    this.#free(blocks);
    this.#pool.putDown(blocks);
  }

  #free(blocks: readonly number[]): void {
    const pool = this.#pool;
    if (!pool.canChangeMetadata) return;
    pool.change("dm_pool_dec_data_range", () => {
      for (const block of blocks) pool.metadata.decDataBlocks(block, block + 1);
    });
  }

  /** Writes `buffer` into new blocks, and what it leaves uncovered at either end. */
  async #fillBlocks(
    offset: number,
    buffer: Uint8Array,
    blocks: readonly number[],
    sharedFrom: number | undefined,
  ): Promise<void> {
    const { blockBytes } = this.#pool;
    const head = offset % blockBytes;
    const tail = (blockBytes - ((offset + buffer.length) % blockBytes)) % blockBytes;
    const lastIndex = blocks.length - 1;
    const start = offset - head;
    if (head > 0) {
      await this.#fillGap(blocks[0]!, { from: 0, to: head, blockStart: start }, this.#sourceOf(sharedFrom, 0));
    }
    for (let index = 0; index < blocks.length; ) {
      let run = 1;
      while (blocks[index + run] === blocks[index]! + run) run++;
      const inBlock = index === 0 ? head : 0;
      const from = Math.max(0, index * blockBytes - head);
      const to = Math.min(buffer.length, (index + run) * blockBytes - head);
      await this.#pool.track(this.#pool.data.write(blocks[index]! * blockBytes + inBlock, buffer.subarray(from, to)));
      index += run;
    }
    if (tail > 0) {
      const gap = { from: blockBytes - tail, to: blockBytes, blockStart: start + lastIndex * blockBytes };
      await this.#fillGap(blocks[lastIndex]!, gap, this.#sourceOf(sharedFrom, lastIndex));
    }
  }

  #sourceOf(sharedFrom: number | undefined, index: number): Source {
    if (sharedFrom !== undefined) return { kind: "block", block: sharedFrom + index };
    if (this.#originBytes > 0) return { kind: "origin" };
    return { kind: this.#pool.config.features.skipBlockZeroing ? "nothing" : "zeros" };
  }

  /** Fills bytes [from, to) of a new data block. @param gap `blockStart`: where the block lies in this device */
  async #fillGap(
    block: number,
    gap: { readonly from: number; readonly to: number; readonly blockStart: number },
    source: Source,
  ): Promise<void> {
    if (source.kind === "nothing") return;
    const { blockBytes, data, config } = this.#pool;
    const scratch = source.kind === "zeros" ? ZEROS : new Uint8Array(Math.min(CHUNK_BYTES, gap.to - gap.from));
    for (let at = gap.from; at < gap.to; at += CHUNK_BYTES) {
      let length = Math.min(CHUNK_BYTES, gap.to - at);
      const target = block * blockBytes + at;
      let isZero = source.kind === "zeros";
      if (source.kind === "block") {
        await this.#pool.track(data.read(source.block * blockBytes + at, scratch.subarray(0, length)));
      } else if (source.kind === "origin") {
        const available = Math.max(0, Math.min(length, this.#originBytes - gap.blockStart - at));
        isZero = available === 0;
        if (config.features.skipBlockZeroing) length = available;
        if (length === 0) continue;
        await this.#readOrigin(gap.blockStart + at, scratch.subarray(0, length));
      }
      if (isZero && (this.#pool.dataSync?.knownZeroes(target, length) ?? 0) >= length) continue;
      // A device far away makes zeros from a few words.
      const isCheap = isZero && this.#pool.dataSync === undefined;
      await this.#pool.track(
        isCheap ? data.writeZeroes(target, length) : data.write(target, scratch.subarray(0, length)),
      );
    }
  }

  #canUnmapForZeros(): boolean {
    const { ignoreDiscard, readOnly } = this.#pool.config.features;
    return this.#origin === undefined && !ignoreDiscard && !readOnly && this.#pool.canChangeMetadata;
  }

  #mayWait(): boolean {
    return this.#pool.keepsWrites;
  }

  async #waitForSpace(): Promise<void> {
    if (this.#mayWait()) await this.#pool.waitForSpace();
  }

  /** Where nothing is mapped zeros are there already. */
  async #writeZerosOut(from: number, to: number): Promise<void> {
    for (let at = from; at < to; ) {
      let bytes = Math.min(CHUNK_BYTES, to - at);
      let isZero = false;
      if (this.#originBytes === 0 && this.#isQuiet()) {
        bytes = this.#lookUp(at, to - at).bytes;
        isZero = !this.#lookup.isMapped;
        if (!isZero) bytes = Math.min(CHUNK_BYTES, bytes);
      }
      if (!isZero) await this.write(at, ZEROS.subarray(0, bytes));
      at += bytes;
    }
  }

  // --- discarding ---

  async #discardBlocks(begin: number, end: number): Promise<void> {
    const pool = this.#pool;
    // What is being read or written now must not be freed, and then reused, under it.
    await pool.untilDataIdle();
    while (pool.isCommitting) await pool.untilCommitted();
    this.#refuseFailed();
    if (!pool.canChangeMetadata) return;
    if (!pool.passesDiscardsDown) {
      // Also where nothing is mapped: the kernel's transaction goes on as if something were.
      pool.change("dm_thin_remove_range", () => pool.metadata.removeMappings(this.#device, begin, end));
      return;
    }
    for (let at = begin; at < end; ) {
      while (pool.isCommitting) await pool.untilCommitted();
      if (!pool.canChangeMetadata) return;
      pool.metadata.find(this.#device, at, end - at, this.#lookup);
      const { isMapped, isShared, block, count } = this.#lookup;
      if (isMapped) await this.#discardRun({ at, block, count, isShared });
      at += count;
    }
  }

  /** Unmaps a run, holding its blocks while they are discarded below: nobody may get them before. */
  async #discardRun(run: {
    readonly at: number;
    readonly block: number;
    readonly count: number;
    readonly isShared: boolean;
  }): Promise<void> {
    const pool = this.#pool;
    const { metadata } = pool;
    const { at, block, count, isShared } = run;
    const held = Array.from({ length: count }, (_, index) => block + index);
    try {
      pool.change("dm_thin_remove_range", () => {
        metadata.removeMappings(this.#device, at, at + count);
        metadata.incDataBlocks(block, block + count);
        pool.takeInHand(held);
      });
      for (const [from, to] of isShared ? this.#unowned(block, block + count) : [[block, block + count] as const]) {
        // The data is unmapped whether or not the device below drops it.
        await pool
          .track(pool.data.discard(from * pool.blockBytes, (to - from) * pool.blockBytes))
          .catch(() => undefined);
      }
      while (pool.isCommitting) await pool.untilCommitted();
      if (!pool.canChangeMetadata) return;
      pool.change("dm_pool_dec_data_range", () => {
        metadata.decDataBlocks(block, block + count);
        this.#device.isChanged = true;
      });
    } finally {
      pool.putDown(held);
    }
  }

  /** Stretches of blocks that nobody but the holder owns. */
  #unowned(begin: number, end: number): [number, number][] {
    const found: [number, number][] = [];
    for (let block = begin; block < end; block++) {
      if (this.#pool.metadata.dataBlockCount(block) > 1) continue;
      const last = found.at(-1);
      if (last !== undefined && last[1] === block) last[1]++;
      else found.push([block, block + 1]);
    }
    return found;
  }

  // --- helpers ---

  /** Nothing stands in the way of I/O that does not wait. */
  #isQuiet(): boolean {
    return !this.#pool.isSuspended && this.#pool.mode !== "fail" && this.#locks.isIdle && !this.#isClosed;
  }

  /** Fills the lookup for a byte offset. @returns how many bytes of `max` lie in the run, and where they begin in its first block */
  #lookUp(offset: number, max: number): { inBlock: number; bytes: number } {
    const { blockBytes } = this.#pool;
    const virtualBlock = Math.floor(offset / blockBytes);
    const inBlock = offset - virtualBlock * blockBytes;
    const blocks = Math.ceil((inBlock + max) / blockBytes);
    this.#pool.metadata.find(this.#device, virtualBlock, blocks, this.#lookup);
    return { inBlock, bytes: Math.min(max, this.#lookup.count * blockBytes - inBlock) };
  }

  async #request(run: () => Promise<void>): Promise<void> {
    if (this.#isClosed) throw new StateError("ENODEV", `${this.name}: the thin device is closed`);
    this.#requests++;
    try {
      await this.#pool.beginRequest();
      try {
        await run();
      } finally {
        this.#pool.endRequest();
      }
    } finally {
      this.#requests--;
      // Requests outlive a close: what they map is still noted down for the device.
      if (this.#isClosed && this.#requests === 0) this.#pool.metadata.closeDevice(this.#device);
    }
  }

  #refuseFailed(): void {
    if (this.#pool.mode === "fail") throw failed(this.name);
  }

  #checkRange(what: string, offset: number, length: number): void {
    if (
      offset >= 0 &&
      length >= 0 &&
      offset % SECTOR_BYTES === 0 &&
      length % SECTOR_BYTES === 0 &&
      offset + length <= this.#sizeBytes
    )
      return;
    throw new StateError(
      "EINVAL",
      `${this.name}: ${what} of ${length} bytes at ${offset} ${offset + length > this.#sizeBytes ? `goes past the end at ${this.#sizeBytes}` : "is not in whole sectors of 512 bytes"}`,
      { hint: "grow the device with 'udm thin resize', or give a range inside it" },
    );
  }
}

function failed(name: string): UdmError {
  return new IoError("EIO", `${name}: the pool has failed`, {
    hint: "remove the pool, repair its metadata, activate it again",
  });
}

/** Appends an extent, joined with the last one when both are of a kind. */
function push(extents: Extent[], extent: Extent): void {
  const last = extents.at(-1);
  if (last !== undefined && last.kind === extent.kind && last.offset + last.length === extent.offset) {
    extents[extents.length - 1] = { ...last, length: last.length + extent.length };
  } else extents.push(extent);
}
