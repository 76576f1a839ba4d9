/** The tree of devices: udm's loop and mapped devices, joined with the block devices of the machine. */
import { type DeviceRecord, mangle, Registry, tableSectors } from "../device-registry/index.js";
import { deviceNumber, identityOf } from "../io/index.js";
import { machineBlockDevices } from "../loop/index.js";
import type { Pool } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { LOOP_MAJOR } from "./below.js";
import type { Core } from "./core.js";
import type { BlockNode } from "./host.js";
import { isMissing } from "./loops.js";
import { stateOf } from "./pools.js";
import type { Session } from "./session.js";
import { findThin, isPoolRecord, soleThinLine, thinsOf } from "./thin-records.js";

export function blockNodes(core: Core): Promise<readonly BlockNode[]> {
  const gather = async (session: Session) => [
    ...machineNodes(),
    ...loopNodes(session),
    ...(await mappedNodes(session)),
  ];
  // Only pools have to be opened: what they hold is not in the state.
  return core
    .view((session) => session.registry.records().some(isPoolRecord))
    .then((hasPools) => (hasPools ? core.change("lsblk", gather) : core.view(gather)));
}

function machineNodes(): BlockNode[] {
  return machineBlockDevices().map((device) => ({
    name: device.name,
    kname: device.kname,
    path: device.path,
    majMin: device.majMin,
    removable: device.removable,
    sizeBytes: device.sizeBytes,
    readOnly: device.readOnly,
    type: device.type,
    mountpoints: device.mountpoints,
    owner: "machine",
    ...(device.backingFile === undefined ? {} : { backingFile: device.backingFile }),
    parents: device.parents,
  }));
}

function loopNodes(session: Session): BlockNode[] {
  return session.loops.map((loop) => ({
    name: `loop${loop.number}`,
    kname: `loop${loop.number}`,
    path: `${LOOP_MAJOR}:${loop.number}`,
    majMin: `${LOOP_MAJOR}:${loop.number}`,
    removable: false,
    sizeBytes: loop.sizeBytes,
    readOnly: loop.readOnly,
    type: "loop",
    mountpoints: [],
    owner: "udm",
    backingFile: loop.file,
    parents: backingDevices(loop.file),
  }));
}

/** A loop device over a block device stands on it; one over a file stands on nothing that has a number. */
function backingDevices(file: string): readonly string[] {
  if (isMissing(file) || identityOf(file).kind !== "block") return [];
  const number = deviceNumber(file);
  return number === undefined ? [] : [number];
}

async function mappedNodes(session: Session): Promise<BlockNode[]> {
  const nodes: BlockNode[] = [];
  for (const record of session.registry.records()) {
    nodes.push({
      name: record.name,
      kname: `dm-${record.minor}`,
      path: `/dev/mapper/${mangle(record.name)}`,
      majMin: Registry.numberOf(record),
      removable: false,
      sizeBytes: tableSectors(record.live ?? []) * SECTOR_BYTES,
      readOnly: record.readOnly,
      type: typeOf(record.uuid),
      mountpoints: [],
      owner: "udm",
      state: stateOf(record),
      parents: session.registry.dependencies(record).toReversed(),
      ...(await poolPart(session, record)),
      ...(await thinPart(session, record)),
    });
  }
  return nodes;
}

/** What lsblk prints: the part of the uuid before its first dash, in lower case, else `dm`; `part1-...` is a partition. */
function typeOf(uuid: string): string {
  const [prefix, ...rest] = uuid.split("-");
  if (prefix === undefined || prefix === "" || rest.length === 0) return "dm";
  return /^part\d*$/i.test(prefix) ? "part" : prefix.toLowerCase();
}

async function poolPart(session: Session, record: DeviceRecord): Promise<Partial<BlockNode>> {
  if (!isPoolRecord(record)) return {};
  const pool = await openQuietly(session, record.name);
  if (pool === undefined || pool.mode === "fail") return {};
  const status = pool.statusNow();
  return {
    dataPercent: percent(status.usedDataBlocks, status.totalDataBlocks),
    metadataPercent: percent(status.usedMetadataBlocks, status.totalMetadataBlocks),
  };
}

async function thinPart(session: Session, record: DeviceRecord): Promise<Partial<BlockNode>> {
  if (soleThinLine(record) === undefined) return {};
  const { pool: owner, id, thin } = findThin(session, record.name);
  const pool = await openQuietly(session, owner.name);
  const origin = thin?.origin === undefined ? undefined : thinsOf(owner).find((each) => each.id === thin.origin);
  const mapped = pool === undefined || pool.mode === "fail" ? undefined : mappedBlocks(pool, id);
  const sizeBytes = tableSectors(record.live ?? []) * SECTOR_BYTES;
  return {
    pool: owner.name,
    thinId: id,
    ...(mapped === undefined
      ? {}
      : { mappedBytes: mapped * pool!.blockBytes, dataPercent: percent(mapped * pool!.blockBytes, sizeBytes) }),
    ...(thin?.origin === undefined ? {} : { origin: origin?.name ?? String(thin.origin) }),
  };
}

function mappedBlocks(pool: Pool, id: number): number | undefined {
  return pool.metadata.listDevices().find((each) => each.id === id)?.mappedBlocks;
}

/** A pool that cannot be opened is shown all the same; what is wrong with it is told by its status. */
async function openQuietly(session: Session, name: string): Promise<Pool | undefined> {
  try {
    return (await session.registry.openPool(name)).pool;
  } catch (error) {
    session.log(`pool '${name}' cannot be opened: ${String(error)}`);
    return undefined;
  }
}

function percent(part: number, whole: number): number {
  return whole === 0 ? 0 : (part / whole) * 100;
}
