/** `udm pool map`: the data device as a picture; with --json its runs of used blocks. */
import { Command } from "commander";
import type { PoolMap } from "../../host/index.js";
import { drawPicture, wrapParts } from "../../ui/index.js";
import { formatBytes, type Unit } from "../../units/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function mapCommand(context: Context): Command {
  return new Command("map")
    .description(
      "Draws which stretches of the data device are free, used by one device, shared, or held by the metadata snapshot " +
        "alone. What a stretch mostly is decides; a legend tells the signs and the bytes of each kind.",
    )
    .argument("<name>", "the pool")
    .action(async (name: string) => {
      const host = await context.host();
      const map = await host.poolMap(name);
      if (context.globals.json) {
        context.json({ map } satisfies DocumentOf<"map">);
        return;
      }
      context.lines(pictureLines(map, context.globals.units ?? "h", context.isUtf8, context.streams.stdout.columns));
    });
}

function pictureLines(map: PoolMap, unit: Unit, isUtf8: boolean, columns: number | undefined): readonly string[] {
  const picture = drawPicture(map.totalBlocks, map.runs, { isUtf8, columns });
  const bytes = (blocks: number) => formatBytes(blocks * map.blockBytes, unit);
  const [free, ...used] = picture.shades;
  const { blocksPerCell } = picture;
  const legend = [
    `each sign ${blocksPerCell} block${blocksPerCell === 1 ? "" : "s"} (${bytes(blocksPerCell)}):`,
    `${free} free ${bytes(picture.freeBlocks)}`,
    `${used.join("")} exclusive ${bytes(picture.exclusiveBlocks)}`,
    `${picture.sharedMark} shared ${bytes(picture.sharedBlocks)}`,
    `${picture.heldMark} held ${bytes(picture.heldBlocks)}`,
  ];
  return [...picture.lines, ...wrapParts(legend, "  ", columns)];
}
