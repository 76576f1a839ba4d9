/** `udm pool set`: low-water mark, features and limits of a pool that exists. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import type { LowWater, PoolSettings } from "../../host/index.js";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { countOf, parseLowWater, percentArgument, positiveSizeOf } from "../parse.js";

interface SetOptions {
  readonly lowWater?: LowWater;
  readonly autoextendThreshold?: number;
  readonly autoextendPercent?: number;
  readonly maxSize?: number;
  readonly minFreeSpace?: number;
  readonly profile?: string;
  readonly skipBlockZeroing?: boolean;
  readonly ignoreDiscard?: boolean;
  readonly discardPassdown?: boolean;
  readonly readOnly?: boolean;
  readonly readWrite?: boolean;
  readonly queueIfNoSpace?: boolean;
  readonly errorIfNoSpace?: boolean;
}

export function setCommand(context: Context): Command {
  return new Command("set")
    .description("Changes settings of a pool; what is not named stays.")
    .argument("<name>", "the pool")
    .addOption(
      new Option("--low-water <mark>", "tell when no more than this is free: a size, N% or data blocks").argParser(
        parseLowWater,
      ),
    )
    .addOption(
      new Option("--autoextend-threshold <n>", "extend when fuller than N percent; 100 never").argParser(
        percentArgument("--autoextend-threshold"),
      ),
    )
    .addOption(
      new Option("--autoextend-percent <n>", "by this share of its size").argParser(
        countOf("--autoextend-percent", { max: 1000 }),
      ),
    )
    .addOption(
      new Option("--max-size <size>", "never extend beyond this, or none for no limit").argParser(parseMaxSize),
    )
    .addOption(
      new Option(
        "--min-free-space <n>",
        "refuse new thin devices when less than N percent of data or metadata is free; 0 never",
      ).argParser(percentArgument("--min-free-space")),
    )
    .option("--profile <name>", "take threshold and percent from a profile of LVM: its name, or a path")
    .option("--skip-block-zeroing", "do not zero new blocks")
    .option("--no-skip-block-zeroing", "zero new blocks")
    .option("--ignore-discard", "discards are not taken")
    .option("--no-ignore-discard", "discards free blocks")
    .option("--discard-passdown", "discards are handed to the data device")
    .option("--no-discard-passdown", "discards end at the pool")
    .addOption(new Option("--read-only", "nothing may be changed through the pool").conflicts("readWrite"))
    .option("--read-write", "changes are possible again")
    .addOption(new Option("--queue-if-no-space", "writes wait when the pool is full").conflicts("errorIfNoSpace"))
    .option("--error-if-no-space", "writes fail when the pool is full")
    .action(async (name: string, options: SetOptions) => {
      const profile = options.profile === undefined ? {} : await readProfile(options.profile);
      const settings = { ...profile, ...settingsOf(options) };
      if (Object.keys(settings).length === 0) {
        throw new UsageError("pool set: nothing to set", { hint: "see udm pool set --help" });
      }
      await change(context, {
        plan: (host) => host.plan.setPool(name, settings),
        run: (host) => host.setPool(name, settings),
      });
    });
}

async function readProfile(name: string): Promise<PoolSettings> {
  return (await import("../../host/index.js")).readLvmProfile(name);
}

function parseMaxSize(text: string): number {
  return text === "none" ? 0 : positiveSizeOf("maximum size")(text);
}

function settingsOf(options: SetOptions): PoolSettings {
  const features = defined({
    skipBlockZeroing: options.skipBlockZeroing,
    ignoreDiscard: options.ignoreDiscard,
    noDiscardPassdown: options.discardPassdown === undefined ? undefined : !options.discardPassdown,
    readOnly: options.readOnly ?? (options.readWrite === true ? false : undefined),
    errorIfNoSpace: options.errorIfNoSpace ?? (options.queueIfNoSpace === true ? false : undefined),
  });
  return defined({
    lowWater: options.lowWater,
    autoextendThresholdPercent: options.autoextendThreshold,
    autoextendPercent: options.autoextendPercent,
    maxSizeBytes: options.maxSize,
    minFreeSpacePercent: options.minFreeSpace,
    features: Object.keys(features).length === 0 ? undefined : features,
  });
}
