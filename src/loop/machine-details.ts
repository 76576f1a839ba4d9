/**
 * What lsblk tells of a block device on request: queue limits, identity, permissions, file system. From /sys, udev's
 * database and the mounted file systems; nothing is opened. What the machine does not tell is undefined.
 */
import { readFileSync, readlinkSync, realpathSync, statfsSync, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import type { MachineDevice } from "./machine.js";

export interface DeviceDetails {
  readonly alignmentBytes?: number;
  readonly minimumIoBytes?: number;
  readonly optimalIoBytes?: number;
  readonly physicalSectorBytes?: number;
  readonly logicalSectorBytes?: number;
  readonly rotational?: boolean;
  readonly scheduler?: string;
  readonly queueRequests?: number;
  readonly readAheadKib?: number;
  readonly writeSameBytes?: number;
  readonly discardAlignmentBytes?: number;
  readonly discardGranularityBytes?: number;
  readonly discardMaxBytes?: number;
  readonly discardZeroes?: boolean;
  readonly addsRandomness?: boolean;
  readonly dax?: boolean;
  readonly hotplug?: boolean;
  readonly transport?: string;
  readonly vendor?: string;
  readonly model?: string;
  readonly revision?: string;
  readonly serial?: string;
  readonly wwn?: string;
  readonly hctl?: string;
  readonly subsystems?: string;
  readonly startSectors?: number;
  readonly zoned?: string;
  /** Of its node in /dev. */
  readonly user?: string;
  readonly group?: string;
  readonly mode?: string;
  readonly fsType?: string;
  readonly fsVersion?: string;
  readonly label?: string;
  readonly uuid?: string;
  readonly fsBytes?: number;
  readonly fsUsedBytes?: number;
  readonly fsAvailableBytes?: number;
  readonly partTableType?: string;
  readonly partTableUuid?: string;
  readonly partType?: string;
  readonly partLabel?: string;
  readonly partUuid?: string;
  readonly partFlags?: string;
  readonly state?: string;
}

/** Buses whose devices come and go. */
const HOTPLUG_BUSES = ["usb", "ieee1394", "pcmcia", "mmc", "ccw"];

export function machineDetails(device: MachineDevice): DeviceDetails {
  const folder = `/sys/dev/block/${device.majMin}`;
  const isPart = textOf(`${folder}/partition`) !== undefined;
  const disk = isPart ? `${folder}/..` : folder;
  const queue = `${disk}/queue`;
  const number = (path: string) => numberOf(`${queue}/${path}`);
  const flag = (path: string) => flagOf(`${queue}/${path}`);
  const subsystems = subsystemsOf(folder);
  const udev = udevData(device.majMin);
  const found: { [K in keyof DeviceDetails]: DeviceDetails[K] | undefined } = {
    alignmentBytes: numberOf(`${folder}/alignment_offset`),
    minimumIoBytes: number("minimum_io_size"),
    optimalIoBytes: number("optimal_io_size"),
    physicalSectorBytes: number("physical_block_size"),
    logicalSectorBytes: number("logical_block_size"),
    rotational: flag("rotational"),
    // The one in use stands in brackets, or alone.
    scheduler: schedulerOf(`${queue}/scheduler`),
    queueRequests: number("nr_requests"),
    readAheadKib: number("read_ahead_kb"),
    writeSameBytes: number("write_same_max_bytes") ?? 0,
    discardAlignmentBytes: numberOf(`${folder}/discard_alignment`),
    discardGranularityBytes: number("discard_granularity"),
    discardMaxBytes: number("discard_max_bytes"),
    discardZeroes: flag("discard_zeroes_data"),
    addsRandomness: flag("add_random"),
    dax: flag("dax"),
    hotplug: device.removable || subsystems.some((each) => HOTPLUG_BUSES.includes(each)),
    transport: transportOf(device.kname, folder),
    vendor: udev.get("ID_VENDOR_ENC") ?? textOf(`${disk}/device/vendor`),
    model: udev.get("ID_MODEL_ENC") ?? textOf(`${disk}/device/model`),
    revision: udev.get("ID_REVISION") ?? textOf(`${disk}/device/rev`),
    serial: udev.get("ID_SERIAL_SHORT") ?? udev.get("ID_SERIAL") ?? textOf(`${disk}/device/serial`),
    wwn: udev.get("ID_WWN_WITH_EXTENSION") ?? udev.get("ID_WWN") ?? textOf(`${disk}/wwid`),
    hctl: hctlOf(disk),
    subsystems: subsystems.join(":") || undefined,
    startSectors: isPart ? numberOf(`${folder}/start`) : undefined,
    zoned: textOf(`${queue}/zoned`),
    ...ownership(device.path),
    fsType: udev.get("ID_FS_TYPE"),
    fsVersion: udev.get("ID_FS_VERSION"),
    label: udev.get("ID_FS_LABEL_ENC"),
    uuid: udev.get("ID_FS_UUID_ENC"),
    ...spaceOf(device.mountpoints.find((point) => point.startsWith("/"))),
    partTableType: udev.get("ID_PART_TABLE_TYPE") ?? udev.get("ID_PART_ENTRY_SCHEME"),
    partTableUuid: udev.get("ID_PART_TABLE_UUID"),
    partType: udev.get("ID_PART_ENTRY_TYPE"),
    partLabel: udev.get("ID_PART_ENTRY_NAME"),
    partUuid: udev.get("ID_PART_ENTRY_UUID"),
    partFlags: udev.get("ID_PART_ENTRY_FLAGS"),
    state: stateOf(folder),
  };
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined && value !== ""));
}

function stateOf(folder: string): string | undefined {
  const suspended = textOf(`${folder}/dm/suspended`);
  if (suspended !== undefined) return suspended === "1" ? "suspended" : "running";
  return textOf(`${folder}/device/state`);
}

function schedulerOf(path: string): string | undefined {
  const text = textOf(path);
  return text === undefined ? undefined : (/\[(.+)\]/.exec(text)?.[1] ?? text);
}

function hctlOf(disk: string): string | undefined {
  try {
    const name = basename(readlinkSync(`${disk}/device`));
    return /^\d+:\d+:\d+:\d+$/.test(name) ? name : undefined;
  } catch {
    return undefined;
  }
}

function transportOf(kname: string, folder: string): string | undefined {
  if (kname.startsWith("nvme")) return "nvme";
  if (kname.startsWith("mmcblk")) return "mmc";
  const place = realPath(folder) ?? "";
  if (/\/usb\d+\//.test(place)) return "usb";
  return /\/ata\d+\//.test(place) ? "sata" : undefined;
}

/** From the device up to its bus, each once. */
function subsystemsOf(folder: string): readonly string[] {
  const found: string[] = [];
  let place = realPath(folder) ?? "";
  while (place.startsWith("/sys/devices/")) {
    try {
      const name = basename(readlinkSync(`${place}/subsystem`));
      if (!found.includes(name)) found.push(name);
    } catch {
      // A folder between two devices.
    }
    place = dirname(place);
  }
  return found;
}

function ownership(path: string): Pick<DeviceDetails, "user" | "group" | "mode"> {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return {};
  const letters = [0o400, 0o200, 0o100, 0o40, 0o20, 0o10, 0o4, 0o2, 0o1];
  const bits = letters.map((bit, index) => ((stat.mode & bit) === 0 ? "-" : "rwx"[index % 3]!)).join("");
  return {
    user: nameIn("/etc/passwd", stat.uid),
    group: nameIn("/etc/group", stat.gid),
    mode: `${stat.isBlockDevice() ? "b" : "-"}${bits}`,
  };
}

function nameIn(table: string, id: number): string {
  const line = (textOf(table) ?? "").split("\n").find((each) => each.split(":")[2] === String(id));
  return line?.split(":")[0] ?? String(id);
}

function spaceOf(point: string | undefined): Pick<DeviceDetails, "fsBytes" | "fsUsedBytes" | "fsAvailableBytes"> {
  if (point === undefined) return {};
  try {
    const { bsize, blocks, bfree, bavail } = statfsSync(point);
    return { fsBytes: blocks * bsize, fsUsedBytes: (blocks - bfree) * bsize, fsAvailableBytes: bavail * bsize };
  } catch {
    return {};
  }
}

/** Properties that udev found, empty without udev. `\x20` stands for a blank in those that end in _ENC. */
function udevData(majMin: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const line of (textOf(`/run/udev/data/b${majMin}`) ?? "").split("\n")) {
    const match = /^E:([^=]+)=(.*)$/.exec(line);
    if (match !== null) found.set(match[1]!, match[1]!.endsWith("_ENC") ? unescapeHex(match[2]!).trim() : match[2]!);
  }
  return found;
}

function unescapeHex(text: string): string {
  const bytes = text.replaceAll(/\\x([0-9a-fA-F]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  return Buffer.from(bytes, "latin1").toString("utf8");
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

function numberOf(path: string): number | undefined {
  const text = textOf(path);
  const value = Number(text);
  return text === undefined || text === "" || !Number.isFinite(value) ? undefined : value;
}

function flagOf(path: string): boolean | undefined {
  const value = numberOf(path);
  return value === undefined ? undefined : value !== 0;
}
