/**
 * A pool's metadata: devices, mappings, counts, and the transactions that change them. Synchronous and deterministic:
 * between two calls nothing else happens, and the same calls on the same device give the same bytes, which are the
 * kernel's. Nothing is durable before `commit`, which the pool calls once the data of new mappings has been flushed.
 *
 * A failing change leaves the running transaction in an unknown state: the caller must `abort`. Failing queries and
 * refusals (a device that exists, is missing, is open) change nothing.
 * Source: thin-engine sections 4 and 5.
 */
import { getU64, type ReadView } from "../bytes/index.js";
import { DamageError, invariant, StateError } from "../errors/index.js";
import type { SyncIo } from "../io/index.js";
import {
  BlockManager,
  deleteTree,
  deleteTreeInSteps,
  emptyTree,
  highestKey,
  insert,
  insertRunBelow,
  keyAt,
  lookup,
  lookupNext,
  METADATA_BLOCK_BYTES,
  nrEntriesOf,
  Position,
  remove,
  removeRun,
  type Tree,
  valueOffset,
  walkLeaves,
} from "../persistent-data/index.js";
import { BLOCK_TIME_BYTES, blockOf, DATA_BLOCK_LIMIT, setBlockTime, TIME_LIMIT, timeOf } from "./block-time.js";
import { DEVICE_DETAILS, MAX_DEVICE_ID } from "./device-details.js";
import { MetadataStore, usableBlocks } from "./metadata-store.js";
import { RangeLocks } from "./range-locks.js";
import {
  FLAG_NEEDS_CHECK,
  isBlank,
  SUPERBLOCK,
  SUPERBLOCK_LOCATION,
  SUPERBLOCK_VALIDATOR,
  writeSpaceMapRoot,
} from "./superblock.js";
import type { ThinDetails } from "./types.js";

/** A device that is in use, or was touched in the running transaction. */
export class OpenDevice {
  openCount = 0;
  /** Has changes the last commit does not hold. */
  isChanged = false;
  /** Lost changes to an abort: what was written since cannot be made durable. */
  isAborted = false;
  /** Held by requests on virtual blocks, whoever of several users of the device they come from. */
  readonly locks = new RangeLocks();
  mappedBlocks = 0;
  transactionId = 0;
  creationTime = 0;
  snapshottedTime = 0;
  /** Root of its mapping tree, as it was when the metadata had changed `rootAtChange` times. */
  root = 0;
  rootAtChange = -1;

  constructor(readonly id: number) {}
}

/** What a virtual block is, and how many behind it are alike. Reused by callers. */
export class Lookup {
  isMapped = false;
  isShared = false;
  /** First data block, when mapped. */
  block = 0;
  /** Blocks in the run: consecutive and alike; at least 1. */
  count = 0;
}

export interface MetadataOptions {
  /** What the table asks for; undefined takes what is on disk, and refuses to format. */
  readonly dataBlockSectors: number | undefined;
  /** Format a device whose first 4 KiB are zero. */
  readonly mayFormat: boolean;
  /** The device cannot be written at all. */
  readonly isDeviceReadOnly: boolean;
  readonly cacheBlocks?: number;
}

/** Roots of the trees of one state: the live one or the held one. */
export interface MetadataRoots {
  readonly mappingRoot: number;
  readonly detailsRoot: number;
}

export interface ReadableTrees {
  /** Device id -> root of its mapping tree. */
  readonly devices: Tree;
  readonly deviceRoot: number;
  readonly mappings: Tree;
  readonly metadataBlocks: number;
  /** Behind the last data block that a mapping may name. */
  readonly dataBlocks: number;
}

const MAX_RESERVE_BLOCKS = 4096;
const DEVICE_ROOT_BYTES = 8;

export class ThinMetadata {
  readonly #blocks: BlockManager;
  #store: MetadataStore;
  readonly #isDeviceReadOnly: boolean;
  readonly #devices = new Map<number, OpenDevice>();
  #time = 0;
  #transactionId = 0;
  #flags = 0;
  #heldRoot = 0;
  #dataBlockSectors = 0;
  #isInService = false;
  /** Counted before each change, and at an abort. */
  #changes = 0;
  #isFailed = false;
  readonly #position = new Position();
  readonly #value = new DataView(new ArrayBuffer(DEVICE_DETAILS.size));
  #threshold: { readonly blocks: number; readonly onLow: () => void } | undefined;
  #lastFree: number | undefined;
  /** The device was blank and has just been formatted. */
  readonly wasFormatted: boolean;

  private constructor(blocks: BlockManager, store: MetadataStore, isDeviceReadOnly: boolean, wasFormatted: boolean) {
    this.#blocks = blocks;
    this.#store = store;
    this.#isDeviceReadOnly = isDeviceReadOnly;
    this.wasFormatted = wasFormatted;
    this.#beginTransaction();
  }

  /**
   * Opens the metadata on a device of `deviceBlocks` blocks of 4 KiB.
   * @throws StateError EINVAL, EPERM (blank, and not to be formatted); DamageError EILSEQ, ENOTBLK, EUCLEAN; SpaceError; IoError
   */
  static open(io: SyncIo, deviceBlocks: number, options: MetadataOptions): ThinMetadata {
    const { dataBlockSectors, isDeviceReadOnly } = options;
    if (deviceBlocks < 1)
      throw new StateError("EINVAL", "the metadata device is smaller than 4 KiB", { hint: "give it 2 MiB or more" });
    const blocks = new BlockManager(io, usableBlocks(deviceBlocks), {
      isReadOnly: isDeviceReadOnly,
      ...(options.cacheBlocks === undefined ? {} : { cacheBlocks: options.cacheBlocks }),
    });
    if (isBlank(blocks.readRaw(SUPERBLOCK_LOCATION))) {
      if (!options.mayFormat || dataBlockSectors === undefined || isDeviceReadOnly) {
        throw new StateError("EPERM", "the metadata device is blank and must not be formatted", {
          hint: "load the pool without read_only once, or name the right device",
        });
      }
      return new ThinMetadata(blocks, MetadataStore.format(blocks, dataBlockSectors), isDeviceReadOnly, true);
    }
    const store = MetadataStore.open(blocks, dataBlockSectors, !isDeviceReadOnly);
    return new ThinMetadata(blocks, store, isDeviceReadOnly, false);
  }

  // --- what the pool is like ---

  get dataBlockSectors(): number {
    return this.#dataBlockSectors;
  }

  get time(): number {
    return this.#time;
  }

  get transactionId(): number {
    return this.#transactionId;
  }

  get needsCheck(): boolean {
    return (this.#flags & FLAG_NEEDS_CHECK) !== 0;
  }

  get heldRoot(): number | undefined {
    return this.#heldRoot === 0 ? undefined : this.#heldRoot;
  }

  /** Something was done beyond opening; before that, commits write nothing. */
  get isInService(): boolean {
    return this.#isInService;
  }

  get hasChangedDevices(): boolean {
    for (const device of this.#devices.values()) if (device.isChanged) return true;
    return false;
  }

  /** Data blocks of the pool at the last commit. */
  get dataBlocks(): number {
    return this.#store.dataMap.nrBlocks;
  }

  get freeDataBlocks(): number {
    return this.#store.dataMap.nrFree;
  }

  get metadataBlocks(): number {
    return this.#store.metadataMap.nrBlocks;
  }

  /** Metadata blocks with an owner, without the reserve. */
  get allocatedMetadataBlocks(): number {
    return this.#store.metadataMap.root.nrAllocated;
  }

  /** Free metadata blocks as reported: what is kept back for commits does not count. */
  get freeMetadataBlocks(): number {
    const total = this.metadataBlocks;
    return Math.max(0, this.#store.metadataMap.nrFree - Math.min(MAX_RESERVE_BLOCKS, Math.floor(total / 10)));
  }

  get cachedBlocks(): number {
    return this.#blocks.cachedBlocks;
  }

  /** Calls `onLow` when an allocation takes the free blocks to `blocks` or below. */
  watchFreeMetadata(blocks: number, onLow: () => void): void {
    this.#threshold = { blocks, onLow };
    this.#attachThreshold();
  }

  // --- devices ---

  /** @throws StateError EEXIST, EINVAL; SpaceError */
  createThin(id: number): void {
    checkId(id);
    this.#enterService();
    this.#refuseExisting(id);
    const { trees } = this.#store;
    const root = emptyTree(trees.mappings);
    this.#setDeviceRoot(id, root);
    this.#openNew(id);
    this.#blocks.trim();
  }

  /** Makes `id` a snapshot of `origin`, which its user must have quiesced. @throws StateError EEXIST, ENODATA; SpaceError */
  createSnapshot(id: number, origin: number): void {
    checkId(id);
    this.#enterService();
    this.#refuseExisting(id);
    const root = this.#deviceRoot(origin);
    if (this.#time + 1 >= TIME_LIMIT) {
      throw new StateError(
        "ENOSPC",
        `the pool's clock is at ${this.#time}: no more than ${TIME_LIMIT - 1} snapshots fit a pool's life`,
        {
          hint: "copy the devices into a new pool",
        },
      );
    }
    this.#store.transaction.inc(root);
    this.#setDeviceRoot(id, root);
    this.#time++;
    const snapshot = this.#openNew(id);
    const source = this.#touch(origin);
    source.snapshottedTime = this.#time;
    source.isChanged = true;
    snapshot.mappedBlocks = source.mappedBlocks;
    snapshot.snapshottedTime = this.#time;
    this.#blocks.trim();
  }

  /** @throws StateError ENODATA, EBUSY while open */
  deleteThin(id: number): void {
    for (const _ of this.deleteThinInSteps(id));
  }

  /** The same in steps. In between others may look up what is mapped; nobody may change anything or commit. */
  *deleteThinInSteps(id: number): Generator<void, void> {
    this.#enterService();
    const device = this.#touch(id);
    if (device.openCount > 0) {
      throw new StateError("EBUSY", `thin device ${id} is in use`, { hint: "deactivate it first" });
    }
    this.#devices.delete(id);
    const store = this.#store;
    store.detailsRoot = remove(store.trees.details, store.detailsRoot, id).root;
    const { devices, mappings } = store.trees;
    let root: number | undefined;
    const dec: Tree["value"]["dec"] = (view, offset) => {
      root = getU64(view, offset);
    };
    store.mappingRoot = remove({ ...devices, value: { ...devices.value, dec } }, store.mappingRoot, id).root;
    if (root !== undefined) {
      for (const _ of deleteTreeInSteps(mappings, root)) {
        this.#blocks.trim();
        yield;
      }
    }
    this.#blocks.trim();
  }

  /** @throws StateError ENODATA */
  openDevice(id: number): OpenDevice {
    const device = this.#touch(id);
    device.openCount++;
    return device;
  }

  closeDevice(device: OpenDevice): void {
    device.openCount--;
    invariant(device.openCount >= 0, `thin device ${device.id} closed too often`);
    if (device.openCount === 0 && !device.isChanged) this.#devices.delete(device.id);
  }

  /** @throws StateError ENODATA */
  details(id: number, roots: MetadataRoots = this.#store): ThinDetails {
    const open = roots === this.#store ? this.#devices.get(id) : undefined;
    if (open !== undefined) return detailsOf(open);
    const position = new Position();
    if (!lookup(this.#store.trees.details, roots.detailsRoot, id, position)) throw noDevice(id);
    return readDetails(id, position.view, position.offset);
  }

  /** All devices, by id. */
  listDevices(roots: MetadataRoots = this.#store): ThinDetails[] {
    const found = new Map<number, ThinDetails>();
    const { details } = this.#store.trees;
    walkLeaves(details, roots.detailsRoot, 0, Number.POSITIVE_INFINITY, (view, from, to) => {
      for (let index = from; index < to; index++) {
        const id = keyAt(view, index);
        found.set(id, readDetails(id, view, valueOffset(view, index)));
      }
      return true;
    });
    if (roots === this.#store) for (const device of this.#devices.values()) found.set(device.id, detailsOf(device));
    return [...found.values()].sort((a, b) => a.id - b.id);
  }

  // --- mappings ---

  /** Fills `result` with the run that begins at `virtualBlock`, at most `max` blocks long. */
  find(device: OpenDevice, virtualBlock: number, max: number, result: Lookup): void {
    const store = this.#store;
    const position = this.#position;
    const root = this.#rootForReading(device);
    result.block = 0;
    result.isShared = false;
    if (!lookupNext(store.trees.mappings, root, virtualBlock, position)) {
      result.isMapped = false;
      result.count = max;
      return;
    }
    if (position.key !== virtualBlock) {
      result.isMapped = false;
      result.count = Math.min(max, position.key - virtualBlock);
      return;
    }
    const { view } = position;
    const { snapshottedTime } = device;
    const block = blockOf(view, position.offset);
    const isShared = snapshottedTime > timeOf(view, position.offset);
    const nr = nrEntriesOf(view);
    let count = 1;
    let offset = position.offset + BLOCK_TIME_BYTES;
    for (let index = position.index + 1; index < nr && count < max; index++, offset += BLOCK_TIME_BYTES) {
      if (keyAt(view, index) !== virtualBlock + count || blockOf(view, offset) !== block + count) break;
      if (snapshottedTime > timeOf(view, offset) !== isShared) break;
      count++;
    }
    this.#checkDataBlock(block + count - 1);
    result.isMapped = true;
    result.isShared = isShared;
    result.block = block;
    result.count = count;
  }

  /** Takes a data block; it belongs to nobody until it is inserted. @returns undefined when none can be had before a commit */
  allocateDataBlock(): number | undefined {
    this.#enterService();
    return this.#store.dataMap.allocate();
  }

  incDataBlocks(begin: number, end: number): void {
    this.#enterService();
    this.#store.dataMap.inc(begin, end);
  }

  decDataBlocks(begin: number, end: number): void {
    this.#enterService();
    this.#store.dataMap.dec(begin, end);
  }

  /** Owners of a data block. */
  dataBlockCount(block: number): number {
    return this.#store.dataMap.count(block);
  }

  /** Maps a virtual block; what it was mapped to before loses an owner. */
  insertMapping(device: OpenDevice, virtualBlock: number, dataBlock: number): void {
    this.insertMappings(device, virtualBlock, [dataBlock]);
  }

  /** Maps virtual blocks in a row, from `first` on, one after the other. */
  insertMappings(device: OpenDevice, first: number, dataBlocks: readonly number[]): void {
    this.#enterService();
    if (this.#time >= TIME_LIMIT) {
      throw new StateError("EINVAL", `the pool's clock ${this.#time} does not fit a mapping`, {
        hint: "copy the devices into a new pool",
      });
    }
    const store = this.#store;
    const { upper, mappings } = store.trees;
    const valueAt = (index: number) => {
      const dataBlock = dataBlocks[index]!;
      invariant(dataBlock < DATA_BLOCK_LIMIT, `data block ${dataBlock} does not fit a mapping`);
      setBlockTime(this.#value, 0, dataBlock, this.#time);
      return this.#value;
    };
    const count = dataBlocks.length;
    const inserted = insertRunBelow(upper, store.mappingRoot, device.id, mappings, first, count, valueAt);
    if (inserted === undefined) throw noDevice(device.id);
    store.mappingRoot = inserted.root;
    device.mappedBlocks += inserted.added;
    device.isChanged = true;
    this.#blocks.trim();
  }

  /** Unmaps [begin, end); the data blocks lose an owner. @returns how many were mapped */
  removeMappings(device: OpenDevice, begin: number, end: number): number {
    this.#enterService();
    const store = this.#store;
    const { trees, transaction } = store;
    let root = this.#deviceRoot(device.id);
    // Keeps the tree alive while the upper level does not refer to it.
    transaction.inc(root);
    store.mappingRoot = remove(trees.devices, store.mappingRoot, device.id).root;
    let removedBlocks = 0;
    for (let at = begin; at < end; ) {
      if (!lookupNext(trees.mappings, root, at, this.#position) || this.#position.key >= end) break;
      const run = removeRun(trees.mappings, root, this.#position.key, end);
      root = run.root;
      removedBlocks += run.count;
      at = run.next;
      this.#blocks.trim();
    }
    if (removedBlocks > device.mappedBlocks) {
      throw new DamageError(
        `thin device ${device.id}: ${removedBlocks} mappings removed, its details say it had ${device.mappedBlocks}`,
      );
    }
    device.mappedBlocks -= removedBlocks;
    device.isChanged = true;
    this.#setDeviceRoot(device.id, root);
    return removedBlocks;
  }

  /** Highest mapped virtual block, undefined when none is mapped. */
  highestMappedBlock(id: number, roots: MetadataRoots = this.#store): number | undefined {
    return highestKey(this.#store.trees.mappings, this.#deviceRoot(id, roots));
  }

  /**
   * Calls `visit` with runs of consecutive mappings of equal time among virtual blocks [begin, end), in order; returning
   * false ends it. The metadata must not change meanwhile.
   */
  forEachMapping(
    id: number,
    begin: number,
    end: number,
    visit: (virtualBlock: number, dataBlock: number, time: number, count: number) => unknown,
    roots: MetadataRoots = this.#store,
  ): void {
    let runVirtual = 0;
    let runData = 0;
    let runTime = 0;
    let runCount = 0;
    let wantsMore = true;
    walkLeaves(this.#store.trees.mappings, this.#deviceRoot(id, roots), begin, end, (view, from, to) => {
      let offset = valueOffset(view, from);
      for (let index = from; index < to; index++, offset += BLOCK_TIME_BYTES) {
        const virtualBlock = keyAt(view, index);
        const dataBlock = blockOf(view, offset);
        const time = timeOf(view, offset);
        if (
          runCount > 0 &&
          virtualBlock === runVirtual + runCount &&
          dataBlock === runData + runCount &&
          time === runTime
        ) {
          runCount++;
          continue;
        }
        this.#checkDataBlock(dataBlock);
        if (runCount > 0 && visit(runVirtual, runData, runTime, runCount) === false) {
          wantsMore = false;
          return false;
        }
        runVirtual = virtualBlock;
        runData = dataBlock;
        runTime = time;
        runCount = 1;
      }
      return true;
    });
    if (wantsMore && runCount > 0) visit(runVirtual, runData, runTime, runCount);
  }

  /** The trees behind the queries, for walks that see more than one device. They are only read, and before the next change. */
  treesForReading(roots: MetadataRoots = this.#store): ReadableTrees {
    const { trees, dataMap } = this.#store;
    return {
      devices: trees.devices,
      deviceRoot: roots.mappingRoot,
      mappings: trees.mappings,
      metadataBlocks: this.metadataBlocks,
      dataBlocks: dataMap.nrLiveBlocks,
    };
  }

  // --- the pool as a whole ---

  /** Compare and set. @throws StateError EINVAL when the present id is not `from` */
  setTransactionId(from: number, to: number): void {
    this.#enterService();
    if (this.#transactionId !== from) {
      throw new StateError("EINVAL", `transaction id is ${this.#transactionId}, the message expects ${from}`, {
        hint: "somebody else changed the pool; read its status again",
      });
    }
    this.#transactionId = to;
  }

  /** Copies the superblock for readers; what it reaches stays as it is. The caller has committed. @throws StateError EBUSY */
  reserveSnapshot(): void {
    this.#enterService();
    if (this.#heldRoot !== 0) {
      throw new StateError("EBUSY", "the pool has a metadata snapshot already", {
        hint: "release it before taking another",
      });
    }
    const { transaction } = this.#store;
    transaction.inc(SUPERBLOCK_LOCATION);
    const { block } = transaction.shadow(SUPERBLOCK_LOCATION, SUPERBLOCK_VALIDATOR);
    const { fields, get } = SUPERBLOCK;
    block.bytes.fill(0, fields.dataSpaceMapRoot.offset, fields.dataMappingRoot.offset);
    transaction.inc(get.dataMappingRoot(block.view));
    transaction.inc(get.deviceDetailsRoot(block.view));
    this.#heldRoot = block.blocknr;
  }

  /** @throws StateError EINVAL when there is none */
  releaseSnapshot(): void {
    this.#enterService();
    const held = this.#heldRoot;
    const roots = this.heldRoots();
    if (roots === undefined) {
      throw new StateError("EINVAL", "the pool has no metadata snapshot", { hint: "nothing needs to be released" });
    }
    this.#heldRoot = 0;
    deleteTree(this.#store.trees.devices, roots.mappingRoot);
    deleteTree(this.#store.trees.details, roots.detailsRoot);
    this.#store.transaction.dec(held);
    this.#blocks.trim();
  }

  /** Roots of the metadata snapshot; give them to the queries to see the pool as it was. */
  heldRoots(): MetadataRoots | undefined {
    if (this.#heldRoot === 0) return undefined;
    const { view } = this.#store.transaction.read(this.#heldRoot, SUPERBLOCK_VALIDATOR);
    return { mappingRoot: SUPERBLOCK.get.dataMappingRoot(view), detailsRoot: SUPERBLOCK.get.deviceDetailsRoot(view) };
  }

  /** The copy of the superblock that is the metadata snapshot. */
  heldSuperblock(): Uint8Array | undefined {
    if (this.#heldRoot === 0) return undefined;
    return this.#store.transaction.read(this.#heldRoot, SUPERBLOCK_VALIDATOR).bytes.slice();
  }

  /** Only ever grows. */
  resizeData(nrBlocks: number): void {
    this.#enterService();
    invariant(nrBlocks >= this.#store.dataMap.nrLiveBlocks, "the data space map cannot shrink");
    this.#store.dataMap.extend(nrBlocks);
  }

  /** The device below has grown to `deviceBlocks`. */
  resizeMetadata(deviceBlocks: number): void {
    this.#enterService();
    const nrBlocks = usableBlocks(deviceBlocks);
    invariant(nrBlocks >= this.metadataBlocks, "the metadata space map cannot shrink");
    this.#blocks.nrBlocks = nrBlocks;
    this.#store.metadataMap.extend(nrBlocks);
  }

  /** While set, nothing is written; changes are refused with EPERM. */
  setReadOnly(isReadOnly: boolean): void {
    this.#blocks.setReadOnly(isReadOnly || this.#isDeviceReadOnly);
  }

  /**
   * Makes the running transaction the last commit. The caller has flushed the data device, so that no mapping becomes
   * durable before what it maps. On error the device holds the last commit; the caller must `abort`.
   */
  commit(): void {
    for (const _ of this.commitSteps()) this.#blocks.flush();
  }

  /** The same for a caller who flushes the metadata device at each step and may wait for that; nothing changes meanwhile. */
  *commitSteps(): Generator<"flush", void, void> {
    if (!this.#isInService) return;
    const store = this.#store;
    this.#writeChangedDetails();
    store.dataMap.commit();
    store.metadataMap.commit();
    yield* this.#blocks.commitSteps(SUPERBLOCK_VALIDATOR, ({ view }) => {
      const { set } = SUPERBLOCK;
      set.time(view, this.#time);
      set.dataMappingRoot(view, store.mappingRoot);
      set.deviceDetailsRoot(view, store.detailsRoot);
      set.transId(view, this.#transactionId);
      set.flags(view, this.#flags);
      set.heldRoot(view, this.#heldRoot);
      writeSpaceMapRoot(view, "data", store.dataMap.root);
      writeSpaceMapRoot(view, "metadata", store.metadataMap.root);
    });
    store.transaction.endTransaction();
    this.#forgetChanges();
    this.#blocks.trim();
  }

  /** Drops everything since the last commit and opens the metadata again. @throws when it cannot be read */
  abort(): void {
    this.#isFailed = true;
    this.#changes++;
    for (const device of this.#devices.values()) {
      if (device.isChanged) device.isAborted = true;
      device.isChanged = false;
    }
    this.#blocks.forget();
    this.#store = MetadataStore.open(this.#blocks, undefined, !this.#isDeviceReadOnly);
    this.#beginTransaction();
    this.#attachThreshold();
    for (const device of [...this.#devices.values()]) this.#reload(device);
    this.#isFailed = false;
  }

  /** Nothing that is asked of it can be trusted: an abort did not succeed. */
  get isFailed(): boolean {
    return this.#isFailed;
  }

  /** Sets the flag in the superblock of the last commit, at once. No transaction is running. */
  setNeedsCheck(): void {
    this.#flags |= FLAG_NEEDS_CHECK;
    this.#blocks.commit(SUPERBLOCK_VALIDATOR, ({ view }) => SUPERBLOCK.set.flags(view, this.#flags));
  }

  // --- helpers ---

  #beginTransaction(): void {
    const { view } = this.#blocks.read(SUPERBLOCK_LOCATION, SUPERBLOCK_VALIDATOR);
    const { get } = SUPERBLOCK;
    this.#time = get.time(view);
    this.#transactionId = get.transId(view);
    this.#flags = get.flags(view);
    this.#heldRoot = get.heldRoot(view);
    this.#dataBlockSectors = get.dataBlockSize(view);
  }

  #enterService(): void {
    if (this.#blocks.isReadOnly) {
      throw new StateError("EPERM", "the metadata is read-only", {
        hint: "see the pool's mode with 'udm pool status'",
      });
    }
    this.#isInService = true;
    this.#changes++;
  }

  #attachThreshold(): void {
    const map = this.#store.metadataMap;
    map.onAllocate = () => {
      const free = map.nrFree;
      const threshold = this.#threshold;
      const previous = this.#lastFree;
      this.#lastFree = free;
      if (threshold === undefined || free > threshold.blocks) return;
      if (previous === undefined || previous > threshold.blocks) threshold.onLow();
    };
  }

  #refuseExisting(id: number): void {
    const isKnown =
      this.#devices.has(id) || lookup(this.#store.trees.details, this.#store.detailsRoot, id, this.#position);
    if (isKnown)
      throw new StateError("EEXIST", `thin device ${id} exists in the pool already`, { hint: "choose another id" });
  }

  /** As below, remembered until something changes: lookups come in thousands between two changes. */
  #rootForReading(device: OpenDevice): number {
    if (device.rootAtChange !== this.#changes) {
      device.root = this.#deviceRoot(device.id);
      device.rootAtChange = this.#changes;
    }
    return device.root;
  }

  #deviceRoot(id: number, roots: MetadataRoots = this.#store): number {
    const position = this.#position;
    if (!lookup(this.#store.trees.devices, roots.mappingRoot, id, position)) throw noDevice(id);
    const { view, offset } = position;
    return view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
  }

  #setDeviceRoot(id: number, root: number): void {
    const store = this.#store;
    this.#value.setUint32(0, root, true);
    this.#value.setUint32(DEVICE_ROOT_BYTES / 2, 0, true);
    store.mappingRoot = insert(store.trees.devices, store.mappingRoot, id, this.#value, 0).root;
  }

  #openNew(id: number): OpenDevice {
    const device = new OpenDevice(id);
    device.isChanged = true;
    device.transactionId = this.#transactionId;
    device.creationTime = this.#time;
    device.snapshottedTime = this.#time;
    this.#devices.set(id, device);
    return device;
  }

  /** The device in memory, read from the metadata when it is not there yet. */
  #touch(id: number): OpenDevice {
    const known = this.#devices.get(id);
    if (known !== undefined) return known;
    const device = new OpenDevice(id);
    Object.assign(device, withoutId(this.details(id)));
    this.#devices.set(id, device);
    return device;
  }

  /** After an abort: what the last commit says of a device in use. One it does not know any more is forgotten. */
  #reload(device: OpenDevice): void {
    const position = this.#position;
    if (lookup(this.#store.trees.details, this.#store.detailsRoot, device.id, position)) {
      Object.assign(device, withoutId(readDetails(device.id, position.view, position.offset)));
    }
    if (device.openCount === 0) this.#devices.delete(device.id);
  }

  /** Most recently opened device first, as the kernel's list has it. */
  #writeChangedDetails(): void {
    const store = this.#store;
    for (const device of [...this.#devices.values()].reverse()) {
      if (!device.isChanged) continue;
      const { set } = DEVICE_DETAILS;
      set.mappedBlocks(this.#value, device.mappedBlocks);
      set.transactionId(this.#value, device.transactionId);
      set.creationTime(this.#value, device.creationTime);
      set.snapshottedTime(this.#value, device.snapshottedTime);
      store.detailsRoot = insert(store.trees.details, store.detailsRoot, device.id, this.#value, 0).root;
    }
  }

  #forgetChanges(): void {
    for (const device of [...this.#devices.values()]) {
      device.isChanged = false;
      if (device.openCount === 0) this.#devices.delete(device.id);
    }
  }

  #checkDataBlock(block: number): void {
    if (block < this.#store.dataMap.nrLiveBlocks) return;
    throw new StateError(
      "EIO",
      `a mapping names data block ${block}, the pool has ${this.#store.dataMap.nrLiveBlocks}`,
      {
        hint: "the metadata is damaged or belongs to a larger pool; check it with thin_check",
      },
    );
  }
}

function checkId(id: number): void {
  if (!Number.isInteger(id) || id < 0 || id > MAX_DEVICE_ID) {
    throw new StateError("EINVAL", `device id ${id} is out of range`, { hint: `ids go from 0 to ${MAX_DEVICE_ID}` });
  }
}

function noDevice(id: number): StateError {
  return new StateError("ENODATA", `thin device ${id} does not exist in the pool`, {
    hint: "'udm thin list' shows what the pool holds",
  });
}

function readDetails(id: number, view: ReadView, offset: number): ThinDetails {
  return { id, ...DEVICE_DETAILS.read(view, offset) };
}

function detailsOf(device: OpenDevice): ThinDetails {
  const { id, mappedBlocks, transactionId, creationTime, snapshottedTime } = device;
  return { id, mappedBlocks, transactionId, creationTime, snapshottedTime };
}

function withoutId(details: ThinDetails): Omit<ThinDetails, "id"> {
  const { id: _, ...rest } = details;
  return rest;
}

/** Blocks of 4 KiB on a device of so many bytes. */
export function metadataBlocksOf(sizeBytes: number): number {
  return Math.floor(sizeBytes / METADATA_BLOCK_BYTES);
}
