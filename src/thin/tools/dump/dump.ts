/** Writes out what a pool's metadata holds, device by device, in the form of thin_dump or as JSON lines. */
import { DamageError } from "../../../errors/index.js";
import { DATA_BLOCK_LIMIT } from "../../block-time.js";
import type { Pace } from "../pace.js";
import { problemText } from "../problem-text.js";
import type { BlockStore } from "../reader/block-store.js";
import { type DetailsValues, type DeviceReading, readDevices } from "../reader/devices.js";
import { Kind, Problem } from "../reader/problems.js";
import { RunCursor } from "../reader/run-cursor.js";
import { readSuperblock, type SuperblockValues } from "../reader/superblock.js";
import type { TreeDamage } from "../reader/tree-cursor.js";
import { ByteWriter } from "./byte-writer.js";
import { type DumpFormat, type DumpHead, emitterFor } from "./emitter.js";

export interface DumpOptions {
  readonly format: DumpFormat;
  /** Block of the superblock to begin at: 0, or the metadata snapshot. */
  readonly superblock: number;
  /** What was found in place of a superblock that is lost. */
  readonly found?: { readonly head: DumpHead; readonly devices: readonly DeviceReading[] };
  /** Only these devices, where they exist. */
  readonly devices?: readonly number[];
  /** Told of each of these that does not. */
  readonly onMissing?: (id: number) => void;
  readonly skipMappings?: boolean;
  /** Leave out what is damaged, and tell it, instead of giving up. */
  readonly onSkipped?: ((what: string) => void) | undefined;
  /** Values to write in place of those found. */
  readonly overrides?: {
    readonly transactionId?: number;
    readonly dataBlockSectors?: number;
    readonly nrDataBlocks?: number;
  };
  readonly pace: Pace;
  /** Takes the text, a piece at a time; a piece is the callee's once the call was made. */
  readonly write: (piece: Uint8Array) => void | Promise<void>;
}

const RUNS_AT_ONCE = 64;
/** Blocks of a device, for progress: mappings per block of a full leaf. */
const MAPPINGS_PER_BLOCK = 252;

/**
 * @throws DamageError when something cannot be read and nobody wants to know what was left out
 */
export async function dumpMetadata(store: BlockStore, options: DumpOptions): Promise<void> {
  const { pace, write, skipMappings = false } = options;
  const { head, devices } = options.found ?? readPool(store, options);
  const out = new ByteWriter();
  const emitter = emitterFor(options.format, out);
  const drain = async (): Promise<void> => {
    const written = write(out.take());
    if (written !== undefined) await written;
  };
  emitter.superblock({
    time: head.time,
    transactionId: options.overrides?.transactionId ?? head.transactionId,
    flags: head.flags,
    version: head.version,
    dataBlockSectors: options.overrides?.dataBlockSectors ?? head.dataBlockSectors,
    nrDataBlocks: options.overrides?.nrDataBlocks ?? head.nrDataBlocks,
  });
  const chosen = devices.filter(({ id }) => options.devices?.includes(id) !== false);
  for (const id of options.devices ?? []) if (chosen.every((each) => each.id !== id)) options.onMissing?.(id);
  pace.total = chosen.reduce((sum, { details }) => sum + blocksOf(details), 0);
  for (const { id, root, details } of chosen) {
    if (root === undefined || details === undefined) {
      const what = root === undefined ? "details and no mapping tree" : "mappings and no details";
      skipOrFailWith(options, `device ${id} has ${what}`);
      continue;
    }
    emitter.device(id, details);
    if (!skipMappings) {
      const runs = new RunCursor(store, root, (damage) => skipOrFail(store, options, damage, `device ${id}`));
      let done = 0;
      while (runs.next()) {
        emitter.run(runs.virtualBegin, runs.dataBegin, runs.length, runs.time);
        done += runs.length;
        for (let count = 1; count < RUNS_AT_ONCE && runs.next(); count++) {
          emitter.run(runs.virtualBegin, runs.dataBegin, runs.length, runs.time);
          done += runs.length;
        }
        if (out.isFull) await drain();
        if (pace.isDue) await pace.rest(done / MAPPINGS_PER_BLOCK);
      }
    }
    emitter.endDevice();
    pace.base += blocksOf(details);
    if (out.isFull) await drain();
    if (pace.isDue) await pace.rest(0);
  }
  emitter.end();
  await drain();
}

function readPool(
  store: BlockStore,
  options: DumpOptions,
): { readonly head: DumpHead; readonly devices: readonly DeviceReading[] } {
  const values = superblockFor(store, options);
  const devices = readDevices(store, values, (damage, tree) => skipOrFail(store, options, damage, `the ${tree} tree`));
  return { head: { ...values, nrDataBlocks: values.dataMap.nrBlocks }, devices };
}

function blocksOf(details: DetailsValues | undefined): number {
  const mapped = details?.mappedBlocks ?? 0;
  return mapped < DATA_BLOCK_LIMIT ? mapped / MAPPINGS_PER_BLOCK : 0;
}

function superblockFor(store: BlockStore, options: DumpOptions): SuperblockValues {
  const { values, problem } = readSuperblock(store, options.superblock);
  if (problem === Problem.None && values !== undefined) return values;
  const text =
    problem === "magic"
      ? `metadata block ${options.superblock} (superblock): no magic of a thin pool`
      : problemText(store, options.superblock, problem, Kind.Superblock);
  throw new DamageError(`${store.name}: ${text}`, {
    hint: "udm metadata repair finds the trees without a superblock",
  });
}

function skipOrFail(store: BlockStore, options: DumpOptions, damage: TreeDamage, where: string): void {
  const { problem, blocknr, path, low, high } = damage;
  const range = high === Number.POSITIVE_INFINITY ? `from ${low} on` : `${low} to ${high - 1}`;
  skipOrFailWith(options, `${where}, ${range}: ${problemText(store, blocknr, problem, Kind.Node, path)}`);
}

function skipOrFailWith(options: DumpOptions, what: string): void {
  if (options.onSkipped === undefined) {
    throw new DamageError(`${what}`, {
      hint: "udm metadata check tells all that is damaged; --repair dumps what is left",
    });
  }
  options.onSkipped(what);
}
