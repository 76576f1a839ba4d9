/**
 * A look at the machine and at what udm remembers: what is there to work with, and what is wrong. Nothing is claimed,
 * locked, mended or written; a pool's superblock is read as it lies on its device.
 */
import { accessSync, constants, readdirSync, readFileSync, statfsSync, statSync } from "node:fs";
import { release, userInfo } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { type DeviceRecord, MAPPED_MAJOR, type State } from "../device-registry/index.js";
import { codeOf, messageOf, UdmError } from "../errors/index.js";
import {
  describeHolders,
  FileDevice,
  findHolders,
  identityOf,
  kernelLoopsOver,
  kernelUse,
  nativeSupport,
} from "../io/index.js";
import { listKernelLoops, resolveDeviceNumber } from "../loop/index.js";
import { SUPERBLOCK, SUPERBLOCK_VALIDATOR } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { LOOP_MAJOR } from "./below.js";
import type { Core } from "./core.js";
import { daemonPaths } from "./daemon/socket-path.js";
import type { Capability, Examination, ExaminationRequest, Finding } from "./host.js";
import { quoted } from "./plan-text.js";
import { isPoolRecord } from "./thin-records.js";

const METADATA_BLOCK_BYTES = 4096;
const FLAG_NEEDS_CHECK = 1;
/** A file beside the state that is older than this is nobody's work in progress. */
const STALE_MS = 60_000;
const FEW_BYTES = 16 * 2 ** 20;

/** Programs that udm runs or points to, and what for. */
const TOOLS: readonly (readonly [string, string])[] = [
  ["losetup", "kernel loop devices"],
  ["mount", "file systems on devices"],
  ["fusermount3", "FUSE without root"],
  ["nbd-client", "kernel devices over NBD"],
  ["thin_check", "checking metadata"],
  ["thin_repair", "repairing metadata"],
  ["thin_dump", "metadata as XML"],
  ["mkfs.ext4", "making file systems"],
  ["mkfs.xfs", "making file systems"],
];

export async function examine(core: Core, request: ExaminationRequest): Promise<Examination> {
  const findings: Finding[] = [];
  const state = readState(core, findings);
  examineFolder(core, findings);
  if (state !== undefined) {
    examineIntents(state, findings);
    if (core.isAlone) examineReads(state, findings);
    examineLoops(state, findings);
    for (const record of state.devices) {
      examineDevice(record, state, findings);
      if (isPoolRecord(record)) await examinePool(record, state, findings);
    }
  }
  examineEarlierBoot(core, findings);
  const daemon = examineDaemon(core, request, findings);
  const { examineAttachments } = await import("./attachments/index.js");
  const folders = { stateDir: dirname(core.file.path), runDir: core.runDir, devFolder: request.devFolder };
  const names = (state?.devices ?? []).map((record) => record.name);
  findings.push(...(await examineAttachments({ ...folders, names })));
  for (const loop of listKernelLoops().filter((each) => each.isDeleted)) {
    findings.push({
      id: "kernel-loop-deleted",
      severity: "wrong",
      subject: loop.path,
      message: `its file ${loop.backingFile} is deleted; the room is not given back while it is attached`,
      fix: `losetup -d ${loop.path}`,
    });
  }
  return { machine: [...capabilities(core, request), daemon], findings };
}

// What there is to work with

function capabilities(core: Core, request: ExaminationRequest): readonly Capability[] {
  const native = nativeSupport();
  const control = "/dev/loop-control";
  return [
    { id: "kernel", isThere: true, detail: `Linux ${release()}`, use: "" },
    { id: "node", isThere: true, detail: process.version.slice(1), use: "" },
    {
      id: "privileges",
      isThere: request.isRoot,
      detail: request.isRoot ? "root" : `user ${userName()}, not root`,
      use: "kernel devices, mounts; pools in files need none",
    },
    {
      id: "koffi",
      isThere: native.available,
      detail: native.available ? "holes, locks and ioctls without outside programs" : (native.reason ?? "not there"),
      use: "speed",
    },
    { id: "state", ...folderState(core.file.path.replace(/\/[^/]*$/, "")), use: "what udm remembers" },
    device("kernel-loop", control, "losetup, loop attach --kernel"),
    device("fuse", "/dev/fuse", "devices of udm as files, and by a loop device on them as block devices"),
    {
      id: "nbd",
      isThere: exists("/sys/module/nbd") || exists("/dev/nbd0"),
      detail: exists("/sys/module/nbd") ? "loaded" : exists("/dev/nbd0") ? "/dev/nbd0" : "module nbd is not loaded",
      use: "kernel devices over NBD",
    },
    device("ublk", "/dev/ublk-control", "kernel devices by ublk"),
    {
      id: "device-mapper",
      isThere: exists("/sys/class/misc/device-mapper"),
      detail: exists("/sys/class/misc/device-mapper") ? "in the kernel" : "not in the kernel; udm does not need it",
      use: "dmsetup, LVM",
    },
    ...TOOLS.map(([name, use]) => tool(name, use, request.searchPath)),
  ];
}

function device(id: string, path: string, use: string): Capability {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return { id, isThere: true, detail: path, use };
  } catch (error) {
    const why = codeOf(error) === "ENOENT" ? `${path} is missing` : `${path} is not open to this user`;
    return { id, isThere: false, detail: why, use };
  }
}

function tool(name: string, use: string, searchPath: string): Capability {
  for (const folder of [...searchPath.split(delimiter), "/usr/sbin", "/sbin"].filter((each) => each !== "")) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return { id: name, isThere: true, detail: path, use };
    } catch {
      // Not in this folder.
    }
  }
  return { id: name, isThere: false, detail: "not found", use };
}

function folderState(folder: string): Pick<Capability, "isThere" | "detail"> {
  try {
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK);
    return { isThere: true, detail: folder };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { isThere: true, detail: `${folder}, made with the first change` };
    return { isThere: false, detail: `${folder} is not open to this user for writing` };
  }
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.geteuid?.() ?? "unknown");
  }
}

// The state

function readState(core: Core, findings: Finding[]): State | undefined {
  try {
    return core.file.read();
  } catch (error) {
    const hint = error instanceof UdmError ? (error.hint ?? "") : "";
    const command = /: (cp .*)$/.exec(hint)?.[1];
    findings.push({
      id: "state-damaged",
      severity: "wrong",
      subject: "state",
      message: `${messageOf(error)}${command === undefined && hint !== "" ? `; ${hint}` : ""}`,
      ...(command === undefined ? {} : { fix: command }),
    });
    return undefined;
  }
}

function examineFolder(core: Core, findings: Finding[]): void {
  const folder = core.file.path.replace(/\/[^/]*$/, "");
  if (!exists(folder)) return;
  for (const name of listFolder(folder).filter((each) => each.endsWith(".new"))) {
    const path = join(folder, name);
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined || Date.now() - stat.mtimeMs < STALE_MS) continue;
    findings.push({
      id: "stale-file",
      severity: "wrong",
      subject: path,
      message: "left behind by a command that was cut off; nothing reads it",
      fix: `rm ${quoted(path)}`,
    });
  }
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < FEW_BYTES) {
    findings.push({
      id: "state-room",
      severity: "wrong",
      subject: folder,
      message: `only ${bavail * bsize} bytes are free on its file system; changes will fail`,
    });
  }
}

function examineIntents(state: State, findings: Finding[]): void {
  for (const intent of state.intents) {
    findings.push({
      id: "cut-off",
      severity: "wrong",
      subject: intent.pool,
      message: `${intent.kind} was cut off; the next command mends it`,
      fix: "udm device list",
    });
  }
}

/** Where no daemon runs nobody reads through what is noted there. */
function examineReads(state: State, findings: Finding[]): void {
  for (const { name } of state.devices.filter(({ pool }) => pool?.readSnapshot !== undefined)) {
    findings.push({
      id: "metadata-snapshot-left",
      severity: "wrong",
      subject: name,
      message: "a daemon that was killed left the metadata snapshot it held for a reader; the next command releases it",
      fix: "udm device list",
    });
  }
}

/** Kernel loop devices that udm attached end with the machine's uptime; the file in the run folder may not. */
function examineEarlierBoot(core: Core, findings: Finding[]): void {
  const path = join(core.runDir, "kernel-loops.json");
  try {
    const known = JSON.parse(readFileSync(path, "utf8")) as {
      readonly bootId?: string;
      readonly loops?: readonly { readonly path: string; readonly file: string }[];
    };
    if (known.bootId === readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()) return;
    for (const loop of known.loops ?? []) {
      findings.push({
        id: "earlier-boot",
        severity: "wrong",
        subject: loop.path,
        message: `was attached to ${loop.file} before the machine was started anew, and is no longer`,
        fix: `udm loop attach ${quoted(loop.file)} --kernel`,
      });
    }
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    findings.push({
      id: "run-file",
      severity: "wrong",
      subject: path,
      message: `cannot be read: ${messageOf(error)}`,
      fix: `rm ${quoted(path)}`,
    });
  }
}

/** In a command this is reached only when nobody answered at the socket. */
function examineDaemon(core: Core, { silentDaemon }: ExaminationRequest, findings: Finding[]): Capability {
  const { socket } = daemonPaths({ stateDir: dirname(core.file.path), runDir: core.runDir });
  const use = "exports, attached devices";
  if (!core.isAlone) return { id: "daemon", isThere: true, detail: `process ${process.pid}, ${socket}`, use };
  if (silentDaemon !== undefined) {
    const { pid } = silentDaemon;
    const who = pid === undefined ? socket : `process ${pid}`;
    findings.push({
      id: "daemon-stuck",
      severity: "wrong",
      subject: "daemon",
      message: `${who} does not answer; who uses its devices waits, and nothing that was flushed is lost when it is killed`,
      ...(pid === undefined ? {} : { fix: `kill -9 ${pid}` }),
    });
    return { id: "daemon", isThere: false, detail: `${who} does not answer`, use };
  }
  if (!exists(socket)) return { id: "daemon", isThere: true, detail: "not running; started when needed", use };
  findings.push({
    id: "stale-socket",
    severity: "wrong",
    subject: "daemon",
    message: `${socket} was left behind by a daemon that was killed`,
    fix: "udm daemon stop",
  });
  return { id: "daemon", isThere: true, detail: "not running; started when needed", use };
}

// Loop devices

function examineLoops(state: State, findings: Finding[]): void {
  for (const loop of state.loops) {
    const subject = `${LOOP_MAJOR}:${loop.number}`;
    const users = usersOf(state, subject);
    const stat = statSync(loop.file, { throwIfNoEntry: false });
    if (stat === undefined) {
      const fix =
        users.length === 0 ? `udm loop detach ${subject}` : `udm device remove --force ${users.map(quoted).join(" ")}`;
      const used = users.length === 0 ? "" : `, and ${users.join(", ")} stand${users.length === 1 ? "s" : ""} on it`;
      const message = `its file ${loop.file} is missing${used}; put it back, or give it up`;
      findings.push({ id: "file-missing", severity: "wrong", subject, message, fix });
      continue;
    }
    const end = loop.offsetBytes + loop.sizeBytes;
    if (stat.isFile() && stat.size < end) {
      findings.push({
        id: "file-truncated",
        severity: "wrong",
        subject,
        message: `its file ${loop.file} has ${stat.size} bytes, the device ends at ${end}; what was cut off reads as zeros once the file is as long again`,
        fix: `truncate -s ${end} ${quoted(loop.file)}`,
      });
    } else if (stat.isFile() && loop.sizeLimitBytes === 0 && stat.size - end >= loop.sectorBytes) {
      findings.push({
        id: "file-grown",
        severity: "note",
        subject,
        message: `its file ${loop.file} has grown by ${stat.size - end} bytes that the device does not use`,
        fix: `udm loop resize ${subject}`,
      });
    }
    examineHolders(loop.file, subject, loop.readOnly, findings);
  }
}

function examineHolders(path: string, subject: string, readOnly: boolean, findings: Finding[]): void {
  const identity = identityOf(path);
  const use = kernelUse(identity, { readOnly });
  if (use !== undefined) {
    const [loop] = kernelLoopsOver(identity);
    findings.push({
      id: "held-by-kernel",
      severity: "wrong",
      subject,
      message: `${path} is ${use}; what stands on it cannot be opened`,
      ...(loop === undefined ? {} : { fix: `losetup -d ${loop.path}` }),
    });
    return;
  }
  const holders = findHolders(identity).filter((each) => each.pid !== process.pid);
  if (holders.length === 0) return;
  findings.push({
    id: "held",
    severity: "note",
    subject,
    message: `${path} is held by ${describeHolders(holders) ?? "another process"}`,
  });
}

function usersOf(state: State, number: string): readonly string[] {
  const isUser = (record: DeviceRecord) =>
    [...(record.live ?? []), ...(record.inactive?.lines ?? [])].some((line) => line.args.includes(number));
  return state.devices.filter(isUser).map((record) => record.name);
}

// Mapped devices

function examineDevice(record: DeviceRecord, state: State, findings: Finding[]): void {
  const subject = record.name;
  const name = quoted(record.name);
  const words = (record.live ?? []).flatMap((line) => line.args).filter((word) => /^\d+:\d+$/.test(word));
  for (const number of new Set(words)) {
    if (isKnown(number, state)) continue;
    findings.push({
      id: "device-missing",
      severity: "wrong",
      subject,
      message: `it stands on ${number}, which is not there`,
      fix: `udm device remove --force ${name}`,
    });
  }
  if (record.suspended) {
    findings.push({
      id: "suspended",
      severity: "note",
      subject,
      message: "is suspended",
      fix: `udm table resume ${name}`,
    });
  } else if (record.inactive !== undefined) {
    findings.push({
      id: "inactive-table",
      severity: "note",
      subject,
      message: "has an inactive table that waits to be made live",
      fix: `udm table resume ${name}`,
    });
  }
  if (record.deferredRemove) {
    findings.push({ id: "deferred-remove", severity: "note", subject, message: "goes with its last user" });
  }
}

function isKnown(number: string, state: State): boolean {
  const [major, minor] = number.split(":").map(Number) as [number, number];
  if (major === MAPPED_MAJOR && state.devices.some((each) => each.minor === minor)) return true;
  if (major === LOOP_MAJOR && state.loops.some((each) => each.number === minor)) return true;
  return resolveDeviceNumber(major, minor) !== undefined;
}

// Pools

async function examinePool(record: DeviceRecord, state: State, findings: Finding[]): Promise<void> {
  const subject = `pool ${record.name}`;
  const name = quoted(record.name);
  const [line] = record.live ?? record.inactive?.lines ?? [];
  const place = line === undefined ? undefined : placeOf(line.args[0]!, state);
  const mode = record.pool?.runtime?.mode ?? "write";
  if (mode === "out-of-data-space") {
    findings.push({
      id: "out-of-data-space",
      severity: "wrong",
      subject,
      message: "has no free data blocks",
      fix: `udm pool resize ${name} +20%`,
    });
  }
  if (mode === "out-of-metadata-space") {
    findings.push({
      id: "out-of-metadata-space",
      severity: "wrong",
      subject,
      message: "has no room for metadata",
      fix: `udm pool resize ${name} --metadata-size +100%`,
    });
  }
  if (place === undefined || !exists(place.path)) return;
  const repair = `udm metadata repair -i ${name} -o ${quoted(`${place.path}.repaired`)}`;
  const damage = (message: string): Finding => ({
    id: "metadata-damaged",
    severity: "wrong",
    subject,
    message,
    fix: repair,
  });
  try {
    const head = await readHead(place);
    if (head.every((byte) => byte === 0)) {
      findings.push(damage(`the superblock of its metadata, in ${place.path}, is zero`));
      return;
    }
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
    SUPERBLOCK_VALIDATOR.check(view, 0);
    const isFlagged = (SUPERBLOCK.get.flags(view) & FLAG_NEEDS_CHECK) !== 0;
    if (isFlagged) {
      findings.push({
        id: "needs-check",
        severity: "wrong",
        subject,
        message: `its metadata, in ${place.path}, needs a check before the pool writes again`,
        fix: `udm metadata check --clear-needs-check-flag ${name}`,
      });
    } else if (mode === "fail" || (mode === "read-only" && record.pool?.runtime?.needsCheckUnsaved === true)) {
      findings.push({
        id: "pool-mode",
        severity: "wrong",
        subject,
        message: mode === "fail" ? "has failed" : "fell back to read-only",
        fix: `udm metadata check ${name}`,
      });
    }
  } catch (error) {
    findings.push(damage(`the superblock of its metadata, in ${place.path}: ${messageOf(error)}`));
  }
}

interface Place {
  readonly path: string;
  readonly offsetBytes: number;
}

/** File and offset at which a device begins, through linear tables. */
function placeOf(number: string, state: State, depth = 0): Place | undefined {
  const [major, minor] = number.split(":").map(Number) as [number, number];
  const loop = major === LOOP_MAJOR ? state.loops.find((each) => each.number === minor) : undefined;
  if (loop !== undefined) return { path: loop.file, offsetBytes: loop.offsetBytes };
  const mapped = major === MAPPED_MAJOR ? state.devices.find((each) => each.minor === minor) : undefined;
  const first = mapped?.live?.[0];
  if (mapped !== undefined) {
    if (first?.type !== "linear" || depth > state.devices.length) return undefined;
    const below = placeOf(first.args[0]!, state, depth + 1);
    const startBytes = Number(first.args[1]) * SECTOR_BYTES;
    return below === undefined ? undefined : { path: below.path, offsetBytes: below.offsetBytes + startBytes };
  }
  const path = resolveDeviceNumber(major, minor);
  return path === undefined ? undefined : { path, offsetBytes: 0 };
}

async function readHead({ path, offsetBytes }: Place): Promise<Buffer> {
  const device = FileDevice.open(path, { readOnly: true });
  try {
    const head = Buffer.alloc(METADATA_BLOCK_BYTES);
    await device.read(offsetBytes, head);
    return head;
  } finally {
    await device.close();
  }
}

function listFolder(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}
