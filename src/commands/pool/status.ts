/** `udm pool status`: a row a pool; for one pool all there is to know, in the words of `docker info`. */
import { statfs } from "node:fs/promises";
import { Command } from "commander";
import { UsageError } from "../../errors/index.js";
import type { PoolInfo } from "../../host/index.js";
import { formatDecimalSize } from "../../ui/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import { printReport } from "../report.js";
import { featureWords, METADATA_BLOCK_BYTES, POOL_COLUMNS, poolSpace } from "./columns.js";
import { eachPool } from "./each-pool.js";

/** Docker's default share of the data blocks below which it refuses to make devices. */
const MIN_FREE_PERCENT = 10;

export function statusCommand(context: Context): Command {
  return new Command("status")
    .description("Shows pools, one a line; one pool by name in full.")
    .argument("[name...]", "pools; all of them without a name")
    .option("--raw", "the status line of dmsetup status")
    .action(async (names: readonly string[], options: { readonly raw?: boolean }) => {
      const host = await context.host();
      const read = async (name: string) => [await host.poolStatus(name)];
      const { rows: pools, failures } =
        names.length === 0
          ? await eachPool(host, read)
          : { rows: (await Promise.all(names.map(read))).flat(), failures: [] };
      const { globals } = context;
      if (options.raw === true) {
        if (globals.json)
          throw new UsageError("pool status: --raw and --json exclude each other", { hint: "pick one" });
        if (globals.output !== undefined || globals.sort !== undefined) {
          throw new UsageError("pool status: --raw has no columns", { hint: "leave --output and --sort out" });
        }
        const isPrefixed = names.length !== 1;
        context.lines(pools.map((pool) => (isPrefixed ? `${pool.name}: ${pool.raw}` : pool.raw)));
        context.failAfter(failures);
        return;
      }
      const [pool] = pools;
      const isLong = names.length === 1 && globals.output === undefined && globals.sort === undefined && !globals.json;
      if (isLong && pool !== undefined) context.lines(await longForm(context, pool));
      else await printReport(context, { noun: "pools", columns: POOL_COLUMNS, rows: pools });
      context.failAfter(failures);
    });
}

async function longForm(context: Context, pool: PoolInfo): Promise<readonly string[]> {
  const { units } = context.globals;
  const size = (bytes: number) => (units === undefined ? formatDecimalSize(bytes) : formatBytes(bytes, units));
  const { status } = pool;
  const space = poolSpace(pool);
  const minFree = Math.floor((status.totalDataBlocks * MIN_FREE_PERCENT) / 100) * space.blockBytes;
  const lines: [string, string | undefined][] = [
    ["Pool Name", pool.name],
    ["Pool State", pool.state],
    ["Pool Mode", status.mode],
    ["Pool Blocksize", size(space.blockBytes)],
    ["Data file", pool.dataDevice],
    ["Metadata file", pool.metadataDevice],
    ["Data loop file", pool.dataFile],
    ["Metadata loop file", pool.metadataFile],
    ["Data Space Used", size(space.dataUsed)],
    ["Data Space Total", size(space.dataTotal)],
    ["Data Space Available", size(await available(space.dataTotal - space.dataUsed, pool.dataFile))],
    ["Metadata Space Used", size(space.metadataUsed)],
    ["Metadata Space Total", size(space.metadataTotal)],
    ["Metadata Space Available", size(await available(space.metadataTotal - space.metadataUsed, pool.metadataFile))],
    ["Metadata Space Allocated", size(status.allocatedMetadataBlocks * METADATA_BLOCK_BYTES)],
    ["Thin Pool Minimum Free Space", size(minFree)],
    ["Low Water Mark", size(status.lowWaterBlocks * space.blockBytes)],
    ["Thin Devices", `${pool.thinCount} (${pool.activeCount} active)`],
    ["Transaction Id", String(status.transactionId)],
    ["Metadata Snapshot", status.heldRoot === undefined ? "none" : `block ${status.heldRoot}`],
    ["Features", featureWords(pool).join(" ") || "none"],
    ["When Full", status.errorIfNoSpace ? "writes fail" : "writes wait"],
    ["Needs Check", String(status.needsCheck)],
  ];
  return lines.filter(([, value]) => value !== undefined).map(([label, value]) => `${label}: ${value}`);
}

/** What the file system below can still give bounds a sparse file. */
async function available(freeBytes: number, file: string | undefined): Promise<number> {
  if (file === undefined) return freeBytes;
  try {
    const { bfree, bsize } = await statfs(file);
    return Math.min(freeBytes, bfree * bsize);
  } catch {
    // The file may be out of reach for us; then only the pool's own figure is known.
    return freeBytes;
  }
}
