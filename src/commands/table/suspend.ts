/** `udm table suspend`: finish what is under way, hold what comes. */
import { Command } from "commander";
import { change, plansOf } from "../change.js";
import type { Context } from "../context.js";

export function suspendCommand(context: Context): Command {
  return new Command("suspend")
    .description(
      "Quiesces devices: what is under way is finished and written, with what a file system on an attached device keeps in " +
        "memory; new I/O waits for resume.",
    )
    .argument("<name...>", "mapped devices")
    .option("--noflush", "do not wait for what is queued, nor for a file system")
    .action(async (names: readonly string[], options: { readonly noflush?: boolean }) => {
      const noflush = options.noflush === true;
      await change(context, {
        plan: (host) => plansOf(names, (each) => host.plan.suspend(each, { noflush })),
        run: async (host) => {
          for (const name of names) await host.suspend(name, { noflush });
        },
      });
    });
}
