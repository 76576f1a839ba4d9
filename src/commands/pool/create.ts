/** `udm pool create`: from two devices or files, from a table line, or from one device cut in two. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import type { LowWater, PoolCreate, PoolCreated } from "../../host/index.js";
import { change, defined } from "../change.js";
import type { Context } from "../context.js";
import { type FeatureFlags, featureOptions, featuresOf, hasFeatureFlags, ifNotExistsOption } from "../options.js";
import { parseLowWater, percentArgument, positiveSizeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

interface CreateOptions extends FeatureFlags {
  readonly data?: string;
  readonly metadata?: string;
  readonly dataSize?: number;
  readonly metadataSize?: number;
  readonly blockSize?: number;
  readonly lowWater?: LowWater;
  readonly table?: string;
  readonly device?: string;
  readonly thinpPercent?: number;
  readonly thinpMetapercent?: number;
  readonly uuid?: string;
  readonly format?: boolean;
  readonly ifNotExists?: boolean;
}

export function createCommand(context: Context): Command {
  const command = new Command("create")
    .description(
      "Makes a pool from a data and a metadata device, from a table line, or from one device cut in two. " +
        "Zeroed metadata is formatted, existing dm-thin metadata is opened as it is, anything else is refused.",
    )
    .argument("<name>", "name of the pool")
    .option("--data <dev>", "data device or file; a missing file is made, sparse")
    .option("--metadata <dev>", "metadata device or file; a missing file is made, sparse")
    .addOption(
      new Option("--data-size <size>", "size of a data file to be made (default 100g)").argParser(
        positiveSizeOf("data size"),
      ),
    )
    .addOption(
      new Option("--metadata-size <size>", "size of a metadata file to be made (default 2g)").argParser(
        positiveSizeOf("metadata size"),
      ),
    )
    .addOption(
      new Option("--block-size <size>", "unit of allocation, a multiple of 64k up to 1g (default 64k)").argParser(
        positiveSizeOf("block size"),
      ),
    )
    .addOption(
      new Option("--low-water <mark>", "tell when no more than this is free: a size, N% or data blocks").argParser(
        parseLowWater,
      ),
    )
    .option("--table <table>", "START LENGTH thin-pool META DATA BLOCK LOWWATER [N FEATURE...]")
    .option("--device <dev>", "one device or file, cut in NAME_tmeta and NAME_tdata")
    .addOption(
      new Option("--thinp-percent <n>", "share of --device for data (default 95)").argParser(
        percentArgument("--thinp-percent"),
      ),
    )
    .addOption(
      new Option("--thinp-metapercent <n>", "share of --device for metadata (default 1)").argParser(
        percentArgument("--thinp-metapercent"),
      ),
    )
    .option("--uuid <uuid>", "uuid of the mapped device")
    .option("--format", "overwrite what is in the metadata device (with --yes)")
    .addOption(ifNotExistsOption());
  for (const option of featureOptions()) command.addOption(option);
  return command.action(async (name: string, options: CreateOptions) => {
    const request = requestOf(name, options);
    await change(context, {
      plan: (host) => host.plan.createPool(request),
      destroys: options.format === true ? `overwrite the metadata device of '${name}'` : undefined,
      run: (host) => host.createPool(request),
      show: (created) => noteFound(context, created),
      json: (pool) => ({ pool }) satisfies DocumentOf<"pool">,
    });
  });
}

function requestOf(name: string, options: CreateOptions): PoolCreate {
  const source = sourceOf(options);
  const common = { name, source, uuid: options.uuid, format: options.format, ifNotExists: options.ifNotExists };
  if (source.kind === "table") {
    if (options.blockSize !== undefined || options.lowWater !== undefined || hasFeatureFlags(options)) {
      throw new UsageError("pool create: block size, low water and features are part of the table", {
        hint: "leave the options out, or use --data and --metadata instead of --table",
      });
    }
    return defined(common);
  }
  return defined({
    ...common,
    blockBytes: options.blockSize,
    lowWater: options.lowWater,
    features: featuresOf(options),
  });
}

function sourceOf(options: CreateOptions): PoolCreate["source"] {
  const { data, metadata, table, device } = options;
  const forms = [data ?? metadata, table, device].filter((given) => given !== undefined);
  if (forms.length !== 1) {
    throw new UsageError("pool create: say what to make the pool from, in one way", {
      hint: "--data DEV --metadata DEV, or --table TABLE, or --device DEV",
    });
  }
  if (table !== undefined) return { kind: "table", table };
  if (device !== undefined) {
    const { thinpPercent = 95, thinpMetapercent = 1 } = options;
    if (thinpPercent + thinpMetapercent > 100) {
      throw new UsageError(`pool create: ${thinpPercent}% and ${thinpMetapercent}% are more than the whole device`, {
        hint: "choose --thinp-percent and --thinp-metapercent so that they add up to 100 or less",
      });
    }
    return { kind: "device", device, thinpPercent, thinpMetaPercent: thinpMetapercent };
  }
  if (data === undefined || metadata === undefined) {
    throw new UsageError("pool create: both --data and --metadata are needed", {
      hint: "one device for both is --device DEV",
    });
  }
  return defined({
    kind: "devices" as const,
    data,
    metadata,
    dataSizeBytes: options.dataSize,
    metadataSizeBytes: options.metadataSize,
  });
}

function noteFound(context: Context, created: PoolCreated): void {
  if (created.thinIds.length === 0) return;
  const ids = created.thinIds.join(", ");
  context.note(
    `pool '${created.name}' holds thin devices already, ids ${ids}; udm thin activate ${created.name}:ID NAME uses one`,
  );
}
