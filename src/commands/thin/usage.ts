/** `udm thin usage`: what a set of thin devices costs. */
import { Command } from "commander";
import type { ThinUsage } from "../../host/index.js";
import type { Context } from "../context.js";
import { type Column, printReport } from "../report.js";

export const USAGE_COLUMNS = [
  { heading: "MAPPED", key: "mapped", kind: "bytes", value: (usage) => usage.mappedBytes },
  { heading: "EXCLUSIVE", key: "exclusive", kind: "bytes", value: (usage) => usage.exclusiveBytes },
  { heading: "SHARED", key: "shared", kind: "bytes", value: (usage) => usage.sharedBytes },
  { heading: "FREED", key: "freedIfDeleted", kind: "bytes", value: (usage) => usage.freedIfDeletedBytes },
] as const satisfies readonly Column<ThinUsage>[];

export function usageCommand(context: Context): Command {
  return new Command("usage")
    .description(
      "Counts the bytes only the devices named use, those shared with others, and those freed if all of them were deleted.",
    )
    .argument("<name...>", "thin devices of one pool")
    .action(async (names: readonly string[]) => {
      const host = await context.host();
      await printReport(context, { noun: "usage", columns: USAGE_COLUMNS, rows: [await host.thinUsage(names)] });
    });
}
