/** The dashboard as plain values, and as lines of a given width. */
import { messageOf, UdmError } from "../errors/index.js";
import type { DeviceState, PoolInfo } from "../host/index.js";
import { type Palette, percentOf } from "../ui/index.js";
import { formatBytes, type Unit } from "../units/index.js";
import { quoted } from "./change.js";
import { METADATA_BLOCK_BYTES, poolSpace } from "./pool/columns.js";

export interface Attention {
  readonly subject: string;
  readonly message: string;
  readonly command?: string;
}

export interface Fill {
  readonly usedBytes: number;
  readonly totalBytes: number;
  readonly percent: number;
  /** Free bytes below which the pool calls for more. */
  readonly lowWaterBytes: number;
}

export interface PoolReport {
  readonly name: string;
  readonly state: DeviceState;
  /** Undefined when the pool cannot be opened. */
  readonly mode: string | undefined;
  readonly blockBytes: number | undefined;
  readonly thinCount: number | undefined;
  readonly activeCount: number | undefined;
  /** Sizes of its active thin devices together. */
  readonly provisionedBytes: number | undefined;
  readonly data: Fill | undefined;
  readonly metadata: Fill | undefined;
  readonly attention: readonly Attention[];
}

export interface Dashboard {
  readonly pools: readonly PoolReport[];
  readonly deviceCount: number;
  readonly loopCount: number;
  readonly attention: readonly Attention[];
}

const NEARLY_FULL_PERCENT = 80;
const LITTLE_ROOM = 0.1;

export function poolReport(
  pool: PoolInfo,
  around: { readonly provisionedBytes: number; readonly roomBytes: number | undefined },
): PoolReport {
  const { status } = pool;
  const space = poolSpace(pool);
  const data = {
    usedBytes: space.dataUsed,
    totalBytes: space.dataTotal,
    percent: percentOf(space.dataUsed, space.dataTotal),
    lowWaterBytes: status.lowWaterBlocks * space.blockBytes,
  };
  const metadata = {
    usedBytes: space.metadataUsed,
    totalBytes: space.metadataTotal,
    percent: percentOf(space.metadataUsed, space.metadataTotal),
    lowWaterBytes: status.metadataLowWaterBlocks * METADATA_BLOCK_BYTES,
  };
  return {
    name: pool.name,
    state: pool.state,
    mode: status.mode,
    blockBytes: space.blockBytes,
    thinCount: pool.thinCount,
    activeCount: pool.activeCount,
    provisionedBytes: around.provisionedBytes,
    data,
    metadata,
    attention: troubles(pool, { data, metadata, roomBytes: around.roomBytes }),
  };
}

export function poolTrouble(name: string, state: DeviceState, error: unknown): PoolReport {
  const hint = error instanceof UdmError ? error.hint : undefined;
  const message = `cannot be opened: ${messageOf(error)}${hint === undefined ? "" : ` (${hint})`}`;
  return {
    name,
    state,
    mode: undefined,
    blockBytes: undefined,
    thinCount: undefined,
    activeCount: undefined,
    provisionedBytes: undefined,
    data: undefined,
    metadata: undefined,
    attention: [{ subject: name, message, command: "udm doctor" }],
  };
}

/** The worst first. */
function troubles(
  pool: PoolInfo,
  {
    data,
    metadata,
    roomBytes,
  }: { readonly data: Fill; readonly metadata: Fill; readonly roomBytes: number | undefined },
): readonly Attention[] {
  const { status, name } = pool;
  const found: Attention[] = [];
  const add = (message: string, command: string) => found.push({ subject: name, message, command });
  const growData = `udm pool resize ${quoted(name)} +20%`;
  const growMetadata = `udm pool resize ${quoted(name)} --metadata-size +100%`;
  const free = data.totalBytes - data.usedBytes;
  if (status.mode === "fail") add("has failed", "udm doctor");
  else if (status.needsCheck) add("its metadata needs a check", "udm doctor");
  else if (status.mode === "read-only" && !status.features.readOnly) add("fell back to read-only", "udm doctor");
  if (status.mode === "fail") return found;
  const writes = status.errorIfNoSpace ? "writes fail" : "writes wait";
  if (status.mode === "out-of-data-space" || free === 0) add(`no free data blocks: ${writes}`, growData);
  else if (free <= data.lowWaterBytes) add(`free data is below the low-water line`, growData);
  else if (data.percent >= NEARLY_FULL_PERCENT) add(`data is ${data.percent.toFixed(0)}% full`, growData);
  const metadataFree = metadata.totalBytes - metadata.usedBytes;
  if (status.mode === "out-of-metadata-space") add("no room for metadata", growMetadata);
  else if (metadataFree <= metadata.lowWaterBytes) add("free metadata is below the low-water line", growMetadata);
  else if (metadata.percent >= NEARLY_FULL_PERCENT) {
    add(`metadata is ${metadata.percent.toFixed(0)}% full`, growMetadata);
  }
  if (roomBytes !== undefined && roomBytes < free && roomBytes < data.totalBytes * LITTLE_ROOM) {
    const room = formatBytes(roomBytes);
    add(`the file system of ${pool.dataFile} has only ${room} left`, `df -h ${quoted(pool.dataFile ?? "")}`);
  }
  if (pool.state === "SUSPENDED") add("is suspended", `udm table resume ${quoted(name)}`);
  return found;
}

export interface DrawOptions {
  readonly width: number;
  readonly isUtf8: boolean;
  readonly unit: Unit;
  readonly palette: Palette;
}

export function dashboardLines(dashboard: Dashboard, options: DrawOptions): readonly string[] {
  const { pools, deviceCount, loopCount } = dashboard;
  const heading = [
    plural(pools.length, "pool"),
    plural(deviceCount, "mapped device"),
    plural(loopCount, "loop device"),
  ];
  const attention = [...pools.flatMap((pool) => pool.attention), ...dashboard.attention];
  const lines = [clip(heading.join(", "), options.width)];
  for (const pool of pools) lines.push("", ...poolLines(pool, options));
  lines.push("");
  if (attention.length === 0) {
    lines.push(options.palette.good("nothing needs attention"));
    return lines;
  }
  lines.push(options.palette.warning(`${plural(attention.length, "thing")} to attend to:`));
  for (const { subject, message, command } of attention) {
    lines.push(...wrap(`${subject}: ${message}`, options.width, "  "));
    // Never cut: it is there to be copied.
    if (command !== undefined) lines.push(`    ${options.palette.hint(command)}`);
  }
  return lines;
}

function poolLines(pool: PoolReport, options: DrawOptions): readonly string[] {
  const { unit, palette, width } = options;
  const { data, metadata } = pool;
  if (data === undefined || metadata === undefined) {
    return [clip(`${pool.name}  ${pool.state}  ${"cannot be opened"}`, width)];
  }
  const thins = `${plural(pool.thinCount ?? 0, "thin device")} (${pool.activeCount} active)`;
  const blocks = `${formatBytes(pool.blockBytes ?? 0, "h")} blocks`;
  const promised = pool.provisionedBytes ?? 0;
  const over = promised > data.totalBytes ? `, ${formatBytes(promised, unit)} promised` : "";
  const isWell = pool.attention.length === 0;
  const title = clip(`${pool.name}  ${pool.state}  ${pool.mode}  ${blocks}  ${thins}${over}`, width);
  const painted = isWell ? title : palette.warning(title);
  return [painted, fillLine("data", data, options), fillLine("metadata", metadata, options)];
}

/** `  data     [####....|..]  12.5%  1G of 8G`; the line in the bar is the low-water mark. */
function fillLine(label: string, fill: Fill, options: DrawOptions): string {
  const { width, isUtf8, unit, palette } = options;
  const percent = `${fill.percent.toFixed(1).padStart(5)}%`;
  const numbers = `${formatBytes(fill.usedBytes, unit)} of ${formatBytes(fill.totalBytes, unit)}`;
  const before = `  ${label.padEnd(8)} `;
  const room = Math.min(48, width - before.length - 2 - 1 - percent.length - 2 - 14);
  if (room < 8) return clip(`  ${label} ${percent.trim()} ${numbers}`, width);
  const [full, open, line] = isUtf8 ? ["█", "░", "┃"] : ["#", ".", "|"];
  // Something used is never drawn as nothing, something free never as full.
  const exact = Math.round((room * fill.percent) / 100);
  const used =
    fill.usedBytes === 0 ? 0 : Math.min(fill.usedBytes < fill.totalBytes ? room - 1 : room, Math.max(1, exact));
  const cells = [...full.repeat(used), ...open.repeat(room - used)];
  const mark = Math.round(room * (1 - fill.lowWaterBytes / Math.max(1, fill.totalBytes)));
  if (fill.lowWaterBytes > 0 && mark >= 0 && mark < room) cells[mark] = line;
  const isLow = fill.totalBytes - fill.usedBytes <= fill.lowWaterBytes || fill.percent >= NEARLY_FULL_PERCENT;
  const bar = (isLow ? palette.error : palette.good)(cells.join(""));
  return `${before}[${bar}] ${percent}  ${clip(numbers, width - before.length - room - 11)}`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function clip(text: string, width: number): string {
  return text.length <= width ? text : text.slice(0, Math.max(0, width));
}

function wrap(text: string, width: number, indent: string): readonly string[] {
  const lines: string[] = [];
  let current = indent;
  for (const word of text.split(" ")) {
    if (current.trim() !== "" && current.length + word.length + 1 > width) {
      lines.push(current);
      current = `${indent}  ${word}`;
    } else {
      current = current.trim() === "" ? `${indent}${word}` : `${current} ${word}`;
    }
  }
  return [...lines, current];
}
