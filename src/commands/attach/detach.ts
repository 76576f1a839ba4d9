/** `udm detach`: takes the block device away; the mapped device stays. */
import { Command } from "commander";
import { attachments } from "../../host/index.js";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";
import { ifExistsOption } from "../options.js";
import { detachLine, foldersOf, needRoot } from "./shared.js";

export function detachCommand(context: Context): Command {
  return new Command("detach")
    .description(
      "Takes the block device of a mapped device away, when all that was written to it is safe. Refused while it is mounted or open. What a killed daemon left of an attached device is taken away too.",
    )
    .argument("<name...>", "mapped devices, or the paths of their block devices")
    .addOption(ifExistsOption())
    .action(async (names: readonly string[], options: { readonly ifExists?: boolean }) => {
      needRoot(context, "detaching a device");
      const { detachDevice, findAttachment } = await attachments();
      const settings = { folders: foldersOf(context), ifExists: options.ifExists === true };
      await change(context, {
        plan: async (host) => {
          const plans: string[] = [];
          for (const name of names) {
            const found = await findAttachment(host, name);
            if (found !== undefined) plans.push(detachLine(found), `rm ${quoted(found.path)}`);
          }
          return plans;
        },
        run: async (host) => {
          for (const name of names) await detachDevice(host, name, settings);
        },
      });
    });
}
