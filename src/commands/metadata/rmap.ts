/** `udm metadata rmap`: which thin devices map some data blocks, as thin_rmap tells it. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import { type Region, type ReverseRun, reverseMap } from "../../thin/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { addSourceOptions, SOURCE, type SourceFlags, withPace, withSource } from "./options.js";

interface RmapFlags extends SourceFlags {
  readonly region?: readonly Region[];
}

const METADATA_BLOCK_BYTES = 4096;

export function rmapCommand(context: Context): Command {
  const command = new Command("rmap")
    .description("Tells which thin devices map the data blocks of some regions, in the form of thin_rmap.")
    .argument("<source>", SOURCE)
    .addOption(
      new Option("--region <range>", "data blocks BEGIN..END, without END; may be given again").argParser(
        (text: string, before: readonly Region[] | undefined) => [...(before ?? []), parseRegion(text)],
      ),
    );
  return addSourceOptions(command).action((from: string, flags: RmapFlags) => rmap(context, from, flags));
}

function parseRegion(text: string): Region {
  const match = /^(\d+)\.\.(\d+)$/.exec(text);
  const [begin, end] = [Number(match?.[1]), Number(match?.[2])];
  if (Number.isSafeInteger(end) && begin < end) return { begin, end };
  throw new UsageError(`region '${text}' is none`, { hint: "such as 5..45: data blocks 5 to 44" });
}

async function rmap(context: Context, from: string, flags: RmapFlags): Promise<void> {
  const { region: regions } = flags;
  if (regions === undefined) {
    throw new UsageError("metadata rmap: no region is given", { hint: "--region 5..45: data blocks 5 to 44" });
  }
  await withSource(context, from, flags, async (opened) => {
    const runs = await withPace(context, `rmap ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      reverseMap(opened.store, { superblock: opened.superblock, regions, pace }),
    );
    print(context, runs);
  });
}

function print(context: Context, runs: readonly ReverseRun[]): void {
  if (context.globals.json) {
    context.json({
      reverse: runs.map(({ dataBegin, deviceId, virtualBegin, length }) => ({
        dataBlock: dataBegin,
        thinId: deviceId,
        virtualBlock: virtualBegin,
        count: length,
      })),
    } satisfies DocumentOf<"reverse">);
    return;
  }
  context.lines(
    runs.map(
      ({ dataBegin, deviceId, virtualBegin, length }) =>
        `data ${dataBegin}..${dataBegin + length} -> thin(${deviceId}) ${virtualBegin}..${virtualBegin + length}`,
    ),
  );
}
