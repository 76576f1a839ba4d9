/** `udm batch`: commands from a file or standard input, in one process. */
import { createReadStream } from "node:fs";
import { Command } from "commander";
import { codeOf, IoError, messageOf, UsageError } from "../../errors/index.js";
import type { Context } from "../context.js";
import { Batch } from "./batch.js";

export function batchCommand(context: Context): Command {
  return new Command("batch")
    .description(
      "Runs commands, one a line, in one process that keeps pools open between them. Stops at the first line that fails, with its exit status.",
    )
    .argument("[file]", "a file of commands, or - for standard input (default)")
    .option("--keep-going", "go on after a line that failed")
    .option("--atomic", "all lines or none: one commit for all, and nothing happens when one fails")
    .action(async (file: string | undefined, options: { readonly keepGoing?: boolean; readonly atomic?: boolean }) => {
      const { keepGoing = false, atomic = false } = options;
      if (keepGoing && atomic) {
        throw new UsageError("batch: --keep-going and --atomic exclude each other", {
          hint: "an atomic batch that goes on after a failure would not be atomic",
        });
      }
      const isStdin = file === undefined || file === "-";
      const batch = new Batch(context, { keepGoing, atomic, hasInput: !isStdin });
      const input = isStdin ? context.streams.stdin : readFile(file);
      context.exitWith(await batch.run(input as AsyncIterable<string | Uint8Array>));
    });
}

async function* readFile(file: string): AsyncIterable<Uint8Array> {
  try {
    for await (const chunk of createReadStream(file)) yield chunk as Uint8Array;
  } catch (error) {
    const code = codeOf(error);
    throw new IoError(code === "ENOENT" || code === "EACCES" ? code : "EIO", `batch: ${messageOf(error)}`, {
      hint: "name a file of commands, or - for standard input",
      cause: error,
    });
  }
}
