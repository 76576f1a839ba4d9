/** `udm thin map`: where the blocks of a thin device live. */
import { Argument, Command } from "commander";
import type { MapRun } from "../../host/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import { type Column, printReport } from "../report.js";

export const RUN_COLUMNS = [
  { heading: "BLOCK", key: "virtualBlock", kind: "number", value: (run) => run.virtualBlock },
  { heading: "DATA-BLOCK", key: "dataBlock", kind: "number", value: (run) => run.dataBlock },
  { heading: "COUNT", key: "count", kind: "number", value: (run) => run.count },
  { heading: "TIME", key: "time", kind: "number", value: (run) => run.time },
] as const satisfies readonly Column<MapRun>[];

/** Known of one block only. */
export const ONE_BLOCK_COLUMNS = [
  { heading: "SHARERS", key: "sharers", kind: "list", value: sharersOf },
  { heading: "WRITER", key: "writer", kind: "text", mayBeUnknown: true, value: writerOf },
  { heading: "HELD", key: "held", kind: "flag", mayBeUnknown: true, value: (run) => run.held },
  { heading: "PATH", key: "path", kind: "list", isExtra: true, value: pathOf },
] as const satisfies readonly Column<MapRun>[];

export function mapCommand(context: Context): Command {
  return new Command("map")
    .description(
      "Lists runs of mapped blocks: virtual block, data block, length, time of the pool's clock. For one block, " +
        "decimal or 0x hexadecimal, tells also which device wrote it, where the metadata shows that, and all who share " +
        "it; with -v the way through the btrees, each metadata block with the entry taken in it.",
    )
    .argument("<name>", "the thin device")
    .addArgument(new Argument("[block]", "only this block").argParser(countOf("block")))
    .action(async (name: string, block: number | undefined) => {
      const host = await context.host();
      const rows = await host.thinMap(name, block);
      const { json, output, sort, verbose } = context.globals;
      if (block === undefined || json || output !== undefined || sort !== undefined) {
        const columns = block === undefined ? RUN_COLUMNS : [...RUN_COLUMNS, ...ONE_BLOCK_COLUMNS];
        await printReport(context, { noun: "runs", columns, rows });
        return;
      }
      const [run] = rows;
      context.lines(run === undefined ? [`${hex(block)} -> not mapped`] : blockLines(run, verbose));
    });
}

function blockLines(run: MapRun, withPath: boolean): readonly string[] {
  const lines = [
    `${hex(run.virtualBlock)} -> ${hex(run.dataBlock)} time ${run.time}`,
    `written by: ${writerOf(run) ?? "unknown"}`,
    `mapped by: ${sharersOf(run).join(" ")}${run.held === true ? ", held by the metadata snapshot" : ""}`,
  ];
  if (withPath) lines.push(`path: ${pathOf(run).join(" > ")}`);
  return lines;
}

function sharersOf(run: MapRun): readonly string[] {
  return run.sharers.map((sharer) => `${nameOf(sharer)}@${hex(sharer.virtualBlock)}`);
}

function writerOf({ writer }: MapRun): string | undefined {
  return writer === undefined ? undefined : nameOf(writer);
}

/** `devices:7[0]`: entry 0 of metadata block 7, a node of the tree of devices. */
function pathOf(run: MapRun): readonly string[] {
  return (run.path ?? []).map(({ tree, metadataBlock, entry }) => `${tree}:${metadataBlock}[${entry}]`);
}

function nameOf(device: { readonly id: number; readonly name: string | undefined }): string {
  return device.name ?? String(device.id);
}

function hex(block: number): string {
  return `0x${block.toString(16)}`;
}
