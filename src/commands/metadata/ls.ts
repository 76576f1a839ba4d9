/** `udm metadata ls`: the thin devices that the metadata knows, with the columns of thin_ls. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import { type ListedDevice, type Listing, listMetadata } from "../../thin/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { addSourceOptions, SOURCE, type SourceFlags, withPace, withSource } from "./options.js";

interface LsFlags extends SourceFlags {
  readonly format?: string;
  readonly headers: boolean;
}

const SECTOR_BYTES = 512;
const METADATA_BLOCK_BYTES = 4096;
const USUAL = ["DEV", "MAPPED", "CREATE_TIME", "SNAP_TIME"];

type Value = (device: ListedDevice, blockSectors: number) => string;

const exclusiveOf = (device: ListedDevice) => device.exclusiveBlocks ?? 0;
const sharedOf = (device: ListedDevice) => device.mappedBlocks - exclusiveOf(device);
const mappedOf = (device: ListedDevice) => device.mappedBlocks;

function forms(name: string, count: (device: ListedDevice) => number): readonly (readonly [string, Value])[] {
  return [
    [`${name}_BLOCKS`, (device) => String(count(device))],
    [`${name}_SECTORS`, (device, sectors) => String(count(device) * sectors)],
    [`${name}_BYTES`, (device, sectors) => String(count(device) * sectors * SECTOR_BYTES)],
    [name, (device, sectors) => readable(count(device) * sectors)],
  ];
}

const FIELDS: ReadonlyMap<string, Value> = new Map<string, Value>([
  ["DEV", (device) => String(device.id)],
  ...forms("MAPPED", mappedOf),
  ...forms("EXCLUSIVE", exclusiveOf),
  ...forms("SHARED", sharedOf),
  ["TRANSACTION", (device) => String(device.transactionId)],
  ["CREATE_TIME", (device) => String(device.creationTime)],
  ["SNAP_TIME", (device) => String(device.snapshottedTime)],
]);

export function lsCommand(context: Context): Command {
  const command = new Command("ls")
    .description("Lists the thin devices of a pool's metadata, in the form of thin_ls.")
    .argument("<source>", SOURCE)
    .addOption(new Option("-o, --format <fields>", `comma-separated: ${[...FIELDS.keys()].join(" ")}`))
    .option("--no-headers", "leave the line of headings out");
  return addSourceOptions(command).action((from: string, flags: LsFlags) => list(context, from, flags));
}

async function list(context: Context, from: string, flags: LsFlags): Promise<void> {
  const fields = (flags.format ?? context.globals.output)?.split(",") ?? USUAL;
  for (const field of fields) {
    if (!FIELDS.has(field)) {
      throw new UsageError(`metadata ls: field '${field}' is unknown`, {
        hint: `one of ${[...FIELDS.keys()].join(" ")}`,
      });
    }
  }
  const exclusive = context.globals.json || fields.some((field) => /^(EXCLUSIVE|SHARED)/.test(field));
  await withSource(context, from, flags, async (opened) => {
    const listing = await withPace(context, `ls ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      listMetadata(opened.store, { superblock: opened.superblock, exclusive, pace }),
    );
    print(context, listing, { fields, hasHeadings: flags.headers && context.globals.headings });
  });
}

function print(
  context: Context,
  { devices, dataBlockSectors }: Listing,
  { fields, hasHeadings }: { readonly fields: readonly string[]; readonly hasHeadings: boolean },
): void {
  if (context.globals.json) {
    const blockBytes = dataBlockSectors * SECTOR_BYTES;
    context.json({
      metadataDevices: devices.map((device) => ({
        id: device.id,
        mappedBytes: device.mappedBlocks * blockBytes,
        exclusiveBytes: exclusiveOf(device) * blockBytes,
        sharedBytes: sharedOf(device) * blockBytes,
        transactionId: device.transactionId,
        creationTime: device.creationTime,
        snapshottedTime: device.snapshottedTime,
      })),
    } satisfies DocumentOf<"metadataDevices">);
    return;
  }
  const rows = devices.map((device) => fields.map((field) => FIELDS.get(field)!(device, dataBlockSectors)));
  const all = hasHeadings ? [fields, ...rows] : rows;
  const widths = fields.map((_, index) => Math.max(0, ...all.map((row) => row[index]!.length)));
  // To the right, with a blank behind each: to the byte what thin_ls prints.
  context.lines(all.map((row) => row.map((cell, index) => `${cell.padStart(widths[index]!)} `).join("")));
}

/** Whole numbers below 8192 of the smallest unit that gives one: as thin_ls has it. */
function readable(sectors: number): string {
  if (sectors === 0) return "0";
  let value = sectors * SECTOR_BYTES;
  const names = ["", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (value >= 8192 && unit < names.length - 1) {
    value = Math.floor(value / 1024);
    unit++;
  }
  return `${value}${names[unit]}`;
}
