/** `udm device rename`: another name for a mapped device. */
import { Command } from "commander";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";

export function renameCommand(context: Context): Command {
  return new Command("rename")
    .description("Renames a mapped device.")
    .argument("<old>", "its name")
    .argument("<new>", "its name from now on")
    .action(async (oldName: string, newName: string) => {
      await change(context, {
        plan: async (host) => {
          await host.deviceInfo(oldName);
          return [`dmsetup rename ${quoted(oldName)} ${quoted(newName)}`];
        },
        run: (host) => host.renameDevice(oldName, newName),
      });
    });
}
