/**
 * The machine's block devices, from /sys and /proc, as lsblk sees them: what udm's devices can stand on, and what `udm
 * lsblk` shows beside them. Nothing is opened, so an ordinary user sees what root sees.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename } from "node:path";
import { deviceNumber, listKernelLoops, majorMinor, mountPoints, swapPaths } from "../io/index.js";

export interface MachineDevice {
  /** As lsblk prints it: the map's name for mapped devices, else the kernel's. */
  readonly name: string;
  /** The kernel's name, with `/` for its `!`. */
  readonly kname: string;
  readonly path: string;
  readonly major: number;
  readonly minor: number;
  readonly majMin: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly removable: boolean;
  /** disk, part, loop, dm, lvm, crypt, raid1, rom, ... */
  readonly type: string;
  /** `MAJ:MIN` of what it stands on: a partition's disk, a map's devices. */
  readonly parents: readonly string[];
  /** In the order of mounting; `[SWAP]` for swap. */
  readonly mountpoints: readonly string[];
  /** Of a loop device; ` (deleted)` is not part of it. */
  readonly backingFile: string | undefined;
  readonly logicalBlockBytes: number;
  readonly physicalBlockBytes: number;
  readonly rotational: boolean;
}

export interface MachineOptions {
  /** Also unused loop devices and RAM disks, which lsblk leaves out. */
  readonly all?: boolean;
  /** Where /sys and the mount tables are; for tests. */
  readonly sysFolder?: string;
}

const RAM_MAJOR = 1;
/** Peripheral device types of SCSI as lsblk names them; what is not here is a disk. */
const SCSI_TYPES: Readonly<Record<string, string>> = {
  "1": "tape",
  "4": "worm",
  "5": "rom",
  "7": "mo-disk",
  "12": "raid",
};

/** All of them, by device number. */
export function machineBlockDevices(options: MachineOptions = {}): MachineDevice[] {
  const sys = options.sysFolder ?? "/sys";
  const points = usePoints();
  const backing = new Map(listKernelLoops().map((loop) => [`loop${loop.number}`, loop.backingFile]));
  const found: MachineDevice[] = [];
  for (const disk of listFolder(`${sys}/block`)) {
    const folder = `${sys}/block/${disk}`;
    if (options.all !== true && /^loop\d+$/.test(disk) && !backing.has(disk)) continue;
    const whole = describe(folder, undefined, points, backing);
    if (whole === undefined) continue;
    found.push(whole);
    for (const name of listFolder(folder)) {
      if (textOf(`${folder}/${name}/partition`) === undefined) continue;
      const part = describe(`${folder}/${name}`, folder, points, backing);
      if (part !== undefined) found.push(part);
    }
  }
  const shown = options.all === true ? found : found.filter((each) => each.major !== RAM_MAJOR);
  return shown.sort((a, b) => a.major - b.major || a.minor - b.minor);
}

/** Node of a device number, `/dev/vda1`; undefined when there is no such device. */
export function resolveDeviceNumber(major: number, minor: number): string | undefined {
  const name = /^DEVNAME=(.*)$/m.exec(textOf(`/sys/dev/block/${major}:${minor}/uevent`) ?? "")?.[1];
  if (name === undefined) return undefined;
  return name.startsWith("/dev/") ? name : `/dev/${name}`;
}

/** Number of a block device's node, through symlinks; undefined for anything else. */
export function deviceNumberOf(path: string): { readonly major: number; readonly minor: number } | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat?.isBlockDevice() === true ? majorMinor(stat.rdev) : undefined;
}

function describe(
  folder: string,
  diskFolder: string | undefined,
  points: ReadonlyMap<string, readonly string[]>,
  backing: ReadonlyMap<string, string>,
): MachineDevice | undefined {
  const majMin = textOf(`${folder}/dev`);
  const numbers = /^(\d+):(\d+)$/.exec(majMin ?? "");
  if (majMin === undefined || numbers === null) return undefined;
  const kname = basename(folder).replaceAll("!", "/");
  const mapName = textOf(`${folder}/dm/name`);
  const queue = `${diskFolder ?? folder}/queue`;
  return {
    name: mapName ?? kname,
    kname,
    path: mapName === undefined ? `/dev/${kname}` : `/dev/mapper/${mapName}`,
    major: Number(numbers[1]),
    minor: Number(numbers[2]),
    majMin,
    sizeBytes: numberOf(`${folder}/size`) * 512,
    readOnly: numberOf(`${folder}/ro`) === 1,
    removable: numberOf(`${diskFolder ?? folder}/removable`) === 1,
    type: typeOf(folder, kname, diskFolder !== undefined),
    parents: parentsOf(folder, diskFolder),
    mountpoints: points.get(majMin) ?? [],
    backingFile: backing.get(kname),
    logicalBlockBytes: numberOf(`${queue}/logical_block_size`) || 512,
    physicalBlockBytes: numberOf(`${queue}/physical_block_size`) || 512,
    rotational: numberOf(`${queue}/rotational`) === 1,
  };
}

/** TYPE of lsblk. Source: section 10 of dmsetup-cli. */
function typeOf(folder: string, kname: string, isPartition: boolean): string {
  if (isPartition) return "part";
  if (kname.startsWith("dm-")) {
    const uuid = textOf(`${folder}/dm/uuid`) ?? "";
    const prefix = uuid.includes("-") ? uuid.slice(0, uuid.indexOf("-")).toLowerCase() : "";
    return /^part\d+$/.test(prefix) ? "part" : prefix || "dm";
  }
  if (/^loop\d+$/.test(kname)) return "loop";
  if (kname.startsWith("md")) return textOf(`${folder}/md/level`) || "md";
  return SCSI_TYPES[textOf(`${folder}/device/type`) ?? ""] ?? "disk";
}

function parentsOf(folder: string, diskFolder: string | undefined): string[] {
  if (diskFolder !== undefined) return [textOf(`${diskFolder}/dev`)].filter((dev) => dev !== undefined);
  return listFolder(`${folder}/slaves`)
    .map((name) => textOf(`${folder}/slaves/${name}/dev`))
    .filter((dev) => dev !== undefined);
}

/** Mount points and swap by `MAJ:MIN`. */
function usePoints(): ReadonlyMap<string, readonly string[]> {
  const points = mountPoints();
  for (const path of swapPaths()) {
    const number = deviceNumber(path);
    if (number !== undefined) points.set(number, [...(points.get(number) ?? []), "[SWAP]"]);
  }
  return points;
}

function listFolder(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

function numberOf(path: string): number {
  const value = Number(textOf(path) ?? "0");
  return Number.isFinite(value) ? value : 0;
}
