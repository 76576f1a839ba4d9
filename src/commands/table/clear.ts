/** `udm table clear`: drop the inactive table. */
import { Command } from "commander";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";

export function clearCommand(context: Context): Command {
  return new Command("clear")
    .description("Drops the inactive table of a device; the live one stays.")
    .argument("<name>", "the mapped device")
    .action(async (name: string) => {
      await change(context, {
        plan: async (host) => {
          await host.deviceInfo(name);
          return [`dmsetup clear ${quoted(name)}`];
        },
        run: (host) => host.clearTable(name),
      });
    });
}
