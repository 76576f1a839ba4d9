/** `udm thin write`, `udm device write`: standard input to a place on a mapped device. */
import { Command, Option } from "commander";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { sizeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

export function writeCommand(context: Context): Command {
  return new Command("write")
    .description("Writes standard input to a mapped device.")
    .argument("<name>", "the mapped device")
    .addOption(new Option("--offset <size>", "start here").argParser(sizeOf("offset")))
    .action(async (name: string, options: { readonly offset?: number }) => {
      await change(context, {
        plan: (host) => host.plan.transfer("write", name, defined({ offsetBytes: options.offset })),
        run: (host) => host.writeDevice(name, context.streams.stdin, defined({ offsetBytes: options.offset })),
        json: (bytes) => ({ written: bytes }) satisfies DocumentOf<"written">,
      });
    });
}
