/** Mapped devices and their tables, as dmsetup deals with them. */
import { setTimeout as sleep } from "node:timers/promises";
import {
  type ConciseDevice,
  type DeviceRecord,
  formatConcise,
  MAPPED_MAJOR,
  parseConcise,
  tableSectors,
  tableTexts,
} from "../device-registry/index.js";
import { messageOf, StateError, UdmError } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { Core } from "./core.js";
import type { DeviceInfo, TableLine, TargetText } from "./host.js";
import { forgetReadSnapshot } from "./metadata-snapshot.js";
import { refuseDeletingActive, stateOf } from "./pools.js";
import type { Session } from "./session.js";
import { addThin, findThin, isPoolRecord, soleThinLine } from "./thin-records.js";

const WAIT_PAUSE_MS = 100;

export function loadTable(
  core: Core,
  name: string,
  table: readonly TableLine[],
  options: { readonly readOnly?: boolean; readonly uuid?: string } = {},
): Promise<void> {
  return core.change(`table load ${name}`, async (session) => {
    const present = session.registry.find(name);
    if (present === undefined) {
      session.registry.create({ name, ...(options.uuid === undefined ? {} : { uuid: options.uuid }) });
    } else if (options.uuid !== undefined && options.uuid !== present.uuid) {
      throw new StateError(
        "EINVAL",
        `'${name}' exists with ${present.uuid === "" ? "no uuid" : `uuid ${present.uuid}`}`,
        {
          hint: "a uuid is given when the device is made",
        },
      );
    }
    const record = session.registry.get(name);
    await session.registry.load(record.name, table, { readOnly: options.readOnly ?? false });
  });
}

export function clearTable(core: Core, name: string): Promise<void> {
  return core.change(`table clear ${name}`, (session) => session.registry.clear(name));
}

export async function suspend(core: Core, name: string, options: { readonly noflush?: boolean } = {}): Promise<void> {
  if (options.noflush !== true) await core.writeBack((session) => session.registry.find(name));
  return core.change(`table suspend ${name}`, (session) => {
    const record = session.registry.get(name);
    if (record.suspended) {
      throw new StateError("EBUSY", `'${record.name}' is suspended already`, {
        hint: `udm table resume ${record.name}`,
      });
    }
    return session.registry.suspend(record.name, options);
  });
}

/** A table that is refused leaves its mark: both outcomes are written down. */
export function resume(core: Core, name: string): Promise<void> {
  return core.change(`table resume ${name}`, async (session) => {
    const record = session.registry.get(name);
    const isPool = record.inactive !== undefined && isPoolRecord({ ...record, live: record.inactive.lines });
    const intent = { kind: "resume", pool: record.name } as const;
    try {
      await session.registry.resume(record.name, {
        onSwapped: async () => {
          if (isPool) await session.announce(intent);
          session.step("swapped");
        },
      });
      session.step("taken up");
      session.fulfilled(intent);
    } catch (error) {
      session.fulfilled(intent);
      await session.save();
      throw error;
    }
    for (const { startSectors, lengthSectors, type } of session.registry.get(record.name).live ?? []) {
      session.log(`resume '${record.name}': sectors ${startSectors} to ${startSectors + lengthSectors}, ${type}`);
    }
    followThinSize(session, record.name);
  });
}

/** A thin device that got another table has another size. */
function followThinSize(session: Session, name: string): void {
  const record = session.registry.get(name);
  const line = soleThinLine(record);
  if (line === undefined) return;
  const { pool, thin } = findThin(session, record.name);
  if (thin !== undefined) addThin(session, pool.name, { ...thin, sizeBytes: line.lengthSectors * SECTOR_BYTES });
}

export function showTables(
  core: Core,
  options: { readonly name?: string; readonly inactive?: boolean; readonly target?: string } = {},
): Promise<readonly TargetText[]> {
  return core.view((session) => {
    const { registry } = session;
    const records = options.name === undefined ? registry.records() : [registry.get(options.name)];
    const isFailed = (number: string) => registry.find(number)?.pool?.runtime?.mode === "fail";
    return records.flatMap((record) => {
      const lines = (options.inactive === true ? record.inactive?.lines : record.live) ?? [];
      const texts = tableTexts(lines, isFailed);
      return lines
        .map((line, index) => ({ ...textOf(record, line), params: texts[index]! }))
        .filter(({ type }) => options.target === undefined || type === options.target);
    });
  });
}

function textOf(record: DeviceRecord, line: TableLine): Omit<TargetText, "params"> {
  const { startSectors, lengthSectors, type } = line;
  return { device: record.name, startSectors, lengthSectors, type };
}

export function tableStatus(
  core: Core,
  options: { readonly name?: string; readonly noflush?: boolean; readonly target?: string } = {},
): Promise<readonly TargetText[]> {
  return core.change("table status", async (session) => {
    const { registry } = session;
    const records = options.name === undefined ? registry.records() : [registry.get(options.name)];
    const rows: TargetText[] = [];
    for (const record of records) {
      const wanted = record.live?.some((line) => options.target === undefined || line.type === options.target);
      if (wanted !== true) continue;
      const found = await registry
        .status(record.name, { noflush: options.noflush ?? false })
        .catch((error: unknown) => {
          if (options.name !== undefined) throw error;
          // One device that cannot be asked does not hide the others; the kernel's word for it is Error.
          session.log(`status of '${record.name}': ${messageOf(error)}`);
          return record.live!.map((line) => ({ ...textOf(record, line), params: "Error" }));
        });
      rows.push(...found.filter(({ type }) => options.target === undefined || type === options.target));
    }
    return rows;
  });
}

// Saving and restoring

export function saveTables(core: Core): Promise<string> {
  return core.view((session) =>
    formatConcise(
      session.registry.inDependencyOrder().map((record) => ({
        name: record.name,
        uuid: record.uuid,
        minor: record.minor,
        readOnly: record.readOnly,
        table: record.live ?? [],
      })),
    ),
  );
}

/** All of them or none. */
export function restoreTables(core: Core, concise: string): Promise<readonly string[]> {
  return core.change("table restore", async (session) => {
    const devices = orderByDependency(parseConcise(concise));
    for (const { name } of devices) {
      if (session.registry.find(name) !== undefined) {
        throw new StateError("EBUSY", `the name '${name}' is in use`, { hint: "remove the device, or leave it out" });
      }
    }
    for (const device of devices) {
      const { name, uuid, minor, readOnly, table } = device;
      session.registry.create({ name, uuid, ...(minor === undefined ? {} : { minor }) });
      if (table.length === 0) continue;
      await session.registry.load(name, table, { readOnly });
      await session.registry.resume(name);
    }
    return devices.map(({ name }) => name);
  });
}

/** Devices behind those that their tables name, by number or by name. */
export function orderByDependency(devices: readonly ConciseDevice[]): readonly ConciseDevice[] {
  const ordered = new Set<ConciseDevice>();
  const underWay = new Set<ConciseDevice>();
  const visit = (device: ConciseDevice) => {
    if (ordered.has(device) || underWay.has(device)) return;
    underWay.add(device);
    const words = new Set(device.table.flatMap((line) => line.args));
    for (const other of devices) {
      const names = [other.name, `/dev/mapper/${other.name}`, `${MAPPED_MAJOR}:${other.minor}`];
      if (other !== device && names.some((each) => words.has(each))) visit(other);
    }
    ordered.add(device);
  };
  for (const device of devices) visit(device);
  return [...ordered];
}

// Devices

export function listDevices(core: Core): Promise<readonly DeviceInfo[]> {
  return core.view((session) => session.registry.records().map((record) => infoOf(session, record)));
}

export function deviceInfo(core: Core, name: string): Promise<DeviceInfo> {
  return core.view((session) => infoOf(session, session.registry.get(name)));
}

function infoOf(session: Session, record: DeviceRecord): DeviceInfo {
  const live = record.live ?? [];
  return {
    name: record.name,
    uuid: record.uuid,
    major: MAPPED_MAJOR,
    minor: record.minor,
    state: stateOf(record),
    readOnly: record.readOnly,
    openCount: session.registry.openCount(record),
    eventNr: record.eventNr,
    segments: live.length,
    hasLiveTable: record.live !== undefined,
    hasInactiveTable: record.inactive !== undefined,
    deferredRemove: record.deferredRemove,
    sizeBytes: tableSectors(live) * SECTOR_BYTES,
    targetTypes: [...new Set(live.map((line) => line.type))],
    deps: session.registry.dependencies(record),
  };
}

export function renameDevice(core: Core, oldName: string, newName: string): Promise<void> {
  return core.change(`device rename ${oldName}`, (session) => {
    const record = session.registry.get(oldName);
    const thin = soleThinLine(record) === undefined ? undefined : findThin(session, record.name);
    session.registry.rename(record.name, newName);
    const name = session.registry.records().find((each) => each.minor === record.minor)!.name;
    if (thin?.thin !== undefined) addThin(session, session.registry.get(thin.pool.name).name, { ...thin.thin, name });
  });
}

export function removeDevice(
  core: Core,
  name: string,
  options: { readonly deferred?: boolean; readonly force?: boolean; readonly ifExists?: boolean } = {},
): Promise<void> {
  return core.change(`device remove ${name}`, async (session) => {
    const { registry } = session;
    if (options.ifExists === true && registry.find(name) === undefined) return;
    const record = registry.get(name);
    if (options.deferred === true && registry.openCount(record) > 0) {
      registry.update(record.name, { deferredRemove: true });
      return;
    }
    if (options.force !== true) return registry.remove(record.name);
    await registry.wipe(record.name);
    // Whatever becomes of the removal, the device answers with errors from now on.
    await session.save();
    try {
      await registry.remove(record.name);
    } catch (error) {
      if (!(error instanceof StateError)) throw error;
      throw new StateError(error.code, `${error.message}; it stays, and fails all I/O from now on`, {
        ...(error.hint === undefined ? {} : { hint: error.hint }),
        cause: error,
      });
    }
  });
}

export function deviceMessage(
  core: Core,
  name: string,
  sector: number,
  words: readonly string[],
): Promise<string | undefined> {
  return core.change(`device message ${name}`, async (session) => {
    const record = session.registry.get(name);
    const split = words.flatMap((word) => word.trim().split(/\s+/)).filter((word) => word !== "");
    if (split[0]?.toLowerCase() === "delete" && isPoolRecord(record)) {
      refuseDeletingActive(session, record, Number(split[1]));
    }
    const answer = await session.registry.message(record.name, sector, split);
    if (split[0]?.toLowerCase() === "release_metadata_snap") forgetReadSnapshot(session, record.name);
    return answer;
  });
}

/** Looks at the counter that other processes write down too. A device that goes away ends the wait. */
export async function waitDevice(
  core: Core,
  name: string,
  options: { readonly eventNr?: number; readonly timeoutMs?: number } = {},
): Promise<number> {
  const first = await core.view((session) => session.registry.get(name));
  const from = options.eventNr ?? first.eventNr;
  const until = options.timeoutMs === undefined ? undefined : performance.now() + options.timeoutMs;
  for (let eventNr = first.eventNr; ; ) {
    if (eventNr !== from) return eventNr;
    if (until !== undefined && performance.now() >= until) {
      throw new UdmError("ETIMEDOUT", `'${first.name}' had no event in ${(options.timeoutMs ?? 0) / 1000} s`, {
        hint: "wait longer",
      });
    }
    await sleep(WAIT_PAUSE_MS);
    const now = await core.view((session) => session.registry.records().find((each) => each.minor === first.minor));
    if (now === undefined) return eventNr;
    eventNr = now.eventNr;
  }
}
