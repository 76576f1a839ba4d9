/** `udm pool resize`: grow file or device, loop, table and metadata in one step. */
import { Argument, Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import type { PoolResize, SizeTarget } from "../../host/index.js";
import { formatBytes } from "../../units/index.js";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { sizeChangeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

export function resizeCommand(context: Context): Command {
  return new Command("resize")
    .description(
      "Grows a pool: the file below, its loop device, the table. Smaller it becomes with udm metadata shrink.",
    )
    .argument("<name>", "the pool")
    .addArgument(
      new Argument("[size]", "new size of the data device: SIZE, +SIZE or +N%").argParser(sizeChangeOf("size")),
    )
    .addOption(new Option("--data-size <size>", "the same as an option").argParser(sizeChangeOf("data size")))
    .addOption(
      new Option("--metadata-size <size>", "new size of the metadata device").argParser(sizeChangeOf("metadata size")),
    )
    .action(
      async (
        name: string,
        size: SizeTarget | undefined,
        options: { readonly dataSize?: SizeTarget; readonly metadataSize?: SizeTarget },
      ) => {
        if (size !== undefined && options.dataSize !== undefined) {
          throw new UsageError("pool resize: the data size is given twice", { hint: "leave --data-size out" });
        }
        const data = size ?? options.dataSize;
        if (data === undefined && options.metadataSize === undefined) {
          throw new UsageError("pool resize: a size is missing", {
            hint: "such as 20g, +10g or +20%, or --metadata-size SIZE",
          });
        }
        const request: PoolResize = defined({ name, data, metadata: options.metadataSize });
        await change(context, {
          plan: (host) => host.plan.resizePool(request),
          run: (host) => host.resizePool(request),
          show: (done) => {
            for (const { file, neededBytes, freeBytes } of done.overcommitted) {
              const free = `its file system has ${formatBytes(freeBytes)} free`;
              context.note(`overcommitted: ${file} may come to need ${formatBytes(neededBytes)} more, ${free}`);
            }
            if (!context.globals.verbose) return;
            context.note(`data ${formatBytes(done.dataBytesBefore)} -> ${formatBytes(done.dataBytesAfter)}`);
            context.note(
              `metadata ${formatBytes(done.metadataBytesBefore)} -> ${formatBytes(done.metadataBytesAfter)}`,
            );
          },
          json: (resized) => ({ resized }) satisfies DocumentOf<"resized">,
        });
      },
    );
}
