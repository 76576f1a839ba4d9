/** `udm table resume`: take up the inactive table if there is one, let I/O flow. */
import { Command } from "commander";
import { change, plansOf } from "../change.js";
import type { Context } from "../context.js";

export function resumeCommand(context: Context): Command {
  return new Command("resume")
    .description("Makes the inactive table live, where there is one, and lets the device work again.")
    .argument("<name...>", "mapped devices")
    .action(async (names: readonly string[]) => {
      await change(context, {
        plan: (host) => plansOf(names, (each) => host.plan.resume(each)),
        run: async (host) => {
          for (const name of names) await host.resume(name);
        },
      });
    });
}
