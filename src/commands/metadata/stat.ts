/** `udm metadata stat`: figures of trees, sharing, reference counts and runs. */
import { Command } from "commander";
import {
  adviseMetadataSize,
  type Census,
  type CountHistogram,
  type MetadataStat,
  statMetadata,
} from "../../thin/index.js";
import { renderTable } from "../../ui/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { addSourceOptions, SOURCE, type SourceFlags, withPace, withSource } from "./options.js";

const METADATA_BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
/** Devices that the advice on the size counts with at least, as udm metadata size does. */
const DEFAULT_MAX_THINS = 1000;

export function statCommand(context: Context): Command {
  const command = new Command("stat")
    .description(
      "Prints figures of a pool's metadata: how large, deep and full its trees are, how often blocks are shared, how long the runs of mappings are. What is damaged is counted, and the rest is told; without a superblock, what kinds of blocks there are.",
    )
    .argument("<source>", SOURCE);
  return addSourceOptions(command).action((from: string, flags: SourceFlags) => stat(context, from, flags));
}

async function stat(context: Context, from: string, flags: SourceFlags): Promise<void> {
  await withSource(context, from, flags, async (opened) => {
    const found = await withPace(context, `stat ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      statMetadata(opened.store, { superblock: opened.superblock, pace }),
    );
    if (isDamaged(found)) context.note(`${opened.name}: something is damaged; udm metadata check tells all of it`);
    if (context.globals.json) context.json(documentOf(found));
    else context.lines(await textOf(context, found));
  });
}

function isDamaged({ problem, trees, data, metadata }: MetadataStat): boolean {
  const isUnknown = (counts: CountHistogram | undefined) => counts !== undefined && counts.unknown > 0;
  return problem !== undefined || trees.some(({ damaged }) => damaged > 0) || isUnknown(data) || isUnknown(metadata);
}

async function textOf(context: Context, found: MetadataStat): Promise<readonly string[]> {
  const { superblock, problem, devices, trees, data, metadata, census } = found;
  if (superblock === undefined || problem !== undefined) {
    return [`superblock: damaged (${problem})`, ...(census === undefined ? [] : censusLines(census))];
  }
  const blockBytes = superblock.dataBlockSectors * SECTOR_BYTES;
  const { time, transactionId, heldRoot } = superblock;
  const held = heldRoot === 0 ? "" : `, metadata snapshot in block ${heldRoot}`;
  const lines = [`transaction ${transactionId}, time ${time}, data blocks of ${formatBytes(blockBytes)}${held}`];
  if (metadata !== undefined) lines.push(usageLine("metadata", metadata, METADATA_BLOCK_BYTES));
  if (data !== undefined) lines.push(usageLine("data", data, blockBytes), advice(found, data, blockBytes));
  lines.push(`${devices} ${devices === 1 ? "device" : "devices"}`, "", ...(await treeTable(context, trees)));
  for (const [name, counts] of [
    ["data", data],
    ["metadata", metadata],
  ] as const) {
    if (counts === undefined) continue;
    lines.push("", `${name} blocks by reference count, ${ratio(counts.references, counts.used)} on average:`);
    lines.push(...(await countTable(context, counts)));
  }
  lines.push("", ...(await runTable(context, found)));
  return lines;
}

const LEAF_NAMES: ReadonlyMap<number, string> = new Map([
  [4, "of reference counts"],
  [8, "of mappings, or of the tree of devices"],
  [16, "of the data space map's index"],
  [24, "of device details"],
]);

function censusLines(census: Census): readonly string[] {
  const { superblocks, internals, leaves, bitmaps, indexes, others } = census;
  return [
    `${superblocks} superblocks and copies of them`,
    `${internals} internal nodes`,
    ...leaves.map(({ valueBytes, blocks }) => {
      return `${blocks} leaves ${LEAF_NAMES.get(valueBytes) ?? `with values of ${valueBytes} bytes`}`;
    }),
    `${bitmaps} bitmaps`,
    `${indexes} index blocks of metadata space maps`,
    `${others} blocks that are empty or something else`,
  ];
}

function usageLine(name: string, { used, blocks, unknown }: CountHistogram, blockBytes: number): string {
  const sizes = `${formatBytes(used * blockBytes)} of ${formatBytes(blocks * blockBytes)}`;
  const lost = unknown === 0 ? "" : `, ${unknown} unknown`;
  return `${name}: ${used} of ${blocks} blocks used${lost}, ${sizes} (${percent(used, blocks)})`;
}

function advice({ devices, metadataBlocks }: MetadataStat, data: CountHistogram, blockBytes: number): string {
  const maxThins = Math.max(devices, DEFAULT_MAX_THINS);
  const { bytes } = adviseMetadataSize({ blockBytes, poolBytes: data.blocks * blockBytes, maxThins });
  const has = metadataBlocks * METADATA_BLOCK_BYTES;
  return `metadata advised for all of the data and ${maxThins} devices: ${formatBytes(bytes)}, it has ${formatBytes(has)}`;
}

async function treeTable(context: Context, trees: MetadataStat["trees"]): Promise<readonly string[]> {
  const right = (heading: string) => ({ heading, align: "right" as const });
  const headings = ["TREES", "INTERNAL", "LEAVES", "DEPTH", "ENTRIES", "FILL", "SHARED", "DAMAGED"];
  return renderTable(
    [{ heading: "TREE", align: "left" }, ...headings.map(right)],
    trees.map(({ name, roots, internals, leaves, depth, entries, capacity, shared, damaged }) => [
      name,
      ...[roots, internals, leaves, depth, entries].map(String),
      percent(entries, capacity),
      String(shared),
      String(damaged),
    ]),
    { headings: context.globals.headings },
  );
}

async function countTable(context: Context, { counts, used }: CountHistogram): Promise<readonly string[]> {
  const right = (heading: string) => ({ heading, align: "right" as const });
  return renderTable(
    ["COUNT", "BLOCKS", "SHARE"].map(right),
    counts.map(({ count, blocks }) => [String(count), String(blocks), percent(blocks, used)]),
    { headings: context.globals.headings },
  );
}

async function runTable(context: Context, { runs }: MetadataStat): Promise<readonly string[]> {
  const right = (heading: string) => ({ heading, align: "right" as const });
  const average = ratio(runs.mappings, runs.runs);
  const title = `${runs.mappings} mappings in ${runs.runs} runs of ${average} on average, the longest of ${runs.longest}:`;
  const table = await renderTable(
    ["LENGTH", "RUNS", "MAPPINGS", "SHARE"].map(right),
    runs.lengths.map(({ from, to, runs: nr, mappings }) => [
      to - from === 1 ? String(from) : `${from}-${to - 1}`,
      String(nr),
      String(mappings),
      percent(mappings, runs.mappings),
    ]),
    { headings: context.globals.headings },
  );
  return runs.runs === 0 ? ["no mappings"] : [title, ...table];
}

function percent(part: number, whole: number): string {
  return whole === 0 ? "-" : `${((part / whole) * 100).toFixed(1)}%`;
}

function ratio(part: number, whole: number): string {
  return whole === 0 ? "0.00" : (part / whole).toFixed(2);
}

function documentOf(found: MetadataStat): DocumentOf<"stat"> {
  const { superblock, problem, metadataBlocks, devices, trees, data, metadata, runs, census } = found;
  const isReadable = superblock !== undefined && problem === undefined;
  return {
    stat: {
      superblock: isReadable ? null : String(problem),
      ...(isReadable
        ? {
            transactionId: superblock.transactionId,
            time: superblock.time,
            heldRoot: superblock.heldRoot,
            dataBlockSectors: superblock.dataBlockSectors,
          }
        : {}),
      metadataBlocks,
      devices,
      trees,
      ...(data === undefined ? {} : { data }),
      ...(metadata === undefined ? {} : { metadata }),
      runs,
      ...(census === undefined ? {} : { census }),
      damaged: isDamaged(found),
    },
  };
}
