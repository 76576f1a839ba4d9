/** `udm pool list`: names and states, without opening anything. */
import { Command } from "commander";
import type { Context } from "../context.js";
import { type Column, printReport } from "../report.js";

const COLUMNS: readonly Column<{ readonly name: string; readonly state: string }>[] = [
  { heading: "NAME", key: "name", kind: "text", value: (pool) => pool.name },
  { heading: "STATE", key: "state", kind: "text", value: (pool) => pool.state },
];

export function listCommand(context: Context): Command {
  return new Command("list").description("Lists the pools udm knows.").action(async () => {
    const host = await context.host();
    await printReport(context, { noun: "pools", columns: COLUMNS, rows: await host.listPools() });
  });
}
