/** `udm thin activate`: a mapped device for a thin device that the pool holds already. */
import { Command, Option } from "commander";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { ifNotExistsOption } from "../options.js";
import { positiveSizeOf } from "../parse.js";

export function activateCommand(context: Context): Command {
  return new Command("activate")
    .description("Gives a thin device of the pool's metadata a name and makes it usable.")
    .argument("<device>", "POOL:ID, or the name it had")
    .argument("<name>", "what it is called from now on")
    .addOption(
      new Option("--size <size>", "default: as its file system says, else up to its highest mapped block").argParser(
        positiveSizeOf("size"),
      ),
    )
    .addOption(ifNotExistsOption())
    .action(
      async (device: string, name: string, options: { readonly size?: number; readonly ifNotExists?: boolean }) => {
        const how = defined({ sizeBytes: options.size, ifNotExists: options.ifNotExists });
        await change(context, {
          plan: (host) => host.plan.activateThin(device, name, how),
          run: (host) => host.activateThin(device, name, how),
        });
      },
    );
}
