/**
 * What changing operations would do, as commands of the classic tools. The refusals are the operations' own: checks are
 * shared with them, and what only happens in memory until the state is written is done, and then forgotten.
 */
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { type DeviceRecord, formatTable, parseConcise, Registry, tableSectors } from "../device-registry/index.js";
import { InvariantError, IoError, StateError } from "../errors/index.js";
import { Claims, FileDevice } from "../io/index.js";
import type { TargetLine } from "../targets/index.js";
import { type Pool, parsePoolMessage } from "../thin/index.js";
import type { Core } from "./core.js";
import type { LoopAttach, Plan, PoolSettings, TableLine, TransferOptions } from "./host.js";
import { openImage, pastEnd } from "./images.js";
import { checkAttach, isMissing } from "./loops.js";
import { dmsetupReload, quoted } from "./plan-text.js";
import { checkSettings, refuseDeletingActive, settingsLine } from "./pools.js";
import type { Session } from "./session.js";
import { orderByDependency } from "./tables.js";
import { getPool, hasDevice, isPoolRecord } from "./thin-records.js";
import { openDevice, rangeOf, refuseDiscard, refuseWriting } from "./transfer.js";

/** Targets that leave nothing on what they stand on when they are taken up. */
const TRACELESS = ["linear", "striped", "zero", "error"];

class Forgotten extends Error {}

/** Runs as the operation would; then everything is forgotten, in records and open devices. Nothing is written. */
async function rehearse<T>(core: Core, purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
  const results: T[] = [];
  try {
    await core.change(`${purpose} --dry-run`, async (session) => {
      results.push(await run(session));
      throw new Forgotten();
    });
  } catch (error) {
    if (!(error instanceof Forgotten)) throw error;
  }
  if (results.length === 0) throw new InvariantError("a rehearsal ended without a result");
  return results[0]!;
}

// Loop devices

export function planKernelLoop(core: Core, request: LoopAttach): Promise<Plan> {
  return core.view((session) => {
    checkAttach(session, request);
    const file = session.resolvePath(request.file);
    const make = isMissing(file) ? [`truncate -s ${request.sizeBytes} ${quoted(file)}`] : [];
    if (make.length === 0) {
      new Claims().claim({ path: file, role: "kernel loop device", readOnly: request.readOnly ?? false }).release();
    }
    const words = [
      "losetup",
      ...(request.number === undefined ? ["--find"] : [`/dev/loop${request.number}`]),
      "--show",
    ];
    if (request.readOnly === true) words.push("--read-only");
    if (request.offsetBytes !== undefined) words.push("--offset", String(request.offsetBytes));
    if (request.sizeLimitBytes !== undefined) words.push("--sizelimit", String(request.sizeLimitBytes));
    if (request.sectorBytes !== undefined) words.push("--sector-size", String(request.sectorBytes));
    return [...make, [...words, quoted(file)].join(" ")];
  });
}

// Pools

export function planSetPool(core: Core, name: string, change: PoolSettings): Promise<Plan> {
  return rehearse(core, `pool set ${name}`, async (session) => {
    const record = getPool(session, name);
    checkSettings(change);
    const next = settingsLine(record, change);
    if (next === undefined) return ["# only what udm keeps of the pool changes"];
    await session.registry.load(record.name, [next], { readOnly: record.readOnly });
    const table = formatTable([next]);
    if (record.live !== undefined && !record.suspended) return dmsetupReload(record.name, table);
    return [`dmsetup reload ${quoted(record.name)} --table '${table.trimEnd()}'`];
  });
}

export function planPoolMessage(core: Core, name: string, words: readonly string[]): Promise<Plan> {
  return core.change(`pool message ${name} --dry-run`, async (session) => {
    const record = getPool(session, name);
    await checkMessage(session, record, words);
    return [messageCommand(record, 0, words)];
  });
}

function messageCommand(record: DeviceRecord, sector: number, words: readonly string[]): string {
  return `dmsetup message ${quoted(record.name)} ${sector} ${words.map(quoted).join(" ")}`;
}

/** What a pool would answer. @throws StateError as the message itself */
async function checkMessage(session: Session, record: DeviceRecord, words: readonly string[]): Promise<void> {
  if (words[0]?.toLowerCase() === "delete") refuseDeletingActive(session, record, Number(words[1]));
  const { pool } = await session.registry.openPool(record.name);
  if (!pool.canChangeMetadata) {
    throw new StateError(
      "EOPNOTSUPP",
      `${pool.name}: unable to service pool target messages in READ_ONLY or FAIL mode`,
      { hint: "see 'udm pool status'; grow full metadata, or repair a pool that needs a check" },
    );
  }
  const message = parsePoolMessage(words);
  switch (message.kind) {
    case "createThin":
      return refusePresent(pool, message.id);
    case "createSnapshot":
      refusePresent(pool, message.id);
      pool.metadata.details(message.origin);
      return;
    case "delete":
      pool.metadata.details(message.id);
      return;
    case "setTransactionId": {
      const { transactionId } = pool.metadata;
      if (transactionId === message.from) return;
      throw new StateError("EINVAL", `transaction id is ${transactionId}, the message expects ${message.from}`, {
        hint: "somebody else changed the pool; read its status again",
      });
    }
    case "reserveSnapshot":
      if (pool.metadata.heldRoot === undefined) return;
      throw new StateError("EBUSY", "the pool has a metadata snapshot already", {
        hint: "release it before taking another",
      });
    case "releaseSnapshot":
      if (pool.metadata.heldRoot !== undefined) return;
      throw new StateError("EINVAL", "the pool has no metadata snapshot", { hint: "nothing needs to be released" });
  }
}

function refusePresent(pool: Pool, id: number): void {
  if (!hasDevice(pool, id)) return;
  throw new StateError("EEXIST", `thin device ${id} exists in the pool already`, { hint: "choose another id" });
}

// Tables and mapped devices

export function planLoadTable(
  core: Core,
  name: string,
  table: readonly TableLine[],
  options: { readonly readOnly?: boolean; readonly uuid?: string } = {},
): Promise<Plan> {
  return rehearse(core, `table load ${name}`, async (session) => {
    const present = session.registry.find(name);
    const { uuid, readOnly = false } = options;
    const lines: string[] = [];
    if (present === undefined) {
      const { name: plain } = session.registry.create({ name, ...(uuid === undefined ? {} : { uuid }) });
      lines.push(`dmsetup create ${quoted(plain)} --notable${uuid === undefined ? "" : ` --uuid ${quoted(uuid)}`}`);
    } else if (uuid !== undefined && uuid !== present.uuid) {
      throw new StateError(
        "EINVAL",
        `'${name}' exists with ${present.uuid === "" ? "no uuid" : `uuid ${present.uuid}`}`,
        {
          hint: "a uuid is given when the device is made",
        },
      );
    }
    const record = session.registry.get(name);
    await session.registry.load(record.name, table, { readOnly });
    const text = formatTable(session.registry.get(record.name).inactive!.lines).trimEnd();
    lines.push(`dmsetup load ${quoted(record.name)}${readOnly ? " --readonly" : ""} --table ${quoted(text)}`);
    return lines;
  });
}

export function planClearTable(core: Core, name: string): Promise<Plan> {
  return core.view((session) => [`dmsetup clear ${quoted(session.registry.get(name).name)}`]);
}

export function planSuspend(core: Core, name: string, options: { readonly noflush?: boolean } = {}): Promise<Plan> {
  return core.view((session) => {
    const record = session.registry.get(name);
    if (record.suspended) {
      throw new StateError("EBUSY", `'${record.name}' is suspended already`, {
        hint: `udm table resume ${record.name}`,
      });
    }
    return [`dmsetup suspend${options.noflush === true ? " --noflush" : ""} ${quoted(record.name)}`];
  });
}

/** A table that waits is looked at once more; what its target says to it is known when it is taken up. */
export function planResume(core: Core, name: string): Promise<Plan> {
  return rehearse(core, `table resume ${name}`, async (session) => {
    const record = session.registry.get(name);
    const { inactive } = record;
    if (inactive !== undefined) {
      await session.registry.load(record.name, inactive.lines, { readOnly: inactive.readOnly });
    }
    return [`dmsetup resume ${quoted(record.name)}`];
  });
}

export function planRestoreTables(core: Core, concise: string): Promise<Plan> {
  return rehearse(core, "table restore", async (session) => {
    const { registry } = session;
    const devices = orderByDependency(parseConcise(concise));
    const taken = devices.find(({ name }) => registry.find(name) !== undefined);
    if (taken !== undefined) {
      throw new StateError("EBUSY", `the name '${taken.name}' is in use`, {
        hint: "remove the device, or leave it out",
      });
    }
    const waiting = new Set<string>();
    for (const { name, uuid, minor, readOnly, table } of devices) {
      const record = registry.create({ name, uuid, ...(minor === undefined ? {} : { minor }) });
      if (table.length === 0) continue;
      const words = table.flatMap((line) => line.args.map((word) => word.replace(/^\/dev\/mapper\//, "")));
      // What a pool says to its table is known when it is taken up, and so what stands on it.
      if (!table.every((line) => TRACELESS.includes(line.type)) || words.some((word) => waiting.has(word))) {
        for (const known of [name, Registry.numberOf(record)]) waiting.add(known);
        continue;
      }
      await registry.load(name, table, { readOnly });
      await registry.resume(name);
    }
    return [`dmsetup create --concise ${quoted(concise.trim())}`];
  });
}

export function planRenameDevice(core: Core, oldName: string, newName: string): Promise<Plan> {
  return rehearse(core, `device rename ${oldName}`, (session) => {
    const record = session.registry.get(oldName);
    session.registry.rename(record.name, newName);
    const renamed = session.registry.records().find((each) => each.minor === record.minor)!;
    return [`dmsetup rename ${quoted(record.name)} ${quoted(renamed.name)}`];
  });
}

export function planRemoveDevice(
  core: Core,
  name: string,
  options: { readonly deferred?: boolean; readonly force?: boolean; readonly ifExists?: boolean } = {},
): Promise<Plan> {
  return core.view((session) => {
    const { registry } = session;
    if (options.ifExists === true && registry.find(name) === undefined) return [];
    const record = registry.get(name);
    const shown = quoted(record.name);
    if (options.deferred === true && registry.openCount(record) > 0) return [`dmsetup remove --deferred ${shown}`];
    const users = registry.usersOf(Registry.numberOf(record));
    if (users.length > 0) {
      throw new StateError("EBUSY", `'${record.name}' is in use by ${users.join(", ")}`, {
        hint: "remove what stands on it first, or use --deferred",
      });
    }
    registry.refuseInUse(record);
    return [`dmsetup remove${options.force === true ? " --force" : ""} ${shown}`];
  });
}

export function planDeviceMessage(core: Core, name: string, sector: number, words: readonly string[]): Promise<Plan> {
  return core.change(`device message ${name} --dry-run`, async (session) => {
    const record = session.registry.get(name);
    const split = words.flatMap((word) => word.trim().split(/\s+/)).filter((word) => word !== "");
    if (split[0]?.toLowerCase() === "delete" && isPoolRecord(record)) {
      refuseDeletingActive(session, record, Number(split[1]));
    }
    const line = lineAt(record, sector);
    if (line?.type === "thin-pool" && split[0]?.startsWith("@") === false) await checkMessage(session, record, split);
    // Nobody else takes messages: the registry says so itself, before anything is done.
    else await session.registry.message(record.name, sector, split);
    return [messageCommand(record, sector, words)];
  });
}

function lineAt({ live = [] }: DeviceRecord, sector: number): TargetLine | undefined {
  if (sector >= tableSectors(live)) return undefined;
  return live.find((line) => sector >= line.startSectors && sector < line.startSectors + line.lengthSectors);
}

// Bytes

/** Copying bytes needs no device mapper: the plan is dd, cp or blkdiscard. */
export function planTransfer(
  core: Core,
  kind: "write" | "import" | "export" | "trim",
  name: string,
  options: TransferOptions & { readonly file?: string; readonly zeroes?: boolean } = {},
): Promise<Plan> {
  return core.change(`${kind} ${name} --dry-run`, async (session) => {
    const device = await openDevice(session, name);
    const path = quoted(`/dev/mapper/${session.registry.get(name).name}`);
    const file = options.file === undefined || options.file === "-" ? undefined : session.resolvePath(options.file);
    if (kind !== "export") refuseWriting(device, name);
    switch (kind) {
      case "write": {
        const { from } = rangeOf(device, options);
        return [`dd of=${path} bs=64k iflag=fullblock oflag=seek_bytes seek=${from} conv=notrunc,fsync`];
      }
      case "import": {
        if (file !== undefined) {
          await using image = openImage(file);
          if (image.sizeBytes > device.sizeBytes) throw pastEnd(device, 0, image.sizeBytes);
        }
        const source = file === undefined ? "" : `if=${quoted(options.file!)} `;
        // What the image leaves out reads as zeros afterwards.
        const erase = device.discardGranularityBytes > 0 ? [`blkdiscard ${path}`] : [];
        return [
          ...erase,
          `dd ${source}of=${path} bs=64k iflag=fullblock conv=${erase.length > 0 ? "sparse," : ""}notrunc,fsync`,
        ];
      }
      case "export": {
        if (file === undefined) return [`cat ${path}`];
        refuseTargetFile(file);
        const isBlockDevice = statSync(file, { throwIfNoEntry: false })?.isBlockDevice() === true;
        if (isBlockDevice) return [`dd if=${path} of=${quoted(options.file!)} bs=1M conv=notrunc,fsync`];
        return [`cp --sparse=always ${path} ${quoted(options.file!)}`];
      }
      case "trim": {
        const { from, to } = rangeOf(device, options);
        refuseDiscard(device, name, { from, to });
        const note = options.zeroes === true ? "  # only blocks of zeros" : "";
        return [`blkdiscard --offset ${from} --length ${to - from} ${path}${note}`];
      }
    }
  });
}

/** As the copy itself: a new file in a folder that is there, a regular file nobody holds, or a block device. */
function refuseTargetFile(path: string): void {
  const present = statSync(path, { throwIfNoEntry: false });
  if (present === undefined) {
    if (statSync(dirname(path), { throwIfNoEntry: false }) !== undefined) return;
    throw new IoError("ENOENT", `${path}: cannot be written: no such file or directory`, {
      hint: "make its folder first: mkdir -p",
    });
  }
  if (!present.isFile() && !present.isBlockDevice()) {
    throw new StateError("EINVAL", `${path} is neither a regular file nor a block device`, {
      hint: "give a new file's name",
    });
  }
  new Claims().claim({ path, role: "image", readOnly: false }).release();
  if (present.isBlockDevice()) void FileDevice.open(path, { readOnly: true }).close();
}
