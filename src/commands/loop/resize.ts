/** `udm loop resize`: take up a file's new size, as `losetup -c`; with a size, set the file's first. */

import { Argument, Command } from "commander";
import type { Host } from "../../host/index.js";
import { formatBytes } from "../../units/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { positiveSizeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { isNamed } from "./list.js";

export function resizeCommand(context: Context): Command {
  return new Command("resize")
    .description("Takes up the file's new size. Refuses to cut off what a pool uses.")
    .argument("<dev>", "7:N or loopN")
    .addArgument(new Argument("[size]", "set the file to this size first").argParser(positiveSizeOf("size")))
    .action(async (dev: string, size: number | undefined) => {
      await change(context, {
        plan: (host) => host.plan.resizeLoop(dev, size),
        destroys: (host) => cut(host, dev, size),
        run: (host) => host.resizeLoop(dev, size),
        json: (loop) => ({ loop }) satisfies DocumentOf<"loop">,
      });
    });
}

/** What a smaller file loses; the planner has refused what a table uses. */
async function cut(host: Host, dev: string, size: number | undefined): Promise<string | undefined> {
  const loop = (await host.listLoops()).find((each) => isNamed(each, dev));
  if (loop === undefined || size === undefined || size >= loop.sizeBytes) return undefined;
  return `cut '${loop.file}' from ${formatBytes(loop.sizeBytes)} to ${formatBytes(size)}`;
}
