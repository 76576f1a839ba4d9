/** `udm thin snap`: a point-in-time copy that shares all blocks with its origin. */
import { Command, Option } from "commander";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { ifNotExistsOption } from "../options.js";
import { parseThinId, positiveSizeOf } from "../parse.js";

interface SnapOptions {
  readonly id?: number;
  readonly size?: number;
  readonly readOnly?: boolean;
  readonly ifNotExists?: boolean;
}

export function snapCommand(context: Context): Command {
  return new Command("snap")
    .description(
      "Makes a snapshot and activates it. An active origin is suspended for the moment it takes; where it is attached, what " +
        "the file system on it keeps in memory is written first.",
    )
    .argument("<origin>", "a thin device, by name or POOL:ID")
    .argument("<name>", "what the snapshot is called")
    .addOption(new Option("--id <n>", "its id in the pool (default: the lowest free)").argParser(parseThinId))
    .addOption(new Option("--size <size>", "another size than the origin's").argParser(positiveSizeOf("size")))
    .option("--read-only", "refuse writes to the snapshot")
    .addOption(ifNotExistsOption())
    .action(async (origin: string, name: string, options: SnapOptions) => {
      const request = defined({
        origin,
        name,
        id: options.id,
        sizeBytes: options.size,
        readOnly: options.readOnly,
        ifNotExists: options.ifNotExists,
      });
      await change(context, {
        plan: (host) => host.plan.snapThin(request),
        run: (host) => host.snapThin(request),
      });
    });
}
