/** `udm device deps`: what a device's live table stands on. */
import { Command } from "commander";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function depsCommand(context: Context): Command {
  return new Command("deps")
    .description("Prints what a device stands on, as dmsetup deps does.")
    .argument("<name>", "the mapped device")
    .action(async (name: string) => {
      const host = await context.host();
      const { deps } = await host.deviceInfo(name);
      if (context.globals.json) {
        context.json({ deps } satisfies DocumentOf<"deps">);
        return;
      }
      const pairs = deps.map((dep) => ` (${dep.replace(":", ", ")})`);
      context.line(`${deps.length} dependencies\t:${pairs.join("")}`);
    });
}
