/** `udm attach`: a mapped device as a block device of this machine. */
import { Command } from "commander";
import { attachments } from "../../host/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { ifNotExistsOption } from "../options.js";
import type { DocumentOf } from "../schema/documents.js";
import {
  type AttachOptions,
  attachRequest,
  foldersOf,
  needRoot,
  readOnlyOption,
  sectorSizeOption,
  viaOption,
} from "./shared.js";

export function attachCommand(context: Context): Command {
  return new Command("attach")
    .description(
      "Makes a mapped device a block device of this machine and prints its path, /dev/mapper/NAME. It stays until it is detached, served by the daemon, which is started when none runs.",
    )
    .argument("<name>", "the mapped device")
    .addOption(readOnlyOption())
    .addOption(sectorSizeOption())
    .addOption(viaOption())
    .addOption(ifNotExistsOption())
    .action(async (name: string, options: AttachOptions & { readonly ifNotExists?: boolean }) => {
      needRoot(context, "attaching a device");
      const { attachDevice, planAttach } = await attachments();
      const request = attachRequest(context, name, options);
      if (!context.globals.dryRun) await context.daemonHost();
      await change(context, {
        plan: async (host) => {
          await host.deviceInfo(name);
          return planAttach(request, foldersOf(context));
        },
        run: (host) => attachDevice(host, request, { ifNotExists: options.ifNotExists === true }),
        show: ({ path }) => context.line(path),
        json: (attachment) => ({ attachment }) satisfies DocumentOf<"attachment">,
      });
    });
}
