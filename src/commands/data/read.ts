/** `udm thin read`, `udm device read`: bytes of a mapped device on standard output. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import { defined } from "../change.js";
import type { Context } from "../context.js";
import { sizeOf } from "../parse.js";

export function readCommand(context: Context): Command {
  return new Command("read")
    .description("Writes the bytes of a mapped device to standard output.")
    .argument("<name>", "the mapped device")
    .addOption(new Option("--offset <size>", "start here").argParser(sizeOf("offset")))
    .addOption(new Option("--length <size>", "this much; to the end without it").argParser(sizeOf("length")))
    .action(async (name: string, options: { readonly offset?: number; readonly length?: number }) => {
      if (context.globals.json) {
        throw new UsageError("read: --json and the bytes both want standard output", { hint: "leave --json out" });
      }
      const host = await context.host();
      const range = defined({ offsetBytes: options.offset, lengthBytes: options.length });
      await context.whileRead(host.readDevice(name, context.streams.stdout, range));
    });
}
