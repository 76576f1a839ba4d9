/** `udm thin delete`: thin devices and what only they hold are gone. */
import { Command } from "commander";
import { change, plansOf } from "../change.js";
import type { Context } from "../context.js";
import { ifExistsOption } from "../options.js";

export function deleteCommand(context: Context): Command {
  return new Command("delete")
    .description("Deletes thin devices and the blocks only they use. Refused while a device is open.")
    .argument("<name...>", "names, or POOL:ID")
    .option("--deferred", "done when the last user closes it")
    .addOption(ifExistsOption())
    .action(async (names: readonly string[], options: { readonly deferred?: boolean; readonly ifExists?: boolean }) => {
      const how = { deferred: options.deferred === true, ifExists: options.ifExists === true };
      const shown = names.map((name) => `'${name}'`).join(", ");
      await change(context, {
        plan: (host) => plansOf(names, (each) => host.plan.deleteThin(each, how)),
        destroys: `delete thin device${names.length === 1 ? "" : "s"} ${shown}`,
        run: async (host) => {
          for (const name of names) await host.deleteThin(name, how);
        },
      });
    });
}
