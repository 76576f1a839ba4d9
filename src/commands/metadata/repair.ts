/** `udm metadata repair`: what is left in damaged metadata, and new metadata from the part that is chosen. */
import { existsSync, rmSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { Command, Option } from "commander";
import { DamageError, SpaceError, StateError, UsageError } from "../../errors/index.js";
import type { MetadataPlace, OpenedMetadata } from "../../host/index.js";
import type { BlockDevice } from "../../io/index.js";
import {
  BlockStore,
  type Candidate,
  checkMetadata,
  type FoundCandidates,
  findCandidates,
  type Pace,
  packMetadata,
  type Repaired,
  repairMetadata,
} from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { candidateDocument, candidateLines, plural } from "./candidate-view.js";
import { SOURCE, withPace, withSource } from "./options.js";
import { isStandardOutput, withOutput } from "./output.js";
import { targetOf } from "./target.js";
import { victimOf } from "./victim.js";

interface RepairFlags {
  readonly input: string;
  readonly output?: string;
  readonly candidate: number;
  readonly transactionId?: number;
  readonly dataBlockSize?: number;
  readonly nrDataBlocks?: number;
  readonly backup?: string | boolean;
  readonly open?: string;
  readonly data?: string;
}

const METADATA_BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
/** Data blocks are a multiple of 64 KiB, up to 1 GiB. */
const BLOCK_SECTORS_STEP = 128;
const MAX_BLOCK_SECTORS = 2 ** 21;
/** More the format cannot use. */
const MAX_METADATA_BYTES = 16 * 2 ** 30;

export function repairCommand(context: Context): Command {
  return new Command("repair")
    .description(
      "Finds what is left in damaged metadata, ranks it, and writes new metadata from the best candidate, or the one that is chosen. The input is only read. --dry-run tells what each candidate would keep and lose. Space maps are counted again, so damage in them costs nothing; a metadata snapshot is not carried over.",
    )
    .requiredOption("-i, --input <source>", SOURCE)
    .option("-o, --output <target>", "a new file, or the file or block device to write over")
    .addOption(
      new Option("--candidate <number>", "take this one of those that --dry-run tells")
        .argParser(countOf("candidate", { min: 1 }))
        .default(1),
    )
    .option("--transaction-id <number>", "with this transaction id", countOf("transaction id"))
    .option(
      "--data-block-size <sectors>",
      "with data blocks of this size; needed where no superblock is left",
      parseBlockSectors,
    )
    .option("--nr-data-blocks <number>", "with this many data blocks", countOf("number of data blocks", { min: 1 }))
    .option("--backup <file>", "pack the input into this file beforehand (default: OUTPUT.before.pack beside a file)")
    .option("--no-backup", "make no backup")
    .option("--open <name>", "afterwards open the output as read-only pool NAME on --data, to look at the data")
    .option("--data <dev>", "the pool's data device, for --open")
    .action((flags: RepairFlags) => repair(context, flags));
}

function parseBlockSectors(text: string): number {
  const sectors = countOf("data block size", { min: BLOCK_SECTORS_STEP, max: MAX_BLOCK_SECTORS })(text);
  if (sectors % BLOCK_SECTORS_STEP === 0) return sectors;
  throw new UsageError(`data block size ${text} is no multiple of ${BLOCK_SECTORS_STEP} sectors`, {
    hint: "such as 128 for 64k, or 2048 for 1m; it stands in the pool's table",
  });
}

async function repair(context: Context, flags: RepairFlags): Promise<void> {
  refuseContradictions(context, flags);
  if (flags.open !== undefined) await checkOpening(context, flags.open, flags.data!);
  const { input } = flags;
  const made = await withSource(context, input, {}, async (opened) => {
    const found = await withPace(context, `look through ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      findCandidates(opened.store, { overrides: overridesOf(flags), pace }),
    );
    if (found.candidates.length === 0) {
      throw new DamageError(`${opened.name}: no trees of a thin pool are left in it`, {
        hint: "is this the pool's metadata, and not its data? an older copy may hold more",
      });
    }
    if (context.globals.dryRun) {
      opened.confirmAll();
      tell(context, opened.name, found, undefined);
      return undefined;
    }
    const candidate = found.candidates[flags.candidate - 1];
    if (candidate === undefined) {
      throw new UsageError(`repair: no candidate ${flags.candidate}, there are ${found.candidates.length}`, {
        hint: "--dry-run tells them all",
      });
    }
    if (candidate.devices.length === 0 && !candidate.isWhole) {
      throw new DamageError(`${opened.name}: candidate ${flags.candidate} holds no device any more`, {
        hint: "--dry-run tells what else there is; an older copy of the metadata may hold more",
      });
    }
    const written = await make(context, flags, { opened, found, candidate });
    tell(context, opened.name, found, written);
    return written;
  });
  if (flags.open !== undefined && made !== undefined) await openPool(context, flags, made);
}

function refuseContradictions(context: Context, flags: RepairFlags): void {
  if (flags.output === undefined && !context.globals.dryRun) {
    throw new UsageError("repair: no --output is given", { hint: "--dry-run only looks" });
  }
  if (flags.input === flags.output) {
    throw new UsageError("repair: input and output are the same", {
      hint: "repair to a new file, and keep the old one",
    });
  }
  if (typeof flags.backup === "string" && isStandardOutput(flags.backup)) {
    throw new UsageError("repair: the backup cannot go to standard output", {
      hint: "--backup FILE; or udm metadata pack -o - beforehand, and --no-backup",
    });
  }
  if ((flags.open === undefined) !== (flags.data === undefined)) {
    throw new UsageError("repair: --open and --data go together", { hint: "--open NAME --data DEV" });
  }
}

/** What would fail in the end, after the repair, is better said before. */
async function checkOpening(context: Context, name: string, data: string): Promise<void> {
  const host = await context.host();
  if ((await host.listDevices()).some((device) => device.name === name)) {
    throw new StateError("EEXIST", `repair: there is a device '${name}'`, { hint: "--open takes another name" });
  }
  await host.locateMetadata(data, "data");
}

function overridesOf({ transactionId, dataBlockSize, nrDataBlocks }: RepairFlags) {
  return {
    ...(transactionId === undefined ? {} : { transactionId }),
    ...(dataBlockSize === undefined ? {} : { dataBlockSectors: dataBlockSize }),
    ...(nrDataBlocks === undefined ? {} : { nrDataBlocks }),
  };
}

interface Made extends Repaired {
  readonly target: string;
  readonly backup: string | undefined;
  readonly number: number;
}

interface Choice {
  readonly opened: OpenedMetadata;
  readonly found: FoundCandidates;
  readonly candidate: Candidate;
}

async function make(context: Context, flags: RepairFlags, choice: Choice): Promise<Made> {
  const { opened } = choice;
  const output = flags.output!;
  if (opened.isFile(output)) {
    throw new UsageError("repair: input and output are the same", {
      hint: "repair to a new file, and keep the old one",
    });
  }
  const place = await targetOf(context, output);
  const backup = backupFor(flags, place);
  let isPacked = backup === undefined;
  const write = async (device: BlockDevice): Promise<Repaired> => {
    if (!isPacked) await pack(context, opened, backup!);
    isPacked = true;
    const repaired = await withPace(context, `repair ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      writeAndCheck(device, choice, pace),
    );
    // Candidates come from all over the metadata, and nobody holds what they lead to.
    opened.confirmAll();
    return repaired;
  };
  const repaired =
    place === undefined
      ? await toNewFile(output, opened.device.sizeBytes, write).catch((error: unknown) => {
          // Nothing was written over: what it is a backup of is all there, and the next try makes its own.
          if (isPacked && backup !== undefined) rmSync(backup, { force: true });
          throw error;
        })
      : await toPlace(context, place, write);
  return { ...repaired, target: output, backup, number: flags.candidate };
}

/** As large as the input; larger where damage keeps devices from sharing so much that it would not fit. */
async function toNewFile(
  output: string,
  sizeBytes: number,
  write: (device: BlockDevice) => Promise<Repaired>,
): Promise<Repaired> {
  const { NewDeviceFile } = await import("../../host/index.js");
  try {
    await using file = new NewDeviceFile(resolve(output), sizeBytes);
    const repaired = await write(file.device);
    await file.finish();
    return repaired;
  } catch (error) {
    // Without a cause: it is the metadata that is full, not the file system.
    const isFull = error instanceof SpaceError && error.cause === undefined;
    if (!isFull || sizeBytes >= MAX_METADATA_BYTES) throw error;
  }
  return toNewFile(output, sizeBytes * 2, write);
}

async function toPlace(
  context: Context,
  place: MetadataPlace,
  write: (device: BlockDevice) => Promise<Repaired>,
): Promise<Repaired> {
  const { openPlace } = await import("../../host/index.js");
  const opened = openPlace(place, { write: true, role: "repaired metadata" });
  try {
    const deed = victimOf(opened.device, place.name);
    if (deed !== undefined) await context.confirm(deed);
    return await write(opened.device);
  } finally {
    await opened.close();
  }
}

/** What was written is read again before anybody relies on it. */
async function writeAndCheck(device: BlockDevice, { found, candidate }: Choice, pace: Pace): Promise<Repaired> {
  const repaired = await repairMetadata(device, { forest: found.forest, candidate, pace });
  const { findings } = await checkMetadata(new BlockStore(device), { pace });
  const [first] = findings.filter(({ severity }) => severity !== "note");
  if (first !== undefined) throw new DamageError(`${device.name}: what was written is not clean: ${first.message}`);
  return repaired;
}

function backupFor({ backup, output }: RepairFlags, place: MetadataPlace | undefined): string | undefined {
  if (backup === false) return undefined;
  const isFile = place === undefined || statSync(place.path).isFile();
  if (typeof backup !== "string" && !isFile) {
    throw new UsageError(`repair: ${output} is a device, and no --backup is given`, {
      hint: "--backup FILE packs the input beforehand; --no-backup does without",
    });
  }
  const file = typeof backup === "string" ? backup : `${output}.before.pack`;
  if (existsSync(file)) {
    throw new StateError("EEXIST", `${file}: is there, and may be an earlier backup`, {
      hint: "--backup FILE names another; --no-backup does without",
    });
  }
  return file;
}

async function pack(context: Context, opened: OpenedMetadata, file: string): Promise<void> {
  await withPace(context, `pack ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
    withOutput(context, { file, source: opened }, async (write) => {
      await packMetadata(opened.device, { pace, keep: "metadata", write });
    }),
  );
}

/** Read-only: a look at the data changes neither the output nor the data device. */
async function openPool(context: Context, { open, data, output }: RepairFlags, { head }: Repaired): Promise<void> {
  const host = await context.host();
  const { thinIds } = await host.createPool({
    name: open!,
    source: { kind: "devices", data: data!, metadata: output! },
    blockBytes: head.dataBlockSectors * SECTOR_BYTES,
    features: { readOnly: true },
  });
  context.note(
    `pool '${open}' is open read-only; ids ${thinIds.join(", ")}: udm thin activate ${open}:ID NAME uses one`,
  );
}

function tell(context: Context, name: string, { candidates }: FoundCandidates, made: Made | undefined): void {
  if (context.globals.json) {
    const document: DocumentOf<"repair"> = {
      repair: {
        source: name,
        candidates: candidates.map((candidate, index) => candidateDocument(candidate, index + 1)),
        chosen: made?.number ?? null,
        made:
          made === undefined
            ? null
            : {
                target: made.target,
                backup: made.backup ?? null,
                devices: made.devices,
                mappings: made.mappings,
                metadataBlocks: made.metadataBlocks,
              },
      },
    };
    context.json(document);
    return;
  }
  if (context.globals.quiet) return;
  if (made === undefined) {
    context.lines(candidates.flatMap((candidate, index) => candidateLines(candidate, index + 1)));
    return;
  }
  const chosen = candidates[made.number - 1]!;
  context.lines(candidateLines(chosen, made.number));
  const fuller = candidates.findIndex(({ mappings }) => mappings > chosen.mappings);
  if (fuller >= 0) {
    const { mappings, source } = candidates[fuller]!;
    const age = source === "superblock" || source === "damaged-superblock" ? "" : " of another time";
    context.note(`candidate ${fuller + 1} holds more: ${plural(mappings, "mapping")}${age}; --dry-run tells them all`);
  }
  const size = formatBytes(made.metadataBlocks * METADATA_BLOCK_BYTES);
  if (made.backup !== undefined) context.line(`packed what was there into ${made.backup}`);
  context.line(
    `wrote ${plural(made.devices, "device")}, ${plural(made.mappings, "mapping")}, ${size} of metadata to ${made.target}: clean`,
  );
}
