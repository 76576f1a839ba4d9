/** Loop devices: files, or parts of them, with a number. */
import { readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import type { LoopRecord } from "../device-registry/index.js";
import { codeOf, StateError } from "../errors/index.js";
import {
  Claims,
  createSparseFile,
  FileDevice,
  identityOf,
  isSameFile,
  makeFolder,
  replaceFile,
  setFileSize,
} from "../io/index.js";
import { attachKernelLoop as attachThroughLosetup } from "../loop/index.js";
import { poolConfigOf } from "../targets/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { LOOP_MAJOR } from "./below.js";
import type { Core } from "./core.js";
import { numbersInUse } from "./follow-up.js";
import type { LoopAttach, LoopInfo, Plan } from "./host.js";
import { quoted } from "./plan-text.js";
import type { Session } from "./session.js";

const SECTOR_CHOICES = [512, 1024, 2048, 4096];
const MAX_NUMBER = 1048575;

export function attachLoop(core: Core, request: LoopAttach): Promise<LoopInfo> {
  return core.change("loop attach", (session) => {
    const present = request.ifNotExists === true ? findSame(session, request) : undefined;
    if (present !== undefined) return loopInfo(session, present);
    checkAttach(session, request);
    return loopInfo(session, addLoop(session, request));
  });
}

export function planAttachLoop(core: Core, request: LoopAttach): Promise<Plan> {
  return core.view((session) => {
    if (request.ifNotExists === true && findSame(session, request) !== undefined) return [];
    checkAttach(session, request);
    const file = session.resolvePath(request.file);
    const make = isMissing(file) ? [`truncate -s ${request.sizeBytes} ${quoted(file)}`] : [];
    const words = ["losetup", `/dev/loop${request.number ?? freeNumber(session)}`];
    if (request.readOnly === true) words.push("--read-only");
    if (request.offsetBytes !== undefined) words.push(`--offset ${request.offsetBytes}`);
    if (request.sizeLimitBytes !== undefined) words.push(`--sizelimit ${request.sizeLimitBytes}`);
    if (request.sectorBytes !== undefined) words.push(`--sector-size ${request.sectorBytes}`);
    return [...make, [...words, quoted(file)].join(" ")];
  });
}

/** Makes the record, and the file where it is missing. Checked before. */
export function addLoop(
  session: Session,
  request: LoopAttach & {
    readonly autoclear?: boolean /** Numbers that mean the machine's. */;
    readonly avoid?: readonly string[];
  },
): LoopRecord {
  const file = session.resolvePath(request.file);
  const offsetBytes = request.offsetBytes ?? 0;
  const sizeLimitBytes = request.sizeLimitBytes ?? 0;
  if (isMissing(file)) createSparseFile(file, request.sizeBytes!);
  const probe = FileDevice.open(file, {
    readOnly: request.readOnly ?? false,
    fallBackToReadOnly: true,
    offsetBytes,
    sizeLimitBytes,
    ...(request.sectorBytes === undefined ? {} : { sectorBytes: request.sectorBytes }),
  });
  const record: LoopRecord = {
    number: request.number ?? freeNumber(session, request.avoid),
    file,
    offsetBytes,
    sizeLimitBytes,
    sizeBytes: probe.sizeBytes,
    readOnly: probe.isReadOnly,
    sectorBytes: probe.logicalBlockBytes,
    autoclear: request.autoclear ?? false,
  };
  void probe.close();
  session.setLoops([...session.loops, record]);
  return record;
}

export function checkAttach(session: Session, request: LoopAttach): void {
  const file = session.resolvePath(request.file);
  const { number, sectorBytes, offsetBytes = 0, sizeLimitBytes = 0 } = request;
  if (number !== undefined) {
    if (!Number.isInteger(number) || number < 0 || number > MAX_NUMBER) {
      throw new StateError("EINVAL", `loop number ${number} is out of range`, { hint: `0 to ${MAX_NUMBER}` });
    }
    if (session.loops.some((loop) => loop.number === number)) {
      throw new StateError("EBUSY", `loop device ${LOOP_MAJOR}:${number} is in use`, {
        hint: "leave --number out for the first free one",
      });
    }
    const users = session.registry.usersOf(`${LOOP_MAJOR}:${number}`);
    if (users.length > 0) {
      throw new StateError(
        "EBUSY",
        `${LOOP_MAJOR}:${number} is the kernel's loop device in the table of ${users.join(", ")}`,
        {
          hint: "leave --number out for the first free one",
        },
      );
    }
  }
  if (sectorBytes !== undefined && !SECTOR_CHOICES.includes(sectorBytes)) {
    throw new StateError("EINVAL", `sector size ${sectorBytes} is not possible`, { hint: SECTOR_CHOICES.join(", ") });
  }
  if (offsetBytes % SECTOR_BYTES !== 0 || sizeLimitBytes % SECTOR_BYTES !== 0) {
    throw new StateError("EINVAL", "offset and size limit are multiples of 512 bytes", { hint: "round them down" });
  }
  if (!isMissing(file)) {
    const stat = statSync(file);
    if (stat.isDirectory()) {
      throw new StateError("EINVAL", `${file} is a directory`, { hint: "give a regular file or a block device" });
    }
    if (!stat.isFile() && !stat.isBlockDevice()) {
      throw new StateError("EINVAL", `${file} is neither a regular file nor a block device`, {
        hint: "give a regular file or a block device",
      });
    }
    if (request.sizeBytes !== undefined && stat.isFile() && stat.size !== request.sizeBytes) {
      throw new StateError("EEXIST", `${file} exists with ${stat.size} bytes, not ${request.sizeBytes}`, {
        hint: "leave --size out to take it as it is, or change it with udm loop resize",
      });
    }
    return;
  }
  checkNewFile(file, request.sizeBytes);
}

/** @throws StateError ENOENT when it cannot or may not be made */
export function checkNewFile(file: string, sizeBytes: number | undefined): void {
  if (sizeBytes === undefined) {
    throw new StateError("ENOENT", `${file} does not exist`, { hint: "give --size to make it, sparse" });
  }
  const folder = statSync(resolve(file, ".."), { throwIfNoEntry: false });
  if (folder?.isDirectory() !== true) {
    throw new StateError("ENOENT", `the folder of ${file} does not exist`, { hint: "make it first: mkdir -p" });
  }
}

export function detachLoop(core: Core, dev: string, options: { readonly ifExists?: boolean } = {}): Promise<void> {
  return core.change("loop detach", (session) => {
    if (options.ifExists === true && session.low.namedLoop(dev) === undefined) return;
    const loop = checkDetach(session, dev);
    session.setLoops(session.loops.filter((each) => each !== loop));
  });
}

export function planDetachLoop(core: Core, dev: string, options: { readonly ifExists?: boolean } = {}): Promise<Plan> {
  return core.view((session) => {
    if (options.ifExists === true && session.low.namedLoop(dev) === undefined) return [];
    return [`losetup --detach /dev/loop${checkDetach(session, dev).number}`];
  });
}

function checkDetach(session: Session, dev: string): LoopRecord {
  const loop = getLoop(session, dev);
  const users = session.registry.usersOf(`${LOOP_MAJOR}:${loop.number}`);
  if (users.length > 0) {
    throw new StateError("EBUSY", `${dev} is in use by ${users.join(", ")}`, {
      hint: "remove what stands on it first: udm pool remove, udm device remove",
    });
  }
  return loop;
}

export function resizeLoop(core: Core, dev: string, sizeBytes?: number): Promise<LoopInfo> {
  return core.change("loop resize", async (session) => {
    const loop = getLoop(session, dev);
    const { fileBytes, deviceBytes } = checkResize(session, loop, sizeBytes);
    if (fileBytes !== undefined) setFileSize(loop.file, fileBytes);
    session.step("file resized");
    const changed = { ...loop, sizeBytes: deviceBytes };
    session.setLoops(session.loops.map((each) => (each === loop ? changed : each)));
    await session.low.takeUpSize(`${LOOP_MAJOR}:${changed.number}`);
    return loopInfo(session, changed);
  });
}

export function planResizeLoop(core: Core, dev: string, sizeBytes?: number): Promise<Plan> {
  return core.view((session) => {
    const loop = getLoop(session, dev);
    const { fileBytes } = checkResize(session, loop, sizeBytes);
    const grow = fileBytes === undefined ? [] : [`truncate -s ${fileBytes} ${quoted(loop.file)}`];
    return [...grow, `losetup --set-capacity /dev/loop${loop.number}`];
  });
}

function checkResize(
  session: Session,
  loop: LoopRecord,
  sizeBytes: number | undefined,
): { readonly fileBytes: number | undefined; readonly deviceBytes: number } {
  const dev = `${LOOP_MAJOR}:${loop.number}`;
  const stat = statSync(loop.file, { throwIfNoEntry: false });
  if (stat === undefined)
    throw new StateError("ENOENT", `${dev}: ${loop.file} is gone`, { hint: "put it back, or detach" });
  if (sizeBytes !== undefined && !stat.isFile()) {
    throw new StateError("EINVAL", `${loop.file} is a block device, its size cannot be set`, {
      hint: "leave SIZE out",
    });
  }
  if (sizeBytes !== undefined && (sizeBytes % SECTOR_BYTES !== 0 || sizeBytes === 0)) {
    throw new StateError("EINVAL", `${sizeBytes} bytes are no size for a device`, {
      hint: "a multiple of 512 above 0",
    });
  }
  const fileBytes = sizeBytes === undefined ? undefined : loop.offsetBytes + sizeBytes;
  const behind = Math.max(0, (fileBytes ?? fileSize(loop.file)) - loop.offsetBytes);
  const limited = loop.sizeLimitBytes > 0 ? Math.min(behind, loop.sizeLimitBytes) : behind;
  const deviceBytes = limited - (limited % SECTOR_BYTES);
  const needed = neededBytes(session, dev);
  if (deviceBytes < needed.bytes) {
    throw new StateError(
      "EBUSY",
      `${dev} cannot become ${deviceBytes} bytes: ${needed.by} uses ${needed.bytes} of it`,
      {
        hint: "choose a size that keeps what is used; udm metadata shrink makes a pool smaller",
      },
    );
  }
  return { fileBytes, deviceBytes };
}

function fileSize(file: string): number {
  const device = FileDevice.open(file, { readOnly: true });
  void device.close();
  return device.sizeBytes;
}

/** How far into a device the tables reach, and whose does. */
function neededBytes(session: Session, dev: string): { readonly bytes: number; readonly by: string } {
  let needed = { bytes: 0, by: "nobody" };
  for (const record of session.registry.records()) {
    for (const line of [...(record.live ?? []), ...(record.inactive?.lines ?? [])]) {
      for (const area of session.registry.areasOf(line)) {
        const bytes = (area.startSectors + area.lengthSectors) * SECTOR_BYTES;
        if (area.device === dev && bytes > needed.bytes) needed = { bytes, by: record.name };
      }
      // A pool may use all of its metadata device.
      if (line.type === "thin-pool" && line.args[0] === dev && poolConfigOf(line).lengthSectors > 0) {
        const loop = session.low.loop(dev);
        if (loop !== undefined && loop.sizeBytes > needed.bytes) needed = { bytes: loop.sizeBytes, by: record.name };
      }
    }
  }
  return needed;
}

export function listLoops(core: Core): Promise<readonly LoopInfo[]> {
  return core.view((session) => session.loops.map((loop) => loopInfo(session, loop)));
}

function loopInfo(session: Session, loop: LoopRecord): LoopInfo {
  const dev = `${LOOP_MAJOR}:${loop.number}`;
  const { autoclear: _autoclear, ...rest } = loop;
  return { ...rest, dev, usedBy: session.registry.usersOf(dev) };
}

function getLoop(session: Session, dev: string): LoopRecord {
  const loop = session.low.namedLoop(dev);
  if (loop === undefined) {
    throw new StateError("ENXIO", `no loop device '${dev}'`, { hint: "udm loop list shows them" });
  }
  return loop;
}

/** The first number that neither a loop device of ours nor a table has. */
function freeNumber(session: Session, avoid: readonly string[] = []): number {
  const taken = new Set([...numbersInUse(session), ...avoid]);
  let number = 0;
  while (taken.has(`${LOOP_MAJOR}:${number}`)) number++;
  return number;
}

/** A loop device over just this part of just this file. */
export function findSame(session: Session, request: LoopAttach): LoopRecord | undefined {
  const file = session.resolvePath(request.file);
  if (isMissing(file)) return undefined;
  const identity = identityOf(file);
  return session.loops.find(
    (loop) =>
      !isMissing(loop.file) &&
      isSameFile(identityOf(loop.file), identity) &&
      loop.offsetBytes === (request.offsetBytes ?? 0) &&
      loop.sizeLimitBytes === (request.sizeLimitBytes ?? 0) &&
      loop.readOnly === (request.readOnly ?? loop.readOnly) &&
      (request.number === undefined || request.number === loop.number),
  );
}

export function isMissing(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false }) === undefined;
}

/** The kernel's loop device, through losetup. Remembered until the next boot. */
export async function attachKernelLoop(core: Core, request: LoopAttach): Promise<string> {
  return core.change("loop attach --kernel", async (session) => {
    const file = session.resolvePath(request.file);
    checkAttach(session, { ...request, ...(request.number === undefined ? {} : { number: request.number }) });
    // A file that a pool of ours has open must not get a second writer.
    const made = isMissing(file);
    if (made) createSparseFile(file, request.sizeBytes!);
    new Claims().claim({ path: file, role: "kernel loop device", readOnly: request.readOnly ?? false }).release();
    const { path } = await attachThroughLosetup({ ...request, file });
    remember(core.runDir, path, file);
    return path;
  });
}

/** What is true until the next boot only, with the id of this one. */
function remember(runDir: string, path: string, file: string): void {
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  const target = join(runDir, "kernel-loops.json");
  makeFolder(runDir, 0o700);
  let loops: { readonly path: string; readonly file: string }[] = [];
  try {
    const known = JSON.parse(readFileSync(target, "utf8")) as { bootId?: string; loops?: typeof loops };
    if (known.bootId === bootId && Array.isArray(known.loops)) loops = known.loops;
  } catch (error) {
    if (codeOf(error) !== "ENOENT" && !(error instanceof SyntaxError)) throw error;
  }
  loops = [...loops.filter((each) => each.path !== path), { path, file }];
  replaceFile(target, `${JSON.stringify({ bootId, loops }, undefined, 1)}\n`);
}
