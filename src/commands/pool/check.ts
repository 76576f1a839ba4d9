/** `udm pool check`: one line and an exit status for Nagios and its kin: 0 ok, 1 warning, 2 critical, 3 unknown. */
import { Command, Option } from "commander";
import { messageOf } from "../../errors/index.js";
import type { PoolInfo } from "../../host/index.js";
import { percentOf } from "../../ui/index.js";
import type { Context } from "../context.js";
import { percentArgument } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

const WORDS = ["OK", "WARNING", "CRITICAL", "UNKNOWN"] as const;

export function checkCommand(context: Context): Command {
  return new Command("check")
    .description("Prints one line for a monitoring system; exits 0 ok, 1 warning, 2 critical, 3 unknown.")
    .argument("<name>", "the pool")
    .addOption(
      new Option("-w, --warning <n>", "warn from this percentage on")
        .argParser(percentArgument("--warning"))
        .default(80),
    )
    .addOption(
      new Option("-c, --critical <n>", "critical from this percentage on")
        .argParser(percentArgument("--critical"))
        .default(90),
    )
    .action(async (name: string, limits: { readonly warning: number; readonly critical: number }) => {
      let pool: PoolInfo;
      try {
        pool = await (await context.host()).poolStatus(name);
      } catch (error) {
        const check = { pool: name, verdict: WORDS[3], status: 3, text: messageOf(error), performance: "" };
        context.exitWith(check.status);
        if (context.globals.json) context.json({ check } satisfies DocumentOf<"check">);
        else context.line(`POOL UNKNOWN - ${name}: ${check.text}`);
        return;
      }
      const verdict = judge(pool, limits);
      const word = WORDS[verdict.status] ?? "UNKNOWN";
      context.exitWith(verdict.status);
      if (context.globals.json)
        context.json({ check: { pool: name, verdict: word, ...verdict } } satisfies DocumentOf<"check">);
      else context.line(`POOL ${word} - ${name}: ${verdict.text} | ${verdict.performance}`);
    });
}

interface Verdict {
  readonly status: number;
  readonly text: string;
  readonly performance: string;
}

/** A pool that does not write is critical whatever its fill. */
export function judge(pool: PoolInfo, limits: { readonly warning: number; readonly critical: number }): Verdict {
  const { status } = pool;
  const data = percentOf(status.usedDataBlocks, status.totalDataBlocks);
  const metadata = percentOf(status.usedMetadataBlocks, status.totalMetadataBlocks);
  const fullest = Math.max(data, metadata);
  const isBroken = status.needsCheck || (status.mode !== "write" && !status.features.readOnly);
  const byFill = fullest >= limits.critical ? 2 : fullest >= limits.warning ? 1 : 0;
  const trouble = isBroken ? `, mode ${status.mode}${status.needsCheck ? ", needs check" : ""}` : "";
  const marks = `${limits.warning};${limits.critical};0;100`;
  return {
    status: isBroken ? 2 : byFill,
    text: `data ${data.toFixed(2)}%, metadata ${metadata.toFixed(2)}%${trouble}`,
    performance: `data=${data.toFixed(2)}%;${marks} metadata=${metadata.toFixed(2)}%;${marks}`,
  };
}
