/** `udm __complete KIND [PREFIX]`: names for the completion scripts, one a line. Not for people, and not listed. */
import { Command } from "commander";
import type { Context } from "../context.js";
import { nameReader } from "./names.js";
import { NAME_KINDS } from "./specs.js";

export function completeCommand(context: Context): Command {
  return new Command("__complete")
    .argument("<kind>")
    .argument("[prefix]")
    .action(async (wanted: string, prefix = "") => {
      const kind = NAME_KINDS.find((each) => each === wanted);
      const names = kind === undefined ? [] : await (await nameReader(context.directories.stateDir))(kind);
      context.lines(names.filter((name) => name.startsWith(prefix)));
    });
}
