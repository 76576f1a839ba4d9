/**
 * The metadata snapshot of a pool in use, held for a reader: a service of the daemon that has the pool. It takes one where
 * there is none and releases it when its last reader has gone, however that ended; one that somebody else took is read
 * and left alone. A pool has only one, so readers that come while it is taken share it.
 */
import { StateError } from "../errors/index.js";
import type { Service, ServiceContext, ServiceKind } from "./daemon/services.js";
import type { ServiceInfo } from "./host.js";

export const SNAPSHOT_KIND = "metadata-snapshot";

export interface SnapshotRequest {
  readonly pool: string;
}

/** What a reader is told. */
export interface HeldSnapshot {
  readonly service: string;
  /** Block of the copy of the superblock. */
  readonly superblock: number;
  /** It was taken for this reader; otherwise it may be older than the pool. */
  readonly isFresh: boolean;
}

interface Taken {
  readonly block: number;
  readonly isOurs: boolean;
}

interface Lease {
  users: number;
  readonly taken: Promise<Taken>;
}

export function metadataSnapshotKind(): ServiceKind<SnapshotRequest> {
  const leases = new Map<string, Lease>();
  return { kind: SNAPSHOT_KIND, parse: parseRequest, start: (context, { pool }) => hold(context, pool, leases) };
}

async function hold(context: ServiceContext, pool: string, leases: Map<string, Lease>): Promise<Service> {
  const { own } = context.core;
  const held = await context.hold(pool, { what: "its metadata is being read", hint: "wait for it to end" });
  const key = String(held.minor);
  const known = leases.get(key);
  const lease = known ?? {
    users: 0,
    taken: own.change(`read the metadata of ${pool}`, (session) => take(session, pool)),
  };
  leases.set(key, lease);
  lease.users++;
  const leave = async () => {
    lease.users--;
    if (lease.users === 0) {
      leases.delete(key);
      const taken = await lease.taken.catch(() => undefined);
      if (taken?.isOurs === true) {
        await own.change(`release the metadata of ${held.name}`, (session) =>
          giveBack(session, held.name, taken.block),
        );
      }
    }
  };
  try {
    const { block, isOurs } = await lease.taken;
    const isFresh = isOurs && known === undefined;
    return {
      describe: () => ({ pool: held.name, superblock: block, isFresh }),
      async stop() {
        try {
          await leave();
        } finally {
          await held[Symbol.asyncDispose]();
        }
      },
    };
  } catch (error) {
    await leave();
    await held[Symbol.asyncDispose]();
    throw error;
  }
}

type Session = Parameters<Parameters<ServiceContext["core"]["own"]["change"]>[1]>[0];

async function take(session: Session, name: string): Promise<Taken> {
  const { pool } = await session.registry.openPool(name);
  const present = pool.metadata.heldRoot;
  if (present !== undefined) return { block: present, isOurs: false };
  await pool.message(["reserve_metadata_snap"]);
  return { block: pool.metadata.heldRoot!, isOurs: true };
}

/** Somebody may have released it, and taken another, meanwhile. */
async function giveBack(session: Session, name: string, block: number): Promise<void> {
  const { pool } = await session.registry.openPool(name);
  if (pool.metadata.heldRoot === block) await pool.message(["release_metadata_snap"]);
}

/** @throws StateError EINVAL */
function parseRequest(options: unknown): SnapshotRequest {
  const pool = typeof options === "object" && options !== null && "pool" in options ? options.pool : undefined;
  if (typeof pool === "string" && pool !== "") return { pool };
  throw new StateError("EINVAL", "metadata snapshot: no pool is named", { hint: "udm metadata check POOL" });
}

/** What a service of this kind tells, as a typed value. */
export function snapshotOfService(service: ServiceInfo): HeldSnapshot {
  const { superblock, isFresh } = service.details as { readonly superblock: number; readonly isFresh: boolean };
  return { service: service.name, superblock, isFresh };
}
