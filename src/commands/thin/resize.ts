/** `udm thin resize`: another size for a thin device. */
import { Argument, Command } from "commander";
import type { SizeTarget } from "../../host/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { sizeChangeOf } from "../parse.js";

export function resizeCommand(context: Context): Command {
  return new Command("resize")
    .description("Changes the size of a thin device: its table is reloaded and taken up.")
    .argument("<name>", "the thin device")
    .addArgument(new Argument("<size>", "SIZE, +SIZE or +N%").argParser(sizeChangeOf("size")))
    .action(async (name: string, size: SizeTarget) => {
      await change(context, {
        plan: (host) => host.plan.resizeThin(name, size),
        run: (host) => host.resizeThin(name, size),
      });
    });
}
