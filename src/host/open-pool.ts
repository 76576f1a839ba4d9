/**
 * A pool for programs, without names, tables or a state folder: two devices or files in, thin devices out. For what
 * outlives the program (names, tables, tools) there is `openHost`.
 *
 *     await using pool = await openPool({ metadata: "meta.img", data: "data.img", metadataBytes: 2 ** 24, dataBytes: 2 ** 33 });
 *     const id = await pool.createThin();
 *     await using disk = pool.openThin(id, { sizeBytes: 2 ** 30 });
 *     await disk.write(0, bytes);
 *     await disk.flush();
 *     const snapshot = await pool.createSnapshot(id);
 */
import { StateError } from "../errors/index.js";
import { type BlockDevice, type Claim, Claims, FileDevice } from "../io/index.js";
import { MAX_DATA_BLOCK_SECTORS, MAX_DEVICE_ID, MIN_DATA_BLOCK_SECTORS } from "../targets/index.js";
import {
  isBlank,
  NO_FEATURES,
  Pool,
  type PoolFeatures,
  type PoolStatus,
  SUPERBLOCK,
  type ThinDetails,
  type ThinDevice,
} from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";

export interface OpenPoolOptions {
  /** A device, or the path of a file or block device, which is claimed while the pool is open. */
  readonly metadata: string | BlockDevice;
  readonly data: string | BlockDevice;
  /** Makes the file, sparse, where it does not exist. */
  readonly metadataBytes?: number;
  readonly dataBytes?: number;
  /** For a new pool; an existing one has its own. Default 64 KiB. */
  readonly blockBytes?: number;
  /** Default none, but `errorIfNoSpace`: a full pool answers at once. */
  readonly features?: Partial<PoolFeatures>;
  /** An event is raised when no more data blocks than this are free. Default 0. */
  readonly lowWaterBlocks?: number;
  readonly log?: (line: string) => void;
  /** Low water, a change of mode: look at `status`. */
  readonly onEvent?: () => void;
}

const DEFAULT_BLOCK_BYTES = 65536;

/**
 * Opens a pool, or formats one where the metadata's first 4 KiB are zero.
 * @throws StateError EBUSY (held by somebody else), ENOENT, EINVAL; DamageError, ENOTBLK or EILSEQ when the metadata is
 * no pool's; SpaceError; IoError
 */
export async function openPool(options: OpenPoolOptions): Promise<OpenedPool> {
  const readOnly = options.features?.readOnly ?? false;
  const ground = new Ground();
  try {
    const metadata = ground.open(options.metadata, "pool metadata", { readOnly, createBytes: options.metadataBytes });
    const data = ground.open(options.data, "pool data", { readOnly, createBytes: options.dataBytes });
    if (metadata === data) {
      throw new StateError("EINVAL", "metadata and data are the same device", {
        hint: "give each a device of its own",
      });
    }
    const pool = Pool.load({
      name: metadata.name,
      metadata,
      data,
      config: {
        lengthSectors: Math.floor(data.sizeBytes / SECTOR_BYTES),
        dataBlockSectors: await blockSectorsOf(metadata, options.blockBytes),
        lowWaterBlocks: options.lowWaterBlocks ?? 0,
        features: { ...NO_FEATURES, errorIfNoSpace: true, ...options.features },
      },
      ...(options.log === undefined ? {} : { log: options.log }),
      ...(options.onEvent === undefined ? {} : { onEvent: options.onEvent }),
    });
    try {
      await pool.resume();
    } catch (error) {
      await pool.close();
      throw error;
    }
    return new OpenedPool(pool, ground);
  } catch (error) {
    await ground.close();
    throw error;
  }
}

/** What a new pool is asked for, or what an existing one has. */
async function blockSectorsOf(metadata: BlockDevice, blockBytes: number | undefined): Promise<number> {
  const wanted = (blockBytes ?? DEFAULT_BLOCK_BYTES) / SECTOR_BYTES;
  if (wanted < MIN_DATA_BLOCK_SECTORS || wanted > MAX_DATA_BLOCK_SECTORS || wanted % MIN_DATA_BLOCK_SECTORS !== 0) {
    throw new StateError("EINVAL", `block size ${blockBytes} is not possible`, {
      hint: "a multiple of 64k from 64k to 1g",
    });
  }
  if (blockBytes !== undefined || metadata.sizeBytes < SUPERBLOCK.size) return wanted;
  const block = new Uint8Array(SUPERBLOCK.size);
  await metadata.read(0, block);
  // Whether it is a superblock at all is checked by the pool.
  return isBlank(block) ? wanted : SUPERBLOCK.get.dataBlockSize(new DataView(block.buffer));
}

/** A pool in use. Everything that changes it is committed when its promise resolves. */
export class OpenedPool implements AsyncDisposable {
  /** The engine itself, for what is not here: messages, queries of the metadata. */
  readonly engine: Pool;
  readonly #ground: Ground;

  /** @internal */
  constructor(engine: Pool, ground: Ground) {
    this.engine = engine;
    this.#ground = ground;
  }

  /** The metadata was blank: this is a new pool. */
  get wasFormatted(): boolean {
    return this.engine.formatted;
  }

  get blockBytes(): number {
    return this.engine.blockBytes;
  }

  /** Ids and numbers of all thin devices. */
  devices(): readonly ThinDetails[] {
    return this.engine.metadata.listDevices();
  }

  /** @param id default the lowest free one @returns the id @throws StateError EEXIST, EINVAL */
  async createThin(id: number = this.#freeId()): Promise<number> {
    await this.engine.message(["create_thin", String(id)]);
    return id;
  }

  /**
   * What the origin holds at this moment, under another id. Writes to the origin must not be under way.
   * @returns the id @throws StateError ENODATA, EEXIST
   */
  async createSnapshot(origin: number, id: number = this.#freeId()): Promise<number> {
    await this.engine.message(["create_snap", String(id), String(origin)]);
    return id;
  }

  /** @throws StateError ENODATA, EBUSY while it is open */
  async deleteThin(id: number): Promise<void> {
    await this.engine.message(["delete", String(id)]);
  }

  /**
   * A thin device as something that holds bytes. Its size is the opener's: the pool keeps none.
   * @throws StateError ENODATA
   */
  openThin(id: number, options: { readonly sizeBytes: number; readonly externalOrigin?: BlockDevice }): ThinDevice {
    return this.engine.openThin(id, { name: `thin ${id}`, ...options });
  }

  /** Commits first. */
  status(): Promise<PoolStatus> {
    return this.engine.status();
  }

  /** Commits, then lets go of files that were opened by path. May be called twice. */
  async close(): Promise<void> {
    try {
      await this.engine.close();
    } finally {
      await this.#ground.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #freeId(): number {
    const taken = new Set(this.devices().map(({ id }) => id));
    let id = 0;
    while (taken.has(id)) id++;
    if (id <= MAX_DEVICE_ID) return id;
    throw new StateError("ENOSPC", "the pool has no free device id", { hint: "delete devices" });
  }
}

/** Files opened by path, with their claims. Devices that were given stay their owner's. */
class Ground {
  readonly #claims = new Claims();
  readonly #open: { readonly device: BlockDevice; readonly claim: Claim }[] = [];

  open(
    from: string | BlockDevice,
    role: string,
    options: { readonly readOnly: boolean; readonly createBytes: number | undefined },
  ): BlockDevice {
    if (typeof from !== "string") return from;
    const { readOnly, createBytes } = options;
    const device = FileDevice.open(from, { readOnly, ...(createBytes === undefined ? {} : { createBytes }) });
    try {
      this.#open.push({ device, claim: this.#claims.claim({ path: from, role, readOnly }) });
      return device;
    } catch (error) {
      void device.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const { device, claim } of this.#open.splice(0)) {
      await device.close();
      claim.release();
    }
  }
}
