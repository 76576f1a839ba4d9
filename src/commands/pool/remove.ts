/** `udm pool remove`: take the mapping away; what is on the devices stays unless --destroy is given. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { ifExistsOption } from "../options.js";

export function removeCommand(context: Context): Command {
  return new Command("remove")
    .description("Takes a pool's mapping away. Data and metadata stay where they are.")
    .argument("<name>", "the pool")
    .option("--destroy", "wipe the superblock too: the thin devices are lost (with --yes)")
    .addOption(ifExistsOption())
    .action(async (name: string, options: { readonly destroy?: boolean; readonly ifExists?: boolean }) => {
      const destroy = options.destroy === true;
      const ifExists = options.ifExists === true;
      await change(context, {
        plan: (host) => host.plan.removePool(name, { destroy, ifExists }),
        destroys: destroy ? `destroy pool '${name}' and all its thin devices` : undefined,
        run: (host) => host.removePool(name, { destroy, ifExists }),
      });
    });
}
