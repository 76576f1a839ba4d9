/** What thin devices hold, share and differ in: from metadata alone. */
import type { DeviceRecord } from "../device-registry/index.js";
import { StateError } from "../errors/index.js";
import type { Pool } from "../thin/index.js";
import type { Core } from "./core.js";
import type { DiffExtent, MapRun, ThinInfo, ThinUsage } from "./host.js";
import type { Session } from "./session.js";
import {
  type FoundThin,
  findThin,
  findThinDevice,
  getPool,
  hasDevice,
  isPoolRecord,
  soleThinLine,
  thinsOf,
} from "./thin-records.js";
import { sizeOf } from "./thins.js";

/** Mappings of a data block, counted to this. */
const MANY = 2;

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
  const exclusive = countExclusive(pool);
  const names = new Map(thinsOf(record).map((thin) => [thin.id, thin.name]));
  return pool.metadata.listDevices().map((details) => {
    const { id } = details;
    const device = findThinDevice(session, record, id);
    const thin = thinsOf(record).find((each) => each.id === id);
    const name = device?.name ?? thin?.name;
    const found = { pool: record, id, device, thin, label: name ?? `${record.name}:${id}` };
    const highest = pool.metadata.highestMappedBlock(id);
    const exclusiveBytes = exclusive.get(id)! * pool.blockBytes;
    const mappedBytes = details.mappedBlocks * pool.blockBytes;
    const external = thin?.externalOrigin ?? (device === undefined ? undefined : soleThinLine(device)?.args[2]);
    const externalOrigin = external === undefined ? undefined : (session.registry.find(external)?.name ?? external);
    const origin = thin?.origin === undefined ? externalOrigin : (names.get(thin.origin) ?? String(thin.origin));
    return {
      name,
      pool: record.name,
      id,
      sizeBytes: sizeOf(session, found),
      active: device !== undefined,
      readOnly: device?.readOnly ?? thin?.readOnly ?? false,
      mappedBytes,
      highestMappedBytes: highest === undefined ? undefined : (highest + 1) * pool.blockBytes,
      exclusiveBytes,
      sharedBytes: mappedBytes - exclusiveBytes,
      origin,
      externalOrigin,
      creationTime: details.creationTime,
      snapshottedTime: details.snapshottedTime,
      transactionId: details.transactionId,
    };
  });
}

/** Data blocks that only one device maps, by device. */
function countExclusive(pool: Pool): ReadonlyMap<number, number> {
  const ids = pool.metadata.listDevices().map(({ id }) => id);
  const counts = new Uint8Array(pool.metadata.dataBlocks);
  for (const id of ids) {
    eachRun(pool, id, (block, count) => {
      for (let each = block; each < block + count; each++) if (counts[each]! < MANY) counts[each]!++;
    });
  }
  const exclusive = new Map<number, number>();
  for (const id of ids) {
    let alone = 0;
    eachRun(pool, id, (block, count) => {
      for (let each = block; each < block + count; each++) if (counts[each] === 1) alone++;
    });
    exclusive.set(id, alone);
  }
  return exclusive;
}

function eachRun(pool: Pool, id: number, visit: (dataBlock: number, count: number) => void): void {
  pool.metadata.forEachMapping(id, 0, Number.POSITIVE_INFINITY, (_virtual, block, _time, count) => {
    visit(block, count);
    return true;
  });
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
      const more = usageOf(pool, new Set(members.map(({ id }) => id)));
      usage = {
        exclusiveBytes: usage.exclusiveBytes + more.exclusiveBytes,
        sharedBytes: usage.sharedBytes + more.sharedBytes,
        freedIfDeletedBytes: usage.freedIfDeletedBytes + more.freedIfDeletedBytes,
        mappedBytes: usage.mappedBytes + more.mappedBytes,
      };
    }
    return usage;
  });
}

const INSIDE = 1;
const OUTSIDE = 2;
const HELD = 4;

function usageOf(pool: Pool, ids: ReadonlySet<number>): ThinUsage {
  const { metadata, blockBytes } = pool;
  const marks = new Uint8Array(metadata.dataBlocks);
  const mark = (block: number, count: number, bit: number) => {
    for (let each = block; each < block + count; each++) marks[each]! |= bit;
  };
  for (const { id } of metadata.listDevices()) {
    eachRun(pool, id, (block, count) => mark(block, count, ids.has(id) ? INSIDE : OUTSIDE));
  }
  const held = metadata.heldRoots();
  if (held !== undefined) {
    for (const { id } of metadata.listDevices(held)) {
      metadata.forEachMapping(
        id,
        0,
        Number.POSITIVE_INFINITY,
        (_virtual, block, _time, count) => {
          mark(block, count, HELD);
          return true;
        },
        held,
      );
    }
  }
  let [alone, shared, freed] = [0, 0, 0];
  for (const bits of marks) {
    if ((bits & INSIDE) === 0) continue;
    if ((bits & OUTSIDE) !== 0) shared++;
    else alone++;
    if (bits === INSIDE) freed++;
  }
  return {
    exclusiveBytes: alone * blockBytes,
    sharedBytes: shared * blockBytes,
    freedIfDeletedBytes: freed * blockBytes,
    mappedBytes: (alone + shared) * blockBytes,
  };
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
    return runs.map((run) => ({ ...run, sharers: sharersOf(pool, found.pool, run.dataBlock) }));
  });
}

/** Everybody who maps a data block. */
function sharersOf(pool: Pool, record: DeviceRecord, wanted: number): MapRun["sharers"] {
  const names = new Map(thinsOf(record).map((thin) => [thin.id, thin.name]));
  return pool.metadata.listDevices().flatMap(({ id }) => {
    const sharers: { id: number; name: string | undefined; virtualBlock: number }[] = [];
    pool.metadata.forEachMapping(id, 0, Number.POSITIVE_INFINITY, (virtualBlock, block, _time, count) => {
      if (wanted >= block && wanted < block + count) {
        sharers.push({ id, name: names.get(id), virtualBlock: virtualBlock + wanted - block });
      }
      return true;
    });
    return sharers;
  });
}

interface Run {
  readonly virtualBlock: number;
  readonly dataBlock: number;
  readonly count: number;
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
    return differences(runsOf(pool, a.id), runsOf(pool, b.id), pool.blockBytes);
  });
}

function runsOf(pool: Pool, id: number): Run[] {
  const runs: Run[] = [];
  pool.metadata.forEachMapping(id, 0, Number.POSITIVE_INFINITY, (virtualBlock, dataBlock, _time, count) => {
    runs.push({ virtualBlock, dataBlock, count });
    return true;
  });
  return runs;
}

/** Sweeps over both lists of runs at once; neighbours of a kind become one extent. */
export function differences(left: readonly Run[], right: readonly Run[], blockBytes: number): DiffExtent[] {
  const found: { offsetBytes: number; lengthBytes: number; kind: DiffExtent["kind"] }[] = [];
  const add = (from: number, to: number, kind: DiffExtent["kind"]) => {
    const last = found.at(-1);
    const [offsetBytes, lengthBytes] = [from * blockBytes, (to - from) * blockBytes];
    if (last !== undefined && last.kind === kind && last.offsetBytes + last.lengthBytes === offsetBytes) {
      last.lengthBytes += lengthBytes;
    } else found.push({ offsetBytes, lengthBytes, kind });
  };
  let [i, j, at] = [0, 0, 0];
  while (i < left.length || j < right.length) {
    const [a, b] = [left[i], right[j]];
    const aFrom = a === undefined ? Number.POSITIVE_INFINITY : Math.max(a.virtualBlock, at);
    const bFrom = b === undefined ? Number.POSITIVE_INFINITY : Math.max(b.virtualBlock, at);
    const aEnd = a === undefined ? Number.POSITIVE_INFINITY : a.virtualBlock + a.count;
    const bEnd = b === undefined ? Number.POSITIVE_INFINITY : b.virtualBlock + b.count;
    let to: number;
    if (aFrom < bFrom) {
      to = Math.min(aEnd, bFrom);
      add(aFrom, to, "left-only");
    } else if (bFrom < aFrom) {
      to = Math.min(bEnd, aFrom);
      add(bFrom, to, "right-only");
    } else {
      to = Math.min(aEnd, bEnd);
      const isSame = a!.dataBlock - a!.virtualBlock === b!.dataBlock - b!.virtualBlock;
      if (!isSame) add(aFrom, to, "differ");
    }
    at = to;
    if (aEnd <= at) i++;
    if (bEnd <= at) j++;
  }
  return found;
}

function refuseUnknown(pool: Pool, found: FoundThin): void {
  if (hasDevice(pool, found.id)) return;
  throw new StateError("ENODATA", `pool '${found.pool.name}' has no device ${found.id}`, {
    hint: `udm thin list ${found.pool.name}`,
  });
}
