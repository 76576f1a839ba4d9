/**
 * A pool with 16 million mappings (16 devices of a million, a terabyte in blocks of 64 KiB): opening it, and the memory of
 * a process that opens it and works in it. A child process does both, so that nothing of the fixture is counted.
 *
 * What bounds it. Opening reads the superblock, the index of the metadata space map and the roots: a dozen blocks,
 * whatever the size of the pool. Memory is node itself (45 MiB) and the cache of metadata blocks, which has a bound of
 * 64 MiB; what lies on top is garbage between two collections.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { FileDevice } from "../../src/io/index.js";
import { ThinMetadata } from "../../src/thin/index.js";
import type { Session } from "./bench.js";

export const name = "large-pool";
export const summary = "a pool of 16,000,000 mappings: opening it, memory";
export const usesProgram = true;

const DEVICES = 16;
const MAPPINGS = 1_000_000;
const MAPPINGS_PER_COMMIT = 50_000;
const METADATA_BYTES = 2 ** 30;
const DATA_BLOCKS = DEVICES * MAPPINGS + 1_000_000;
const BLOCK_BYTES = 65_536;
const MOST_OPEN_MS = 100;
const MOST_MEMORY_MIB = 250;
const WORK_PER_DEVICE = 20_000;

interface Report {
  readonly openMs: number;
  readonly openedMiB: number;
  readonly workedMiB: number;
}

export async function run(session: Session): Promise<void> {
  const path = join(session.folder, "metadata");
  buildPool(path);
  const library = join(session.root, "dist/index.js");
  const ask = (mode: "open" | "work") => openInChild(library, path, mode);
  await session.compare({
    title: "open a pool of 16,000,000 mappings",
    unit: "ms",
    ours: { label: "udm", measure: () => ask("open").openMs },
    floors: [{ kind: "value", atMost: MOST_OPEN_MS }],
  });
  await session.compare({
    title: "memory once it is open",
    unit: "MiB",
    ours: { label: "udm", measure: () => ask("open").openedMiB },
    peer: { label: "node that does nothing", measure: () => memoryOfNode() },
    rounds: 3,
    floors: [{ kind: "value", atMost: MOST_MEMORY_MIB }],
  });
  await session.compare({
    title: "most memory, random lookups and writes in all of it",
    unit: "MiB",
    ours: { label: "udm", measure: () => ask("work").workedMiB },
    peer: { label: "node that does nothing", measure: () => memoryOfNode() },
    rounds: 3,
    floors: [{ kind: "value", atMost: MOST_MEMORY_MIB }],
  });
}

function buildPool(path: string): void {
  const device = FileDevice.open(path, { createBytes: METADATA_BYTES });
  const metadata = ThinMetadata.open(device.sync, METADATA_BYTES / 4096, {
    dataBlockSectors: BLOCK_BYTES / 512,
    mayFormat: true,
    isDeviceReadOnly: false,
  });
  metadata.resizeData(DATA_BLOCKS);
  metadata.commit();
  for (let id = 0; id < DEVICES; id++) {
    metadata.createThin(id);
    const thin = metadata.openDevice(id);
    for (let block = 0; block < MAPPINGS; block++) {
      metadata.insertMapping(thin, block, metadata.allocateDataBlock()!);
      if (block % MAPPINGS_PER_COMMIT === MAPPINGS_PER_COMMIT - 1) metadata.commit();
    }
    metadata.closeDevice(thin);
  }
}

/** An expression: the most memory this process ever had. Not its maxRSS, which begins with that of whoever started it. */
const MOST_RESIDENT_MIB = `Number(/VmHWM:\\s+(\\d+)/.exec((await import("node:fs")).readFileSync("/proc/self/status", "utf8"))[1]) / 1024`;

/** The program of the child. It works on the pool and then drops its changes, so that the next finds the same. */
const CHILD = `
  const [library, path, mode] = process.argv.slice(1);
  const { FileDevice, MemoryDevice, Pool, NO_FEATURES } = await import(library);
  const data = new MemoryDevice({ sizeBytes: ${DATA_BLOCKS * BLOCK_BYTES} });
  const start = performance.now();
  const metadata = FileDevice.open(path);
  const config = { lengthSectors: ${(DATA_BLOCKS * BLOCK_BYTES) / 512}, dataBlockSectors: ${BLOCK_BYTES / 512}, lowWaterBlocks: 0, features: NO_FEATURES };
  const pool = Pool.load({ name: "bench", metadata, data, config, commitPeriodMs: 0 });
  await pool.resume();
  pool.statusNow();
  const openMs = performance.now() - start;
  const openedMiB = process.memoryUsage().rss / 2 ** 20;
  if (mode === "work") {
    const buffer = new Uint8Array(4096);
    for (let id = 0; id < ${DEVICES}; id++) {
      const thin = pool.openThin(id, { name: "thin" + id, sizeBytes: ${2 * MAPPINGS * BLOCK_BYTES} });
      const device = pool.metadata.openDevice(id);
      for (let index = 0; index < ${WORK_PER_DEVICE}; index++) {
        const block = (index * 736339 + id) % ${MAPPINGS};
        await thin.read(block * ${BLOCK_BYTES}, buffer);
        if (index % 16 === 0) pool.metadata.insertMapping(device, ${MAPPINGS} + block, pool.metadata.allocateDataBlock());
      }
    }
    pool.metadata.abort();
  }
  const workedMiB = ${MOST_RESIDENT_MIB};
  process.stdout.write(JSON.stringify({ openMs, openedMiB, workedMiB }));
`;

function openInChild(library: string, path: string, mode: "open" | "work"): Report {
  return JSON.parse(runNode(["--input-type=module", "-e", CHILD, library, path, mode])) as Report;
}

function memoryOfNode(): number {
  return Number(runNode(["--input-type=module", "-e", `process.stdout.write(String(${MOST_RESIDENT_MIB}))`]));
}

function runNode(args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`the child ended with ${status}: ${stderr}`);
  return stdout;
}
