/**
 * Pools that grow by themselves, as LVM's policies have it: when more than a threshold of data or metadata is in use, the
 * pool gets a share of its size more, or what it takes to come below the threshold, in whole extents. Looked at after every
 * operation, and in a process that keeps pools open when the threshold is crossed.
 * Source: dmsetup-cli 13.4.
 */
import type { DeviceRecord } from "../device-registry/index.js";
import { messageOf, StateError } from "../errors/index.js";
import { MAX_METADATA_BLOCKS, METADATA_BLOCK_BYTES } from "../persistent-data/index.js";
import type { Pool, PoolStatus } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { PoolEvent, PoolResized } from "./host.js";
import { resizeIn } from "./pool-resize.js";
import type { Session } from "./session.js";

export interface Policy {
  /** 50 to 99. */
  readonly thresholdPercent: number;
  readonly percent: number;
  /** Data is never made larger than this. */
  readonly maxSizeBytes: number | undefined;
}

export interface Extension {
  readonly dataBytes?: number;
  readonly metadataBytes?: number;
}

const EXTENT_BYTES = 4 * 2 ** 20;
const MIN_METADATA_BYTES = 2 * 2 ** 20;
const BYTES_PER_DATA_BLOCK = 64;
/** Nothing is done below, whatever the threshold. */
const LEAST_USE_PERCENT = 50;
const MAX_METADATA_BYTES = MAX_METADATA_BLOCKS * METADATA_BLOCK_BYTES;
export const NEVER_PERCENT = 100;
export const DEFAULT_PERCENT = 20;

export function policyOf(record: DeviceRecord): Policy | undefined {
  const thresholdPercent = record.pool?.autoextendThresholdPercent ?? NEVER_PERCENT;
  if (thresholdPercent >= NEVER_PERCENT) return undefined;
  const { autoextendPercent: percent = DEFAULT_PERCENT, maxSizeBytes } = record.pool ?? {};
  return {
    thresholdPercent: Math.max(thresholdPercent, LEAST_USE_PERCENT),
    percent,
    maxSizeBytes: maxSizeBytes || undefined,
  };
}

/** New sizes; undefined when nothing has to be, or can be, done. */
export function planExtension(
  status: PoolStatus,
  sizes: { readonly dataBytes: number; readonly metadataBytes: number },
  policy: Policy,
): Extension | undefined {
  const blockBytes = status.dataBlockSectors * SECTOR_BYTES;
  const threshold = policy.thresholdPercent;
  const used = (100 * status.usedDataBlocks) / status.totalDataBlocks;
  let { dataBytes, metadataBytes } = sizes;
  if (used > LEAST_USE_PERCENT && used > threshold) {
    const added = Math.max(policy.percent, Math.ceil((100 * used) / threshold) - 100);
    const wanted = (extents(dataBytes) + Math.ceil((extents(dataBytes) * added) / 100)) * EXTENT_BYTES;
    const limit = policy.maxSizeBytes ?? Number.MAX_SAFE_INTEGER;
    dataBytes = Math.max(dataBytes, floorTo(Math.min(wanted, limit), SECTOR_BYTES));
  }
  const metadataThreshold = metadataThresholdOf(threshold, metadataBytes);
  const usedMetadata = (100 * status.usedMetadataBlocks) / status.totalMetadataBlocks;
  if (usedMetadata > LEAST_USE_PERCENT && usedMetadata > metadataThreshold) {
    const added = Math.max(policy.percent, Math.ceil((100 * usedMetadata) / metadataThreshold) - 100) + 1;
    metadataBytes = (extents(metadataBytes) + Math.ceil((extents(metadataBytes) * added) / 100)) * EXTENT_BYTES;
  }
  if (dataBytes > sizes.dataBytes) {
    const estimate = Math.ceil(dataBytes / blockBytes) * BYTES_PER_DATA_BLOCK;
    metadataBytes = Math.max(metadataBytes, extents(Math.max(estimate, MIN_METADATA_BYTES)) * EXTENT_BYTES);
  }
  metadataBytes = Math.max(sizes.metadataBytes, Math.min(metadataBytes, floorTo(MAX_METADATA_BYTES, EXTENT_BYTES)));
  const extension = {
    ...(dataBytes > sizes.dataBytes ? { dataBytes } : {}),
    ...(metadataBytes > sizes.metadataBytes ? { metadataBytes } : {}),
  };
  return Object.keys(extension).length === 0 ? undefined : extension;
}

/** Metadata is extended earlier: a quarter of it, or 4 MiB, stays free for repairs and snapshots. */
function metadataThresholdOf(threshold: number, metadataBytes: number): number {
  return Math.min(threshold, 100 - Math.min(25, (100 * EXTENT_BYTES) / metadataBytes));
}

/** Blocks in use with which a share is passed. */
function marked(total: number, percent: number): number {
  return Math.floor((total * Math.max(percent, LEAST_USE_PERCENT)) / 100) + 1;
}

function extents(bytes: number): number {
  return Math.ceil(bytes / EXTENT_BYTES);
}

function floorTo(bytes: number, unit: number): number {
  return Math.floor(bytes / unit) * unit;
}

/** What the extender tells and remembers, for as long as its process lives. */
export class Extender {
  readonly #tell: (event: PoolEvent) => void;
  /** Why a pool could not be extended the last time; told once. */
  readonly #failed = new Map<number, string>();

  constructor(tell: (event: PoolEvent) => void) {
    this.#tell = tell;
  }

  /** Extends the open pools that have passed their threshold. A pool that cannot grow is told, and fails nobody. */
  async extendOpen(session: Session): Promise<void> {
    for (const { record, pool } of session.registry.openPools()) {
      if (policyOf(record) === undefined || !isExtendable(record, pool)) continue;
      try {
        await this.#extend(session, record, pool);
        this.#failed.delete(record.minor);
      } catch (error) {
        this.#failedTo(session, record, pool, error);
      }
    }
  }

  /** One pool. @returns undefined when nothing had to be done @throws StateError, SpaceError when it cannot grow */
  async extend(session: Session, name: string): Promise<PoolResized | undefined> {
    const { pool } = await session.registry.openPool(name);
    const record = session.registry.get(name);
    if (policyOf(record) === undefined || !isExtendable(record, pool)) return undefined;
    try {
      return await this.#extend(session, record, pool);
    } catch (error) {
      this.#failedTo(session, record, pool, error);
      throw error;
    }
  }

  /** Open pools call `onReached` when they pass their threshold, and keep writes when they are full before they grew. */
  arm(session: Session, onReached: () => void): void {
    for (const { record, pool } of session.registry.openPools()) {
      const policy = policyOf(record);
      if (policy === undefined || !isExtendable(record, pool) || this.#failed.has(record.minor)) {
        pool.expectNoSpace();
        continue;
      }
      const status = pool.statusNow();
      const dataBytes = status.lengthSectors * SECTOR_BYTES;
      const metadataBytes = status.totalMetadataBlocks * METADATA_BLOCK_BYTES;
      const { thresholdPercent, maxSizeBytes } = policy;
      if (maxSizeBytes !== undefined && dataBytes >= maxSizeBytes) pool.expectNoSpace();
      else pool.expectSpace();
      const dataBlocks = marked(status.totalDataBlocks, thresholdPercent);
      const metadataBlocks = marked(status.totalMetadataBlocks, metadataThresholdOf(thresholdPercent, metadataBytes));
      const isPast = status.usedDataBlocks >= dataBlocks || status.usedMetadataBlocks >= metadataBlocks;
      // Past the mark, with nothing more to be had, there is nothing to wait for.
      if (isPast && planExtension(status, { dataBytes, metadataBytes }, policy) === undefined) continue;
      pool.watchUsage({ dataBlocks, metadataBlocks, onReached });
    }
  }

  /** Some pool has passed its threshold and could not grow: it is worth another try later. */
  get hasFailures(): boolean {
    return this.#failed.size > 0;
  }

  async #extend(session: Session, record: DeviceRecord, pool: Pool): Promise<PoolResized | undefined> {
    const policy = policyOf(record)!;
    const line = record.live![0]!;
    const sizes = {
      dataBytes: line.lengthSectors * SECTOR_BYTES,
      metadataBytes: (await session.registry.sizeSectors(line.args[0]!)) * SECTOR_BYTES,
    };
    const status = pool.statusNow();
    const plan = planExtension(status, sizes, policy);
    if (plan === undefined) {
      const isFull = status.usedDataBlocks >= status.totalDataBlocks;
      if (!isFull) return undefined;
      throw new StateError("ENOSPC", `pool '${record.name}' is full and has its largest size`, {
        hint: `udm pool set ${record.name} --max-size`,
      });
    }
    if (policy.percent === 0) {
      throw new StateError("EINVAL", `pool '${record.name}' cannot be extended by 0 percent`, {
        hint: `udm pool set ${record.name} --autoextend-percent 20`,
      });
    }
    const { dataBytes, metadataBytes } = plan;
    const resized = await resizeIn(session, {
      name: record.name,
      ...(dataBytes === undefined ? {} : { data: { kind: "absolute", bytes: dataBytes } }),
      ...(metadataBytes === undefined ? {} : { metadata: { kind: "absolute", bytes: metadataBytes } }),
    });
    session.log(`pool ${record.name} extended to ${resized.dataBytesAfter} and ${resized.metadataBytesAfter} bytes`);
    const { dataBytesBefore, dataBytesAfter, metadataBytesBefore, metadataBytesAfter } = resized;
    const sizesTold = { dataBytesBefore, dataBytesAfter, metadataBytesBefore, metadataBytesAfter };
    this.#tell({ time: now(), event: "extended", pool: record.name, ...sizesTold });
    return resized;
  }

  #failedTo(session: Session, record: DeviceRecord, pool: Pool, error: unknown): void {
    const reason = messageOf(error);
    session.log(`pool ${record.name} cannot be extended: ${reason}`);
    pool.expectNoSpace();
    if (this.#failed.get(record.minor) === reason) return;
    this.#failed.set(record.minor, reason);
    this.#tell({ time: now(), event: "extend-failed", pool: record.name, reason });
  }
}

/** A suspended pool gets what is loaded for it; one that is read-only or failed takes nothing. */
function isExtendable(record: DeviceRecord, pool: Pool): boolean {
  return (
    record.live !== undefined && !record.suspended && pool.mode !== "fail" && !pool.metadata.needsCheck && isOn(pool)
  );
}

function isOn(pool: Pool): boolean {
  return pool.mode === "write" || pool.mode === "out-of-data-space" || pool.mode === "out-of-metadata-space";
}

function now(): string {
  return new Date().toISOString();
}
