/**
 * One block of a thin device looked at from all sides: where its mapping stands, who else maps its data block, and which
 * device wrote it.
 *
 * The writer follows from the pool's clock. A snapshot raises it and gets the new time as its creation time, a mapping
 * carries the time at which its block was taken; so what a device inherited is older than the device, and what is not
 * older it wrote itself. Among all who map a block at most one is not younger than the mapping: the writer. When it does not
 * map the block any more, it may be found through a parent: the event that makes a snapshot gives its creation time to the
 * parent as time of its last snapshot, and no other device gets that time. Where the parent was snapped again or is gone,
 * the metadata does not say.
 */
import { getU64 } from "../bytes/index.js";
import {
  childAt,
  isLeaf,
  keyAt,
  lowerBound,
  nrEntriesOf,
  readNode,
  type Tree,
  valueOffset,
} from "../persistent-data/index.js";
import { BLOCK_TIME_BYTES, blockOf, timeOf } from "./block-time.js";
import { MappingForest } from "./mapping-forest.js";
import type { MetadataRoots, ThinMetadata } from "./metadata.js";
import type { ThinDetails } from "./types.js";

/** A node on the way to a mapping, and the entry taken there. */
export interface PathStep {
  readonly tree: "devices" | "mappings";
  readonly metadataBlock: number;
  /** -1: what was looked for would stand before the first entry. */
  readonly entry: number;
}

export interface Location {
  /** From the root of the device tree to the leaf that holds the mapping, or would. */
  readonly path: readonly PathStep[];
  /** undefined: not mapped. */
  readonly mapping: { readonly dataBlock: number; readonly time: number } | undefined;
}

export interface Sharers {
  /** Every mapping of the data block, by device id, then virtual block. */
  readonly devices: readonly { readonly id: number; readonly virtualBlock: number }[];
  readonly isHeld: boolean;
}

/** @returns undefined when there is no such device. @throws DamageError, IoError */
export function locateMapping(
  metadata: ThinMetadata,
  id: number,
  virtualBlock: number,
  roots?: MetadataRoots,
): Location | undefined {
  const { devices, deviceRoot, mappings } = metadata.treesForReading(roots);
  const path: PathStep[] = [];
  const device = descend(devices, deviceRoot, id, "devices", path);
  if (device === undefined) return undefined;
  const found = descend(mappings, getU64(device.view, device.offset), virtualBlock, "mappings", path);
  if (found === undefined) return { path, mapping: undefined };
  const { view, offset } = found;
  return { path, mapping: { dataBlock: blockOf(view, offset), time: timeOf(view, offset) } };
}

function descend(tree: Tree, root: number, key: number, name: PathStep["tree"], path: PathStep[]) {
  let blocknr = root;
  let low = 0;
  let high = Number.POSITIVE_INFINITY;
  for (let depth = 0; ; depth++) {
    const { view } = readNode(tree, blocknr, depth, low, high);
    const entry = lowerBound(view, key);
    path.push({ tree: name, metadataBlock: blocknr, entry });
    if (entry < 0) return undefined;
    if (isLeaf(view)) return keyAt(view, entry) === key ? { view, offset: valueOffset(view, entry) } : undefined;
    low = keyAt(view, entry);
    if (entry + 1 < nrEntriesOf(view)) high = keyAt(view, entry + 1);
    blocknr = childAt(view, entry);
  }
}

/**
 * Everybody who maps a data block. Copies of a mapping keep their virtual block, so all devices are asked for that one
 * first; only when the block's count says that there are more leaf entries (metadata put together by tools) every leaf is read.
 */
export function findSharers(metadata: ThinMetadata, dataBlock: number, virtualBlock: number): Sharers {
  const near = sharersAt(metadata, dataBlock, [virtualBlock]);
  if (near.leaves.size >= metadata.dataBlockCount(dataBlock)) return near;
  return sharersAt(metadata, dataBlock, virtualBlocksOf(metadata, dataBlock));
}

function sharersAt(metadata: ThinMetadata, dataBlock: number, virtualBlocks: readonly number[]) {
  const devices: { id: number; virtualBlock: number }[] = [];
  /** Metadata blocks of leaves; a leaf that is shared counts once. */
  const leaves = new Set<number>();
  const look = (id: number, virtualBlock: number, roots?: MetadataRoots): boolean => {
    const location = locateMapping(metadata, id, virtualBlock, roots);
    if (location?.mapping?.dataBlock !== dataBlock) return false;
    leaves.add(location.path.at(-1)!.metadataBlock);
    return true;
  };
  for (const { id } of metadata.listDevices()) {
    for (const virtualBlock of virtualBlocks) if (look(id, virtualBlock)) devices.push({ id, virtualBlock });
  }
  const held = metadata.heldRoots();
  let isHeld = false;
  if (held !== undefined) {
    for (const { id } of metadata.listDevices(held)) {
      for (const virtualBlock of virtualBlocks) if (look(id, virtualBlock, held)) isHeld = true;
    }
  }
  return { devices, isHeld, leaves };
}

function virtualBlocksOf(metadata: ThinMetadata, dataBlock: number): readonly number[] {
  const found = new Set<number>();
  new MappingForest(metadata, () => 1).forEachLeaf((view, nr, first) => {
    for (let index = 0, offset = first; index < nr; index++, offset += BLOCK_TIME_BYTES) {
      if (blockOf(view, offset) === dataBlock) found.add(keyAt(view, index));
    }
  });
  return [...found].sort((left, right) => left - right);
}

/**
 * Which device wrote a block that was mapped at `time`.
 * @param sharers ids of those who map it
 * @returns undefined when the metadata does not say
 */
export function findWriter(metadata: ThinMetadata, sharers: readonly number[], time: number): number | undefined {
  const devices = metadata.listDevices();
  const byId = new Map(devices.map((device) => [device.id, device]));
  const owners = [...new Set(sharers)].map((id) => byId.get(id)!);
  const alive = owners.find(({ creationTime }) => creationTime <= time);
  if (alive !== undefined) return alive.id;
  for (const owner of owners) {
    let device: ThinDetails | undefined = owner;
    while (device !== undefined && device.creationTime > time) device = parentOf(devices, device);
    if (device !== undefined) return device.id;
  }
  return undefined;
}

/** The origin of a snapshot that was not snapped since. Ids may have been given out again, times never are. */
function parentOf(devices: readonly ThinDetails[], snapshot: ThinDetails): ThinDetails | undefined {
  return devices.find(
    ({ creationTime, snapshottedTime }) =>
      creationTime < snapshot.creationTime && snapshottedTime === snapshot.creationTime,
  );
}
