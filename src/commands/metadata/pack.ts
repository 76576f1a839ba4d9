/** `udm metadata pack`: all metadata blocks of a device in one small file, as thin_metadata_pack makes them. */
import { Command, Option } from "commander";
import { type KeepDamaged, type Packed, packMetadata } from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { addSourceOptions, SOURCE, type SourceFlags, withPace, withSource } from "./options.js";
import { isStandardOutput, withOutput } from "./output.js";

interface PackFlags extends SourceFlags {
  readonly input: string;
  readonly output: string;
  readonly damaged: KeepDamaged;
  readonly force?: boolean;
}

const METADATA_BLOCK_BYTES = 4096;
const DAMAGED: readonly KeepDamaged[] = ["none", "metadata", "all"];
/** Blocks that are named when they cannot be read. */
const MOST_NAMED = 8;

export function packCommand(context: Context): Command {
  const command = new Command("pack")
    .description(
      "Puts all blocks of metadata, sound or damaged, into one compressed file, for a backup or for somebody who helps. The form is that of thin_metadata_pack 1.x; thin_metadata_unpack reads it, but leaves out damaged blocks.",
    )
    .requiredOption("-i, --input <source>", SOURCE)
    .requiredOption("-o, --output <file>", "the file, which takes its name when it is whole; - is standard output")
    .addOption(
      new Option(
        "--damaged <which>",
        "blocks with a wrong checksum: none, those that look like metadata, or all that hold anything",
      )
        .choices(DAMAGED)
        .default("metadata"),
    )
    .option("-f, --force", "do not ask, even when the output file holds the metadata of a pool");
  return addSourceOptions(command).action((flags: PackFlags) => pack(context, flags));
}

async function pack(context: Context, flags: PackFlags): Promise<void> {
  const { input, output } = flags;
  await withSource(context, input, flags, async (opened) => {
    if (context.globals.dryRun) {
      const plan = [`thin_metadata_pack -i ${input} -o ${output}`];
      if (context.globals.json) context.json({ plan });
      else context.lines(plan);
      return;
    }
    if (opened.isLive) {
      const part = opened.superblock === 0 ? "what it finds" : "the metadata snapshot in it";
      context.note(`${opened.name}: it is in use; only ${part} is of one moment`);
    }
    let packedBytes = 0;
    let packed: Packed | undefined;
    await withPace(context, `pack ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      withOutput(context, { file: output, source: opened, isForced: flags.force }, async (write) => {
        packed = await packMetadata(opened.device, {
          pace,
          keep: flags.damaged,
          write: (piece) => {
            packedBytes += piece.length;
            return write(piece);
          },
        });
      }),
    );
    tell(context, opened.name, { output, packed: packed!, packedBytes });
  });
}

function tell(
  context: Context,
  name: string,
  made: { readonly output: string; readonly packed: Packed; readonly packedBytes: number },
): void {
  const { output, packed, packedBytes } = made;
  const { blocks, sound, damaged, leftOut, unreadable } = packed;
  if (unreadable.length > 0) {
    const more = unreadable.length > MOST_NAMED ? " ..." : "";
    const which = unreadable.slice(0, MOST_NAMED).join(" ");
    context.note(`${name}: ${unreadable.length} blocks cannot be read and are not in it: ${which}${more}`);
  }
  if (leftOut > 0) {
    context.note(`${name}: ${leftOut} blocks hold something else and were left out; --damaged all takes them along`);
  }
  if (sound === 0) context.note(`${name}: no block of it is sound metadata`);
  if (isStandardOutput(output)) return;
  if (context.globals.json) {
    const document: DocumentOf<"packed"> = {
      packed: { file: output, packedBytes, blocks, sound, damaged, leftOut, unreadable },
    };
    context.json(document);
    return;
  }
  if (context.globals.quiet) return;
  const extra = damaged === 0 ? "" : ` and ${damaged} damaged`;
  const sizes = `${formatBytes(blocks * METADATA_BLOCK_BYTES)} into ${formatBytes(packedBytes)}`;
  context.line(`packed ${sound}${extra} of ${blocks} blocks, ${sizes}`);
}
