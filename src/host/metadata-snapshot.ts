/**
 * The metadata snapshot of a pool in use, held for a reader: a service of the daemon that has the pool. It takes one where
 * there is none and releases it when its last reader has gone, however that ended; one that somebody else took is read
 * and left alone. A pool has only one, so readers that come while it is taken share it.
 *
 * Which one was taken is in the state, so that what a killed daemon leaves is released by whoever has the state next. One
 * that somebody takes by a message is never in it.
 */
import type { DeviceRecord, ReadSnapshot } from "../device-registry/index.js";
import { codeOf, messageOf, StateError } from "../errors/index.js";
import type { Pool } from "../thin/index.js";
import type { Service, ServiceContext, ServiceKind } from "./daemon/services.js";
import type { ServiceInfo } from "./host.js";
import type { Session } from "./session.js";
import { digestOf } from "./thin-records.js";

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
        await own.change(`release the metadata of ${held.name}`, (session) => giveBack(session, held.name));
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

async function take(session: Session, name: string): Promise<Taken> {
  // Nobody reads this pool just now.
  await releaseLeft(session, session.registry.get(name));
  const { pool } = await session.registry.openPool(name);
  const present = pool.metadata.heldRoot;
  if (present !== undefined) return { block: present, isOurs: false };
  await pool.message(["reserve_metadata_snap"]);
  const taken = presentIn(pool)!;
  session.registry.update(name, { pool: { thins: [], ...session.registry.get(name).pool, readSnapshot: taken } });
  return { block: taken.block, isOurs: true };
}

/** Somebody may have released it, and taken another, meanwhile. */
async function giveBack(session: Session, name: string): Promise<void> {
  const noted = session.registry.get(name).pool?.readSnapshot;
  if (noted === undefined) return;
  const { pool } = await session.registry.openPool(name);
  const present = presentIn(pool);
  if (present?.block === noted.block && present.digest === noted.digest) await pool.message(["release_metadata_snap"]);
  forgetReadSnapshot(session, name);
}

function presentIn(pool: Pool): ReadSnapshot | undefined {
  const copy = pool.metadata.heldSuperblock();
  return copy === undefined ? undefined : { block: pool.metadata.heldRoot!, digest: digestOf(copy) };
}

/** What the pool has from now on is somebody else's. */
export function forgetReadSnapshot(session: Session, name: string): void {
  const { pool } = session.registry.get(name);
  if (pool?.readSnapshot === undefined) return;
  const { readSnapshot: _, ...rest } = pool;
  session.registry.update(name, { pool: rest });
}

/** Some pool may have a metadata snapshot of readers that are gone, where no daemon runs. */
export function mayHaveLeft(devices: readonly DeviceRecord[]): boolean {
  return devices.some(({ pool }) => pool?.readSnapshot !== undefined);
}

/** Releases what killed daemons left. To be called where nobody can be reading: no daemon runs, or it only just begins. */
export async function releaseAllLeft(session: Session): Promise<void> {
  for (const record of session.registry.records()) await releaseLeft(session, record);
}

async function releaseLeft(session: Session, { name, pool }: DeviceRecord): Promise<void> {
  if (pool?.readSnapshot === undefined) return;
  try {
    await giveBack(session, name);
    session.log(`mended: metadata snapshot of ${name}`);
  } catch (error) {
    // Somebody else may have the pool just now; other failures would come again for ever.
    const code = codeOf(error);
    if (code === "EBUSY" || code === "EACCES") return;
    session.log(
      `cannot release the metadata snapshot that a reader left in ${name}: ${messageOf(error)}; udm pool message ${name} release_metadata_snap does, once the pool is well`,
    );
    forgetReadSnapshot(session, name);
  }
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
