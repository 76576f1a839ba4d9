/** Ways from the superblock to a block, as findings of a check name them: what each block is follows from the one before. */
import { StateError } from "../../errors/index.js";
import { type DescribedBlock, describeBlock, type Role } from "./describe.js";
import type { BlockStore } from "./reader/block-store.js";
import { eachDeviceRoot } from "./reader/devices.js";
import { readSuperblock } from "./reader/superblock.js";

export interface Step {
  readonly block: number;
  readonly role: Role | undefined;
}

/** @param superblock 0, or the metadata snapshot */
export function firstStep(superblock: number): Step {
  return { block: superblock, role: { kind: superblock === 0 ? "superblock" : "snapshot" } };
}

/**
 * Follows block numbers, the first of which is the superblock.
 * @throws StateError ENOENT, EINVAL when one does not lead to the next
 */
export function followPath(store: BlockStore, path: readonly number[], superblock: number): readonly Step[] {
  const steps: Step[] = [firstStep(superblock)];
  const rest = path[0] === superblock || path[0] === 0 ? path.slice(1) : path;
  for (const block of rest) {
    const { block: from, role } = steps.at(-1)!;
    const { fields, entries } = describeSure(store, { block: from, role });
    const target =
      [...fields, ...entries].find((entry) => entry.target?.block === block)?.target ??
      (from === superblock ? mappingRoot(store, superblock, block) : undefined);
    if (target === undefined) {
      throw new StateError("EINVAL", `${store.name}: block ${from} does not lead to block ${block}`, {
        hint: `--block ${block} prints it without the way; a path is such as 0 > 7 > 12`,
      });
    }
    steps.push(target);
  }
  return steps;
}

/** Findings about mappings leave the tree of devices out: it is the same for all. */
function mappingRoot(store: BlockStore, superblock: number, block: number): Step | undefined {
  const { values } = readSuperblock(store, superblock);
  let found: Step | undefined;
  const visit = (device: number, root: number) => {
    if (root === block) found ??= { block, role: { kind: "mappings", device } };
  };
  if (values !== undefined) eachDeviceRoot(store, values.mappingRoot, visit, () => undefined);
  return found;
}

/** @throws StateError ENOENT when there is no such block */
export function describeSure(store: BlockStore, { block, role }: Step): DescribedBlock {
  const described = describeBlock(store, block, role);
  if (described !== undefined) return described;
  throw new StateError("ENOENT", `${store.name}: no block ${block}, it has ${store.nrBlocks}`, {
    hint: `blocks are 0 to ${store.nrBlocks - 1}`,
  });
}
