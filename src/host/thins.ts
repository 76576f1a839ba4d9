/** Thin devices: made, snapped, deleted, shown under a name, sized. */
import {
  type DeviceRecord,
  formatTable,
  type Intent,
  parseName,
  Registry,
  type ThinRecord,
} from "../device-registry/index.js";
import { IoError, SpaceError, StateError } from "../errors/index.js";
import { MAX_DEVICE_ID, type TargetLine } from "../targets/index.js";
import type { Pool } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { Core } from "./core.js";
import { fileSystemBytes } from "./file-system-size.js";
import type { Plan, SizeTarget, ThinCreate, ThinSnap } from "./host.js";
import { dmsetupCreate, dmsetupReload, quoted } from "./plan-text.js";
import { refuseDeletingActive } from "./pools.js";
import type { Session } from "./session.js";
import {
  addThin,
  dropThin,
  type FoundThin,
  findThin,
  getPool,
  hasDevice,
  refuseNameInUse,
  setThins,
  showThin,
  soleThinLine,
  thinLine,
  thinsOf,
} from "./thin-records.js";

// Making

interface NewThin {
  readonly pool: DeviceRecord;
  readonly thin: ThinRecord;
  /** What the pool is told. */
  readonly message: readonly string[];
  /** The active origin, which is quiet while the snapshot is taken. */
  readonly origin?: DeviceRecord;
}

export function createThin(core: Core, request: ThinCreate): Promise<void> {
  return core.change(`thin create ${request.name}`, async (session) => {
    if (request.ifNotExists === true && isThin(session, request.name)) return;
    await make(session, await planCreate(session, request));
  });
}

export async function snapThin(core: Core, request: ThinSnap): Promise<void> {
  await core.writeBack((session) => findThin(session, request.origin).device);
  return core.change(`thin snap ${request.name}`, async (session) => {
    if (request.ifNotExists === true && isThin(session, request.name)) return;
    await make(session, await planSnap(session, request));
  });
}

export function planCreateThin(core: Core, request: ThinCreate): Promise<Plan> {
  return core.change("thin create --dry-run", async (session) => {
    if (request.ifNotExists === true && isThin(session, request.name)) return [];
    return newThinCommands(await planCreate(session, request));
  });
}

export function planSnapThin(core: Core, request: ThinSnap): Promise<Plan> {
  return core.change("thin snap --dry-run", async (session) => {
    if (request.ifNotExists === true && isThin(session, request.name)) return [];
    return newThinCommands(await planSnap(session, request));
  });
}

function newThinCommands({ pool, thin, message, origin }: NewThin): Plan {
  const line = thinLine(`/dev/mapper/${pool.name}`, thin);
  const send = `dmsetup message /dev/mapper/${quoted(pool.name)} 0 "${message.join(" ")}"`;
  const table = `${line.startSectors} ${line.lengthSectors} thin ${line.args.join(" ")}`;
  return [
    ...(origin === undefined ? [] : [`dmsetup suspend ${quoted(origin.name)}`]),
    send,
    ...(origin === undefined ? [] : [`dmsetup resume ${quoted(origin.name)}`]),
    dmsetupCreate(thin.name, table, { readOnly: thin.readOnly }),
  ];
}

async function planCreate(session: Session, request: ThinCreate): Promise<NewThin> {
  const name = parseName(request.name);
  refuseNameInUse(session, name);
  const record = getPool(session, request.pool);
  const sizeBytes = checkSize(request.sizeBytes);
  const externalOrigin =
    request.externalOrigin === undefined
      ? undefined
      : (await session.registry.findDevice(request.externalOrigin)).number;
  if (externalOrigin === Registry.numberOf(record)) {
    throw new StateError("EINVAL", "the pool cannot be the external origin", { hint: "give another device" });
  }
  const pool = await openForThins(session, record);
  refuseWithoutSpace(record, pool);
  const id = await chooseId(pool, record, request.id);
  return {
    pool: record,
    thin: {
      id,
      name,
      sizeBytes,
      readOnly: false,
      ...(externalOrigin === undefined ? {} : { externalOrigin }),
      creationTime: 0,
      deleteWhenClosed: false,
    },
    message: ["create_thin", String(id)],
  };
}

async function planSnap(session: Session, request: ThinSnap): Promise<NewThin> {
  const name = parseName(request.name);
  const origin = findThin(session, request.origin);
  refuseNameInUse(session, name);
  const pool = await openForThins(session, origin.pool);
  refuseUnknown(pool, origin);
  refuseWithoutSpace(origin.pool, pool);
  const sizeBytes = request.sizeBytes ?? sizeOf(session, origin);
  if (sizeBytes === undefined) {
    throw new StateError("EINVAL", `the size of '${origin.label}' is not known`, { hint: "give --size" });
  }
  const id = await chooseId(pool, origin.pool, request.id);
  const line = origin.device === undefined ? undefined : soleThinLine(origin.device);
  const externalOrigin = line?.args[2] ?? origin.thin?.externalOrigin;
  return {
    pool: origin.pool,
    thin: {
      id,
      name,
      sizeBytes: checkSize(sizeBytes),
      readOnly: request.readOnly ?? false,
      origin: origin.id,
      ...(externalOrigin === undefined ? {} : { externalOrigin }),
      creationTime: 0,
      deleteWhenClosed: false,
    },
    message: ["create_snap", String(id), String(origin.id)],
    ...(origin.device === undefined || origin.device.suspended ? {} : { origin: origin.device }),
  };
}

/** Intent, commit in the pool, done in the state: a cut anywhere leaves all of it or nothing. */
async function make(session: Session, { pool, thin, message, origin }: NewThin): Promise<void> {
  const { registry } = session;
  const intent = await session.announce({ kind: "create-thin", pool: pool.name, thin, activate: true });
  session.step("announced");
  const service = (await registry.openPool(pool.name)).pool;
  if (origin !== undefined) await registry.suspend(origin.name);
  // The snapshot is taken when the metadata has changed; the origin need not wait for the commit.
  let resumed: Promise<void> | undefined;
  const resume = () => {
    if (origin !== undefined) resumed ??= registry.resume(origin.name);
    return resumed;
  };
  try {
    await service.message(message, { onChanged: () => void resume()?.catch(() => undefined) });
    session.log(`pool '${pool.name}': ${message.join(" ")}, ${traceOf(service)}`);
  } finally {
    await resume();
  }
  session.step("committed");
  if (!hasDevice(service, thin.id)) {
    throw new IoError("EIO", `pool '${pool.name}' could not commit '${thin.name}'`, {
      hint: `udm pool status ${pool.name}`,
    });
  }
  try {
    await showThin(session, pool, thin);
  } catch (error) {
    // Nothing of it shall stay.
    await service.message(["delete", String(thin.id)]);
    session.fulfilled(intent);
    throw error;
  }
  addThin(session, pool.name, { ...thin, creationTime: service.metadata.details(thin.id).creationTime });
  session.fulfilled(intent);
}

/** For traces: how full a pool is after a commit. */
function traceOf(pool: Pool): string {
  const { usedDataBlocks, totalDataBlocks, usedMetadataBlocks, totalMetadataBlocks } = pool.statusNow();
  return `data blocks ${usedDataBlocks}/${totalDataBlocks}, metadata blocks ${usedMetadataBlocks}/${totalMetadataBlocks}`;
}

async function openForThins(session: Session, record: DeviceRecord): Promise<Pool> {
  const { pool, isSuspended } = await session.registry.openPool(record.name);
  if (isSuspended) {
    throw new StateError("EBUSY", `pool '${record.name}' is suspended`, { hint: `udm table resume ${record.name}` });
  }
  const mode = pool.mode;
  if (mode !== "write" && mode !== "out-of-data-space") {
    throw new StateError("EOPNOTSUPP", `pool '${record.name}' is in ${mode} mode and takes no changes`, {
      hint: `udm pool status ${record.name}`,
    });
  }
  return pool;
}

/**
 * New devices only while a share of the pool is free. Source: docker-devicemapper, section 14.
 * @throws SpaceError naming free and needed blocks
 */
function refuseWithoutSpace(record: DeviceRecord, pool: Pool): void {
  const percent = record.pool?.minFreeSpacePercent ?? 0;
  if (percent === 0) return;
  const status = pool.statusNow();
  for (const [what, used, total] of [
    ["data", status.usedDataBlocks, status.totalDataBlocks],
    ["metadata", status.usedMetadataBlocks, status.totalMetadataBlocks],
  ] as const) {
    const needed = Math.max(1, Math.floor((total * percent) / 100));
    if (total - used >= needed) continue;
    throw new SpaceError(
      `pool '${record.name}' has ${total - used} free ${what} blocks, ${needed} are needed for a new device (${percent}%)`,
      { hint: `grow it, delete devices, or udm pool set ${record.name} --min-free-space` },
    );
  }
}

async function chooseId(pool: Pool, record: DeviceRecord, wanted: number | undefined): Promise<number> {
  if (wanted === undefined) {
    const taken = new Set(pool.metadata.listDevices().map(({ id }) => id));
    let id = 0;
    while (taken.has(id)) id++;
    if (id > MAX_DEVICE_ID) {
      throw new StateError("ENOSPC", `pool '${record.name}' has no free device id`, { hint: "delete devices" });
    }
    return id;
  }
  if (!Number.isInteger(wanted) || wanted < 0 || wanted > MAX_DEVICE_ID) {
    throw new StateError("EINVAL", `device id ${wanted} is out of range`, { hint: `0 to ${MAX_DEVICE_ID}` });
  }
  if (hasDevice(pool, wanted)) {
    throw new StateError("EEXIST", `pool '${record.name}' has a device ${wanted} already`, {
      hint: "leave --id out for the lowest free one",
    });
  }
  return wanted;
}

function checkSize(bytes: number): number {
  if (bytes > 0 && bytes % SECTOR_BYTES === 0 && Number.isSafeInteger(bytes)) return bytes;
  throw new StateError("EINVAL", `${bytes} bytes are no size for a device`, { hint: "a multiple of 512 above 0" });
}

function refuseUnknown(pool: Pool, found: FoundThin): void {
  if (hasDevice(pool, found.id)) return;
  throw new StateError("ENODATA", `pool '${found.pool.name}' has no device ${found.id}`, {
    hint: `udm thin list ${found.pool.name}`,
  });
}

function isThin(session: Session, name: string): boolean {
  const record = session.registry.find(name);
  return record !== undefined && soleThinLine(record) !== undefined;
}

export function sizeOf(session: Session, found: FoundThin): number | undefined {
  const line = found.device === undefined ? undefined : soleThinLine(session.registry.get(found.device.name));
  return line === undefined ? found.thin?.sizeBytes : line.lengthSectors * SECTOR_BYTES;
}

// Deleting

export function deleteThin(
  core: Core,
  target: string,
  options: { readonly deferred?: boolean; readonly ifExists?: boolean } = {},
): Promise<void> {
  return core.change(`thin delete ${target}`, async (session) => {
    if (options.ifExists === true && !isKnown(session, target)) return;
    const found = findThin(session, target);
    if (options.deferred === true && isInUse(session, found)) return deferDelete(session, found);
    const pool = await planDelete(session, found);
    const intent = await session.announce({
      kind: "delete-thin",
      pool: found.pool.name,
      id: found.id,
      isLeftOver: false,
    });
    session.step("announced");
    if (found.device !== undefined) await session.registry.remove(found.device.name);
    await pool.message(["delete", String(found.id)]);
    session.log(`pool '${found.pool.name}': delete ${found.id}, ${traceOf(pool)}`);
    session.step("committed");
    await dropThin(session, found.pool.name, found.id);
    session.fulfilled(intent);
  });
}

export function planDeleteThin(
  core: Core,
  target: string,
  options: { readonly deferred?: boolean; readonly ifExists?: boolean } = {},
): Promise<Plan> {
  return core.change("thin delete --dry-run", async (session) => {
    if (options.ifExists === true && !isKnown(session, target)) return [];
    const found = findThin(session, target);
    if (options.deferred === true && isInUse(session, found)) {
      return [
        `dmsetup remove --deferred ${quoted(found.device!.name)}`,
        `# when its last user has gone: dmsetup message /dev/mapper/${quoted(found.pool.name)} 0 "delete ${found.id}"`,
      ];
    }
    await planDelete(session, found);
    return [
      ...(found.device === undefined ? [] : [`dmsetup remove ${quoted(found.device.name)}`]),
      `dmsetup message /dev/mapper/${quoted(found.pool.name)} 0 "delete ${found.id}"`,
    ];
  });
}

async function planDelete(session: Session, found: FoundThin): Promise<Pool> {
  const { pool } = await session.registry.openPool(found.pool.name);
  refuseUnknown(pool, found);
  if (found.device === undefined) refuseDeletingActive(session, found.pool, found.id);
  else {
    const users = session.registry.usersOf(Registry.numberOf(found.device));
    if (users.length > 0) {
      throw new StateError("EBUSY", `'${found.label}' is in use by ${users.join(", ")}`, {
        hint: "remove what stands on it first, or use --deferred",
      });
    }
    session.registry.refuseInUse(found.device, found.label);
  }
  return pool;
}

function isInUse(session: Session, found: FoundThin): boolean {
  return found.device !== undefined && session.registry.openCount(found.device) > 0;
}

/** Carried out when its last user has gone. */
function deferDelete(session: Session, found: FoundThin): void {
  const { registry } = session;
  registry.update(found.device!.name, { deferredRemove: true });
  const thin: ThinRecord = found.thin ?? {
    id: found.id,
    name: found.device!.name,
    sizeBytes: sizeOf(session, found) ?? 0,
    readOnly: found.device!.readOnly,
    creationTime: 0,
    deleteWhenClosed: true,
  };
  addThin(session, found.pool.name, { ...thin, deleteWhenClosed: true });
}

function isKnown(session: Session, target: string): boolean {
  try {
    findThin(session, target);
    return true;
  } catch {
    return false;
  }
}

// Showing and hiding

export function activateThin(
  core: Core,
  target: string,
  name: string,
  options: { readonly sizeBytes?: number; readonly ifNotExists?: boolean } = {},
): Promise<void> {
  return core.change(`thin activate ${name}`, async (session) => {
    if (options.ifNotExists === true && isThin(session, name)) return;
    const { pool, thin } = await planActivate(session, { target, name, sizeBytes: options.sizeBytes });
    await showThin(session, pool, thin);
    addThin(session, pool.name, thin);
  });
}

export function planActivateThin(
  core: Core,
  target: string,
  name: string,
  options: { readonly sizeBytes?: number; readonly ifNotExists?: boolean } = {},
): Promise<Plan> {
  return core.change("thin activate --dry-run", async (session) => {
    if (options.ifNotExists === true && isThin(session, name)) return [];
    const { pool, thin } = await planActivate(session, { target, name, sizeBytes: options.sizeBytes });
    const line = thinLine(`/dev/mapper/${pool.name}`, thin);
    return [dmsetupCreate(thin.name, formatTable([line]), { readOnly: thin.readOnly })];
  });
}

async function planActivate(
  session: Session,
  {
    target,
    name,
    sizeBytes: wanted,
  }: { readonly target: string; readonly name: string; readonly sizeBytes: number | undefined },
): Promise<{ readonly pool: DeviceRecord; readonly thin: ThinRecord }> {
  const found = findThin(session, target);
  const plain = parseName(name);
  if (found.device !== undefined) {
    throw new StateError("EBUSY", `'${found.label}' is active as '${found.device.name}'`, {
      hint: `udm thin rename ${found.device.name} ${plain}`,
    });
  }
  if (plain !== found.thin?.name) refuseNameInUse(session, plain);
  const { pool, isSuspended } = await session.registry.openPool(found.pool.name);
  if (isSuspended) {
    throw new StateError("EBUSY", `pool '${found.pool.name}' is suspended`, {
      hint: `udm table resume ${found.pool.name}`,
    });
  }
  refuseUnknown(pool, found);
  const sizeBytes = checkSize(wanted ?? found.thin?.sizeBytes ?? (await guessSize(pool, found)));
  const thin: ThinRecord = {
    readOnly: false,
    deleteWhenClosed: false,
    ...found.thin,
    id: found.id,
    name: plain,
    sizeBytes,
    creationTime: pool.metadata.details(found.id).creationTime,
  };
  return { pool: found.pool, thin };
}

/** A pool does not know how large its devices are: the file system on one does, else what is mapped tells the least. */
async function guessSize(pool: Pool, found: FoundThin): Promise<number> {
  const highest = pool.metadata.highestMappedBlock(found.id);
  if (highest === undefined) {
    throw new StateError("EINVAL", `'${found.label}' holds nothing that tells its size`, { hint: "give --size" });
  }
  const mappedBytes = (highest + 1) * pool.blockBytes;
  const thin = pool.openThin(found.id, { name: found.label, sizeBytes: mappedBytes });
  try {
    const stated = await fileSystemBytes(thin);
    return stated === undefined ? mappedBytes : Math.ceil(stated / SECTOR_BYTES) * SECTOR_BYTES;
  } finally {
    await thin.close();
  }
}

export function deactivateThin(core: Core, name: string, options: { readonly ifExists?: boolean } = {}): Promise<void> {
  return core.change(`thin deactivate ${name}`, async (session) => {
    if (options.ifExists === true && !isKnown(session, name)) return;
    const found = findThin(session, name);
    if (found.device === undefined) {
      if (options.ifExists === true) return;
      throw new StateError("ENXIO", `'${found.label}' is not active`, { hint: "udm thin list shows what is" });
    }
    await rememberThin(session, found);
    await session.registry.remove(found.device.name);
  });
}

export function planDeactivateThin(
  core: Core,
  name: string,
  options: { readonly ifExists?: boolean } = {},
): Promise<Plan> {
  return core.view((session) => {
    const isMissing = options.ifExists === true && !isKnown(session, name);
    const found = isMissing ? undefined : findThin(session, name);
    if (found?.device === undefined) {
      if (found === undefined || options.ifExists === true) return [];
      throw new StateError("ENXIO", `'${found.label}' is not active`, { hint: "udm thin list shows what is" });
    }
    session.registry.refuseInUse(found.device);
    return [`dmsetup remove ${quoted(found.device.name)}`];
  });
}

/** Keeps name and size of a thin device, also of one that was made by a table. */
async function rememberThin(session: Session, found: FoundThin): Promise<void> {
  if (found.thin !== undefined || found.device === undefined) return;
  const { pool } = await session.registry.openPool(found.pool.name);
  if (!hasDevice(pool, found.id)) return;
  const line = soleThinLine(found.device);
  addThin(session, found.pool.name, {
    id: found.id,
    name: found.device.name,
    sizeBytes: sizeOf(session, found) ?? 0,
    readOnly: found.device.readOnly,
    ...(line?.args[2] === undefined ? {} : { externalOrigin: line.args[2] }),
    creationTime: pool.metadata.details(found.id).creationTime,
    deleteWhenClosed: false,
  });
}

export function renameThin(core: Core, oldName: string, newName: string): Promise<void> {
  return core.change(`thin rename ${oldName}`, (session) => {
    const { found, name } = planRename(session, oldName, newName);
    if (found.device !== undefined) session.registry.rename(found.device.name, name);
    if (found.thin !== undefined) addThin(session, found.pool.name, { ...found.thin, name });
  });
}

export function planRenameThin(core: Core, oldName: string, newName: string): Promise<Plan> {
  return core.view((session) => {
    const { found, name } = planRename(session, oldName, newName);
    if (found.device === undefined) return ["# it is not active: only the name that udm keeps changes"];
    return [`dmsetup rename ${quoted(found.device.name)} ${quoted(name)}`];
  });
}

function planRename(session: Session, oldName: string, newName: string) {
  const found = findThin(session, oldName);
  const name = parseName(newName, "new name");
  refuseNameInUse(session, name);
  if (found.device === undefined && found.thin === undefined) {
    throw new StateError("ENXIO", `'${oldName}' has no name yet`, { hint: `udm thin activate ${oldName} ${name}` });
  }
  return { found, name };
}

// Size

export function resizeThin(core: Core, name: string, target: SizeTarget): Promise<void> {
  return core.change(`thin resize ${name}`, async (session) => {
    const { found, line, sizeBytes } = planResize(session, name, target);
    if (found.device !== undefined && line !== undefined) await reload(session, found.device, line);
    if (found.thin !== undefined) addThin(session, found.pool.name, { ...found.thin, sizeBytes });
  });
}

export function planResizeThin(core: Core, name: string, target: SizeTarget): Promise<Plan> {
  return core.view((session) => {
    const { found, line } = planResize(session, name, target);
    if (line === undefined || found.device === undefined)
      return ["# it is not active: only the size that udm keeps changes"];
    const table = formatTable([{ ...line, args: [`/dev/mapper/${found.pool.name}`, ...line.args.slice(1)] }]);
    if (found.device.suspended) return [`dmsetup reload ${quoted(found.device.name)} --table '${table.trimEnd()}'`];
    return dmsetupReload(found.device.name, table);
  });
}

function planResize(
  session: Session,
  name: string,
  target: SizeTarget,
): { readonly found: FoundThin; readonly line: TargetLine | undefined; readonly sizeBytes: number } {
  const found = findThin(session, name);
  const before = sizeOf(session, found);
  if (before === undefined) {
    throw new StateError("EINVAL", `the size of '${found.label}' is not known`, { hint: "activate it first" });
  }
  const wanted =
    target.kind === "absolute"
      ? target.bytes
      : target.kind === "grow"
        ? before + target.bytes
        : Math.ceil((before * (1 + target.percent / 100)) / SECTOR_BYTES) * SECTOR_BYTES;
  const sizeBytes = checkSize(wanted);
  const line = found.device === undefined ? undefined : soleThinLine(found.device);
  return {
    found,
    line: line === undefined ? undefined : { ...line, lengthSectors: sizeBytes / SECTOR_BYTES },
    sizeBytes,
  };
}

/** Another table for a device; one that is suspended gets it with its next resume. */
async function reload(session: Session, record: DeviceRecord, line: TargetLine): Promise<void> {
  await session.registry.load(record.name, [line], { readOnly: record.readOnly });
  if (!record.suspended) await session.registry.resume(record.name);
}

// Back to a snapshot

/**
 * The device gets what the snapshot holds: a new snapshot of it takes the place of what the device was. The order lets a
 * cut leave the old content or the new, never none: the new one is made, the name changes over, the old one is deleted.
 */
export function rollbackThin(core: Core, name: string, snapshot: string): Promise<void> {
  return core.change(`thin rollback ${name}`, async (session) => {
    const { registry } = session;
    const { found, from, pool, newId } = await planRollback(session, name, snapshot);
    const poolName = found.pool.name;
    const making = await session.announce({ kind: "rollback", pool: poolName, newId });
    session.step("announced");
    await pool.message(["create_snap", String(newId), String(from.id)]);
    session.log(`pool '${found.pool.name}': create_snap ${newId} ${from.id}, ${traceOf(pool)}`);
    session.step("made");
    if (found.device !== undefined) {
      const line = soleThinLine(found.device)!;
      await reload(session, found.device, { ...line, args: [line.args[0]!, String(newId), ...line.args.slice(2)] });
    }
    takePlace(session, found, newId, pool.metadata.details(newId).creationTime);
    session.fulfilled(making);
    const leftOver: Intent = { kind: "delete-thin", pool: poolName, id: found.id, isLeftOver: true };
    await session.announce(leftOver);
    session.step("changed over");
    await (await registry.openPool(poolName)).pool.message(["delete", String(found.id)]);
    session.step("deleted");
    session.fulfilled(leftOver);
  });
}

export function planRollbackThin(core: Core, name: string, snapshot: string): Promise<Plan> {
  return core.change("thin rollback --dry-run", async (session) => {
    const { found, from, newId } = await planRollback(session, name, snapshot);
    const pool = `/dev/mapper/${quoted(found.pool.name)}`;
    const line = found.device === undefined ? undefined : soleThinLine(found.device)!;
    const table =
      line === undefined
        ? undefined
        : formatTable([{ ...line, args: [`/dev/mapper/${found.pool.name}`, String(newId), ...line.args.slice(2)] }]);
    const source = from.device === undefined || from.device.suspended ? undefined : quoted(from.device.name);
    return [
      ...(source === undefined ? [] : [`dmsetup suspend ${source}`]),
      `dmsetup message ${pool} 0 "create_snap ${newId} ${from.id}"`,
      ...(source === undefined ? [] : [`dmsetup resume ${source}`]),
      ...(table === undefined ? [] : dmsetupReload(found.device!.name, table)),
      `dmsetup message ${pool} 0 "delete ${found.id}"`,
    ];
  });
}

async function planRollback(session: Session, name: string, snapshot: string) {
  const found = findThin(session, name);
  const from = findThin(session, snapshot);
  if (found.pool.name !== from.pool.name) {
    throw new StateError(
      "EINVAL",
      `'${from.label}' is in pool '${from.pool.name}', '${found.label}' in '${found.pool.name}'`,
      {
        hint: "a device goes back to a snapshot in its own pool",
      },
    );
  }
  if (found.id === from.id) {
    throw new StateError("EINVAL", `'${from.label}' is the device itself`, { hint: "name one of its snapshots" });
  }
  if (found.device?.suspended === true) {
    throw new StateError("EBUSY", `'${found.label}' is suspended`, { hint: `udm table resume ${found.label}` });
  }
  // File systems and clients keep in memory what they have read: they would write the old into the new.
  const [holder] = found.device === undefined ? [] : session.registry.holdersOf(found.device);
  if (holder !== undefined) {
    throw new StateError("EBUSY", `'${found.label}' is in use: ${holder.what}`, { hint: holder.hint });
  }
  const pool = await openForThins(session, found.pool);
  refuseUnknown(pool, found);
  refuseUnknown(pool, from);
  const newId = await chooseId(pool, found.pool, undefined);
  return { found, from, pool, newId };
}

function takePlace(session: Session, found: FoundThin, newId: number, creationTime: number): void {
  const thins = thinsOf(session.registry.get(found.pool.name)).map((thin) => {
    if (thin.id === found.id) return { ...thin, id: newId, creationTime };
    return thin.origin === found.id ? { ...thin, origin: newId } : thin;
  });
  setThins(session, found.pool.name, thins);
}
