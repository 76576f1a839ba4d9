/**
 * Around the shrinking of a pool: where its two devices lie, the table of a pool that has a name, and the file that may be
 * cut afterwards. The work itself is done by whoever asked, in its own process, as that of all tools for metadata.
 *
 * In this order: the metadata ends sooner, then the table, then the file. Cut off in between, the pool opens: with the old
 * table it grows back, with the new one there is more below it than it needs.
 */
import { statSync } from "node:fs";
import { formatTable } from "../device-registry/index.js";
import { StateError } from "../errors/index.js";
import { setFileSize } from "../io/index.js";
import type { TargetLine } from "../targets/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { Core } from "./core.js";
import type { Host, MetadataPlace, PoolShortening } from "./host.js";
import { dmsetupReload, quoted } from "./plan-text.js";
import { getPool } from "./thin-records.js";

export interface ShrinkPlaces {
  readonly metadata: MetadataPlace;
  readonly data: MetadataPlace;
  /** Name of the pool where udm knows it. */
  readonly pool: string | undefined;
}

/** @param from a pool, or its metadata and data devices @throws StateError ENOENT, EINVAL when they do not belong together */
export async function locateForShrink(
  host: Host,
  from: string | { readonly metadata: string; readonly data: string },
): Promise<ShrinkPlaces> {
  const [ofMetadata, ofData] = typeof from === "string" ? [from, from] : [from.metadata, from.data];
  const metadata = await host.locateMetadata(ofMetadata);
  const data = await host.locateMetadata(ofData, "data");
  if (typeof from === "string" && metadata.pool === undefined) {
    throw new StateError("EINVAL", `${from}: not a pool`, { hint: "or give --metadata-dev and --data-dev" });
  }
  if (metadata.pool !== data.pool) {
    const tell = ({ name, pool }: MetadataPlace) => `${name} (${pool === undefined ? "of no pool" : `pool '${pool}'`})`;
    throw new StateError("EINVAL", `${tell(metadata)} and ${tell(data)} are not the devices of one pool`, {
      hint: "name the pool alone",
    });
  }
  return { metadata, data, pool: metadata.pool };
}

/** The table of a pool, and what it becomes. */
export interface TableCut {
  readonly pool: string;
  readonly line: TargetLine;
  /** The table has that length already. */
  readonly isDone: boolean;
}

/** @throws StateError EBUSY when a table waits to be taken up */
export async function planTableCut(host: Host, pool: string, lengthSectors: number): Promise<TableCut> {
  if ((await host.showTables({ name: pool, inactive: true })).length > 0) throw tableWaits(pool);
  const [text] = await host.showTables({ name: pool });
  if (text === undefined) throw new StateError("ENODATA", `pool '${pool}' has no table`, { hint: "load one first" });
  const { startSectors, type } = text;
  const args = text.params.split(" ").filter((word) => word !== "");
  return {
    pool,
    line: { startSectors, lengthSectors, type, args },
    isDone: text.lengthSectors === lengthSectors,
  };
}

function tableWaits(pool: string): StateError {
  return new StateError("EBUSY", `pool '${pool}' has a table that waits to be taken up`, {
    hint: `udm table resume ${pool} takes it up, udm table clear ${pool} drops it`,
  });
}

/**
 * The records of a pool whose metadata has just been shrunk: its table, and the loop device its data lies on. The file is
 * cut last; one that is longer than its loop device says does no harm.
 */
export function shortenPool(core: Core, name: string, change: PoolShortening): Promise<void> {
  return core.change(`pool shrink ${name}`, async (session) => {
    const record = getPool(session, name);
    const line = record.live?.[0];
    if (record.inactive !== undefined || line === undefined) throw tableWaits(record.name);
    if (session.registry.openPools().some((open) => open.record.minor === record.minor)) {
      throw new StateError("EBUSY", `pool '${record.name}' was opened meanwhile and has its old size again`, {
        hint: "the same command does what is left to do",
      });
    }
    const lengthSectors = change.dataBytes / SECTOR_BYTES;
    if (lengthSectors > line.lengthSectors) {
      throw new StateError("EINVAL", `pool '${record.name}' has ${line.lengthSectors} sectors, not ${lengthSectors}`, {
        hint: "somebody loaded another table meanwhile; the same command does what is left to do",
      });
    }
    await session.registry.replaceLive(record.name, [{ ...line, lengthSectors }]);
    const loop = session.low.loop(line.args[1]!);
    if (!change.cutsFile || loop === undefined) return;
    const { offsetBytes, sizeLimitBytes, sizeBytes } = loop;
    const shorter = {
      ...loop,
      sizeBytes: Math.min(sizeBytes, change.dataBytes),
      sizeLimitBytes: Math.min(sizeLimitBytes, change.dataBytes),
    };
    session.setLoops(session.loops.map((each) => (each === loop ? shorter : each)));
    await session.save();
    session.step("written down");
    setFileSize(loop.file, offsetBytes + change.dataBytes);
  });
}

/** A file behind the data of a pool, and where it is to end. */
export interface FileCut {
  readonly file: string;
  readonly fromBytes: number;
  readonly toBytes: number;
  /** The loop device of udm's that shows it. */
  readonly loop: string | undefined;
}

/**
 * @param usedBytes of the data device that are the pool's afterwards
 * @returns undefined when the file ends there already
 * @throws StateError EINVAL for a block device, EBUSY when somebody else's bytes lie behind
 */
export async function planFileCut(host: Host, places: ShrinkPlaces, usedBytes: number): Promise<FileCut | undefined> {
  const { path, offsetBytes, name } = places.data;
  const stat = statSync(path);
  if (!stat.isFile()) {
    throw new StateError("EINVAL", `${name}: ${path} is a block device, which is not cut from here`, {
      hint: "leave --truncate out, and make it smaller afterwards with what made it",
    });
  }
  const toBytes = offsetBytes + usedBytes;
  const loops = (await host.listLoops()).filter(({ file }) => file === path);
  const own = places.pool === undefined ? undefined : loops.find((loop) => loop.offsetBytes === offsetBytes);
  const other = loops.find((loop) => loop !== own && loop.offsetBytes + loop.sizeBytes > toBytes);
  if (other !== undefined) {
    throw new StateError("EBUSY", `${path}: loop device ${other.dev} shows bytes behind the new end`, {
      hint: "leave --truncate out, or detach it first: udm loop detach",
    });
  }
  if (stat.size <= toBytes && (own === undefined || own.sizeBytes <= usedBytes)) return undefined;
  return { file: path, fromBytes: stat.size, toBytes, loop: own?.dev };
}

/** Behind the metadata, while nobody else can open the pool. */
export async function shorten(host: Host, table: TableCut | undefined, file: FileCut | undefined): Promise<void> {
  if (table !== undefined && (!table.isDone || file !== undefined)) {
    const dataBytes = table.line.lengthSectors * SECTOR_BYTES;
    await host.shortenPool(table.pool, { dataBytes, cutsFile: file !== undefined });
  } else if (file !== undefined) setFileSize(file.file, file.toBytes);
}

/** In the commands of the classic tools. */
export function planLines(table: TableCut | undefined, file: FileCut | undefined): readonly string[] {
  const lines: string[] = [];
  if (table !== undefined && !table.isDone) lines.push(...dmsetupReload(table.pool, formatTable([table.line])));
  if (file !== undefined) lines.push(`truncate -s ${file.toBytes} ${quoted(file.file)}`);
  if (file?.loop !== undefined) lines.push(`losetup --set-capacity /dev/loop${file.loop.split(":")[1]}`);
  return lines;
}

export function sectorsOf(blocks: number, blockBytes: number): number {
  return (blocks * blockBytes) / SECTOR_BYTES;
}
