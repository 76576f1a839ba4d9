/** `udm thin map`: where the blocks of a thin device live. */
import { Argument, Command } from "commander";
import type { MapRun } from "../../host/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import { type Column, printReport } from "../report.js";

const COLUMNS: readonly Column<MapRun>[] = [
  { heading: "BLOCK", key: "virtualBlock", kind: "number", value: (run) => run.virtualBlock },
  { heading: "DATA-BLOCK", key: "dataBlock", kind: "number", value: (run) => run.dataBlock },
  { heading: "COUNT", key: "count", kind: "number", value: (run) => run.count },
  { heading: "TIME", key: "time", kind: "number", value: (run) => run.time },
];

const SHARERS: Column<MapRun> = {
  heading: "SHARERS",
  key: "sharers",
  kind: "list",
  value: (run) => run.sharers.map((sharer) => `${sharer.name ?? sharer.id}@${hex(sharer.virtualBlock)}`),
};

export function mapCommand(context: Context): Command {
  return new Command("map")
    .description(
      "Lists runs of mapped blocks: virtual block, data block, length, time of the pool's clock. For one block, " +
        "decimal or 0x hexadecimal, shows also who shares it.",
    )
    .argument("<name>", "the thin device")
    .addArgument(new Argument("[block]", "only this block").argParser(countOf("block")))
    .action(async (name: string, block: number | undefined) => {
      const host = await context.host();
      const rows = await host.thinMap(name, block);
      if (block === undefined || context.globals.json || context.globals.output !== undefined) {
        const columns = block === undefined ? COLUMNS : [...COLUMNS, SHARERS];
        await printReport(context, { noun: "runs", columns, rows });
        return;
      }
      const [run] = rows;
      if (run === undefined) {
        context.line(`${hex(block)} -> not mapped`);
        return;
      }
      const at = run.dataBlock + (block - run.virtualBlock);
      const sharers = run.sharers.map((sharer) => `${sharer.name ?? sharer.id}@${hex(sharer.virtualBlock)}`);
      context.line(`${hex(block)} -> ${hex(at)} time ${run.time}${sharers.length > 0 ? ` ${sharers.join(" ")}` : ""}`);
    });
}

function hex(block: number): string {
  return `0x${block.toString(16)}`;
}
