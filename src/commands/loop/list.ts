/** `udm loop list`: the columns of losetup -l, and who uses each device. */
import { Command } from "commander";
import { StateError } from "../../errors/index.js";
import type { LoopInfo } from "../../host/index.js";
import type { Context } from "../context.js";
import { type Column, printReport } from "../report.js";

export const LOOP_COLUMNS = [
  { heading: "NAME", key: "name", kind: "text", value: (loop) => `loop${loop.number}` },
  { heading: "SIZELIMIT", key: "sizeLimit", kind: "number", value: (loop) => loop.sizeLimitBytes },
  { heading: "OFFSET", key: "offset", kind: "number", value: (loop) => loop.offsetBytes },
  { heading: "AUTOCLEAR", key: "autoclear", kind: "flag", value: () => false },
  { heading: "RO", key: "readOnly", kind: "flag", value: (loop) => loop.readOnly },
  { heading: "BACK-FILE", key: "backFile", kind: "text", value: (loop) => loop.file },
  { heading: "DIO", key: "directIo", kind: "flag", value: () => false },
  { heading: "LOG-SEC", key: "sectorSize", kind: "number", value: (loop) => loop.sectorBytes },
  { heading: "USED-BY", key: "usedBy", kind: "list", value: (loop) => loop.usedBy },
  { heading: "MAJ:MIN", key: "device", kind: "text", isExtra: true, value: (loop) => loop.dev },
  { heading: "SIZE", key: "size", kind: "bytes", isExtra: true, value: (loop) => loop.sizeBytes },
] as const satisfies readonly Column<LoopInfo>[];

export function listCommand(context: Context): Command {
  return new Command("list")
    .description("Lists udm's loop devices with the columns of losetup -l.")
    .argument("[dev]", "only this one: 7:N, loopN")
    .action(async (dev: string | undefined) => {
      const host = await context.host();
      const loops = await host.listLoops();
      const rows = dev === undefined ? loops : loops.filter((loop) => isNamed(loop, dev));
      if (dev !== undefined && rows.length === 0) {
        throw new StateError("ENXIO", `loop list: ${dev}: no such loop device`, {
          hint: "udm loop list shows them all",
        });
      }
      await printReport(context, { noun: "loops", columns: LOOP_COLUMNS, rows });
    });
}

export function isNamed(loop: LoopInfo, dev: string): boolean {
  return [loop.dev, `loop${loop.number}`, `/dev/loop${loop.number}`].includes(dev);
}
