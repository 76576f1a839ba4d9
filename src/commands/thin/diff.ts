/** `udm thin diff`: where two thin devices differ, from their mappings alone. */
import { Command } from "commander";
import type { DiffExtent } from "../../host/index.js";
import type { Context } from "../context.js";
import { type Column, printReport } from "../report.js";

export const DIFF_COLUMNS = [
  { heading: "OFFSET", key: "offset", kind: "bytes", value: (extent) => extent.offsetBytes },
  { heading: "LENGTH", key: "length", kind: "bytes", value: (extent) => extent.lengthBytes },
  { heading: "KIND", key: "kind", kind: "text", value: (extent) => extent.kind },
] as const satisfies readonly Column<DiffExtent>[];

export function diffCommand(context: Context): Command {
  return new Command("diff")
    .description(
      "Lists the extents in which two thin devices of a pool differ, without reading data. Bytes by default.",
    )
    .argument("<left>", "a thin device")
    .argument("<right>", "another one of the same pool")
    .action(async (left: string, right: string) => {
      const host = await context.host();
      const rows = await host.thinDiff(left, right);
      await printReport(context, { noun: "extents", columns: DIFF_COLUMNS, rows, unit: "b" });
    });
}
