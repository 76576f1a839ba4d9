/** `udm pool map`: the data device as a picture; with --json its runs of used blocks. */
import { Command } from "commander";
import { drawPicture } from "../../ui/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";

export function mapCommand(context: Context): Command {
  return new Command("map")
    .description("Draws which stretches of the data device are used, and which are shared.")
    .argument("<name>", "the pool")
    .action(async (name: string) => {
      const host = await context.host();
      const map = await host.poolMap(name);
      if (context.globals.json) {
        context.json({ map });
        return;
      }
      const picture = drawPicture(map.totalBlocks, map.runs, context.isUtf8);
      const width = String(map.totalBlocks).length;
      const unit = context.globals.units ?? "h";
      context.lines(picture.lines.map((line) => `${String(line.firstBlock).padStart(width)} ${line.cells}`));
      const [free, ...used] = picture.shades;
      const cell = `${picture.blocksPerCell} block${picture.blocksPerCell === 1 ? "" : "s"}`;
      const cellBytes = formatBytes(picture.blocksPerCell * map.blockBytes, unit);
      context.line(`each ${cell} (${cellBytes}): ${free} free, ${used.join("")} used, ${picture.sharedMark} shared`);
    });
}
