/** Numbers of pools in the text format of Prometheus. Source: its exposition format, version 0.0.4. */
import type { PoolInfo } from "../../host/index.js";

const METADATA_BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
const MODES = ["write", "out-of-data-space", "out-of-metadata-space", "read-only", "fail"] as const;

export interface PoolNumbers {
  readonly info: PoolInfo;
  readonly eventNr: number;
}

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter";
  readonly values: (
    pool: PoolNumbers,
  ) => readonly (readonly [labels: Readonly<Record<string, string>>, value: number])[];
}

const one =
  (value: (pool: PoolNumbers) => number): Metric["values"] =>
  (pool) => [[{}, value(pool)]];

const METRICS: readonly Metric[] = [
  {
    name: "udm_pool_data_bytes",
    help: "Size of the data device as the pool uses it.",
    type: "gauge",
    values: one(({ info: { status } }) => status.totalDataBlocks * status.dataBlockSectors * SECTOR_BYTES),
  },
  {
    name: "udm_pool_data_used_bytes",
    help: "Bytes in data blocks that are in use.",
    type: "gauge",
    values: one(({ info: { status } }) => status.usedDataBlocks * status.dataBlockSectors * SECTOR_BYTES),
  },
  {
    name: "udm_pool_metadata_bytes",
    help: "Size of the metadata device as the pool uses it.",
    type: "gauge",
    values: one(({ info: { status } }) => status.totalMetadataBlocks * METADATA_BLOCK_BYTES),
  },
  {
    name: "udm_pool_metadata_used_bytes",
    help: "Bytes in metadata blocks that are in use, the reserve included.",
    type: "gauge",
    values: one(({ info: { status } }) => status.usedMetadataBlocks * METADATA_BLOCK_BYTES),
  },
  {
    name: "udm_pool_mode",
    help: "1 for the mode the pool is in.",
    type: "gauge",
    values: ({ info }) => MODES.map((mode) => [{ mode }, info.status.mode === mode ? 1 : 0]),
  },
  {
    name: "udm_pool_suspended",
    help: "1 while the pool is suspended.",
    type: "gauge",
    values: one(({ info }) => (info.state === "SUSPENDED" ? 1 : 0)),
  },
  {
    name: "udm_pool_needs_check",
    help: "1 when the metadata has to be checked before it may be written.",
    type: "gauge",
    values: one(({ info }) => (info.status.needsCheck ? 1 : 0)),
  },
  {
    name: "udm_pool_thin_devices",
    help: "Thin devices in the pool.",
    type: "gauge",
    values: one(({ info }) => info.thinCount),
  },
  {
    name: "udm_pool_active_devices",
    help: "Thin devices that are active.",
    type: "gauge",
    values: one(({ info }) => info.activeCount),
  },
  {
    name: "udm_pool_transaction_id",
    help: "The counter that user space of the pool advances.",
    type: "gauge",
    values: one(({ info }) => info.status.transactionId),
  },
  {
    name: "udm_pool_events_total",
    help: "The pool's event counter.",
    type: "counter",
    values: one(({ eventNr }) => eventNr),
  },
];

/** @param failed pools whose numbers could not be had */
export function metricsText(pools: readonly PoolNumbers[], failed: readonly string[]): string {
  const lines: string[] = [];
  const up = [...pools.map(({ info }) => [info.name, 1] as const), ...failed.map((name) => [name, 0] as const)];
  lines.push("# HELP udm_pool_up 1 when the pool could be looked at.", "# TYPE udm_pool_up gauge");
  for (const [pool, value] of up) lines.push(`udm_pool_up${labelsOf({ pool })} ${value}`);
  for (const { name, help, type, values } of METRICS) {
    if (pools.length === 0) break;
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const each of pools) {
      for (const [labels, value] of values(each)) {
        lines.push(`${name}${labelsOf({ pool: each.info.name, ...labels })} ${value}`);
      }
    }
  }
  return `${lines.join("\n")}\n`;
}

function labelsOf(labels: Readonly<Record<string, string>>): string {
  const words = Object.entries(labels).map(([key, value]) => `${key}="${escaped(value)}"`);
  return `{${words.join(",")}}`;
}

function escaped(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
