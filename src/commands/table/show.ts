/** `udm table show`: the tables as dmsetup prints them. */
import { Command } from "commander";
import { defined } from "../change.js";
import type { Context } from "../context.js";
import { printTargets } from "./lines.js";

export function showCommand(context: Context): Command {
  return new Command("show")
    .description("Prints the live tables, as dmsetup table does; with a name only that device's.")
    .argument("[name]", "a mapped device")
    .option("--inactive", "the inactive tables instead")
    .option("--target <type>", "only lines of this type")
    .action(async (name: string | undefined, options: { readonly inactive?: boolean; readonly target?: string }) => {
      const host = await context.host();
      const { inactive, target } = options;
      const targets = await host.showTables(defined({ name, inactive, target }));
      await printTargets(context, host, targets, { name, target });
    });
}
