/**
 * The queue limits that the kernel would give to devices such as udm's: loop devices have the loop driver's, a mapped
 * device stacks those below it, and thin targets set sizes of their own from the pool's block.
 * Source: the sections of dmsetup-cli on lsblk, as captured.
 */
import { type DeviceRecord, type LoopRecord, Registry } from "../device-registry/index.js";
import type { DeviceDetails } from "../loop/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { LOOP_MAJOR } from "./below.js";
import type { BlockNode } from "./host.js";
import { isPoolRecord } from "./thin-records.js";

const QUEUE_REQUESTS = 128;
const READ_AHEAD_KIB = 128;
const LOOP_DISCARD_GRANULARITY = 4096;
const LOOP_DISCARD_MAX = 4 * 2 ** 30;
/** Data blocks that one discard may cover. */
const THIN_DISCARD_BLOCKS = 2 ** 18;

/** By device number. `records` come after what they stand on. */
export function blockLimits(
  loops: readonly LoopRecord[],
  records: readonly DeviceRecord[],
  nodes: readonly BlockNode[],
): ReadonlyMap<string, DeviceDetails> {
  const machine = new Map(nodes.filter((node) => node.owner === "machine").map((node) => [node.majMin, node.details]));
  const limits = new Map<string, DeviceDetails>();
  for (const loop of loops) limits.set(`${LOOP_MAJOR}:${loop.number}`, loopLimits(loop));
  const blockBytes = new Map<string, number>();
  for (const record of records) {
    const number = Registry.numberOf(record);
    const line = (record.live ?? record.inactive?.lines)?.[0];
    const words = (record.live ?? []).flatMap((each) => each.args);
    const below = [...new Set(words.filter((word) => /^\d+:\d+$/.test(word)))]
      .map((word) => limits.get(word) ?? machine.get(word))
      .filter((each) => each !== undefined);
    const stacked = stack(below);
    if (line !== undefined && isPoolRecord(record)) {
      const bytes = Number(line.args[2]) * SECTOR_BYTES;
      const data = limits.get(line.args[1]!) ?? machine.get(line.args[1]!) ?? {};
      blockBytes.set(number, bytes);
      limits.set(number, { ...stacked, ...discards(data), minimumIoBytes: bytes, optimalIoBytes: bytes });
    } else if (line?.type === "thin" && blockBytes.has(line.args[0]!)) {
      const bytes = blockBytes.get(line.args[0]!)!;
      limits.set(number, {
        ...stacked,
        minimumIoBytes: bytes,
        optimalIoBytes: bytes,
        discardGranularityBytes: bytes,
        discardMaxBytes: bytes * THIN_DISCARD_BLOCKS,
      });
    } else {
      limits.set(number, stacked);
    }
  }
  return limits;
}

function loopLimits(loop: LoopRecord): DeviceDetails {
  return {
    ...BASE,
    minimumIoBytes: loop.sectorBytes,
    physicalSectorBytes: loop.sectorBytes,
    logicalSectorBytes: loop.sectorBytes,
    scheduler: "none",
    discardGranularityBytes: LOOP_DISCARD_GRANULARITY,
    discardMaxBytes: LOOP_DISCARD_MAX,
  };
}

const BASE: DeviceDetails = {
  alignmentBytes: 0,
  minimumIoBytes: SECTOR_BYTES,
  optimalIoBytes: 0,
  physicalSectorBytes: SECTOR_BYTES,
  logicalSectorBytes: SECTOR_BYTES,
  rotational: false,
  queueRequests: QUEUE_REQUESTS,
  readAheadKib: READ_AHEAD_KIB,
  writeSameBytes: 0,
  discardAlignmentBytes: 0,
  discardGranularityBytes: 0,
  discardMaxBytes: 0,
  discardZeroes: false,
  addsRandomness: false,
  dax: false,
  hotplug: false,
  subsystems: "block",
  zoned: "none",
};

/** The strictest of what lies below. */
function stack(below: readonly DeviceDetails[]): DeviceDetails {
  const most = (key: "minimumIoBytes" | "optimalIoBytes" | "physicalSectorBytes" | "logicalSectorBytes") =>
    Math.max(BASE[key]!, ...below.map((each) => each[key] ?? 0));
  const [first] = below;
  return {
    ...BASE,
    minimumIoBytes: most("minimumIoBytes"),
    optimalIoBytes: most("optimalIoBytes"),
    physicalSectorBytes: most("physicalSectorBytes"),
    logicalSectorBytes: most("logicalSectorBytes"),
    rotational: below.some((each) => each.rotational === true),
    ...(first === undefined ? {} : discards(first)),
  };
}

function discards(below: DeviceDetails): DeviceDetails {
  return {
    discardGranularityBytes: below.discardGranularityBytes ?? 0,
    discardMaxBytes: below.discardMaxBytes ?? 0,
  };
}
