/** `udm umount`: unmount and detach. */
import { Command } from "commander";
import { attachments } from "../../host/index.js";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";
import { detachLine, foldersOf, needRoot } from "./shared.js";

export function umountCommand(context: Context): Command {
  return new Command("umount")
    .description(
      "Unmounts the file system of an attached device, everywhere when the device is named, and detaches the device when nothing of it is mounted any more.",
    )
    .argument("<dir-or-name>", "where it is mounted, or the mapped device")
    .action(async (word: string) => {
      needRoot(context, "unmounting a device");
      const { planUmount, umountDevice } = await attachments();
      const folders = foldersOf(context);
      await change(context, {
        plan: async (host) => {
          const { mounted, attachment, left } = await planUmount(host, word, folders);
          const detach = detachLine({ node: attachment?.node ?? left?.node ?? "" });
          const link = attachment?.path ?? `${folders.devFolder}/${left?.name}`;
          return [...mounted.map((folder) => `umount ${quoted(folder)}`), detach, `rm ${quoted(link)}`];
        },
        run: (host) => umountDevice(host, word, folders),
      });
    });
}
