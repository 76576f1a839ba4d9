/** `udm device message`: a message to the target at a sector. */
import { Argument, Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

export function messageCommand(context: Context): Command {
  return new Command("message")
    .description("Sends a message to the target that maps a sector, as dmsetup message does.")
    .argument("<name>", "the mapped device")
    .addArgument(new Argument("<sector>", "a sector of the target, usually 0").argParser(countOf("sector")))
    .argument("<word...>", "the message")
    .action(async (name: string, sector: number, words: readonly string[]) => {
      await change(context, {
        plan: (host) => host.plan.deviceMessage(name, sector, words),
        run: (host) => host.deviceMessage(name, sector, words),
        show: (answer) => {
          if (answer !== undefined && answer !== "") context.line(answer);
        },
        json: (answer) => ({ answer: answer ?? null }) satisfies DocumentOf<"answer">,
      });
    });
}
