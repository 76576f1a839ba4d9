/** `udm thin import`, `udm device import`: a whole image onto a mapped device, holes kept as holes. */
import { Command } from "commander";
import { UsageError } from "../../errors/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function importCommand(context: Context): Command {
  return new Command("import")
    .description("Copies an image onto a mapped device; holes of the image take no room. With - from standard input.")
    .argument("<name>", "the mapped device")
    .argument("<file>", "image file, block device, or -")
    .option("--verify", "read the device back and compare")
    .action(async (name: string, file: string, options: { readonly verify?: boolean }) => {
      const verify = options.verify === true;
      if (file === "-" && verify) {
        throw new UsageError("import: standard input cannot be read twice", { hint: "leave --verify out" });
      }
      await change(context, {
        plan: (host) => host.plan.transfer("import", name, { file }),
        run: async (host) => {
          const bar = context.progress(`import ${name}`);
          try {
            const input = context.streams.stdin;
            return await host.importDevice(name, file, { verify, progress: bar.update, input });
          } finally {
            bar.finish();
          }
        },
        json: (done) => ({ imported: done }) satisfies DocumentOf<"imported">,
      });
    });
}
