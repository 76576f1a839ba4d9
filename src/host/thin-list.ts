/** What thin devices hold, share and differ in: from metadata alone. */
import { type DeviceRecord, Registry } from "../device-registry/index.js";
import { StateError } from "../errors/index.js";
import {
  diffDevices,
  findSharers,
  findWriter,
  locateMapping,
  type Pool,
  usageByDevice,
  usageOfSet,
} from "../thin/index.js";
import type { Core } from "./core.js";
import type { DiffExtent, MapRun, ThinInfo, ThinUsage } from "./host.js";
import type { Session } from "./session.js";
import { type FoundThin, findThin, getPool, hasDevice, isPoolRecord, soleThinLine, thinsOf } from "./thin-records.js";
import { sizeOf } from "./thins.js";

export function listThins(core: Core, poolName?: string): Promise<readonly ThinInfo[]> {
  return core.change("thin list", async (session) => {
    const pools =
      poolName === undefined ? session.registry.records().filter(isPoolRecord) : [getPool(session, poolName)];
    const rows: ThinInfo[] = [];
    for (const record of pools) rows.push(...(await listPool(session, record)));
    return rows;
  });
}

async function listPool(session: Session, record: DeviceRecord): Promise<readonly ThinInfo[]> {
  const { pool } = await session.registry.openPool(record.name);
  if (pool.mode === "fail") {
    throw new StateError("EIO", `pool '${record.name}' has failed, its devices cannot be listed`, {
      hint: "deactivate it and repair its metadata",
    });
  }
  const usage = usageByDevice(pool.metadata);
  const thins = new Map(thinsOf(record).map((thin) => [thin.id, thin]));
  const shown = devicesById(session, record);
  return pool.metadata.listDevices().map((details) => {
    const { id } = details;
    const device = shown.get(id);
    const thin = thins.get(id);
    const name = device?.name ?? thin?.name;
    const found = { pool: record, id, device, thin, label: name ?? `${record.name}:${id}` };
    const highest = pool.metadata.highestMappedBlock(id);
    const { exclusive, shared, freed } = usage.get(id)!;
    const external = thin?.externalOrigin ?? (device === undefined ? undefined : soleThinLine(device)?.args[2]);
    const externalOrigin = external === undefined ? undefined : (session.registry.find(external)?.name ?? external);
    const origin = thin?.origin === undefined ? externalOrigin : (thins.get(thin.origin)?.name ?? String(thin.origin));
    return {
      name,
      pool: record.name,
      id,
      sizeBytes: sizeOf(session, found),
      active: device !== undefined,
      readOnly: device?.readOnly ?? thin?.readOnly ?? false,
      mappedBytes: details.mappedBlocks * pool.blockBytes,
      highestMappedBytes: highest === undefined ? undefined : (highest + 1) * pool.blockBytes,
      exclusiveBytes: exclusive * pool.blockBytes,
      sharedBytes: shared * pool.blockBytes,
      freedIfDeletedBytes: freed * pool.blockBytes,
      origin,
      externalOrigin,
      creationTime: details.creationTime,
      snapshottedTime: details.snapshottedTime,
      transactionId: details.transactionId,
    };
  });
}

/** The mapped devices that show thin devices of a pool, by id. */
function devicesById(session: Session, pool: DeviceRecord): ReadonlyMap<number, DeviceRecord> {
  const number = Registry.numberOf(pool);
  const found = new Map<number, DeviceRecord>();
  for (const record of session.registry.records()) {
    const line = soleThinLine(record);
    if (line === undefined || line.args[0] !== number) continue;
    const id = Number(line.args[1]);
    if (!found.has(id)) found.set(id, record);
  }
  return found;
}

/** What a set of devices has to itself. Blocks that the metadata snapshot maps are not freed with them. */
export function thinUsage(core: Core, names: readonly string[]): Promise<ThinUsage> {
  return core.change("thin usage", async (session) => {
    const found = names.map((name) => findThin(session, name));
    const byPool = new Map<string, FoundThin[]>();
    for (const each of found) byPool.set(each.pool.name, [...(byPool.get(each.pool.name) ?? []), each]);
    let usage = { exclusiveBytes: 0, sharedBytes: 0, freedIfDeletedBytes: 0, mappedBytes: 0 };
    for (const [poolName, members] of byPool) {
      const { pool } = await session.registry.openPool(poolName);
      for (const each of members) refuseUnknown(pool, each);
      const { exclusive, shared, freed } = usageOfSet(pool.metadata, new Set(members.map(({ id }) => id)));
      usage = {
        exclusiveBytes: usage.exclusiveBytes + exclusive * pool.blockBytes,
        sharedBytes: usage.sharedBytes + shared * pool.blockBytes,
        freedIfDeletedBytes: usage.freedIfDeletedBytes + freed * pool.blockBytes,
        mappedBytes: usage.mappedBytes + (exclusive + shared) * pool.blockBytes,
      };
    }
    return usage;
  });
}

export function thinMap(core: Core, name: string, block?: number): Promise<readonly MapRun[]> {
  return core.change(`thin map ${name}`, async (session) => {
    const found = findThin(session, name);
    const { pool } = await session.registry.openPool(found.pool.name);
    refuseUnknown(pool, found);
    const runs: MapRun[] = [];
    const [begin, end] = block === undefined ? [0, Number.POSITIVE_INFINITY] : [block, block + 1];
    pool.metadata.forEachMapping(found.id, begin, end, (virtualBlock, dataBlock, time, count) => {
      runs.push({ virtualBlock, dataBlock, time, count, sharers: [] });
      return true;
    });
    if (block === undefined) return runs;
    const names = namesById(session, found.pool);
    return runs.map((run) => lookFromAllSides(pool, found.id, run, names));
  });
}

function lookFromAllSides(pool: Pool, id: number, run: MapRun, names: ReadonlyMap<number, string>): MapRun {
  const { devices, isHeld } = findSharers(pool.metadata, run.dataBlock, run.virtualBlock);
  const ids = devices.map((each) => each.id);
  const writer = findWriter(pool.metadata, ids, run.time);
  return {
    ...run,
    sharers: devices.map((each) => ({ ...each, name: names.get(each.id) })),
    held: isHeld,
    writer: writer === undefined ? undefined : { id: writer, name: names.get(writer) },
    path: locateMapping(pool.metadata, id, run.virtualBlock)!.path,
  };
}

/** The name of its mapped device, else the one it is remembered by. */
function namesById(session: Session, pool: DeviceRecord): ReadonlyMap<number, string> {
  const names = new Map(thinsOf(pool).map((thin) => [thin.id, thin.name]));
  for (const [id, device] of devicesById(session, pool)) names.set(id, device.name);
  return names;
}

/** Blocks that one of two devices lacks, or that both have elsewhere. The time of a mapping does not matter. */
export function thinDiff(core: Core, left: string, right: string): Promise<readonly DiffExtent[]> {
  return core.change("thin diff", async (session) => {
    const [a, b] = [findThin(session, left), findThin(session, right)];
    if (a.pool.name !== b.pool.name) {
      throw new StateError("EINVAL", `'${a.label}' is in pool '${a.pool.name}', '${b.label}' in '${b.pool.name}'`, {
        hint: "devices of one pool can be compared",
      });
    }
    const { pool } = await session.registry.openPool(a.pool.name);
    refuseUnknown(pool, a);
    refuseUnknown(pool, b);
    refuseOtherOrigin(a, b);
    const extents: DiffExtent[] = [];
    diffDevices(pool.metadata, a.id, b.id, (virtualBlock, count, kind) => {
      extents.push({ offsetBytes: virtualBlock * pool.blockBytes, lengthBytes: count * pool.blockBytes, kind });
    });
    return extents;
  });
}

/** What neither device maps reads from their external origins, which the metadata knows nothing of. */
function refuseOtherOrigin(a: FoundThin, b: FoundThin): void {
  const [left, right] = [externalOriginOf(a), externalOriginOf(b)];
  if (left === right) return;
  const shown = (found: FoundThin, origin: string | undefined) =>
    origin === undefined ? `'${found.label}' has none` : `that of '${found.label}' is ${origin}`;
  throw new StateError(
    "EINVAL",
    `'${a.label}' and '${b.label}' have different external origins: ${shown(a, left)}, ${shown(b, right)}`,
    { hint: `compare what they hold: cmp <(udm thin read ${a.label}) <(udm thin read ${b.label})` },
  );
}

function externalOriginOf({ device, thin }: FoundThin): string | undefined {
  const line = device === undefined ? undefined : soleThinLine(device);
  return line === undefined ? thin?.externalOrigin : line.args[2];
}

function refuseUnknown(pool: Pool, found: FoundThin): void {
  if (hasDevice(pool, found.id)) return;
  throw new StateError("ENODATA", `pool '${found.pool.name}' has no device ${found.id}`, {
    hint: `udm thin list ${found.pool.name}`,
  });
}
