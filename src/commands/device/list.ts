/** `udm device list`: mapped devices, one a line. */
import { Command } from "commander";
import type { DeviceInfo } from "../../host/index.js";
import type { Context } from "../context.js";
import { type Column, printReport } from "../report.js";

export const DEVICE_COLUMNS = [
  { heading: "NAME", key: "name", kind: "text", value: (device) => device.name },
  { heading: "MAJ:MIN", key: "device", kind: "text", value: (device) => `${device.major}:${device.minor}` },
  { heading: "STAT", key: "attributes", kind: "text", value: attributes },
  { heading: "OPEN", key: "openCount", kind: "number", value: (device) => device.openCount },
  { heading: "TARG", key: "segments", kind: "number", value: (device) => device.segments },
  { heading: "EVENT", key: "eventNr", kind: "number", value: (device) => device.eventNr },
  { heading: "SIZE", key: "size", kind: "bytes", value: (device) => device.sizeBytes },
  { heading: "TYPE", key: "targetTypes", kind: "list", value: (device) => device.targetTypes },
  { heading: "UUID", key: "uuid", kind: "text", value: (device) => device.uuid },
  { heading: "STATE", key: "state", kind: "text", isExtra: true, value: (device) => device.state },
  { heading: "RO", key: "readOnly", kind: "flag", isExtra: true, value: (device) => device.readOnly },
  { heading: "DEPS", key: "deps", kind: "list", isExtra: true, value: (device) => device.deps },
  { heading: "DEFERRED", key: "deferredRemove", kind: "flag", isExtra: true, value: (device) => device.deferredRemove },
] as const satisfies readonly Column<DeviceInfo>[];

/** The four letters of `dmsetup info -c`: live, inactive, suspended, writable or read-only. */
export function attributes(device: DeviceInfo): string {
  const live = device.hasLiveTable ? "L" : "-";
  const inactive = device.hasInactiveTable ? "I" : "-";
  return `${live}${inactive}${device.state === "SUSPENDED" ? "s" : "-"}${device.readOnly ? "r" : "w"}`;
}

export function listCommand(context: Context): Command {
  return new Command("list").description("Lists the mapped devices.").action(async () => {
    const host = await context.host();
    await printReport(context, { noun: "devices", columns: DEVICE_COLUMNS, rows: await host.listDevices() });
  });
}
