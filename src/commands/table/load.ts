/** `udm table load`: a table into the inactive slot; `table resume` makes it live. */
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { Command } from "commander";
import { parseTable } from "../../device-registry/index.js";
import { IoError, messageOf, StateError, UsageError } from "../../errors/index.js";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";

interface LoadOptions {
  readonly table?: string;
  readonly readOnly?: boolean;
  readonly uuid?: string;
}

export function loadCommand(context: Context): Command {
  return new Command("load")
    .description(
      "Loads a table into the inactive slot of a device; makes the device when the name is new. " +
        "Lines are START LENGTH TYPE ARGUMENTS, in sectors of 512 bytes.",
    )
    .argument("<name>", "the mapped device")
    .option("--table <table>", "the table's text, a file that holds it, or - for standard input (default -)")
    .option("-r, --read-only", "the device refuses writes")
    .option("--uuid <uuid>", "uuid of a new device")
    .action(async (name: string, options: LoadOptions) => {
      const table = parseTable(await tableText(context, options.table ?? "-"));
      if (table.length === 0) {
        throw new StateError("EINVAL", "table load: the table has no lines", { hint: "such as: 0 2048 linear 7:0 0" });
      }
      const how = defined({ readOnly: options.readOnly, uuid: options.uuid });
      await change(context, {
        plan: (host) => host.plan.loadTable(name, table, how),
        run: (host) => host.loadTable(name, table, how),
      });
    });
}

/** The text itself, or what a file or standard input holds. */
async function tableText(context: Context, source: string): Promise<string> {
  if (source === "-") {
    if (context.streams.stdin.isTTY === true) {
      throw new UsageError("table load: no table", { hint: "--table 'START LENGTH TYPE ARGUMENTS', or a file" });
    }
    return text(context.streams.stdin);
  }
  if (/^\s*(#|\d)/.test(source) || source.includes("\n") || source.trim().includes(" ")) return source;
  try {
    return await readFile(source, "utf8");
  } catch (error) {
    throw new IoError("ENOENT", `table load: ${source}: ${messageOf(error)}`, {
      hint: "--table takes a table's text, the name of a file that holds it, or -",
      cause: error,
    });
  }
}
