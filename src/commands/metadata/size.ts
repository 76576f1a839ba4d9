/** `udm metadata size`: how large metadata has to be, as thin_metadata_size has it, or whether that of a pool will do. */
import { Command, Option } from "commander";
import { DamageError, UsageError } from "../../errors/index.js";
import type { Host } from "../../host/index.js";
import { adviseMetadataSize, soundSuperblock } from "../../thin/index.js";
import { formatBytes, parseSize, type Unit } from "../../units/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";

interface SizeFlags {
  readonly blockSize?: number;
  readonly poolSize?: number;
  readonly maxThins?: number;
  readonly unit: string;
  readonly numericOnly?: true | string;
}

const SECTOR_BYTES = 512;
const METADATA_BLOCK_BYTES = 4096;
const DEFAULT_MAX_THINS = 1000;

/** Letters of thin_metadata_size: names for sizes, and how many bytes each is. */
export const SIZE_UNITS: Readonly<Record<string, { readonly long: string; readonly bytes: number }>> = {
  b: { long: "bytes", bytes: 1 },
  s: { long: "sectors", bytes: SECTOR_BYTES },
  k: { long: "kibibytes", bytes: 2 ** 10 },
  m: { long: "mebibytes", bytes: 2 ** 20 },
  g: { long: "gibibytes", bytes: 2 ** 30 },
  t: { long: "tebibytes", bytes: 2 ** 40 },
  p: { long: "pebibytes", bytes: 2 ** 50 },
  e: { long: "exbibytes", bytes: 2 ** 60 },
  z: { long: "zebibytes", bytes: 2 ** 70 },
  y: { long: "yobibytes", bytes: 2 ** 80 },
  K: { long: "kilobytes", bytes: 1e3 },
  M: { long: "megabytes", bytes: 1e6 },
  G: { long: "gigabytes", bytes: 1e9 },
  T: { long: "terabytes", bytes: 1e12 },
  P: { long: "petabytes", bytes: 1e15 },
  E: { long: "exabytes", bytes: 1e18 },
  Z: { long: "zettabytes", bytes: 1e21 },
  Y: { long: "yottabytes", bytes: 1e24 },
};

export function sizeCommand(context: Context): Command {
  return new Command("size")
    .description(
      "Tells how large the metadata of a pool has to be for its data and its thin devices. Of a pool that there is: whether it will do.",
    )
    .argument("[source]", "a pool, or the file or block device of its metadata: its sizes are taken")
    .addOption(new Option("-b, --block-size <size>", "size of a data block").argParser(sizeWord("block size")))
    .addOption(new Option("-s, --pool-size <size>", "size of the data device").argParser(sizeWord("pool size")))
    .addOption(
      new Option(
        "-m, --max-thins <number>",
        `thin devices and snapshots in all (of a pool: ${DEFAULT_MAX_THINS})`,
      ).argParser(countOf("max thins", { min: 1 })),
    )
    .addOption(new Option("-u, --unit <unit>", "of the answer").choices(Object.keys(SIZE_UNITS)).default("s"))
    .option("-n, --numeric-only [name]", "the number alone, or with the unit's `short` or `long` name")
    .action((source: string | undefined, flags: SizeFlags) =>
      source === undefined ? advise(context, flags) : judge(context, source, flags),
    );
}

/** A number alone is sectors, as thin_metadata_size has it. */
function sizeWord(what: string): (text: string) => number {
  return (text) => {
    const bytes = /^\d+$/.test(text) ? Number(text) * SECTOR_BYTES : parseSize(text, what);
    if (bytes > 0 && Number.isSafeInteger(bytes)) return bytes;
    throw new UsageError(`${what} '${text}' is out of range`, { hint: "such as 64k or 10t" });
  };
}

function advise(context: Context, flags: SizeFlags): void {
  const { blockSize, poolSize, maxThins } = flags;
  if (blockSize === undefined || poolSize === undefined || maxThins === undefined) {
    throw new UsageError("metadata size: block size, pool size and number of thin devices are needed", {
      hint: "udm metadata size -b 64k -s 1t -m 1000, or udm metadata size SOURCE",
    });
  }
  if (poolSize <= blockSize) {
    throw new UsageError("metadata size: the pool is not larger than a block", { hint: "such as -b 64k -s 1t" });
  }
  const advice = adviseMetadataSize({ blockBytes: blockSize, poolBytes: poolSize, maxThins });
  if (context.globals.json) return context.json({ metadataSize: advice } satisfies DocumentOf<"metadataSize">);
  const { long, bytes } = SIZE_UNITS[flags.unit]!;
  const number = inUnit(advice.bytes, bytes);
  if (advice.isAboveLimit) context.note("the format uses at most 15.88 GiB of metadata; larger blocks need less");
  if (flags.numericOnly !== undefined) {
    const name = flags.numericOnly === "long" ? long : flags.numericOnly === "short" ? flags.unit : "";
    return context.line(`${number}${name}`);
  }
  context.line(`${number}${flags.unit === "s" ? " sectors" : ` ${long}`}`);
}

/** Whole where it is, else with two places, which below a hundredth are those of 4.97e-03. */
function inUnit(bytes: number, unitBytes: number): string {
  const value = bytes / unitBytes;
  if (Number.isInteger(value)) return String(value);
  if (value >= 0.01) return value.toFixed(2);
  return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
}

/** Sizes of a pool that there is. */
interface Present {
  readonly title: string;
  readonly blockBytes: number;
  readonly poolBytes: number;
  readonly metadataBytes: number;
  readonly thinCount: number;
  /** To make it larger; undefined where udm does not know the pool. */
  readonly growing: string | undefined;
}

async function judge(context: Context, name: string, flags: SizeFlags): Promise<void> {
  const host = await context.host();
  const isPool = (await host.listPools()).some((pool) => pool.name === name);
  const present = isPool ? await sizesOfPool(host, name) : await sizesOnDisk(host, name);
  const maxThins = flags.maxThins ?? Math.max(DEFAULT_MAX_THINS, present.thinCount);
  const poolBytes = flags.poolSize ?? present.poolBytes;
  const advice = adviseMetadataSize({ blockBytes: present.blockBytes, poolBytes, maxThins });
  const hasBytes = present.metadataBytes;
  const isEnough = hasBytes >= advice.bytes;
  if (context.globals.json) {
    context.json({
      metadataSize: { ...advice, hasBytes, isEnough, maxThins, poolBytes },
    } satisfies DocumentOf<"metadataSize">);
    return;
  }
  const unit: Unit = context.globals.units ?? "h";
  const text = (bytes: number) => formatBytes(bytes, unit);
  context.line(
    `${present.title}: metadata of ${text(hasBytes)}, ${text(advice.bytes)} advised for ${text(poolBytes)} of data`,
  );
  context.line(`and ${maxThins} thin devices: ${isEnough ? "enough" : "too small when the pool fills up"}`);
  if (!isEnough && present.growing !== undefined) {
    context.line(`  ${present.growing} --metadata-size ${Math.ceil(advice.bytes / 2 ** 20)}m`);
  }
}

async function sizesOfPool(host: Host, name: string): Promise<Present> {
  const { status, thinCount } = await host.poolStatus(name);
  const blockBytes = status.dataBlockSectors * SECTOR_BYTES;
  return {
    title: `pool '${name}'`,
    blockBytes,
    poolBytes: status.totalDataBlocks * blockBytes,
    metadataBytes: status.totalMetadataBlocks * METADATA_BLOCK_BYTES,
    thinCount,
    growing: `udm pool resize ${name}`,
  };
}

/** From the superblock alone, which is one block: whoever has it in use is not in the way. */
async function sizesOnDisk(host: Host, name: string): Promise<Present> {
  const { openMetadata } = await import("../../host/index.js");
  const place = await host.locateMetadata(name);
  await using opened = await openMetadata(place, { forceReadOnly: true });
  const { dataBlockSectors, dataMap, metadataMap } = soundSuperblock(opened.store, opened.superblock);
  const blockBytes = dataBlockSectors * SECTOR_BYTES;
  if (!Number.isSafeInteger(dataMap.nrBlocks * blockBytes)) {
    throw new DamageError(`${name}: the superblock's number of data blocks cannot be`, {
      hint: "udm metadata check tells all that is damaged",
    });
  }
  return {
    title: name,
    blockBytes,
    poolBytes: dataMap.nrBlocks * blockBytes,
    metadataBytes: metadataMap.nrBlocks * METADATA_BLOCK_BYTES,
    thinCount: 0,
    growing: place.pool === undefined ? undefined : `udm pool resize ${place.pool}`,
  };
}
