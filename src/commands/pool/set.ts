/** `udm pool set`: low-water mark, features and limits of a pool that exists. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import type { LowWater, PoolSettings } from "../../host/index.js";
import { change, defined, quoted } from "../change.js";
import type { Context } from "../context.js";
import { countOf, parseLowWater, percentArgument, positiveSizeOf } from "../parse.js";

interface SetOptions {
  readonly lowWater?: LowWater;
  readonly autoextendThreshold?: number;
  readonly autoextendPercent?: number;
  readonly maxSize?: number;
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
    .addOption(new Option("--max-size <size>", "never extend beyond").argParser(positiveSizeOf("maximum size")))
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
      const settings = settingsOf(options);
      if (Object.keys(settings).length === 0) {
        throw new UsageError("pool set: nothing to set", { hint: "see udm pool set --help" });
      }
      await change(context, {
        plan: async (host) => {
          await host.poolStatus(name);
          const pool = quoted(name);
          return [`dmsetup reload ${pool}  # with the new low water and features`, `dmsetup resume ${pool}`];
        },
        run: (host) => host.setPool(name, settings),
      });
    });
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
    features: Object.keys(features).length === 0 ? undefined : features,
  });
}
