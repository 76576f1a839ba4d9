/** `udm metadata restore`: metadata from the XML of a dump. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { Command, Option } from "commander";
import { StateError, UsageError } from "../../errors/index.js";
import { systemError } from "../../io/index.js";
import { type Restored, restoreMetadata } from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { withPace } from "./options.js";
import { presentTargetOf } from "./target.js";
import { victimOf } from "./victim.js";

interface RestoreFlags {
  readonly input: string;
  readonly output: string;
  readonly transactionId?: number;
  readonly dataBlockSize?: number;
  readonly nrDataBlocks?: number;
}

const METADATA_BLOCK_BYTES = 4096;
const PIECE_BYTES = 1024 * 1024;

export function restoreCommand(context: Context): Command {
  return new Command("restore")
    .description(
      "Makes metadata from the XML that udm metadata dump and thin_dump write. The output must exist and be large enough; what it held is lost. It becomes a pool in the last step: what is cut off before is none.",
    )
    .requiredOption("-i, --input <file>", "the XML; - is standard input")
    .addOption(new Option("-o, --output <target>", "file, block device or pool to write to").makeOptionMandatory())
    .option("--transaction-id <number>", "at least this transaction id", countOf("transaction id"))
    .option("--data-block-size <sectors>", "this size of data blocks", countOf("data block size", { min: 1 }))
    .option("--nr-data-blocks <number>", "at least this many data blocks", countOf("number of data blocks"))
    .action((flags: RestoreFlags) => restore(context, flags));
}

async function restore(context: Context, flags: RestoreFlags): Promise<void> {
  const { input, output } = flags;
  if (input === output) throw new UsageError("restore: input and output are the same", { hint: "name two files" });
  const textBytes = await sizeOf(input);
  const host = await context.host();
  const place = await presentTargetOf(host, output);
  const { openPlace } = await import("../../host/index.js");
  const opened = openPlace(place, { write: context.globals.dryRun !== true, role: "metadata to restore" });
  try {
    const deed = victimOf(opened.device, place.name);
    if (context.globals.dryRun) {
      const plan = [`thin_restore -i ${input} -o ${place.path}`];
      if (context.globals.json) context.json({ plan });
      else context.lines(plan);
      return;
    }
    if (deed !== undefined) await context.confirm(deed);
    const { transactionId, dataBlockSize, nrDataBlocks } = flags;
    const restored = await withPace(context, `restore ${place.name}`, 1, (pace) =>
      restoreMetadata(opened.device, {
        name: input === "-" ? "standard input" : input,
        text: textOf(context, input),
        textBytes,
        overrides: {
          ...(transactionId === undefined ? {} : { transactionId }),
          ...(dataBlockSize === undefined ? {} : { dataBlockSectors: dataBlockSize }),
          ...(nrDataBlocks === undefined ? {} : { nrDataBlocks }),
        },
        pace,
      }),
    );
    tell(context, place.name, restored);
  } finally {
    await opened.close();
  }
}

async function sizeOf(input: string): Promise<number> {
  if (input === "-") return 0;
  try {
    const found = await stat(input);
    if (found.isDirectory()) throw new StateError("EINVAL", `${input}: is a folder`, { hint: "name an XML file" });
    return found.size;
  } catch (error) {
    throw systemError(error, input);
  }
}

function textOf(context: Context, input: string): AsyncIterable<Uint8Array> {
  const stream = input === "-" ? context.streams.stdin : createReadStream(input, { highWaterMark: PIECE_BYTES });
  return stream as AsyncIterable<Uint8Array>;
}

function tell(context: Context, target: string, restored: Restored): void {
  const { devices, mappings, metadataBlocks, head } = restored;
  if (context.globals.json) {
    const { time, transactionId, dataBlockSectors, nrDataBlocks } = head;
    const sizes = { time, transactionId, dataBlockSectors, nrDataBlocks };
    context.json({
      metadataRestored: { target, devices, mappings, metadataBlocks, ...sizes },
    } satisfies DocumentOf<"metadataRestored">);
    return;
  }
  if (context.globals.quiet) return;
  const size = formatBytes(metadataBlocks * METADATA_BLOCK_BYTES);
  context.line(
    `restored ${devices} ${devices === 1 ? "device" : "devices"}, ${mappings} mappings, ${size} of metadata`,
  );
}
