/** `udm metadata shrink`: fewer data blocks for a pool nobody uses; in place, or by way of a dump as thin_shrink does. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import type { BlockDevice } from "../../io/index.js";
import {
  BlockStore,
  checkMetadata,
  planShrink,
  refuseShortData,
  refuseUnsound,
  releaseMetadataSnapshot,
  type ShrinkFigures,
  type ShrinkPlan,
  type Shrunk,
  shrinkPool,
} from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import { countOf, positiveSizeOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { withPace } from "./options.js";
import { refuseMetadataAsData } from "./target.js";

export interface ShrinkFlags {
  readonly metadataDev?: string;
  readonly dataDev?: string;
  readonly nrBlocks?: number;
  readonly size?: number;
  readonly truncate?: boolean;
  readonly releaseMetadataSnap?: boolean;
  readonly copy: boolean;
  readonly input?: string;
  readonly output?: string;
  readonly data?: string;
  readonly binary?: boolean;
}

const METADATA_BLOCK_BYTES = 4096;

export function shrinkCommand(context: Context): Command {
  return new Command("shrink")
    .description(
      "Gives a pool fewer data blocks: data behind the new end is copied to free blocks below it, and the mappings follow; what devices share stays shared. Nobody may use the pool meanwhile. Wherever it is cut off the pool is whole, and the same command goes on. With --input and --output it does what thin_shrink does: only free data blocks are written, and the new metadata goes elsewhere.",
    )
    .argument("[pool]", "a pool that udm knows; its table is made smaller too")
    .addOption(new Option("--metadata-dev <device>", "the pool's metadata, where it has no name"))
    .addOption(new Option("--data-dev <device>", "the pool's data"))
    .addOption(
      new Option("--nr-blocks <number>", "data blocks it is to have").argParser(countOf("number of data blocks")),
    )
    .addOption(
      new Option("--size <size>", "the same as a size, rounded down to whole blocks").argParser(positiveSizeOf("size")),
    )
    .option("--truncate", "cut the file that holds the data, in the end")
    .option("--release-metadata-snap", "give up the metadata snapshot, which holds blocks where they are")
    .option("--no-copy", "change mappings without copying data, which loses it; for measurements")
    .addOption(new Option("-i, --input <file>", "XML of a dump (with --binary: metadata) to begin with"))
    .addOption(new Option("-o, --output <file>", "where the new XML (with --binary: metadata) goes"))
    .addOption(new Option("--data <device>", "the same as --data-dev"))
    .option("--binary", "input and output are metadata, not XML")
    .action((pool: string | undefined, flags: ShrinkFlags) => shrink(context, pool, flags));
}

async function shrink(context: Context, pool: string | undefined, flags: ShrinkFlags): Promise<void> {
  const { nrBlocks, size, input, output } = flags;
  if ((nrBlocks === undefined) === (size === undefined)) {
    throw new UsageError(`metadata shrink: ${size === undefined ? "the new size is missing" : "two sizes are given"}`, {
      hint: "--nr-blocks NUMBER, or --size SIZE",
    });
  }
  if (input === undefined && output === undefined) return shrinkInPlace(context, sourceOf(pool, flags), flags);
  if (input === undefined || output === undefined || pool !== undefined || flags.metadataDev !== undefined) {
    throw new UsageError("metadata shrink: --input and --output belong together, and to no pool", {
      hint: "--input FILE --output FILE --data DEVICE --nr-blocks NUMBER",
    });
  }
  for (const [name, isGiven] of [
    ["--truncate", flags.truncate],
    ["--release-metadata-snap", flags.releaseMetadataSnap],
  ] as const) {
    if (isGiven === true) {
      throw new UsageError(`metadata shrink: ${name} is for a pool in place`, {
        hint: "leave --input and --output out, or the option",
      });
    }
  }
  const { shrinkElsewhere } = await import("./shrink-elsewhere.js");
  await shrinkElsewhere(context, { ...flags, input, output });
}

function sourceOf(pool: string | undefined, flags: ShrinkFlags): string | { metadata: string; data: string } {
  const { metadataDev: metadata, binary } = flags;
  const data = flags.dataDev ?? flags.data;
  if (binary === true) {
    throw new UsageError("metadata shrink: --binary belongs to --input and --output", {
      hint: "in place leave it out",
    });
  }
  if (pool !== undefined && metadata === undefined && data === undefined) return pool;
  if (pool === undefined && metadata !== undefined && data !== undefined) return { metadata, data };
  throw new UsageError(
    pool === undefined
      ? "metadata shrink: no pool is named"
      : "metadata shrink: a pool and its devices are named, one of them is enough",
    { hint: "POOL, or --metadata-dev DEVICE --data-dev DEVICE" },
  );
}

async function shrinkInPlace(
  context: Context,
  from: string | { metadata: string; data: string },
  flags: ShrinkFlags,
): Promise<void> {
  context.takeInterrupt();
  const { dryRun, json } = context.globals;
  const host = await context.host();
  const { openPlace, poolShrink } = await import("../../host/index.js");
  const places = await poolShrink.locateForShrink(host, from);
  await refuseMetadataAsData(places.data, places.metadata);
  const name = places.pool ?? places.metadata.name;
  const metadata = openPlace(places.metadata, { write: !dryRun, role: `metadata of ${name}, to shrink` });
  let data: ReturnType<typeof openPlace> | undefined;
  try {
    data = openPlace(places.data, { write: !dryRun, role: `data of ${name}, to shrink` });
    const sound = await soundPlan(context, name, metadata.device, flags);
    const { blockBytes } = sound.figures;
    const lengthSectors = poolShrink.sectorsOf(sound.figures.blocksAfter, blockBytes);
    const table =
      places.pool === undefined ? undefined : await poolShrink.planTableCut(host, places.pool, lengthSectors);
    const usedBytes = sound.figures.blocksAfter * blockBytes;
    const file = flags.truncate === true ? await poolShrink.planFileCut(host, places, usedBytes) : undefined;
    if (sound.plan !== undefined) refuseShortData(sound.plan, data.device);
    if (dryRun) {
      const plan = [...figureLines(sound.figures, sound.releases), ...poolShrink.planLines(table, file)];
      if (json) context.json({ plan } satisfies DocumentOf<"plan">);
      else context.lines(plan);
      return;
    }
    const victim = places.pool === undefined ? `${name}' with data '${places.data.name}` : name;
    await context.confirm(deedOf(victim, sound, flags, file?.file));
    const plan = sound.plan ?? (await planAfterRelease(context, name, metadata.device, sound.figures.blocksAfter));
    const done = await withPace(context, `shrink ${name}`, 1, (pace) =>
      shrinkPool(metadata.device, plan, { data: flags.copy ? data!.device : undefined, pace }),
    );
    await poolShrink.shorten(host, table, file);
    tell(context, { pool: places.pool, figures: plan.figures, done, fileBytes: file?.toBytes });
  } finally {
    await metadata.close();
    await data?.close();
  }
}

interface SoundPlan {
  /** Undefined while a metadata snapshot has to be released first. */
  readonly plan: ShrinkPlan | undefined;
  readonly figures: ShrinkFigures;
  readonly releases: boolean;
}

async function soundPlan(context: Context, name: string, device: BlockDevice, flags: ShrinkFlags): Promise<SoundPlan> {
  const store = new BlockStore(device);
  const report = await withPace(context, `check ${name}`, METADATA_BLOCK_BYTES, (pace) =>
    checkMetadata(store, { pace }),
  );
  refuseUnsound(name, report, flags.releaseMetadataSnap === true);
  const superblock = report.superblock!;
  const releases = superblock.heldRoot !== 0;
  const blocksAfter = flags.nrBlocks ?? Math.floor(flags.size! / (superblock.dataBlockSectors * 512));
  const plan = await withPace(context, `plan ${name}`, METADATA_BLOCK_BYTES, (pace) =>
    planShrink(store, { blocksAfter, pace }),
  );
  return { plan: releases ? undefined : plan, figures: plan.figures, releases };
}

async function planAfterRelease(
  context: Context,
  name: string,
  device: BlockDevice,
  blocksAfter: number,
): Promise<ShrinkPlan> {
  releaseMetadataSnapshot(device);
  return withPace(context, `plan ${name}`, METADATA_BLOCK_BYTES, (pace) =>
    planShrink(new BlockStore(device), { blocksAfter, pace }),
  );
}

function deedOf(name: string, { figures, releases }: SoundPlan, flags: ShrinkFlags, file: string | undefined): string {
  const parts = [`shrink '${name}' from ${figures.blocksBefore} to ${figures.blocksAfter} data blocks`];
  if (releases) parts.push("give up its metadata snapshot");
  if (!flags.copy && figures.blocksToMove > 0) parts.push(`lose the data of ${figures.blocksToMove} of them`);
  if (file !== undefined) parts.push(`cut ${file}`);
  return parts.join(", ");
}

function figureLines(figures: ShrinkFigures, releases: boolean): readonly string[] {
  const { blocksBefore, blocksAfter, blocksToMove, runsToMove, bytesToMove, usedBlocks, freeBelow } = figures;
  const lines = releases ? ["release the metadata snapshot, which may free some of what follows"] : [];
  lines.push(
    `${usedBlocks} of ${blocksBefore} data blocks are in use, ${freeBelow} are free below block ${blocksAfter}`,
  );
  if (blocksToMove > 0) {
    const runs = `${runsToMove} ${runsToMove === 1 ? "run" : "runs"}`;
    lines.push(`move ${blocksToMove} data blocks in ${runs}, ${formatBytes(bytesToMove)} to copy`);
  }
  if (blocksAfter < blocksBefore) lines.push(`end the pool at ${blocksAfter} data blocks`);
  return lines;
}

function tell(
  context: Context,
  result: {
    readonly pool: string | undefined;
    readonly figures: ShrinkFigures;
    readonly done: Shrunk;
    readonly fileBytes: number | undefined;
  },
): void {
  const { pool, figures, done, fileBytes } = result;
  const { blockBytes, blocksBefore, blocksAfter } = figures;
  if (context.globals.json) {
    const { movedBlocks, movedBytes, commits } = done;
    const sizes = { blockBytes, blocksBefore, blocksAfter, movedBlocks, movedBytes, commits };
    context.json({
      shrunk: { pool: pool ?? null, ...sizes, fileBytes: fileBytes ?? null },
    } satisfies DocumentOf<"shrunk">);
    return;
  }
  if (context.globals.quiet) return;
  const commits = `${done.commits} ${done.commits === 1 ? "commit" : "commits"}`;
  if (done.movedBlocks > 0) {
    context.line(`moved ${done.movedBlocks} data blocks, ${formatBytes(done.movedBytes)}, in ${commits}`);
  }
  const size = formatBytes(blocksAfter * blockBytes);
  context.line(
    blocksAfter === blocksBefore && done.movedBlocks === 0
      ? `nothing to move: ${blocksAfter} data blocks, ${size}`
      : `${blocksBefore} data blocks before, ${blocksAfter} now, ${size}`,
  );
  if (pool === undefined) context.line(`length of its table: ${(blocksAfter * blockBytes) / 512} sectors`);
}
