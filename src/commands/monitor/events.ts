/** `udm events`: what happened to pools, one JSON object a line. */
import { Command } from "commander";
import type { Context } from "../context.js";
import { EventReader, pause } from "./follow.js";
import { runHook } from "./hook.js";

interface EventsOptions {
  readonly follow?: boolean;
  readonly all?: boolean;
  readonly exec?: string;
}

export function eventsCommand(context: Context): Command {
  return new Command("events")
    .description(
      "Prints what happened to pools, one JSON object a line: low water, out of space, read-only, in need of a check, resized, extended.",
    )
    .argument("[pool...]", "only of these; all without it")
    .option("-f, --follow", "print what happens from now on, until interrupted")
    .option("--all", "with --follow: what is remembered first")
    .option("--exec <command>", "run this for each event, with UDM_EVENT, UDM_POOL and UDM_EVENT_JSON set")
    .action(async (pools: readonly string[], options: EventsOptions) => {
      const interrupt = options.follow === true ? context.takeInterrupt() : undefined;
      const reader = new EventReader(await context.ownHost(), pools);
      if (options.follow === true && options.all !== true) await reader.skip();
      do {
        for (const event of await reader.next()) {
          context.line(JSON.stringify(event));
          if (options.exec !== undefined) await runHook(context, options.exec, event);
        }
        if (interrupt !== undefined) await context.whileRead(pause(interrupt));
      } while (interrupt?.aborted === false);
    });
}
