/** `udm device wait`: block until the event counter of a device differs, then print it. */
import { Argument, Command, Option } from "commander";
import { defined } from "../change.js";
import type { Context } from "../context.js";
import { countOf, parseSeconds } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

export function waitCommand(context: Context): Command {
  return new Command("wait")
    .description("Waits until a device's event number differs from the one given (the present one), and prints it.")
    .argument("<name>", "the mapped device")
    .addArgument(new Argument("[event]", "event number to wait past").argParser(countOf("event number")))
    .addOption(new Option("--timeout <seconds>", "give up after this long").argParser(parseSeconds))
    .action(async (name: string, eventNr: number | undefined, options: { readonly timeout?: number }) => {
      const host = await context.host();
      const timeoutMs = options.timeout === undefined ? undefined : options.timeout * 1000;
      const event = await host.waitDevice(name, defined({ eventNr, timeoutMs }));
      if (context.globals.json) context.json({ event } satisfies DocumentOf<"event">);
      else context.line(String(event));
    });
}
