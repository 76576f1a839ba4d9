/** `udm thin deactivate`: take the mapped device away, keep the thin device. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { ifExistsOption } from "../options.js";

export function deactivateCommand(context: Context): Command {
  return new Command("deactivate")
    .description("Takes the mapped device away. The thin device and its data stay in the pool.")
    .argument("<name>", "an active thin device")
    .addOption(ifExistsOption())
    .action(async (name: string, options: { readonly ifExists?: boolean }) => {
      const how = { ifExists: options.ifExists === true };
      await change(context, {
        plan: (host) => host.plan.deactivateThin(name, how),
        run: (host) => host.deactivateThin(name, how),
      });
    });
}
