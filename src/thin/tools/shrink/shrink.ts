/**
 * Shrinks a pool in place. Batch by batch: the data of blocks behind the new end is copied to free blocks below it and
 * flushed, then one transaction changes every mapping of them. Between two commits nothing refers to the copies, and
 * nothing that is referred to is written; so wherever it is cut off, the devices hold the last commit, a whole pool with
 * all of its data, and what is left to do shows from the pool itself. In the end the data space map is cut.
 */
import { SpaceError, StateError, type UdmError } from "../../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../../io/index.js";
import { BlockManager, METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { ThinMetadata } from "../../metadata.js";
import { MetadataStore, usableBlocks } from "../../metadata-store.js";
import { SUPERBLOCK, SUPERBLOCK_VALIDATOR, writeSpaceMapRoot } from "../../superblock.js";
import type { Pace } from "../pace.js";
import { BlockStore } from "../reader/block-store.js";
import { copyBlocks } from "./copy.js";
import { interrupted } from "./interrupted.js";
import type { ShrinkPlan } from "./plan.js";
import { type NodeTable, Remap, readNodeTable } from "./remap.js";

/** Least and, for each byte of leaves to change, most data copied between two commits. */
const BATCH_BYTES = 256 * 1024 * 1024;
const BYTES_PER_LEAF_BYTE = 8;

export type MetadataDevice = Pick<BlockDevice, "name" | "sizeBytes" | "sync">;

export interface ShrinkOptions {
  /** Undefined: data is not copied, which leaves the devices with other bytes; for measurements. */
  readonly data: BlockDevice | undefined;
  readonly pace: Pace;
  /** Data copied between two commits; more where many leaves must be changed. */
  readonly batchBytes?: number;
  readonly cacheBlocks?: number;
}

export interface Shrunk {
  readonly movedBlocks: number;
  readonly movedBytes: number;
  /** Transactions that changed mappings. */
  readonly commits: number;
  /** Nodes of mapping trees written anew. */
  readonly nodes: number;
}

/**
 * Carries out a plan that was made of this metadata as it is now. Durable when it resolves.
 * @throws UdmError EINTR after an interrupt, once what was copied is committed; SpaceError when the metadata has no room for
 * the copy of one path; IoError, DamageError: then the last commit stands
 */
export async function shrinkPool(metadata: MetadataDevice, plan: ShrinkPlan, options: ShrinkOptions): Promise<Shrunk> {
  refuseShortData(plan, options.data);
  return new Shrinker(metadata, plan, options).run();
}

/** Gives up the metadata snapshot, in a transaction of its own. */
export function releaseMetadataSnapshot(metadata: MetadataDevice): void {
  const engine = ThinMetadata.open(ioOf(metadata), Math.floor(metadata.sizeBytes / METADATA_BLOCK_BYTES), {
    dataBlockSectors: undefined,
    mayFormat: false,
    isDeviceReadOnly: false,
  });
  engine.releaseSnapshot();
  engine.commit();
}

/** @throws StateError EINVAL when the data device does not hold what is in use and what is to be the pool */
export function refuseShortData(
  { figures, relocation }: Pick<ShrinkPlan, "figures" | "relocation">,
  data: BlockDevice | undefined,
): void {
  if (data === undefined) return;
  const last = relocation.count === 0 ? 0 : relocation.endOf(relocation.limit, relocation.count);
  const needed = Math.max(last, figures.blocksAfter) * figures.blockBytes;
  if (data.sizeBytes >= needed) return;
  throw new StateError("EINVAL", `${data.name}: ${data.sizeBytes} bytes, the pool's data needs ${needed}`, {
    hint: "this is not the pool's data device, or it was cut off",
  });
}

class Shrinker {
  readonly #metadata: MetadataDevice;
  readonly #plan: ShrinkPlan;
  readonly #options: ShrinkOptions;
  readonly #blocks: BlockManager;
  #store: MetadataStore;
  #movedBlocks = 0;
  #commits = 0;
  #nodes = 0;

  constructor(metadata: MetadataDevice, plan: ShrinkPlan, options: ShrinkOptions) {
    this.#metadata = metadata;
    this.#plan = plan;
    this.#options = options;
    const nrBlocks = usableBlocks(Math.floor(metadata.sizeBytes / METADATA_BLOCK_BYTES));
    const { cacheBlocks } = options;
    this.#blocks = new BlockManager(ioOf(metadata), nrBlocks, cacheBlocks === undefined ? {} : { cacheBlocks });
    this.#store = MetadataStore.open(this.#blocks, undefined, true);
  }

  async run(): Promise<Shrunk> {
    const { relocation, figures } = this.#plan;
    const { pace } = this.#options;
    pace.base = 0;
    pace.total = figures.bytesToMove;
    if (relocation.count > 0) await this.#moveAll();
    if (figures.blocksAfter < figures.blocksBefore) this.#cut();
    return {
      movedBlocks: this.#movedBlocks,
      movedBytes: this.#movedBlocks * figures.blockBytes,
      commits: this.#commits,
      nodes: this.#nodes,
    };
  }

  async #moveAll(): Promise<void> {
    const { relocation, superblock } = this.#plan;
    const { pace } = this.#options;
    const table = await readNodeTable(new BlockStore(this.#metadata), superblock, relocation.limit, pace);
    pace.base = 0;
    pace.total = this.#plan.figures.bytesToMove;
    const { limit, end } = relocation;
    for (let at = limit, copied = limit; relocation.countIn(at, end) > 0; ) {
      if (copied === at) copied = await this.#copy(at, table);
      if (relocation.countIn(at, copied) > 0) at = await this.#remap(at, copied, table);
      if (pace.isInterrupted && relocation.countIn(at, end) > 0) throw this.#interrupted();
    }
  }

  /** @returns behind the last block of the next batch that was copied and flushed */
  async #copy(begin: number, table: NodeTable): Promise<number> {
    const { relocation, figures } = this.#plan;
    const { data, pace, batchBytes = BATCH_BYTES } = this.#options;
    if (data === undefined) return relocation.end;
    const leafBytes = table.leaves * METADATA_BLOCK_BYTES;
    const blocks = Math.max(1, Math.floor(Math.max(batchBytes, leafBytes * BYTES_PER_LEAF_BYTE) / figures.blockBytes));
    const copied = await copyBlocks(data, relocation, {
      begin,
      end: relocation.endOf(begin, blocks),
      blockBytes: figures.blockBytes,
      pace,
      done: this.#movedBlocks * figures.blockBytes,
    });
    await data.flush();
    return copied;
  }

  /** Commits [begin, end), or as much from the front as the metadata has room for. @returns behind it */
  async #remap(begin: number, end: number, table: NodeTable): Promise<number> {
    const { relocation } = this.#plan;
    const count = relocation.countIn(begin, end);
    try {
      const remap = new Remap(this.#store, table, relocation, { begin, end });
      for (const _ of remap.run()) await this.#options.pace.breathe(this.#movedBlocks * this.#plan.figures.blockBytes);
      this.#store.dataMap.commit();
      this.#store.metadataMap.commit();
      this.#nodes += remap.nodes;
    } catch (error) {
      if (!(error instanceof SpaceError)) throw error;
      if (count === 1) throw noMetadataSpace(this.#metadata.name, error);
      // No superblock was written, so there is only memory to put right.
      this.#blocks.forget();
      this.#store = MetadataStore.open(this.#blocks, undefined, true);
      return this.#remap(begin, relocation.endOf(begin, Math.floor(count / 2)), table);
    }
    this.#commit();
    this.#movedBlocks += count;
    this.#commits++;
    return end;
  }

  /** The space maps are committed. When it throws, the last commit stands, or this one. */
  #commit(): void {
    const store = this.#store;
    this.#blocks.commit(SUPERBLOCK_VALIDATOR, ({ view }) => {
      SUPERBLOCK.set.dataMappingRoot(view, store.mappingRoot);
      writeSpaceMapRoot(view, "data", store.dataMap.root);
      writeSpaceMapRoot(view, "metadata", store.metadataMap.root);
    });
    store.transaction.endTransaction();
    this.#blocks.trim();
  }

  /** The pool ends where it should. */
  #cut(): void {
    const { dataMap, metadataMap } = this.#store;
    dataMap.shrink(this.#plan.figures.blocksAfter);
    dataMap.commit();
    metadataMap.commit();
    this.#commit();
  }

  #interrupted(): UdmError {
    return interrupted(
      `interrupted: ${this.#movedBlocks} of ${this.#plan.figures.blocksToMove} blocks are moved`,
      "the pool is whole, with its old size; the same command goes on where this one stopped",
    );
  }
}

function noMetadataSpace(name: string, cause: SpaceError): SpaceError {
  return new SpaceError(`${name}: no free metadata block to change the mappings of one data block in`, {
    hint: "grow the metadata device first, or delete a device; what was moved so far is committed",
    cause,
  });
}

function ioOf({ name, sync }: MetadataDevice): SyncIo {
  if (sync !== undefined) return sync;
  throw new StateError("EOPNOTSUPP", `${name}: metadata must lie on a file or block device`);
}
