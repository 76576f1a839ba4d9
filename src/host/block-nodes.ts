/** The tree of devices: udm's loop and mapped devices, joined with the block devices of the machine. */
import { dirname } from "node:path";
import { type DeviceRecord, mangle, Registry, tableSectors } from "../device-registry/index.js";
import { deviceNumber, identityOf } from "../io/index.js";
import { type MachineDevice, machineBlockDevices, machineDetails } from "../loop/index.js";
import type { Pool } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { attachedName, imageFolder } from "./attachments/image-folder.js";
import { LOOP_MAJOR } from "./below.js";
import { blockLimits } from "./block-limits.js";
import type { Core } from "./core.js";
import type { BlockNode, BlockNodesRequest } from "./host.js";
import { isMissing } from "./loops.js";
import type { Session } from "./session.js";
import { isPoolRecord, soleThinLine, thinsOf } from "./thin-records.js";

/** Reads records and /sys; pools are opened, and so claimed, only for `usage`. */
export async function blockNodes(core: Core, request: BlockNodesRequest = {}): Promise<readonly BlockNode[]> {
  const gather = async (session: Session) => {
    const machine = machineBlockDevices({ all: request.all === true });
    const images = imageFolder({ stateDir: dirname(core.file.path), runDir: core.runDir });
    const nodes = [
      ...machine.map((device) => ({
        ...machineNode(device, request),
        ...attachedPart(session, attachedName(device.backingFile, images)),
      })),
      ...loopNodes(session),
      ...(await mappedNodes(session, request)),
    ];
    return request.details === true ? withLimits(session, nodes) : nodes;
  };
  const opensPools =
    request.usage === true && (await core.view((session) => session.registry.records().some(isPoolRecord)));
  return opensPools ? core.change("lsblk", gather) : core.view(gather);
}

/** A loop device of the kernel on the image of an attached device stands on that device. */
function attachedPart(session: Session, name: string | undefined): Partial<BlockNode> {
  const record = name === undefined ? undefined : session.registry.records().find((each) => each.name === name);
  return record === undefined ? {} : { attachedTo: Registry.numberOf(record) };
}

function machineNode(device: MachineDevice, request: BlockNodesRequest): BlockNode {
  const details = request.details === true ? machineDetails(device) : undefined;
  return {
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
    ...(details === undefined ? {} : { details }),
    ...(details?.state === undefined ? {} : { state: details.state }),
    parents: device.parents,
  };
}

function loopNodes(session: Session): BlockNode[] {
  return session.loops.map((loop) => ({
    name: `loop${loop.number}`,
    kname: `loop${loop.number}`,
    path: `/dev/loop${loop.number}`,
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

async function mappedNodes(session: Session, request: BlockNodesRequest): Promise<BlockNode[]> {
  const records = session.registry.records();
  const pools = new Map<string, KnownPool>();
  for (const record of records.filter(isPoolRecord)) {
    const pool = request.usage === true ? await openQuietly(session, record.name) : undefined;
    const isReadable = pool !== undefined && pool.mode !== "fail";
    pools.set(Registry.numberOf(record), {
      record,
      pool: isReadable ? pool : undefined,
      thins: new Map(thinsOf(record).map((thin) => [thin.id, thin])),
      mappedBlocks: new Map(isReadable ? pool.metadata.listDevices().map((each) => [each.id, each.mappedBlocks]) : []),
    });
  }
  return records.map((record) => ({
    name: mangle(record.name),
    kname: `dm-${record.minor}`,
    path: `/dev/mapper/${mangle(record.name)}`,
    majMin: Registry.numberOf(record),
    removable: false,
    sizeBytes: tableSectors(record.live ?? []) * SECTOR_BYTES,
    readOnly: record.readOnly,
    type: typeOf(record.uuid),
    mountpoints: [],
    owner: "udm",
    state: record.suspended ? "suspended" : "running",
    parents: session.registry.dependencies(record).toReversed(),
    ...poolPart(pools.get(Registry.numberOf(record))),
    ...thinPart(pools, record),
  }));
}

interface KnownPool {
  readonly record: DeviceRecord;
  /** Open, when it was asked for and can be read. */
  readonly pool: Pool | undefined;
  readonly thins: ReadonlyMap<number, ReturnType<typeof thinsOf>[number]>;
  readonly mappedBlocks: ReadonlyMap<number, number>;
}

/** TYPE of a mapped device: its uuid's first part, as the real lsblk tells LVM's and others' devices. */
function typeOf(uuid: string): string {
  const prefix = uuid.includes("-") ? uuid.slice(0, uuid.indexOf("-")).toLowerCase() : "";
  return /^part\d+$/.test(prefix) ? "part" : prefix || "dm";
}

function poolPart(known: KnownPool | undefined): Partial<BlockNode> {
  if (known?.pool === undefined) return {};
  const status = known.pool.statusNow();
  return {
    dataPercent: percent(status.usedDataBlocks, status.totalDataBlocks),
    metadataPercent: percent(status.usedMetadataBlocks, status.totalMetadataBlocks),
  };
}

function thinPart(pools: ReadonlyMap<string, KnownPool>, record: DeviceRecord): Partial<BlockNode> {
  const line = soleThinLine(record);
  const known = line === undefined ? undefined : pools.get(line.args[0]!);
  if (line === undefined || known === undefined) return {};
  const id = Number(line.args[1]);
  const thin = known.thins.get(id);
  const origin = thin?.origin === undefined ? undefined : (known.thins.get(thin.origin)?.name ?? String(thin.origin));
  const blocks = known.mappedBlocks.get(id);
  const mappedBytes = blocks === undefined ? undefined : blocks * known.pool!.blockBytes;
  const sizeBytes = tableSectors(record.live ?? []) * SECTOR_BYTES;
  return {
    pool: known.record.name,
    thinId: id,
    ...(mappedBytes === undefined ? {} : { mappedBytes, dataPercent: percent(mappedBytes, sizeBytes) }),
    ...(origin === undefined ? {} : { origin }),
  };
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

/** Queue limits of udm's own devices, from the bottom up. */
function withLimits(session: Session, nodes: readonly BlockNode[]): readonly BlockNode[] {
  const limits = blockLimits(session.loops, session.registry.inDependencyOrder(), nodes);
  return nodes.map((node) => {
    const details = node.owner === "udm" ? limits.get(node.majMin) : undefined;
    return details === undefined ? node : { ...node, details };
  });
}

function percent(part: number, whole: number): number {
  return whole === 0 ? 0 : (part / whole) * 100;
}
