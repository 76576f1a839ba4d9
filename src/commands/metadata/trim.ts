/** `udm metadata trim`: discards what no device maps on the data device of a pool that nobody uses. */
import { Command, Option } from "commander";
import { StateError } from "../../errors/index.js";
import type { Host, MetadataPlace, OpenedPlace } from "../../host/index.js";
import type { BlockDevice } from "../../io/index.js";
import { BlockStore, FreeData, type Pace } from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { withPace } from "./options.js";
import { refuseMetadataAsData } from "./target.js";

interface TrimFlags {
  readonly metadataDev: string;
  readonly dataDev: string;
  readonly compat?: "thin_trim";
}

interface Discarded {
  readonly runs: number;
  readonly blocks: number;
}

const SECTOR_BYTES = 512;
const METADATA_BLOCK_BYTES = 4096;
/** One discard is at most so long, so that an interrupt is heard. */
const PIECE_BYTES = 2 ** 30;

export function trimCommand(context: Context): Command {
  return new Command("trim")
    .description(
      "Discards all data blocks that no thin device and no metadata snapshot maps, on the data device of a pool that nobody has in use. The metadata is checked first, and all mappings are held against the space map; anything wrong, and nothing is discarded.",
    )
    .requiredOption("--metadata-dev <metadata>", "a pool, or the file or block device that holds its metadata")
    .requiredOption("--data-dev <data>", "the file or block device that holds its data, or the pool again")
    .addOption(new Option("--compat <tool>", "print as that tool does").choices(["thin_trim"]))
    .action((flags: TrimFlags) => trim(context, flags));
}

async function trim(context: Context, flags: TrimFlags): Promise<void> {
  const { metadataDev, dataDev, compat } = flags;
  const host = await context.host();
  const metadata = await host.locateMetadata(metadataDev);
  const data = await locateData(host, dataDev, metadata);
  const { openPlace } = await import("../../host/index.js");
  const dryRun = context.globals.dryRun === true;
  const below = openPlace(metadata, { role: "metadata to trim by" });
  try {
    if (below.isLive) throw inUse(metadata, below.conflict);
    const store = new BlockStore(below.device);
    const free = await withPace(context, `check ${metadata.name}`, METADATA_BLOCK_BYTES, (pace) =>
      FreeData.find(store, pace),
    );
    const target = openPlace(data, { write: !dryRun, role: "data to trim" });
    try {
      await discardFree(context, { free, target, data, isCompat: compat !== undefined });
    } finally {
      await target.close();
    }
  } finally {
    await below.close();
  }
}

interface Work {
  readonly free: FreeData;
  readonly target: OpenedPlace;
  readonly data: MetadataPlace;
  readonly isCompat: boolean;
}

async function discardFree(context: Context, { free, target, data, isCompat }: Work): Promise<void> {
  if (target.isLive) throw inUse(data, target.conflict);
  const blockBytes = free.superblock.dataBlockSectors * SECTOR_BYTES;
  const { device } = target;
  checkData(free, device, blockBytes);
  if (context.globals.dryRun) return plan(context, { free, data, blockBytes });
  if (device.discardGranularityBytes === 0) {
    throw new StateError("EOPNOTSUPP", `${data.name}: discards nothing`, {
      hint: "the device, or the file system of the file, must take discards",
    });
  }
  const freeBytes = free.freeBlocks * blockBytes;
  const all = formatBytes(free.totalBlocks * blockBytes);
  if (free.freeBlocks > 0) await context.confirm(`discard ${formatBytes(freeBytes)} free of ${all} on '${data.name}'`);
  if (isCompat) context.streams.stderr.write("in trim\n");
  const discarded = await withPace(context, `trim ${data.name}`, blockBytes, (pace) =>
    discardAll(context, { free, device, blockBytes, pace, isCompat }),
  );
  await device.flush();
  const { runs, blocks } = discarded;
  const trimmedBytes = blocks * blockBytes;
  if (context.globals.json) {
    const totalBytes = free.totalBlocks * blockBytes;
    const document: DocumentOf<"discarded"> = {
      discarded: { device: data.name, stretches: runs, blocks, discardedBytes: trimmedBytes, totalBytes },
    };
    context.json(document);
  } else if (!isCompat && !context.globals.quiet) {
    const stretches = `${runs} ${runs === 1 ? "stretch" : "stretches"}`;
    context.line(`discarded ${formatBytes(trimmedBytes)} of ${all} on '${data.name}', in ${stretches}`);
  }
}

async function discardAll(
  context: Context,
  work: {
    readonly free: FreeData;
    readonly device: BlockDevice;
    readonly blockBytes: number;
    readonly pace: Pace;
    readonly isCompat: boolean;
  },
): Promise<Discarded> {
  const { free, device, blockBytes, pace, isCompat } = work;
  const { verbose } = context.globals;
  let runs = 0;
  let blocks = 0;
  pace.total = free.freeBlocks;
  await free.each(pace, async ({ begin, end }) => {
    // thin_trim 0.9 writes the brackets so, and means [begin, end).
    if (isCompat) context.streams.stderr.write(`emitting discard for blocks (${begin}, ${end}]\n`);
    else if (verbose) context.streams.stderr.write(`udm: discard blocks ${begin} to ${end - 1}\n`);
    const last = end * blockBytes;
    for (let at = begin * blockBytes; at < last; at += PIECE_BYTES) {
      pace.check();
      await device.discard(at, Math.min(PIECE_BYTES, last - at));
      await pace.rest(Math.floor(at / blockBytes));
    }
    runs++;
    blocks += end - begin;
  });
  return { runs, blocks };
}

/** The commands that would do the same. */
async function plan(
  context: Context,
  { free, data, blockBytes }: { readonly free: FreeData; readonly data: MetadataPlace; readonly blockBytes: number },
): Promise<void> {
  const isBlock = (await import("node:fs")).statSync(data.path).isBlockDevice();
  const program = isBlock ? "blkdiscard" : "fallocate --punch-hole";
  const lines: string[] = [];
  await withPace(context, `plan ${data.name}`, blockBytes, (pace) =>
    free.each(pace, ({ begin, end }) => {
      const range = `--offset ${data.offsetBytes + begin * blockBytes} --length ${(end - begin) * blockBytes}`;
      lines.push(`${program} ${range} ${data.path}`);
      if (context.globals.json || lines.length < 1000) return;
      context.lines(lines.splice(0));
    }),
  );
  if (context.globals.json) context.json({ plan: lines });
  else context.lines(lines);
}

/** @throws UsageError, StateError when it cannot be the data of that pool */
async function locateData(host: Host, dataDev: string, metadata: MetadataPlace): Promise<MetadataPlace> {
  const { isSamePlace } = await import("../../host/index.js");
  const data = await host.locateMetadata(dataDev, "data");
  await refuseMetadataAsData(data, metadata);
  for (const pool of new Set([metadata.pool, data.pool])) {
    if (pool === undefined) continue;
    const [itsMetadata, itsData] = [await host.locateMetadata(pool), await host.locateMetadata(pool, "data")];
    if (isSamePlace(itsMetadata.path, metadata.path) && isSamePlace(itsData.path, data.path)) continue;
    throw new StateError("EINVAL", `${metadata.name} and ${data.name} are not the metadata and data of one pool`, {
      hint: `pool '${pool}' has metadata on ${itsMetadata.path} and data on ${itsData.path}`,
    });
  }
  return data;
}

function checkData(free: FreeData, device: BlockDevice, blockBytes: number): void {
  const wanted = free.totalBlocks * blockBytes;
  if (device.sizeBytes >= wanted) return;
  throw new StateError("EINVAL", `${device.name}: ${device.sizeBytes} bytes, the pool's data has ${wanted}`, {
    hint: "this is not the data device of that pool",
  });
}

function inUse({ name, pool }: MetadataPlace, conflict: unknown): StateError {
  const reason = (conflict instanceof Error ? conflict.message : String(conflict)).replace(/^.*?: /, "");
  const what = pool === undefined ? name : `${name} (pool '${pool}')`;
  return new StateError("EBUSY", `${what}: ${reason}`, {
    hint: "only a pool that nobody uses is trimmed; in use, fstrim in its file systems gives blocks back",
    cause: conflict,
  });
}
