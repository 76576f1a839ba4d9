/** `udm shell`: a prompt at a terminal; elsewhere the lines of standard input, one after the other. */
import { Command } from "commander";
import { Batch } from "../batch/batch.js";
import type { Context } from "../context.js";
import { ENDING_WORDS, Shell } from "./shell.js";

export function shellCommand(context: Context): Command {
  return new Command("shell")
    .description(
      "Reads commands from a prompt with history and completion. Without a terminal it runs the lines of standard input and goes on after those that fail.",
    )
    .action(async () => {
      const { stdin, stdout } = context.streams;
      if (stdin.isTTY === true && stdout.isTTY === true) {
        context.exitWith(await new Shell(context).run());
        return;
      }
      const options = { keepGoing: true, atomic: false, hasInput: false, endingWords: ENDING_WORDS };
      context.exitWith(await new Batch(context, options).run(stdin as AsyncIterable<string | Uint8Array>));
    });
}
