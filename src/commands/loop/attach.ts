/** `udm loop attach`: give a file, or a part of it, a number in tables. */
import { Command, Option } from "commander";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { ifNotExistsOption } from "../options.js";
import { countOf, positiveSizeOf, sizeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

interface AttachOptions {
  readonly size?: number;
  readonly offset?: number;
  readonly sizelimit?: number;
  readonly readOnly?: boolean;
  readonly sectorSize?: number;
  readonly number?: number;
  readonly kernel?: boolean;
  readonly ifNotExists?: boolean;
}

export function attachCommand(context: Context): Command {
  return new Command("attach")
    .description("Binds FILE to the first free number and prints it as 7:N.")
    .argument("<file>", "a regular file or a block device")
    .addOption(
      new Option("--size <size>", "make the file, sparse and of this size, where it does not exist").argParser(
        positiveSizeOf("size"),
      ),
    )
    .addOption(new Option("-o, --offset <size>", "start here in the file").argParser(sizeOf("offset")))
    .addOption(new Option("--sizelimit <size>", "use no more than this of the file").argParser(sizeOf("size limit")))
    .option("-r, --read-only", "refuse writes")
    .addOption(
      new Option("-b, --sector-size <bytes>", "logical sector size").argParser(
        countOf("sector size", { min: 512, max: 4096 }),
      ),
    )
    .addOption(new Option("--number <n>", "take this number").argParser(countOf("loop number", { max: 2 ** 20 - 1 })))
    .option("--kernel", "the kernel's loop device instead; prints /dev/loopN (root)")
    .addOption(ifNotExistsOption())
    .action(async (file: string, options: AttachOptions) => {
      const request = defined({
        file,
        sizeBytes: options.size,
        offsetBytes: options.offset,
        sizeLimitBytes: options.sizelimit,
        readOnly: options.readOnly,
        sectorBytes: options.sectorSize,
        number: options.number,
        ifNotExists: options.ifNotExists,
      });
      if (options.kernel === true) {
        await change(context, {
          plan: (host) => host.plan.attachKernelLoop(request),
          run: (host) => host.attachKernelLoop(request),
          show: (path) => context.line(path),
          json: (path) => ({ kernelLoop: { path } }) satisfies DocumentOf<"kernelLoop">,
        });
        return;
      }
      await change(context, {
        plan: (host) => host.plan.attachLoop(request),
        run: (host) => host.attachLoop(request),
        show: (loop) => context.line(loop.dev),
        json: (loop) => ({ loop }) satisfies DocumentOf<"loop">,
      });
    });
}
