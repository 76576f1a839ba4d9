/** `udm thin rename`: another name for a thin device. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";

export function renameCommand(context: Context): Command {
  return new Command("rename")
    .description("Renames a thin device.")
    .argument("<old>", "its name")
    .argument("<new>", "its name from now on")
    .action(async (oldName: string, newName: string) => {
      await change(context, {
        plan: (host) => host.plan.renameThin(oldName, newName),
        run: (host) => host.renameThin(oldName, newName),
      });
    });
}
