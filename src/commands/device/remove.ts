/** `udm device remove`: take mapped devices away; what they map stays. */
import { Command } from "commander";
import { change, plansOf } from "../change.js";
import type { Context } from "../context.js";
import { ifExistsOption } from "../options.js";

interface RemoveOptions {
  readonly deferred?: boolean;
  readonly force?: boolean;
  readonly ifExists?: boolean;
}

export function removeCommand(context: Context): Command {
  return new Command("remove")
    .description("Takes mapped devices away. Refused while another device stands on one.")
    .argument("<name...>", "mapped devices")
    .option("--deferred", "done when the last user closes it")
    .option("-f, --force", "replace the table by one that fails all I/O first")
    .addOption(ifExistsOption())
    .action(async (names: readonly string[], options: RemoveOptions) => {
      const how = {
        deferred: options.deferred === true,
        force: options.force === true,
        ifExists: options.ifExists === true,
      };
      await change(context, {
        plan: (host) => plansOf(names, (each) => host.plan.removeDevice(each, how)),
        run: async (host) => {
          for (const name of names) await host.removeDevice(name, how);
        },
      });
    });
}
