/** `udm thin trim`, `udm device trim`: give blocks back. */
import { Command, Option } from "commander";
import { formatBytes } from "../../units/index.js";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { sizeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

interface TrimOptions {
  readonly offset?: number;
  readonly length?: number;
  readonly zeroes?: boolean;
}

export function trimCommand(context: Context): Command {
  return new Command("trim")
    .description("Discards a stretch of a mapped device: its contents are lost and its blocks free.")
    .argument("<name>", "the mapped device")
    .addOption(new Option("--offset <size>", "start here").argParser(sizeOf("offset")))
    .addOption(new Option("--length <size>", "this much; to the end without it").argParser(sizeOf("length")))
    .option("--zeroes", "only blocks that hold nothing but zeros; loses nothing")
    .action(async (name: string, options: TrimOptions) => {
      const { offset = 0, length, zeroes = false } = options;
      const stretch = `${length === undefined ? "everything" : formatBytes(length)} from ${formatBytes(offset)} on`;
      await change(context, {
        plan: (host) =>
          host.plan.transfer(
            "trim",
            name,
            defined({ offsetBytes: options.offset, lengthBytes: length, zeroes: options.zeroes }),
          ),
        destroys: zeroes ? undefined : `discard ${stretch} of '${name}'`,
        run: (host) =>
          host.trimDevice(name, defined({ offsetBytes: options.offset, lengthBytes: length, zeroes: options.zeroes })),
        show: (done) => context.note(`trimmed ${formatBytes(done.trimmedBytes)}`),
        json: (trimmed) => ({ trimmed }) satisfies DocumentOf<"trimmed">,
      });
    });
}
