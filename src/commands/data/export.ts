/** `udm thin export`, `udm device export`: a whole mapped device as an image, holes kept as holes. */
import { stat } from "node:fs/promises";
import { Command } from "commander";
import { UsageError } from "../../errors/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function exportCommand(context: Context): Command {
  return new Command("export")
    .description("Copies a mapped device to a file; what was never written becomes a hole. With - to standard output.")
    .argument("<name>", "the mapped device")
    .argument("<file>", "image file, block device, or -")
    .option("--verify", "read the file back and compare")
    .action(async (name: string, file: string, options: { readonly verify?: boolean }) => {
      const verify = options.verify === true;
      if (file === "-" && verify) {
        throw new UsageError("export: standard output cannot be read back", { hint: "leave --verify out" });
      }
      if (file === "-" && context.globals.json) {
        throw new UsageError("export: --json and the image both want standard output", { hint: "leave --json out" });
      }
      const isBlockDevice = file !== "-" && (await stat(file).catch(() => undefined))?.isBlockDevice() === true;
      await change(context, {
        plan: (host) => host.plan.transfer("export", name, { file }),
        destroys: isBlockDevice ? `overwrite block device '${file}'` : undefined,
        run: async (host) => {
          const bar = context.progress(`export ${name}`);
          const output = context.streams.stdout;
          try {
            const work = host.exportDevice(name, file, { verify, progress: bar.update, output });
            return await (file === "-" ? context.whileRead(work) : work);
          } finally {
            bar.finish();
          }
        },
        json: (done) => ({ exported: done }) satisfies DocumentOf<"exported">,
      });
    });
}
