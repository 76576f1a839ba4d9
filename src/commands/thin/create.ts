/** `udm thin create`: a new, empty thin device, active at once. */
import { Command, Option } from "commander";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { ifNotExistsOption } from "../options.js";
import { parseThinId, positiveSizeOf } from "../parse.js";

interface CreateOptions {
  readonly size: number;
  readonly id?: number;
  readonly externalOrigin?: string;
  readonly ifNotExists?: boolean;
}

export function createCommand(context: Context): Command {
  return new Command("create")
    .description("Makes a thin device and activates it. It takes room in the pool only for what is written.")
    .argument("<pool>", "where it lives")
    .argument("<name>", "what it is called")
    .addOption(
      new Option("--size <size>", "its size, a multiple of 512 bytes")
        .argParser(positiveSizeOf("size"))
        .makeOptionMandatory(),
    )
    .addOption(new Option("--id <n>", "its id in the pool (default: the lowest free)").argParser(parseThinId))
    .option("--external-origin <dev>", "what was never written reads from this device")
    .addOption(ifNotExistsOption())
    .action(async (pool: string, name: string, options: CreateOptions) => {
      const request = defined({
        pool,
        name,
        sizeBytes: options.size,
        id: options.id,
        externalOrigin: options.externalOrigin,
        ifNotExists: options.ifNotExists,
      });
      await change(context, {
        plan: (host) => host.plan.createThin(request),
        run: (host) => host.createThin(request),
      });
    });
}
