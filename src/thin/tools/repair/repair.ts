/**
 * Writes a candidate as new metadata: its trees, then everything that can be counted, counted again from what was
 * written. The superblock is wiped first and written last, so that what is cut off is no pool.
 */
import { SpaceError, StateError } from "../../../errors/index.js";
import type { BlockDevice } from "../../../io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { usableBlocks } from "../../metadata-store.js";
import type { Pace } from "../pace.js";
import { BlockStore } from "../reader/block-store.js";
import { NodeSweep } from "../reader/node-sweep.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";
import { ENTRIES_PER_BITMAP } from "../reader/space-map.js";
import { BlockAppender } from "../restore/block-appender.js";
import {
  type BuildHead,
  type BuiltDevice,
  buildDataMap,
  buildDeviceTrees,
  buildMetadataMap,
  checkBuildHead,
  tooSmall,
  wipeSuperblock,
  writeNewSuperblock,
} from "../restore/pool-parts.js";
import type { Candidate } from "./candidate.js";
import { DataCounts } from "./data-counts.js";
import type { Forest } from "./forest.js";
import { ForestCopier } from "./forest-copier.js";

export interface RepairOptions {
  readonly forest: Forest;
  readonly candidate: Candidate;
  readonly pace: Pace;
}

export interface Repaired {
  readonly devices: number;
  readonly mappings: number;
  /** Metadata blocks in use. */
  readonly metadataBlocks: number;
  readonly head: BuildHead;
}

/**
 * Durable when it resolves. The source is only read.
 * @throws StateError EINVAL when nobody knows the size of data blocks; SpaceError with the size the output should have; IoError
 */
export async function repairMetadata(
  output: Pick<BlockDevice, "name" | "sizeBytes" | "sync">,
  { forest, candidate, pace }: RepairOptions,
): Promise<Repaired> {
  const { name, sync: io } = output;
  const head = headOf(candidate, forest.survey.store.name);
  checkBuildHead(name, head);
  if (io === undefined) throw new StateError("EOPNOTSUPP", `${name}: metadata must lie on a file or block device`);
  const nrBlocks = usableBlocks(Math.floor(output.sizeBytes / METADATA_BLOCK_BYTES));
  if (nrBlocks < 2 || Math.ceil(head.nrDataBlocks / ENTRIES_PER_BITMAP) >= nrBlocks) {
    throw tooSmall(name, nrBlocks, Math.ceil(head.nrDataBlocks / ENTRIES_PER_BITMAP) + candidate.devices.length + 1);
  }
  wipeSuperblock(io);
  const out = new BlockAppender(io, nrBlocks, 1);
  const copier = new ForestCopier(forest, out, { head: candidate.head, pace });
  const devices: BuiltDevice[] = [];
  pace.total = 2 * forest.survey.nrBlocks;
  for (const device of candidate.devices) {
    devices.push({ id: device.id, root: await copier.copy(device), details: device.details });
    if (out.isFull) throw needsMore(name, nrBlocks, forest.survey.nrBlocks);
    await pace.rest(out.next);
  }
  out.flush();
  const counts = await countAgain(output, devices, pace);
  const nrTreeBlocks = out.next;
  const trees = buildDeviceTrees(out, devices);
  const dataMap = buildDataMap(out, head.nrDataBlocks, (block) => counts.data.of(block));
  const { references } = counts;
  const metadataMap = buildMetadataMap(out, nrBlocks, {
    shared: sharedBlocks(references, nrTreeBlocks),
    countOf: (blocknr) => (blocknr === 0 || blocknr >= nrTreeBlocks ? 1 : references[blocknr]!),
  });
  if (out.next > nrBlocks) throw tooSmall(name, nrBlocks, out.next);
  out.flush();
  io.flush();
  writeNewSuperblock(io, { head, nrBlocks, roots: { ...trees, dataMap, metadataMap } });
  io.flush();
  return {
    devices: devices.length,
    mappings: devices.reduce((sum, { details }) => sum + details.mappedBlocks, 0),
    metadataBlocks: metadataMap.nrAllocated,
    head,
  };
}

function headOf({ head }: Candidate, name: string): BuildHead {
  const { time, transactionId, dataBlockSectors, nrDataBlocks } = head;
  if (dataBlockSectors === undefined) {
    throw new StateError("EINVAL", `${name}: no superblock tells the size of data blocks`, {
      hint: "give it: --data-block-size SECTORS (128 for 64k); it stands in the pool's table",
    });
  }
  return { time, transactionId, dataBlockSectors, nrDataBlocks };
}

/** Owners of the blocks that were written, and of data blocks. */
async function countAgain(
  output: Pick<BlockDevice, "name" | "sizeBytes" | "sync">,
  devices: readonly BuiltDevice[],
  pace: Pace,
): Promise<{ readonly references: Uint32Array; readonly data: DataCounts }> {
  const store = new BlockStore(output);
  const references = new Uint32Array(store.nrBlocks);
  const data = new DataCounts();
  const sweep = new NodeSweep(store, {
    valueSize: MAPPING_BYTES,
    references,
    onDamage: (blocknr, problem) => {
      throw new StateError("EIO", `${output.name}: block ${blocknr} does not hold what was written (${problem})`, {
        hint: "the device loses writes: repair onto another one",
      });
    },
    pace,
  });
  for (const { root } of devices) sweep.addRoot(root);
  await sweep.run((_blocknr, words, _at, nr, values) => {
    const end = values + nr * 2;
    for (let word = values; word < end; word += 2) data.add(words[word + 1]! * 256 + (words[word]! >>> 24));
  });
  return { references, data };
}

function* sharedBlocks(references: Uint32Array, end: number): Generator<readonly [number, number]> {
  for (let blocknr = 1; blocknr < end; blocknr++) {
    if (references[blocknr]! > 1) yield [blocknr, references[blocknr]!];
  }
}

function needsMore(name: string, nrBlocks: number, nrSource: number): SpaceError {
  if (nrBlocks < nrSource) return tooSmall(name, nrBlocks, nrSource);
  return new SpaceError(`${name}: ${nrBlocks} blocks of 4 KiB are not enough for these trees`, {
    hint: "damage keeps devices from sharing inner nodes: give it twice the size",
  });
}
