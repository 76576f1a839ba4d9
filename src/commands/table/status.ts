/** `udm table status`: the status lines as dmsetup prints them. */
import { Command } from "commander";
import { defined } from "../change.js";
import type { Context } from "../context.js";
import { printTargets } from "./lines.js";

export function statusCommand(context: Context): Command {
  return new Command("status")
    .description("Prints the status of the live tables, as dmsetup status does; with a name only that device's.")
    .argument("[name]", "a mapped device")
    .option("--target <type>", "only lines of this type")
    .option("--noflush", "do not commit a pool's metadata first")
    .action(async (name: string | undefined, options: { readonly noflush?: boolean; readonly target?: string }) => {
      const host = await context.host();
      const { noflush, target } = options;
      const targets = await host.tableStatus(defined({ name, noflush, target }));
      await printTargets(context, host, targets, { name, target });
    });
}
