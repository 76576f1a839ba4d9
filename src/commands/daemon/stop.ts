/** `udm daemon stop`: flush, commit, let go of everything that is served. */
import { Command, Option } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { parseSeconds } from "../parse.js";

const DEFAULT_SECONDS = 60;

export function stopCommand(context: Context): Command {
  return new Command("stop")
    .description(
      "Ends the daemon and waits until it has ended: exports end, attached devices are detached, pools are committed. Without a daemon it does nothing.",
    )
    .addOption(
      new Option("--timeout <seconds>", "wait this long for it to end")
        .argParser(parseSeconds)
        .default(DEFAULT_SECONDS),
    )
    .action(async (options: { readonly timeout: number }) => {
      const { endDaemon } = await import("../../host/index.js");
      await change(context, {
        plan: async () => [],
        run: () => endDaemon({ ...context.hostOptions, waitMs: options.timeout * 1000 }),
        json: (ended) => ({ ended: ended?.pid ?? null }),
      });
    });
}
