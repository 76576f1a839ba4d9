/** What udm remembers of thin devices, and small dealings with their pools that several operations share. */
import { createHash } from "node:crypto";
import { type DeviceRecord, Registry, type ThinRecord } from "../device-registry/index.js";
import { codeOf, StateError } from "../errors/index.js";
import type { TargetLine } from "../targets/index.js";
import type { Pool } from "../thin/index.js";
import { bytesToSectors } from "../units/index.js";
import type { Session } from "./session.js";

const SUPERBLOCK_BYTES = 4096;
/** Checksum and flags come first. */
const SUPERBLOCK_HEAD_BYTES = 8;

export function thinsOf(record: DeviceRecord): readonly ThinRecord[] {
  return record.pool?.thins ?? [];
}

export function setThins(session: Session, pool: string, thins: readonly ThinRecord[]): void {
  const record = session.registry.get(pool);
  const sorted = [...thins].sort((left, right) => left.id - right.id);
  session.registry.update(record.name, { pool: { ...record.pool, thins: sorted } });
}

export function addThin(session: Session, pool: string, thin: ThinRecord): void {
  const others = thinsOf(session.registry.get(pool)).filter((each) => each.id !== thin.id);
  setThins(session, pool, [...others, thin]);
}

/** Forgets a thin device that is gone from its pool, with the device that showed it. */
export async function dropThin(session: Session, pool: string, id: number): Promise<void> {
  const { registry } = session;
  const device = findThinDevice(session, registry.get(pool), id);
  if (device !== undefined && registry.openCount(device) === 0) await registry.remove(device.name);
  forgetThins(session, pool, new Set([id]));
}

/** They are no snapshots' origins any more either: their ids may soon be other devices'. */
export function forgetThins(session: Session, pool: string, ids: ReadonlySet<number>): void {
  const kept = thinsOf(session.registry.get(pool)).filter(({ id }) => !ids.has(id));
  setThins(
    session,
    pool,
    kept.map((thin) => withoutOrigin(thin, ids)),
  );
}

function withoutOrigin(thin: ThinRecord, ids: ReadonlySet<number>): ThinRecord {
  if (thin.origin === undefined || !ids.has(thin.origin)) return thin;
  const { origin: _, ...rest } = thin;
  return rest;
}

/** Makes the mapped device of a thin device; where that fails none is left. */
export async function showThin(session: Session, pool: DeviceRecord, thin: ThinRecord): Promise<void> {
  const { registry } = session;
  registry.create({ name: thin.name });
  try {
    await registry.load(thin.name, [thinLine(Registry.numberOf(pool), thin)], { readOnly: thin.readOnly });
    await registry.resume(thin.name);
  } catch (error) {
    await registry.remove(thin.name);
    throw error;
  }
}

/** The mapped device that shows a thin device and nothing else. */
export function findThinDevice(session: Session, pool: DeviceRecord, id: number): DeviceRecord | undefined {
  const number = Registry.numberOf(pool);
  return session.registry.records().find((record) => {
    const line = soleThinLine(record);
    return line !== undefined && line.args[0] === number && line.args[1] === String(id);
  });
}

export function soleThinLine(record: DeviceRecord): TargetLine | undefined {
  const lines = record.live ?? record.inactive?.lines;
  return lines?.length === 1 && lines[0]!.type === "thin" ? lines[0] : undefined;
}

export function thinLine(
  poolNumber: string,
  thin: { readonly id: number; readonly sizeBytes: number; readonly externalOrigin?: string | undefined },
): TargetLine {
  const { id, sizeBytes, externalOrigin } = thin;
  return {
    startSectors: 0,
    lengthSectors: bytesToSectors(sizeBytes),
    type: "thin",
    args: [poolNumber, String(id), ...(externalOrigin === undefined ? [] : [externalOrigin])],
  };
}

export function hasDevice(pool: Pool, id: number): boolean {
  try {
    pool.metadata.details(id);
    return true;
  } catch (error) {
    if (codeOf(error) === "ENODATA") return false;
    throw error;
  }
}

/** Of a pool's superblock without its checksum and its flags: differs after each commit that changed something. */
export function digestOf(superblock: Uint8Array): string {
  return createHash("sha256").update(superblock.subarray(SUPERBLOCK_HEAD_BYTES)).digest("hex");
}

/** The superblock as it is on the device, which no pool has open. */
export async function readSuperblock(session: Session, number: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  await (await metadataDevice(session, number, { readOnly: true })).read(0, bytes);
  return bytes;
}

async function metadataDevice(session: Session, number: string, mode: { readonly readOnly: boolean }) {
  const mapped = session.registry.find(number);
  return mapped === undefined ? session.low.open(number, mode) : session.registry.open(mapped.name);
}

/** Zeros over a pool's superblock; whatever it described is gone. */
export async function wipeSuperblock(session: Session, number: string): Promise<void> {
  const device = await metadataDevice(session, number, { readOnly: false });
  await device.write(0, Buffer.alloc(SUPERBLOCK_BYTES));
  await device.flush();
}

/** @throws StateError ENXIO, EINVAL when it is no pool */
export function getPool(session: Session, name: string): DeviceRecord {
  const record = session.registry.find(name);
  if (record === undefined) {
    throw new StateError("ENXIO", `no pool '${name}'`, { hint: "udm pool list shows the pools there are" });
  }
  if (!isPoolRecord(record)) {
    throw new StateError("EINVAL", `'${record.name}' is not a thin pool`, { hint: "udm pool list shows the pools" });
  }
  return record;
}

export function isPoolRecord(record: DeviceRecord): boolean {
  return (record.live ?? record.inactive?.lines)?.[0]?.type === "thin-pool";
}

export interface FoundThin {
  readonly pool: DeviceRecord;
  readonly id: number;
  /** The mapped device that shows it, when it is active. */
  readonly device: DeviceRecord | undefined;
  readonly thin: ThinRecord | undefined;
  /** What to call it in messages. */
  readonly label: string;
}

/** A thin device by the name of its mapped device, its remembered name, or `POOL:ID`. @throws StateError */
export function findThin(session: Session, target: string): FoundThin {
  const { registry } = session;
  const device = registry.find(target);
  const line = device === undefined ? undefined : soleThinLine(device);
  if (device !== undefined && line !== undefined) {
    const pool = registry.get(line.args[0]!);
    const id = Number(line.args[1]);
    return { pool, id, device, thin: thinsOf(pool).find((each) => each.id === id), label: device.name };
  }
  for (const pool of registry.records()) {
    const thin = thinsOf(pool).find((each) => each.name === target);
    if (thin !== undefined) {
      return { pool, id: thin.id, device: findThinDevice(session, pool, thin.id), thin, label: thin.name };
    }
  }
  const colon = target.lastIndexOf(":");
  const pool = colon > 0 ? registry.find(target.slice(0, colon)) : undefined;
  if (pool !== undefined && isPoolRecord(pool) && /^\d+$/.test(target.slice(colon + 1))) {
    const id = Number(target.slice(colon + 1));
    const thin = thinsOf(pool).find((each) => each.id === id);
    return { pool, id, device: findThinDevice(session, pool, id), thin, label: `${pool.name}:${id}` };
  }
  if (device !== undefined) {
    throw new StateError("EINVAL", `'${target}' is not a thin device`, {
      hint: "udm thin list shows the thin devices",
    });
  }
  throw new StateError("ENXIO", `no thin device '${target}'`, {
    hint: "udm thin list shows them; one that has no name is POOL:ID",
  });
}

/** A name for something new: not a device's, not that of a thin device that is not active. @throws StateError EEXIST */
export function refuseNameInUse(session: Session, name: string): void {
  const owner = nameOwner(session, name);
  if (owner !== undefined) {
    throw new StateError("EEXIST", `the name '${name}' is in use by ${owner}`, { hint: "choose another name" });
  }
}

export function nameOwner(session: Session, name: string): string | undefined {
  const { registry } = session;
  if (registry.find(name) !== undefined) return "a mapped device";
  for (const pool of registry.records()) {
    const thin = thinsOf(pool).find((each) => each.name === name);
    if (thin !== undefined) return `thin device ${pool.name}:${thin.id}`;
  }
  return undefined;
}
