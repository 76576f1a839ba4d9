/** `udm metadata unpack`: metadata from a file of udm metadata pack or thin_metadata_pack. */
import { createReadStream, statSync } from "node:fs";
import { resolve } from "node:path";
import { Command, Option } from "commander";
import { StateError, UsageError } from "../../errors/index.js";
import type { MetadataPlace } from "../../host/index.js";
import { setFileSize, systemError } from "../../io/index.js";
import { checkRoom, type Pace, PackReader, type Unpacked, unpackMetadata, verifyPack } from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { withPace } from "./options.js";
import { targetOf } from "./target.js";
import { poolVictimOf, victimOf } from "./victim.js";

interface UnpackFlags {
  readonly input: string;
  readonly output: string;
  readonly force?: boolean;
  readonly compat?: "thin_metadata_unpack";
}

const METADATA_BLOCK_BYTES = 4096;
const PIECE_BYTES = 1024 * 1024;

export function unpackCommand(context: Context): Command {
  return new Command("unpack")
    .description(
      "Puts metadata back that udm metadata pack or thin_metadata_pack 1.x packed. A new file takes its name when all of it is there. Before a device or a file that is there is written over, the packed file is read to its end; what the packed file does not hold reads as zeros afterwards.",
    )
    .requiredOption("-i, --input <file>", "the packed file; - is standard input, for a new file only")
    .requiredOption("-o, --output <target>", "a new file, or the file, block device or pool to write over")
    .option("-f, --force", "do not ask, even when the target holds the metadata of a pool")
    .addOption(new Option("--compat <tool>", "ask for what that tool asks for").choices(["thin_metadata_unpack"]))
    .action((flags: UnpackFlags) => unpack(context, flags));
}

async function unpack(context: Context, flags: UnpackFlags): Promise<void> {
  const { input, output } = flags;
  if (input === output) throw new UsageError("unpack: input and output are the same", { hint: "name two files" });
  const packedBytes = sizeOf(input);
  const place = await targetOf(context, output);
  const work = async (pace: Pace): Promise<Unpacked | undefined> => {
    pace.total = packedBytes;
    if (context.globals.dryRun) {
      if (input !== "-") await verifyPack(await readerOf(context, input), pace);
      return undefined;
    }
    return place === undefined
      ? await toNewFile(context, flags, pace)
      : await toPlace(context, flags, { place, pace, packedBytes });
  };
  const unpacked = await withPace(context, `unpack ${output}`, 1, work);
  if (unpacked !== undefined) return tell(context, flags, unpacked);
  const plan = [`thin_metadata_unpack -i ${input} -o ${output}`];
  if (context.globals.json) context.json({ plan });
  else context.lines(plan);
}

async function toNewFile(context: Context, { input, output }: UnpackFlags, pace: Pace): Promise<Unpacked> {
  const { NewDeviceFile } = await import("../../host/index.js");
  const reader = await readerOf(context, input);
  await using file = new NewDeviceFile(resolve(output), reader.nrBlocks * METADATA_BLOCK_BYTES);
  const unpacked = await unpackMetadata(reader, file.device, pace);
  await file.finish();
  return unpacked;
}

async function toPlace(
  context: Context,
  { input, output, force, compat }: UnpackFlags,
  { place, pace, packedBytes }: { readonly place: MetadataPlace; readonly pace: Pace; readonly packedBytes: number },
): Promise<Unpacked> {
  if (input === "-") {
    throw new UsageError(`unpack: ${output} is there, and standard input cannot be read twice`, {
      hint: "unpack to a new file, or from a file",
    });
  }
  const { isSamePlace, openPlace } = await import("../../host/index.js");
  if (isSamePlace(input, place.path)) {
    throw new UsageError("unpack: input and output are the same", { hint: "name two files" });
  }
  const opened = openPlace(place, { write: true, role: "metadata to unpack" });
  try {
    const first = await readerOf(context, input);
    const wantedBytes = first.nrBlocks * METADATA_BLOCK_BYTES;
    const canGrow = place.sizeBytes === undefined && place.offsetBytes === 0 && statSync(place.path).isFile();
    if (!canGrow) checkRoom(first, opened.device);
    const deed = (compat === undefined ? victimOf : poolVictimOf)(opened.device, place.name);
    if (deed !== undefined && force !== true) await context.confirm(deed);
    pace.total = packedBytes * 2;
    await verifyPack(first, pace);
    pace.base = packedBytes;
    if (canGrow && opened.device.sizeBytes < wantedBytes) {
      setFileSize(place.path, wantedBytes);
      await opened.device.refreshSize();
    }
    return await unpackMetadata(await readerOf(context, input), opened.device, pace);
  } finally {
    await opened.close();
  }
}

function readerOf(context: Context, input: string): Promise<PackReader> {
  const stream = input === "-" ? context.streams.stdin : createReadStream(input, { highWaterMark: PIECE_BYTES });
  return PackReader.open(input === "-" ? "standard input" : input, stream as AsyncIterable<Uint8Array>);
}

/** 0 for standard input. */
function sizeOf(input: string): number {
  if (input === "-") return 0;
  try {
    const found = statSync(input);
    if (found.isFile()) return found.size;
  } catch (error) {
    throw systemError(error, input);
  }
  throw new StateError("EINVAL", `${input}: not a file`, { hint: "name a file that udm metadata pack wrote" });
}

function tell(context: Context, { output }: UnpackFlags, { blocks, sound, damaged }: Unpacked): void {
  const sizeBytes = blocks * METADATA_BLOCK_BYTES;
  if (context.globals.json) {
    const document: DocumentOf<"unpacked"> = { unpacked: { target: output, sizeBytes, blocks, sound, damaged } };
    context.json(document);
    return;
  }
  if (context.globals.quiet) return;
  const extra = damaged === 0 ? "" : ` and ${damaged} damaged`;
  context.line(`unpacked ${sound}${extra} of ${blocks} blocks, ${formatBytes(sizeBytes)}`);
}
