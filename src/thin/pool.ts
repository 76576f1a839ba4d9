/**
 * A pool in use: the metadata, the data device, the mode, and the rules for when a transaction is committed. Thin devices
 * (thin-device.ts) do the I/O and come here for blocks, commits and space.
 *
 * Order that keeps data: what a mapping points at is written before the mapping is made, the data device is flushed
 * before the metadata is committed, and while a commit is under way no mapping is made. A failing change of the metadata
 * drops the transaction, marks the pool as in need of a check and leaves it read-only.
 * Source: thin-engine sections 5 to 9.
 */
import { setImmediate as turn } from "node:timers/promises";
import { IoError, invariant, messageOf, SpaceError, StateError, type UdmError } from "../errors/index.js";
import type { BlockDevice, SyncIo } from "../io/index.js";
import { metadataBlocksOf, ThinMetadata } from "./metadata.js";
import { usableBlocks } from "./metadata-store.js";
import { type PoolMessage, parsePoolMessage } from "./pool-message.js";
import { ThinDevice, type ThinOptions } from "./thin-device.js";
import type { PoolConfig, PoolMode, PoolNote, PoolRuntime, PoolStatus } from "./types.js";

export interface PoolOptions {
  /** For messages and log lines: `253:0`. */
  readonly name: string;
  /** Must have a synchronous side. */
  readonly metadata: BlockDevice;
  readonly data: BlockDevice;
  /** Takes effect with the first `resume`. */
  readonly config: PoolConfig;
  /** As it was when the pool was last closed. */
  readonly runtime?: PoolRuntime;
  readonly log?: (line: string) => void;
  /** The event counter went up. */
  readonly onEvent?: () => void;
  /** Something happened that whoever looks after pools wants to know; not all of it raises the counter. */
  readonly onNote?: (note: PoolNote) => void;
  /** Bound of the metadata cache, in blocks of 4 KiB. */
  readonly cacheBlocks?: number;
  /** How long a full pool queues writes; 0: for ever. Default 60000. */
  readonly noSpaceTimeoutMs?: number;
  /** Longest time a change stays uncommitted while nobody flushes. Default 1000, 0: for ever. */
  readonly commitPeriodMs?: number;
  /** Several operations are to be one transaction: nothing is committed but by `commitHeld`. */
  readonly holdsCommits?: boolean;
}

const NO_SPACE_TIMEOUT_MS = 60_000;
const COMMIT_PERIOD_MS = 1000;
const MAX_METADATA_LOW_WATER = 1024;
const SECTOR_BYTES = 512;
const SUPERBLOCK_BYTES = 4096;
/** Modes in order of health; from out-of-metadata-space on, metadata does not change. */
const MODE_ORDER: readonly PoolMode[] = ["write", "out-of-data-space", "out-of-metadata-space", "read-only", "fail"];

/** Blocks in use from which on somebody wants to be told. */
export interface UsageMark {
  readonly dataBlocks: number;
  readonly metadataBlocks: number;
  readonly onReached: () => void;
}

interface Waiter {
  readonly wake: () => void;
  readonly fail: (error: UdmError) => void;
}

export class Pool {
  readonly name: string;
  readonly metadata: ThinMetadata;
  readonly data: BlockDevice;
  /** The data device's synchronous side, where it has one. */
  readonly dataSync: SyncIo | undefined;
  readonly #metadataDevice: BlockDevice;
  readonly #options: PoolOptions;
  #config: PoolConfig;
  #mode: PoolMode = "write";
  /** Until the first resume: what the last process knew. */
  #restored: PoolRuntime | undefined;
  #wasResumed = false;
  #errorsNow = false;
  #lowWaterTriggered = false;
  #eventNr = 0;
  #isSuspended = true;
  #isClosed = false;
  #needsCheckUnsaved = false;
  #hasHeldChanges = false;
  /** Several operations are to be one transaction: nothing is committed but by `commitHeld`. */
  holdsCommits: boolean;
  /** Somebody will make the pool larger when it is full: writes wait for that, even where they would get an error. */
  #mayGetSpace = false;
  #usageMark: UsageMark | undefined;
  readonly #thins = new Set<ThinDevice>();
  readonly #spaceWaiters: Waiter[] = [];
  readonly #resumeWaiters: (() => void)[] = [];
  /** While it is set nobody changes the metadata: a commit, or a change in steps. */
  #committing: Promise<void> | undefined;
  /** Waits for the one under way to end. */
  #nextCommit: Promise<void> | undefined;
  readonly #dataIo = new Set<Promise<unknown>>();
  /** Data blocks of requests under way that no mapping names, not yet or not any more. */
  readonly #inHand = new Set<readonly number[]>();
  #activeRequests = 0;
  #drained: (() => void)[] = [];
  #noSpaceTimer: NodeJS.Timeout | undefined;
  #commitTimer: NodeJS.Timeout | undefined;

  private constructor(options: PoolOptions, metadata: ThinMetadata) {
    this.name = options.name;
    this.metadata = metadata;
    this.data = options.data;
    this.dataSync = options.data.sync;
    this.#metadataDevice = options.metadata;
    this.#options = options;
    this.#config = options.config;
    this.#restored = options.runtime;
    this.#eventNr = options.runtime?.eventNr ?? 0;
    this.holdsCommits = options.holdsCommits ?? false;
    this.#watchMetadata();
  }

  /**
   * Opens a pool's metadata, or formats it when its first 4 KiB are zero (never with read_only). The pool is suspended.
   * @throws StateError EINVAL, EPERM; DamageError; SpaceError; IoError
   */
  static load(options: PoolOptions): Pool {
    const { metadata, config } = options;
    if (metadata.sync === undefined) {
      throw new StateError("EINVAL", `${metadata.name} cannot hold metadata: it may have to wait`, {
        hint: "put metadata on a file, a block device, or linear devices on these",
      });
    }
    const opened = ThinMetadata.open(metadata.sync, metadataBlocksOf(metadata.sizeBytes), {
      dataBlockSectors: config.dataBlockSectors,
      mayFormat: !config.features.readOnly,
      isDeviceReadOnly: metadata.isReadOnly,
      ...(options.cacheBlocks === undefined ? {} : { cacheBlocks: options.cacheBlocks }),
    });
    return new Pool(options, opened);
  }

  /** The metadata device was blank. */
  get formatted(): boolean {
    return this.metadata.wasFormatted;
  }

  get config(): PoolConfig {
    return this.#config;
  }

  get mode(): PoolMode {
    return this.#mode;
  }

  get blockBytes(): number {
    return this.#config.dataBlockSectors * SECTOR_BYTES;
  }

  get isSuspended(): boolean {
    return this.#isSuspended;
  }

  get isCommitting(): boolean {
    return this.#committing !== undefined;
  }

  /** Discards are sent to the data device. */
  get passesDiscardsDown(): boolean {
    const { ignoreDiscard, noDiscardPassdown } = this.#config.features;
    const granularity = this.data.discardGranularityBytes;
    return !ignoreDiscard && !noDiscardPassdown && granularity > 0 && this.blockBytes % granularity === 0;
  }

  /** A write for which there is no room may be kept until there is. */
  get keepsWrites(): boolean {
    return this.#mode === "out-of-data-space" && (!this.errorsIfNoSpace || this.#mayGetSpace);
  }

  /** Writes that wait for room. */
  get waitingWrites(): number {
    return this.#spaceWaiters.length;
  }

  /** Writes to a full pool wait from now on, for whoever will make it larger. */
  expectSpace(): void {
    this.#mayGetSpace = true;
  }

  /** Nobody will: writes that a full pool answers with an error get it. */
  expectNoSpace(): void {
    if (!this.#mayGetSpace) return;
    this.#mayGetSpace = false;
    if (this.#mode === "out-of-data-space" && this.errorsIfNoSpace) this.#failSpaceWaiters(this.writeRefusal());
  }

  /** Told once, when as many blocks are in use; at once if they are. Takes the place of an earlier mark. */
  watchUsage(mark: UsageMark): void {
    this.#usageMark = mark;
    this.#checkUsage();
  }

  #checkUsage(): void {
    const mark = this.#usageMark;
    if (mark === undefined || this.#mode === "fail") return;
    const { metadata } = this;
    const isReached =
      metadata.dataBlocks - metadata.freeDataBlocks >= mark.dataBlocks ||
      metadata.metadataBlocks - metadata.freeMetadataBlocks >= mark.metadataBlocks;
    if (!isReached) return;
    this.#usageMark = undefined;
    mark.onReached();
  }

  /** A full pool answers ENOSPC instead of queueing. */
  get errorsIfNoSpace(): boolean {
    return this.#config.features.errorIfNoSpace || this.#errorsNow;
  }

  // --- resume, suspend, close ---

  /**
   * Puts the table line in force: features, mode, then sizes (a grown device is taken up and committed).
   * @param config a reloaded line; without one the pool goes on as it was
   * @param options keepsMetadataSize: a metadata device that has grown is left for a later resume
   * @throws StateError EINVAL when the line or a device is smaller than the metadata says
   */
  async resume(config?: PoolConfig, options: { readonly keepsMetadataSize?: boolean } = {}): Promise<void> {
    this.#refuseClosed();
    if (config !== undefined) this.#checkBlockSize(config);
    const isReload = config !== undefined || !this.#wasResumed;
    this.#config = config ?? this.#config;
    const restored = this.#restored;
    if (restored !== undefined) this.#restoreMode(restored);
    else if (isReload) this.#setMode(this.#config.features.readOnly ? "read-only" : "write");
    if (this.#mode !== "fail") {
      const grewData = await this.#takeUpDataSize();
      const grewMetadata = await this.#takeUpMetadataSize(options.keepsMetadataSize === true);
      if ((grewData || grewMetadata) && this.canChangeMetadata) await this.commit();
    }
    this.#restored = undefined;
    this.#wasResumed = true;
    this.#isSuspended = false;
    this.#lowWaterTriggered = restored?.lowWaterTriggered ?? false;
    this.#wakeSpaceWaiters();
    this.#wakeResumeWaiters();
  }

  /** Holds new requests, waits for those under way (not for those that wait for space), commits. */
  async suspend(_options: { readonly noflush?: boolean } = {}): Promise<void> {
    this.#refuseClosed();
    this.#isSuspended = true;
    await this.#untilDrained();
    if (this.canChangeMetadata) await this.commit();
  }

  /** Commits what is to be committed; the devices below stay open. May be called twice. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    if (this.#hasHeldChanges) {
      throw new StateError("EBUSY", `${this.name}: the pool has changes that are held back`, {
        hint: "it cannot be taken away together with them: do that in a step of its own",
      });
    }
    this.#isSuspended = true;
    this.#failSpaceWaiters(new IoError("EIO", `${this.name}: the pool was closed while a write waited for space`));
    await this.#untilDrained();
    try {
      if (this.canChangeMetadata) await this.commit();
      else if (this.#needsCheckUnsaved) this.#trySetNeedsCheck();
    } finally {
      this.#isClosed = true;
      clearTimeout(this.#noSpaceTimer);
      clearTimeout(this.#commitTimer);
      this.#wakeResumeWaiters();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Closes without a commit: what was done since the last one never happened. No request is under way. */
  abandon(): void {
    this.#isSuspended = true;
    this.#isClosed = true;
    this.#hasHeldChanges = false;
    clearTimeout(this.#noSpaceTimer);
    clearTimeout(this.#commitTimer);
  }

  /** There is something that only `commitHeld` will commit. */
  get hasHeldChanges(): boolean {
    return this.#hasHeldChanges;
  }

  /** Commits what was held back, and goes on holding. @throws IoError EIO */
  async commitHeld(): Promise<void> {
    this.#hasHeldChanges = false;
    await this.#commit();
  }

  /** The block that a commit replaces, as it is on the device. */
  committedSuperblock(): Uint8Array {
    const bytes = new Uint8Array(SUPERBLOCK_BYTES);
    this.#metadataDevice.sync!.read(0, bytes);
    return bytes;
  }

  /** What the next opening of the same pool should know. */
  runtime(): PoolRuntime {
    return {
      mode: this.#mode,
      errorsNow: this.#errorsNow,
      lowWaterTriggered: this.#lowWaterTriggered,
      eventNr: this.#eventNr,
      ...(this.#needsCheckUnsaved ? { needsCheckUnsaved: true } : {}),
    };
  }

  // --- thin devices ---

  /** @throws StateError ENODATA no such device, EINVAL while the pool has failed */
  openThin(id: number, options: ThinOptions): ThinDevice {
    if (this.#mode === "fail") {
      throw new StateError("EINVAL", `${this.name}: the pool has failed, no thin device can be opened`, {
        hint: "repair its metadata",
      });
    }
    const thin = new ThinDevice(this, this.metadata.openDevice(id), options);
    this.#thins.add(thin);
    return thin;
  }

  /** For thin devices: one of them was closed. */
  forgetThin(thin: ThinDevice): void {
    this.#thins.delete(thin);
  }

  // --- messages and status ---

  /** Carries out a message and commits it; `onChanged` is called in between, when all see it and nothing is durable yet. @throws UdmError with the errno the kernel would return */
  async message(words: readonly string[], options: { readonly onChanged?: () => void } = {}): Promise<void> {
    this.#refuseClosed();
    while (this.isCommitting) await this.untilCommitted();
    if (!this.canChangeMetadata) {
      throw new StateError(
        "EOPNOTSUPP",
        `${this.name}: unable to service pool target messages in READ_ONLY or FAIL mode`,
        {
          hint: "see 'udm pool status'; grow full metadata, or repair a pool that needs a check",
        },
      );
    }
    const message = parsePoolMessage(words);
    if (message.kind === "reserveSnapshot") await this.commit();
    while (this.isCommitting) await this.untilCommitted();
    if (message.kind === "delete") {
      await this.#changeInSteps("delete", this.metadata.deleteThinInSteps(message.id));
    } else this.change(words[0]!, () => this.#carryOut(message));
    options.onChanged?.();
    await this.commit();
  }

  /** Numbers of the status line. Commits first, so that they are current, unless `noflush` or suspended. */
  async status(options: { readonly noflush?: boolean } = {}): Promise<PoolStatus> {
    if (options.noflush !== true && !this.#isSuspended && this.canChangeMetadata) {
      // A failed commit shows in the mode that is reported.
      await this.commit().catch(() => undefined);
    }
    return this.statusNow();
  }

  /** The same as they are, without a commit. */
  statusNow(): PoolStatus {
    const { metadata } = this;
    const total = metadata.metadataBlocks;
    return {
      lengthSectors: this.#config.lengthSectors,
      transactionId: metadata.transactionId,
      usedMetadataBlocks: total - metadata.freeMetadataBlocks,
      totalMetadataBlocks: total,
      allocatedMetadataBlocks: metadata.allocatedMetadataBlocks,
      usedDataBlocks: metadata.dataBlocks - metadata.freeDataBlocks,
      totalDataBlocks: metadata.dataBlocks,
      heldRoot: metadata.heldRoot,
      mode: this.#mode,
      features: this.#config.features,
      discardPassdown: this.passesDiscardsDown,
      errorIfNoSpace: this.errorsIfNoSpace,
      needsCheck: metadata.needsCheck,
      metadataLowWaterBlocks: this.#metadataLowWater(),
      dataBlockSectors: this.#config.dataBlockSectors,
      lowWaterBlocks: this.#config.lowWaterBlocks,
    };
  }

  /** What dmsetup status prints behind the target's name, with its trailing blank. */
  async statusParams(options: { readonly noflush?: boolean } = {}): Promise<string> {
    if (this.#mode === "fail") return "Fail";
    const status = await this.status(options);
    return (this.#mode as PoolMode) === "fail" ? "Fail" : formatPoolStatus(status);
  }

  // --- for thin devices: transactions ---

  /** Metadata may change in this mode. */
  get canChangeMetadata(): boolean {
    return MODE_ORDER.indexOf(this.#mode) < MODE_ORDER.indexOf("out-of-metadata-space");
  }

  /**
   * Runs a change of the metadata. Refusals and a lack of data space pass through; anything else drops the transaction
   * and makes the pool read-only. The caller has waited for `untilCommitted`.
   */
  change<T>(operation: string, run: () => T): T {
    // The mode may have changed while the caller waited: nothing failed, so nothing is dropped.
    if (!this.canChangeMetadata) throw this.writeRefusal();
    invariant(this.#committing === undefined, `${operation} while a commit is under way`);
    try {
      const result = run();
      if (this.holdsCommits) this.#hasHeldChanges = true;
      this.#armCommitTimer();
      return result;
    } catch (error) {
      if (isRefusal(error)) throw error;
      throw this.#operationFailed(operation, error);
    }
  }

  /**
   * The commit under way has ended. Between that and the caller's next step another may begin: he looks at `isCommitting`
   * again.
   */
  async untilCommitted(): Promise<void> {
    while (this.#committing !== undefined) await this.#committing.catch(() => undefined);
  }

  /** Flushes the data device, then commits. When it resolves, everything mapped before is durable. @throws IoError EIO */
  async commit(): Promise<void> {
    if (this.holdsCommits && this.canChangeMetadata) return;
    await this.#commit();
  }

  /** Those who come before a commit has begun go along with it. */
  #commit(): Promise<void> {
    this.#nextCommit ??= this.#commitNext();
    return this.#nextCommit;
  }

  async #commitNext(): Promise<void> {
    // One turn at least: those who ask in this one go along.
    do await this.untilCommitted();
    while (this.isCommitting);
    this.#nextCommit = undefined;
    if (!this.canChangeMetadata) {
      throw new IoError("EIO", `${this.name}: the pool is in ${this.#mode} mode, nothing can be committed`, {
        hint: "see 'udm pool status'",
      });
    }
    if (!this.metadata.isInService) return;
    const running = this.#commitNow();
    this.#committing = running;
    try {
      await running;
    } finally {
      this.#committing = undefined;
    }
    this.#afterCommit();
  }

  /**
   * Takes one data block for a mapping, as the first of `blocks`, which are in hand. It takes none when none is free, in which
   * case the pool is out of data space.
   * @throws IoError when the metadata cannot be changed
   */
  async allocate(blocks: number[]): Promise<void> {
    const { metadata } = this;
    this.#checkLowWater();
    if (metadata.freeDataBlocks <= 0) {
      await this.#commitAndWait();
      if (metadata.freeDataBlocks <= 0) {
        this.#setMode("out-of-data-space");
        return;
      }
    }
    if (metadata.freeMetadataBlocks === 0) {
      await this.#commitAndWait();
      if (!this.canChangeMetadata) throw this.writeRefusal();
    }
    const block = this.change("dm_pool_alloc_data_block", () => metadata.allocateDataBlock());
    if (block === undefined) this.#setMode("out-of-data-space");
    else blocks.push(block);
    this.#checkUsage();
  }

  /** Others who waited may have begun the next commit: metadata is changed in the turn in which none was seen. */
  async #commitAndWait(): Promise<void> {
    await this.commit();
    while (this.isCommitting) await this.untilCommitted();
  }

  /** Fills `blocks` up to `count` with what can be had without a commit. @throws IoError as `allocate` */
  allocateAtOnce(count: number, blocks: number[]): void {
    const { metadata } = this;
    this.change("dm_pool_alloc_data_block", () => {
      while (blocks.length < count && metadata.freeDataBlocks > 0 && metadata.freeMetadataBlocks > 0) {
        this.#checkLowWater();
        const block = metadata.allocateDataBlock();
        if (block === undefined) return;
        blocks.push(block);
      }
    });
    this.#checkUsage();
  }

  /**
   * These blocks have an owner for as long as a request needs them, and a commit in between does not make it durable: a
   * machine that stops leaves no block behind that nobody maps. Called in the turn in which they get the owner; more may
   * be added.
   */
  takeInHand(blocks: readonly number[]): void {
    this.#inHand.add(blocks);
  }

  /** In the turn in which they were mapped, or lost that owner. */
  putDown(blocks: readonly number[]): void {
    this.#inHand.delete(blocks);
  }

  #eachInHand(run: (begin: number, end: number) => void): void {
    for (const blocks of this.#inHand) {
      for (let at = 0; at < blocks.length; ) {
        const begin = blocks[at]!;
        let count = 1;
        while (blocks[at + count] === begin + count) count++;
        run(begin, begin + count);
        at += count;
      }
    }
  }

  /** The error for a write that needs a new block in a mode that has none to give. */
  writeRefusal(): UdmError {
    if (this.#mode === "out-of-data-space") {
      return new SpaceError(`${this.name}: the pool has no free data block`, {
        hint: "grow it with 'udm pool resize', delete devices, or trim file systems on it",
      });
    }
    return new IoError("EIO", `${this.name}: the pool is in ${this.#mode} mode and cannot take new blocks`, {
      hint: "see 'udm pool status'; grow full metadata, or repair a pool that needs a check",
    });
  }

  // --- for thin devices: requests ---

  /** A request begins; waits while the pool is suspended. Every begin is followed by one end. */
  async beginRequest(): Promise<void> {
    await this.#untilResumed();
    this.#activeRequests++;
  }

  endRequest(): void {
    this.#activeRequests--;
    if (this.#activeRequests > 0) return;
    const waiters = this.#drained;
    this.#drained = [];
    for (const wake of waiters) wake();
  }

  /** Waits until there may be space again; to a suspend the request does not count as under way meanwhile. */
  async waitForSpace(): Promise<void> {
    this.endRequest();
    try {
      await new Promise<void>((wake, fail) => {
        this.#spaceWaiters.push({ wake, fail });
        this.#noSpaceTimer?.ref();
      });
      await this.#untilResumed();
    } finally {
      this.#activeRequests++;
    }
  }

  /** Keeps account of I/O that is under way on a data device that has to wait. */
  async track<T>(io: Promise<T>): Promise<T> {
    this.#dataIo.add(io);
    try {
      return await io;
    } finally {
      this.#dataIo.delete(io);
    }
  }

  /** All data I/O that is under way now has ended: what it was mapped to may be unmapped. */
  get isDataIdle(): boolean {
    return this.#dataIo.size === 0;
  }

  async untilDataIdle(): Promise<void> {
    if (this.#dataIo.size > 0) await Promise.allSettled([...this.#dataIo]);
  }

  // --- helpers ---

  #carryOut(message: Exclude<PoolMessage, { kind: "delete" }>): void {
    const { metadata } = this;
    switch (message.kind) {
      case "createThin":
        return metadata.createThin(message.id);
      case "createSnapshot":
        return metadata.createSnapshot(message.id, message.origin);
      case "setTransactionId":
        return metadata.setTransactionId(message.from, message.to);
      case "reserveSnapshot":
        return metadata.reserveSnapshot();
      case "releaseSnapshot":
        return metadata.releaseSnapshot();
    }
  }

  /**
   * A change that takes long: what is mapped is read and written between its steps. As during a commit nobody else changes
   * the metadata, so that what comes out is what one step would have made.
   */
  async #changeInSteps(operation: string, steps: Iterator<void>): Promise<void> {
    const first = this.change(operation, () => steps.next());
    if (first.done === true) return;
    const running = this.#goOn(operation, steps);
    this.#committing = running;
    try {
      await running;
    } finally {
      this.#committing = undefined;
    }
  }

  async #goOn(operation: string, steps: Iterator<void>): Promise<void> {
    try {
      do await turn();
      while (steps.next().done !== true);
    } catch (error) {
      throw this.#operationFailed(operation, error);
    }
  }

  async #commitNow(): Promise<void> {
    try {
      // Disks take their time: mapped blocks are read and written meanwhile.
      await this.data.flush();
      this.#eachInHand((begin, end) => this.metadata.decDataBlocks(begin, end));
      for (const _ of this.metadata.commitSteps()) await this.#metadataDevice.flush();
      this.#eachInHand((begin, end) => this.metadata.incDataBlocks(begin, end));
    } catch (error) {
      throw this.#operationFailed("dm_pool_commit_metadata", error);
    }
    clearTimeout(this.#commitTimer);
    this.#commitTimer = undefined;
  }

  #afterCommit(): void {
    if (this.metadata.freeMetadataBlocks === 0) {
      this.#log("no free metadata blocks");
      this.#setMode("out-of-metadata-space");
    } else if (this.#mode === "out-of-data-space" && this.metadata.freeDataBlocks > 0) {
      this.#setMode("write");
      this.#wakeSpaceWaiters();
    }
    this.#checkUsage();
  }

  #operationFailed(operation: string, error: unknown): IoError {
    this.#log(`metadata operation '${operation}' failed: ${messageOf(error)}; aborting current metadata transaction`);
    const failure = new IoError("EIO", `${this.name}: ${operation} failed: ${messageOf(error)}`, {
      cause: error,
      hint: "uncommitted changes were dropped and the pool is read-only; check its metadata with udm metadata check",
    });
    // Whose they were is forgotten with the transaction.
    this.#inHand.clear();
    if (this.#mode === "fail") return failure;
    try {
      this.metadata.abort();
    } catch (abortError) {
      this.#log(`failed to abort metadata transaction: ${messageOf(abortError)}`);
      this.#setMode("fail");
      return failure;
    }
    this.#trySetNeedsCheck();
    this.#setMode("read-only");
    return failure;
  }

  /** When the device cannot be written now, it is tried once more at the end. */
  #trySetNeedsCheck(): void {
    this.metadata.setReadOnly(false);
    try {
      this.metadata.setNeedsCheck();
      this.#needsCheckUnsaved = false;
      this.#options.onNote?.({ kind: "needs-check" });
    } catch (error) {
      this.#needsCheckUnsaved = true;
      this.#log(`failed to set 'needs_check' flag in metadata: ${messageOf(error)}`);
    } finally {
      this.metadata.setReadOnly(!this.canChangeMetadata);
    }
  }

  #checkBlockSize(config: PoolConfig): void {
    const { dataBlockSectors } = this.metadata;
    if (config.dataBlockSectors === dataBlockSectors) return;
    throw new StateError(
      "EINVAL",
      `${this.name}: the pool has data blocks of ${dataBlockSectors} sectors, the table asks for ${config.dataBlockSectors}`,
      { hint: "the block size of a pool cannot be changed" },
    );
  }

  /** Takes the mode the pool was closed in; no event, it was raised then. */
  #restoreMode(restored: PoolRuntime): void {
    let { mode } = restored;
    const cannotWrite = this.metadata.needsCheck || this.#config.features.readOnly;
    this.#needsCheckUnsaved = restored.needsCheckUnsaved === true;
    // It fell back because of the flag, and whoever took the flag away has checked it since.
    if (mode === "read-only" && !cannotWrite && !this.#needsCheckUnsaved) mode = "write";
    if (cannotWrite && MODE_ORDER.indexOf(mode) < MODE_ORDER.indexOf("read-only")) mode = "read-only";
    this.#errorsNow = mode === "out-of-data-space" && restored.errorsNow;
    this.#applyMode(mode);
  }

  #setMode(wanted: PoolMode): void {
    const old = this.#mode;
    let mode = wanted;
    if (mode === "write" && this.metadata.needsCheck) {
      this.#log("unable to switch pool to write mode until repaired.");
      mode = old === "write" ? "read-only" : old;
    }
    if (old === "fail") mode = "fail";
    if (mode === "write") this.#errorsNow = false;
    const hadSpace = old !== "out-of-data-space";
    this.#applyMode(mode);
    if (old === mode) return;
    this.#log(`switching pool to ${describeMode(mode, this.errorsIfNoSpace)} mode`);
    this.#raiseEvent();
    this.#options.onNote?.({ kind: "mode", from: old, mode, errorIfNoSpace: this.errorsIfNoSpace });
    if (!this.canChangeMetadata) {
      this.#failSpaceWaiters(
        hadSpace ? this.writeRefusal() : new SpaceError(`${this.name}: the pool has no free data block`),
      );
    }
  }

  #applyMode(mode: PoolMode): void {
    this.#mode = mode;
    this.metadata.setReadOnly(!this.canChangeMetadata);
    if (mode === "out-of-data-space") this.#armNoSpaceTimer();
    else {
      clearTimeout(this.#noSpaceTimer);
      this.#noSpaceTimer = undefined;
    }
  }

  #armNoSpaceTimer(): void {
    const timeoutMs = this.#options.noSpaceTimeoutMs ?? NO_SPACE_TIMEOUT_MS;
    if (this.errorsIfNoSpace || timeoutMs === 0 || this.#noSpaceTimer !== undefined) return;
    this.#noSpaceTimer = setTimeout(() => {
      this.#noSpaceTimer = undefined;
      if (this.#mode !== "out-of-data-space") return;
      this.#errorsNow = true;
      this.#log(`switching pool to ${describeMode(this.#mode, true)} mode`);
      this.#raiseEvent();
      this.#options.onNote?.({ kind: "mode", from: this.#mode, mode: this.#mode, errorIfNoSpace: true });
      this.#failSpaceWaiters(this.writeRefusal());
    }, timeoutMs);
    // Only a write that waits for space keeps the program running.
    if (this.#spaceWaiters.length === 0) this.#noSpaceTimer.unref();
  }

  #wakeSpaceWaiters(): void {
    for (const { wake } of this.#spaceWaiters.splice(0)) wake();
  }

  #failSpaceWaiters(error: UdmError): void {
    for (const { fail } of this.#spaceWaiters.splice(0)) fail(error);
  }

  async #takeUpDataSize(): Promise<boolean> {
    const wanted = Math.floor(this.#config.lengthSectors / this.#config.dataBlockSectors);
    const { dataBlocks } = this.metadata;
    if (wanted < dataBlocks) {
      throw new StateError("EINVAL", `${this.name}: pool target (${wanted} blocks) too small: expected ${dataBlocks}`, {
        hint: "load a table at least as long as the pool is; udm metadata shrink makes a pool smaller",
      });
    }
    if (wanted * this.blockBytes > this.data.sizeBytes) {
      throw new StateError(
        "EINVAL",
        `${this.name}: data device ${this.data.name} has ${this.data.sizeBytes} bytes, the table needs ${wanted * this.blockBytes}`,
        { hint: "grow the data device first, or restore a file that was cut off" },
      );
    }
    if (wanted === dataBlocks) return false;
    if (!this.#mayGrow("data")) return false;
    if (dataBlocks > 0) this.#log(`growing the data device from ${dataBlocks} to ${wanted} blocks`);
    while (this.isCommitting) await this.untilCommitted();
    this.change("dm_pool_resize_data_dev", () => this.metadata.resizeData(wanted));
    if (dataBlocks > 0) {
      this.#options.onNote?.({ kind: "resized", area: "data", fromBlocks: dataBlocks, toBlocks: wanted });
    }
    return true;
  }

  async #takeUpMetadataSize(keepsSize: boolean): Promise<boolean> {
    const found = usableBlocks(metadataBlocksOf(this.#metadataDevice.sizeBytes));
    const { metadataBlocks } = this.metadata;
    if (found < metadataBlocks) {
      throw new StateError(
        "EINVAL",
        `${this.name}: metadata device (${found} blocks) too small: expected ${metadataBlocks}`,
        {
          hint: "the metadata device was cut off; restore its size",
        },
      );
    }
    if (keepsSize || found === metadataBlocks) return false;
    if (this.metadata.needsCheck || this.#mode === "read-only") return this.#mayGrow("metadata");
    this.#log(`growing the metadata device from ${metadataBlocks} to ${found} blocks`);
    if (this.#mode === "out-of-metadata-space") this.#setMode("write");
    while (this.isCommitting) await this.untilCommitted();
    this.change("dm_pool_resize_metadata_dev", () => this.metadata.resizeMetadata(found));
    this.#options.onNote?.({ kind: "resized", area: "metadata", fromBlocks: metadataBlocks, toBlocks: found });
    this.#watchMetadata();
    return true;
  }

  #mayGrow(what: "data" | "metadata"): boolean {
    if (this.metadata.needsCheck) this.#log(`unable to grow the ${what} device until repaired.`);
    return this.canChangeMetadata && !this.metadata.needsCheck;
  }

  #metadataLowWater(): number {
    const blocks = usableBlocks(metadataBlocksOf(this.#metadataDevice.sizeBytes));
    return Math.min(MAX_METADATA_LOW_WATER, Math.floor(blocks / 4));
  }

  #watchMetadata(): void {
    this.metadata.watchFreeMetadata(this.#metadataLowWater(), () => {
      this.#log("reached low water mark for metadata device: sending event.");
      this.#raiseEvent();
      const { freeMetadataBlocks: freeBlocks, metadataBlocks: totalBlocks } = this.metadata;
      this.#options.onNote?.({ kind: "metadata-low-water", freeBlocks, totalBlocks });
    });
  }

  #checkLowWater(): void {
    if (this.#lowWaterTriggered || this.metadata.freeDataBlocks > this.#config.lowWaterBlocks) return;
    this.#lowWaterTriggered = true;
    this.#log("reached low water mark for data device: sending event.");
    this.#raiseEvent();
    const { freeDataBlocks: freeBlocks, dataBlocks: totalBlocks } = this.metadata;
    this.#options.onNote?.({ kind: "low-water", freeBlocks, totalBlocks });
  }

  #raiseEvent(): void {
    this.#eventNr++;
    this.#options.onEvent?.();
  }

  /** While something is uncommitted, a commit comes within the period even when nobody flushes. */
  #armCommitTimer(): void {
    const periodMs = this.#options.commitPeriodMs ?? COMMIT_PERIOD_MS;
    if (this.#commitTimer !== undefined || periodMs === 0) return;
    this.#commitTimer = setTimeout(() => {
      this.#commitTimer = undefined;
      // A failure has set the mode; the next request reports it.
      if (!this.#isClosed && this.canChangeMetadata && this.metadata.hasChangedDevices)
        this.commit().catch(() => undefined);
    }, periodMs).unref();
  }

  async #untilResumed(): Promise<void> {
    while (this.#isSuspended) {
      this.#refuseClosed();
      await new Promise<void>((resolve) => this.#resumeWaiters.push(resolve));
    }
  }

  #wakeResumeWaiters(): void {
    for (const wake of this.#resumeWaiters.splice(0)) wake();
  }

  async #untilDrained(): Promise<void> {
    if (this.#activeRequests > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
  }

  #refuseClosed(): void {
    if (this.#isClosed) throw new StateError("ENODEV", `${this.name}: the pool is closed`);
  }

  #log(line: string): void {
    this.#options.log?.(`thin: ${this.name}: ${line}`);
  }
}

/** Refusals change nothing. */
function isRefusal(error: unknown): boolean {
  return error instanceof StateError && error.code !== "EIO" && error.code !== "EPERM";
}

function describeMode(mode: PoolMode, errorsIfNoSpace: boolean): string {
  switch (mode) {
    case "out-of-data-space":
      return errorsIfNoSpace ? "out-of-data-space (error IO)" : "out-of-data-space (queue IO)";
    case "out-of-metadata-space":
      return "read-only";
    case "write":
    case "read-only":
    case "fail":
      return mode;
  }
}

/** The words of a thin-pool status line. Source: thin-engine 8.1. */
export function formatPoolStatus(status: PoolStatus): string {
  const words = [
    status.transactionId,
    `${status.usedMetadataBlocks}/${status.totalMetadataBlocks}`,
    `${status.usedDataBlocks}/${status.totalDataBlocks}`,
    status.heldRoot ?? "-",
    MODE_WORD[status.mode],
    discardWord(status),
    status.errorIfNoSpace ? "error_if_no_space" : "queue_if_no_space",
    status.needsCheck ? "needs_check" : "-",
    status.metadataLowWaterBlocks,
  ];
  return `${words.join(" ")} `;
}

const MODE_WORD: Record<PoolMode, string> = {
  write: "rw",
  "out-of-data-space": "out_of_data_space",
  "out-of-metadata-space": "ro",
  "read-only": "ro",
  fail: "Fail",
};

function discardWord(status: PoolStatus): string {
  if (status.features.ignoreDiscard) return "ignore_discard";
  return status.discardPassdown ? "discard_passdown" : "no_discard_passdown";
}
