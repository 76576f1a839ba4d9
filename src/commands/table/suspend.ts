/** `udm table suspend`: finish what is under way, hold what comes. */
import { Command } from "commander";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";

export function suspendCommand(context: Context): Command {
  return new Command("suspend")
    .description("Quiesces devices: what is under way is finished and written, new I/O waits for resume.")
    .argument("<name...>", "mapped devices")
    .option("--noflush", "do not wait for what is queued")
    .action(async (names: readonly string[], options: { readonly noflush?: boolean }) => {
      const noflush = options.noflush === true;
      await change(context, {
        plan: async (host) => {
          for (const name of names) await host.deviceInfo(name);
          return names.map((name) => `dmsetup suspend${noflush ? " --noflush" : ""} ${quoted(name)}`);
        },
        run: async (host) => {
          for (const name of names) await host.suspend(name, { noflush });
        },
      });
    });
}
