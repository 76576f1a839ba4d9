/** `udm loop detach`: forget loop devices; their files stay. */
import { Command } from "commander";
import { UsageError } from "../../errors/index.js";
import { change, plansOf } from "../change.js";
import type { Context } from "../context.js";
import { ifExistsOption } from "../options.js";

export function detachCommand(context: Context): Command {
  return new Command("detach")
    .description("Takes the number away from its file. Refused while a table uses the device.")
    .argument("[dev...]", "7:N or loopN")
    .option("--all", "all that no table uses")
    .addOption(ifExistsOption())
    .action(async (devs: readonly string[], options: { readonly all?: boolean; readonly ifExists?: boolean }) => {
      if ((devs.length === 0) === (options.all !== true)) {
        throw new UsageError("loop detach: name the devices, or give --all", { hint: "udm loop list shows them" });
      }
      const victims = options.all === true ? await unusedLoops(context) : devs;
      const ifExists = options.ifExists === true;
      await change(context, {
        plan: (host) => plansOf(victims, (each) => host.plan.detachLoop(each, { ifExists })),
        run: async (host) => {
          for (const dev of victims) await host.detachLoop(dev, { ifExists });
        },
      });
    });
}

async function unusedLoops(context: Context): Promise<readonly string[]> {
  const host = await context.host();
  return (await host.listLoops()).filter((loop) => loop.usedBy.length === 0).map((loop) => loop.dev);
}
