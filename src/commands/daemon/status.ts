/** `udm daemon status`: whether one runs, and what it serves. Exits 0 when it runs, 1 when not. */
import { Command } from "commander";
import type { DaemonInfo } from "../../host/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";

export function statusCommand(context: Context): Command {
  return new Command("status")
    .description("Tells whether a daemon runs, and what it serves. Exits 0 when one runs, 1 when none does.")
    .action(async () => {
      const { connectHost, removeStale } = await import("../../host/index.js");
      const host = await connectHost(context.hostOptions);
      const info = await host?.daemonInfo();
      await host?.close();
      if (info === undefined) {
        const wasLeft = await removeStale(context.hostOptions);
        context.exitWith(1);
        if (context.globals.json) context.json({ daemon: null } satisfies DocumentOf<"daemon">);
        else context.line("no daemon runs");
        if (wasLeft) context.note("a socket that a killed daemon had left was taken away");
        return;
      }
      if (context.globals.json) context.json({ daemon: info } satisfies DocumentOf<"daemon">);
      else context.lines(linesOf(info));
    });
}

function linesOf(info: DaemonInfo): readonly string[] {
  const since = new Date(info.sinceMs).toISOString().replace(/\.\d+Z$/, "Z");
  return [
    `process      ${info.pid}`,
    `version      ${info.version}`,
    `since        ${since}`,
    `state        ${info.stateDir}`,
    `socket       ${info.socket}`,
    `memory       ${formatBytes(info.memoryBytes, "h")}`,
    `connections  ${info.connections}`,
    `ends         ${info.endsWhenIdle ? "when nothing is served" : "when it is told to"}`,
    `open pools   ${info.openPools.length === 0 ? "-" : info.openPools.join(" ")}`,
    `services     ${info.services.length === 0 ? "-" : ""}`.trimEnd(),
    ...info.services.map(({ name, details }) => `  ${name}${detailsText(details)}`),
  ];
}

function detailsText(details: Readonly<Record<string, unknown>>): string {
  return Object.entries(details)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => `  ${key}=${typeof value === "object" ? JSON.stringify(value) : String(value)}`)
    .join("");
}
