/** `udm table save`: all tables in dmsetup's concise form. */
import { Command } from "commander";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function saveCommand(context: Context): Command {
  return new Command("save")
    .description("Prints all tables in one line, in dmsetup's concise form; table restore takes it back.")
    .action(async () => {
      const host = await context.host();
      const concise = (await host.saveTables()).replace(/\n$/, "");
      if (context.globals.json) context.json({ tables: concise } satisfies DocumentOf<"tables">);
      else if (concise !== "") context.line(concise);
    });
}
