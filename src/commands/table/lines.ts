/** Lines of `table show` and `table status`, byte for byte dmsetup's. Source: dmsetup(8), table and status. */
import type { DeviceInfo, Host, TargetText } from "../../host/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export interface LineQuery {
  readonly name: string | undefined;
  readonly target: string | undefined;
}

/**
 * `START LENGTH TYPE PARAMS`, with the blank behind TYPE even when there are no parameters. Without a name each line
 * begins with `NAME: `, and a device without table has a line of its own unless a target is asked for.
 */
export function targetLines(
  devices: readonly DeviceInfo[],
  targets: readonly TargetText[],
  query: LineQuery,
): readonly string[] {
  const lines: string[] = [];
  for (const device of devices) {
    const prefix = query.name === undefined ? `${device.name}: ` : "";
    const own = targets.filter((target) => target.device === device.name);
    if (own.length === 0 && query.target === undefined) lines.push(prefix);
    for (const target of own) {
      lines.push(`${prefix}${target.startSectors} ${target.lengthSectors} ${target.type} ${target.params}`);
    }
  }
  return lines;
}

export async function printTargets(
  context: Context,
  host: Host,
  targets: readonly TargetText[],
  query: LineQuery,
): Promise<void> {
  if (context.globals.json) {
    context.json({ targets } satisfies DocumentOf<"targets">);
    return;
  }
  const devices = query.name === undefined ? await host.listDevices() : [await host.deviceInfo(query.name)];
  context.lines(targetLines(devices, targets, query));
}
