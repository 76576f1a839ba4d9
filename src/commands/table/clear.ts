/** `udm table clear`: drop the inactive table. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";

export function clearCommand(context: Context): Command {
  return new Command("clear")
    .description("Drops the inactive table of a device; the live one stays.")
    .argument("<name>", "the mapped device")
    .action(async (name: string) => {
      await change(context, {
        plan: (host) => host.plan.clearTable(name),
        run: (host) => host.clearTable(name),
      });
    });
}
