/** `udm completion`: a script that teaches a shell udm's words. */
import { Argument, Command } from "commander";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { bashScript } from "./bash.js";
import { fishScript } from "./fish.js";
import { commandSpecs } from "./specs.js";
import { zshScript } from "./zsh.js";

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript };

export function completionCommand(context: Context): Command {
  return new Command("completion")
    .description("Prints a script that lets a shell complete commands, options and the names of devices.")
    .addArgument(new Argument("<shell>", "bash, zsh or fish").choices(Object.keys(SCRIPTS)))
    .action(async (shell: keyof typeof SCRIPTS) => {
      const lines = SCRIPTS[shell](await commandSpecs(context));
      if (context.globals.json)
        context.json({ completion: { shell, script: `${lines.join("\n")}\n` } } satisfies DocumentOf<"completion">);
      else context.lines(lines);
    });
}
