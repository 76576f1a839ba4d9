/** `udm mount`: attach and mount. */
import { Command, Option } from "commander";
import { attachments } from "../../host/index.js";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";
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

interface MountOptions extends AttachOptions {
  readonly options?: string;
  readonly type?: string;
}

export function mountCommand(context: Context): Command {
  return new Command("mount")
    .description("Attaches a mapped device, unless it is attached, and mounts the file system that is on it.")
    .argument("<name>", "the mapped device")
    .argument("<dir>", "where")
    .addOption(new Option("-o, --options <opt>", "options of mount(8), with commas"))
    .addOption(new Option("-t, --type <type>", "type of the file system; found by itself"))
    .addOption(readOnlyOption())
    .addOption(sectorSizeOption())
    .addOption(viaOption())
    .action(async (name: string, folder: string, options: MountOptions) => {
      needRoot(context, "mounting a device");
      const { findAttachment, mountDevice, mountWords, planAttach } = await attachments();
      const attach = attachRequest(context, name, options);
      const words = options.options === undefined ? [] : options.options.split(",").filter((word) => word !== "");
      if (!context.globals.dryRun) await context.daemonHost();
      await change(context, {
        plan: async (host) => {
          await host.deviceInfo(name);
          const present = await findAttachment(host, name);
          const path = present?.path ?? `${attach.devFolder}/${name}`;
          const readOnly = present?.readOnly ?? attach.readOnly === true;
          const mount = mountWords({ path, folder, options: words, type: options.type, readOnly }).map(quoted);
          return [...(present === undefined ? planAttach(attach, foldersOf(context)) : []), `mount ${mount.join(" ")}`];
        },
        run: (host) =>
          mountDevice(host, {
            ...attach,
            folder,
            options: words,
            ...(options.type === undefined ? {} : { type: options.type }),
          }),
        json: ({ attachment, folder: mounted }) =>
          ({ attachment, mountpoint: mounted }) satisfies DocumentOf<"attachment">,
      });
    });
}
