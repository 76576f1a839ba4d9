/** `udm device info`: the paragraphs of dmsetup info. */
import { Command } from "commander";
import type { DeviceInfo } from "../../host/index.js";
import type { Context } from "../context.js";
import { printReport } from "../report.js";
import { DEVICE_COLUMNS } from "./list.js";

export function infoCommand(context: Context): Command {
  return new Command("info")
    .description("Shows a mapped device, or all of them, as dmsetup info does.")
    .argument("[name]", "a mapped device")
    .action(async (name: string | undefined) => {
      const host = await context.host();
      const devices = name === undefined ? await host.listDevices() : [await host.deviceInfo(name)];
      if (context.globals.json || context.globals.output !== undefined || context.globals.sort !== undefined) {
        await printReport(context, { noun: "devices", columns: DEVICE_COLUMNS, rows: devices });
        return;
      }
      for (const device of devices) context.lines(paragraph(device));
    });
}

/** Values start in column 20; the uuid has no column of its own. Source: dmsetup(8), info. */
export function paragraph(device: DeviceInfo): readonly string[] {
  const tables = [device.hasLiveTable ? "LIVE" : "", device.hasInactiveTable ? "INACTIVE" : ""].filter(Boolean);
  const state = device.state === "SUSPENDED" ? "SUSPENDED" : "ACTIVE";
  const readOnly = device.readOnly ? " (READ-ONLY)" : "";
  const deferred = device.deferredRemove ? " (DEFERRED REMOVE)" : "";
  const lines = [
    `Name:              ${device.name}`,
    `State:             ${state}${readOnly}${deferred}`,
    `Tables present:    ${tables.length === 0 ? "None" : tables.join(" & ")}`,
    `Open count:        ${device.openCount}`,
    `Event number:      ${device.eventNr}`,
    `Major, minor:      ${device.major}, ${device.minor}`,
    `Number of targets: ${device.segments}`,
  ];
  if (device.uuid !== "") lines.push(`UUID: ${device.uuid}`);
  return [...lines, ""];
}
