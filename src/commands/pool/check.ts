/** `udm pool check`: one line and an exit status for Nagios and its kin: 0 ok, 1 warning, 2 critical, 3 unknown. */
import { Command, Option } from "commander";
import { messageOf } from "../../errors/index.js";
import type { PoolInfo } from "../../host/index.js";
import { percentOf } from "../../ui/index.js";
import type { Context } from "../context.js";
import { percentArgument } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

const WORDS = ["OK", "WARNING", "CRITICAL", "UNKNOWN"] as const;
const UNKNOWN = 3;

export function checkCommand(context: Context): Command {
  return new Command("check")
    .description(
      "Prints one line for a monitoring system, about a pool or about all of them; exits 0 ok, 1 warning, 2 critical, 3 unknown. Of all pools the worst counts.",
    )
    .argument("[name]", "the pool; all pools unless given")
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
    .action(async (name: string | undefined, limits: Limits) => {
      const names = name === undefined ? await poolNames(context) : [name];
      const verdicts: Verdict[] = [];
      for (const each of names) verdicts.push(await verdictOf(context, each, limits));
      tell(context, name, names, verdicts);
    });
}

interface Limits {
  readonly warning: number;
  readonly critical: number;
}

async function poolNames(context: Context): Promise<readonly string[]> {
  const pools = await (await context.host()).listPools();
  return pools.map(({ name }) => name).sort();
}

async function verdictOf(context: Context, name: string, limits: Limits): Promise<Verdict> {
  try {
    return judge(await (await context.host()).poolStatus(name), limits);
  } catch (error) {
    return { status: UNKNOWN, text: messageOf(error), performance: "" };
  }
}

function tell(
  context: Context,
  name: string | undefined,
  names: readonly string[],
  verdicts: readonly Verdict[],
): void {
  // What cannot be asked is worse than a warning, and no worse than what is known to be critical.
  const status = [2, UNKNOWN, 1].find((each) => verdicts.some((verdict) => verdict.status === each)) ?? 0;
  const verdict = WORDS[status] ?? "UNKNOWN";
  const isOne = name !== undefined;
  const text = isOne
    ? verdicts[0]!.text
    : names.map((each, index) => `${each}: ${verdicts[index]!.text}`).join("; ") || "no pools";
  const performance = names
    .map((each, index) => {
      const own = verdicts[index]!.performance;
      return isOne ? own : own.replaceAll(/(^| )(data|metadata)=/g, `$1${each}_$2=`);
    })
    .filter((each) => each !== "")
    .join(" ");
  context.exitWith(status);
  if (context.globals.json) {
    const check = { pool: name ?? null, verdict, status, text, performance };
    context.json({ check } satisfies DocumentOf<"check">);
    return;
  }
  const line = isOne ? `${name}: ${text}` : text;
  context.line(`POOL ${verdict} - ${line}${performance === "" ? "" : ` | ${performance}`}`);
}

interface Verdict {
  readonly status: number;
  readonly text: string;
  readonly performance: string;
}

/** A pool that does not write is critical whatever its fill. */
export function judge(pool: PoolInfo, limits: Limits): Verdict {
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
