/** `udm device rename`: another name for a mapped device. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";

export function renameCommand(context: Context): Command {
  return new Command("rename")
    .description("Renames a mapped device.")
    .argument("<old>", "its name")
    .argument("<new>", "its name from now on")
    .action(async (oldName: string, newName: string) => {
      await change(context, {
        plan: (host) => host.plan.renameDevice(oldName, newName),
        run: (host) => host.renameDevice(oldName, newName),
      });
    });
}
