/** `udm table restore`: devices from the concise form, those others stand on first. */
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { Command } from "commander";
import { codeOf, IoError, messageOf } from "../../errors/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function restoreCommand(context: Context): Command {
  return new Command("restore")
    .description("Makes the devices that table save printed, in the order they need.")
    .argument("[file]", "a file, or - for standard input (default)")
    .action(async (file: string | undefined) => {
      const concise = (
        file === undefined || file === "-" ? await text(context.streams.stdin) : await read(file)
      ).trim();
      await change(context, {
        plan: (host) => host.plan.restoreTables(concise),
        run: (host) => host.restoreTables(concise),
        show: (names) => context.note(`restored ${names.length === 0 ? "nothing" : names.join(" ")}`),
        json: (restored) => ({ restored }) satisfies DocumentOf<"restored">,
      });
    });
}

async function read(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new IoError(codeOf(error) === "ENOENT" ? "ENOENT" : "EIO", `table restore: ${messageOf(error)}`, {
      hint: "name a file that table save wrote",
      cause: error,
    });
  }
}
