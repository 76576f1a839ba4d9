/** `udm metadata dump`: what the metadata holds, as XML, text or JSON lines. */
import { Command, Option } from "commander";
import { StateError, UsageError } from "../../errors/index.js";
import type { OpenedMetadata } from "../../host/index.js";
import {
  DUMP_FORMATS,
  type DumpFormat,
  type DumpOptions,
  dumpMetadata,
  findCandidates,
  Problem,
  readSuperblock,
} from "../../thin/index.js";
import { defined } from "../change.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import { addSourceOptions, SOURCE, type SourceFlags, withPace, withSource } from "./options.js";
import { withOutput } from "./output.js";

interface DumpFlags extends SourceFlags {
  readonly format: DumpFormat;
  readonly repair?: boolean;
  readonly output?: string;
  readonly devId?: readonly number[];
  readonly skipMappings?: boolean;
  readonly transactionId?: number;
  readonly dataBlockSize?: number;
  readonly nrDataBlocks?: number;
}

const METADATA_BLOCK_BYTES = 4096;
/** Of the format that a repair writes. */
const FORMAT_VERSION = 2;
const parseDevice = countOf("device id");

export function dumpCommand(context: Context): Command {
  const command = new Command("dump")
    .description(
      "Writes all devices and their mappings in the XML of thin_dump, as text, or as one JSON value a line. What it writes, udm metadata restore and thin_restore read.",
    )
    .argument("<source>", SOURCE)
    .addOption(new Option("-f, --format <form>", "the form").choices(DUMP_FORMATS).default("xml"))
    .option("-r, --repair", "leave out what is damaged, and tell it, instead of giving up")
    .option(
      "-o, --output <file>",
      "write to a file, which takes its name when it is whole; without it to standard output",
    )
    .addOption(
      new Option("--dev-id <id>", "only this device; may be given again").argParser(
        (text: string, before: readonly number[] | undefined) => [...(before ?? []), parseDevice(text)],
      ),
    )
    .option("--skip-mappings", "devices without their mappings")
    .option("--transaction-id <number>", "write this transaction id", countOf("transaction id"))
    .option("--data-block-size <sectors>", "write this size of data blocks", countOf("data block size", { min: 1 }))
    .option("--nr-data-blocks <number>", "write this number of data blocks", countOf("number of data blocks"));
  return addSourceOptions(command).action((from: string, flags: DumpFlags) => dump(context, from, flags));
}

async function dump(context: Context, from: string, flags: DumpFlags): Promise<void> {
  const format = context.globals.json ? "json" : flags.format;
  if (context.globals.json && flags.format === "human_readable") {
    throw new UsageError("dump: --json and --format human_readable exclude each other", { hint: "leave one out" });
  }
  const { transactionId, dataBlockSize } = flags;
  await withSource(context, from, flags, async (opened) => {
    const found = flags.repair === true ? await foundInstead(context, opened, flags) : undefined;
    const nrDataBlocks = flags.nrDataBlocks ?? dataBlocksOf(opened);
    return withPace(context, `dump ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      withOutput(context, { file: flags.output, source: opened }, (write) =>
        dumpMetadata(opened.store, {
          format,
          superblock: opened.superblock,
          ...(found === undefined ? {} : { found }),
          ...(flags.devId === undefined ? {} : { devices: flags.devId }),
          onMissing: (id) => context.note(`${opened.name} has no device ${id}; udm metadata ls lists them`),
          skipMappings: flags.skipMappings === true,
          onSkipped: flags.repair === true ? (what) => context.note(`left out: ${what}`) : undefined,
          overrides: {
            ...(transactionId === undefined ? {} : { transactionId }),
            ...(dataBlockSize === undefined ? {} : { dataBlockSectors: dataBlockSize }),
            ...(nrDataBlocks === undefined ? {} : { nrDataBlocks }),
          },
          pace,
          write,
        }),
      ),
    );
  });
}

/** Where the superblock is lost, what a repair would begin with. */
async function foundInstead(
  context: Context,
  opened: OpenedMetadata,
  flags: DumpFlags,
): Promise<DumpOptions["found"] | undefined> {
  if (readSuperblock(opened.store, opened.superblock).problem === Problem.None) return undefined;
  const { transactionId, dataBlockSize, nrDataBlocks } = flags;
  const { candidates } = await withPace(context, `look through ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
    findCandidates(opened.store, {
      pace,
      overrides: defined({ transactionId, dataBlockSectors: dataBlockSize, nrDataBlocks }),
    }),
  );
  const [best] = candidates;
  if (best === undefined) return undefined;
  const { head, devices } = best;
  if (head.dataBlockSectors === undefined) {
    throw new StateError("EINVAL", `${opened.name}: no superblock tells the size of data blocks`, {
      hint: "give it: --data-block-size SECTORS (128 for 64k); it stands in the pool's table",
    });
  }
  context.note(`${opened.name}: its superblock is lost; of what is left, candidate 1 of udm metadata repair is dumped`);
  return {
    head: { ...head, dataBlockSectors: head.dataBlockSectors, flags: 0, version: FORMAT_VERSION },
    devices: devices.filter(({ root }) => root !== 0),
  };
}

/**
 * A metadata snapshot has no space maps, and what is dumped from it as it stands cannot be restored: the pool would have
 * no data. The pool's own superblock tells how much there is; one that holds a snapshot never shrinks.
 */
function dataBlocksOf({ store, superblock }: OpenedMetadata): number | undefined {
  if (superblock === 0) return undefined;
  const { values, problem } = readSuperblock(store);
  return problem === 0 ? values?.dataMap.nrBlocks : undefined;
}
