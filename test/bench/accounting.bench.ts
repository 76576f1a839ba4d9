/**
 * `thin list` with exclusive, shared and freed bytes: a volume of a million mappings and a thousand snapshots of it, between
 * which blocks here and there were written anew. And what other questions to the same metadata cost.
 *
 * What bounds it. Every leaf of the mapping trees is read once, whoever shares it: a few thousand of the volume itself and
 * one for each stretch that a write took out of the sharing, each a read of 4 KiB, a checksum, and 252 entries marked at most. The
 * program adds its start, the state of a thousand devices, and a thousand lines of output.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { FileDevice, run as runProgram } from "../../src/io/index.js";
import { ThinMetadata } from "../../src/thin/index.js";
import { environmentOf, type Session, timed } from "./bench.js";

export const name = "accounting";
export const summary = "exclusive and shared bytes of 1,000 snapshots of 1,000,000 mappings";
export const usesProgram = true;

const MAPPINGS = 1_000_000;
const SNAPSHOTS = 1_000;
const WRITES_BETWEEN = 20;
const METADATA_BYTES = 512 * 2 ** 20;
const DATA_BLOCKS = 2 * MAPPINGS;
const BLOCK_SECTORS = 128;
const MOST_MS = 3_000;
const MOST_MIB = 500;

export async function run(session: Session): Promise<void> {
  const env = environmentOf(session);
  const udm = (...words: readonly string[]) => runProgram(process.execPath, [session.program, ...words], { env });
  const metadata = join(session.folder, "metadata.img");
  const leaves = buildPool(metadata);
  session.note(`${leaves.toLocaleString("en-US")} metadata blocks in use`);
  await udm("loop", "attach", metadata);
  await udm("loop", "attach", join(session.folder, "data.img"), "--size", `${DATA_BLOCKS * BLOCK_SECTORS}s`);
  await udm(
    "pool",
    "create",
    "pool",
    "--table",
    `0 ${DATA_BLOCKS * BLOCK_SECTORS} thin-pool 7:0 7:1 ${BLOCK_SECTORS} 0`,
  );
  const peer = { label: "node -e 0", measure: () => timed(() => runProgram(process.execPath, ["-e", "0"])) };
  for (const words of [
    ["thin", "list", "pool"],
    ["thin", "usage", "pool:0", "pool:500"],
    ["thin", "diff", "pool:0", "pool:1"],
    ["thin", "map", "pool:0", "0x44f"],
    ["pool", "map", "pool"],
  ]) {
    await session.compare({
      title: `udm ${words.join(" ")}`,
      unit: "ms",
      ours: { label: "udm", measure: () => timed(() => udm(...words)) },
      peer,
      rounds: 3,
      floors: [{ kind: "value", atMost: MOST_MS }],
    });
  }
  await session.compare({
    title: "most memory of udm thin list pool",
    unit: "MiB",
    ours: { label: "udm", measure: () => mostMemoryMiB([session.program, "thin", "list", "pool"], env) },
    rounds: 3,
    floors: [{ kind: "value", atMost: MOST_MIB }],
  });
}

/** @returns metadata blocks in use */
function buildPool(path: string): number {
  const device = FileDevice.open(path, { createBytes: METADATA_BYTES });
  const metadata = ThinMetadata.open(device.sync, METADATA_BYTES / 4096, {
    dataBlockSectors: BLOCK_SECTORS,
    mayFormat: true,
    isDeviceReadOnly: false,
  });
  metadata.resizeData(DATA_BLOCKS);
  metadata.commit();
  metadata.createThin(0);
  const volume = metadata.openDevice(0);
  const write = (block: number) => metadata.insertMapping(volume, block, metadata.allocateDataBlock()!);
  for (let block = 0; block < MAPPINGS; block++) write(block);
  metadata.commit();
  for (let id = 1; id <= SNAPSHOTS; id++) {
    metadata.createSnapshot(id, 0);
    for (let index = 0; index < WRITES_BETWEEN; index++) write(((id * WRITES_BETWEEN + index) * 736_339) % MAPPINGS);
    if (id % 50 === 0) metadata.commit();
  }
  metadata.closeDevice(volume);
  metadata.commit();
  return metadata.allocatedMetadataBlocks;
}

/** The program asks itself at its end. */
const REPORTER = `data:text/javascript,import fs from "node:fs"; process.on("exit", () => fs.writeSync(2, "most " + /VmHWM:\\s+(\\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1] + " kB"))`;

function mostMemoryMiB(words: readonly string[], env: Readonly<Record<string, string>>): number {
  const { status, stderr } = spawnSync(process.execPath, ["--import", REPORTER, ...words], {
    env: { ...process.env, ...env },
    encoding: "utf8",
    maxBuffer: 64 * 2 ** 20,
  });
  const found = /most (\d+) kB/.exec(stderr);
  if (status !== 0 || found === null) throw new Error(`udm ended with ${status}: ${stderr}`);
  return Number(found[1]) / 1024;
}
