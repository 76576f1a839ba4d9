/** For tools that want metadata without damage: what they cannot read is an error that names block and path. */
import { DamageError } from "../../errors/index.js";
import { problemText } from "./problem-text.js";
import type { BlockStore } from "./reader/block-store.js";
import { type DeviceReading, readDevices } from "./reader/devices.js";
import { Kind, Problem } from "./reader/problems.js";
import { readSuperblock, type SuperblockValues } from "./reader/superblock.js";
import type { TreeDamage } from "./reader/tree-cursor.js";

const HINT = "udm metadata check tells all that is damaged";

/** @param blocknr 0, or the metadata snapshot @throws DamageError */
export function soundSuperblock(store: BlockStore, blocknr: number): SuperblockValues {
  const { values, problem } = readSuperblock(store, blocknr);
  if (problem === Problem.None && values !== undefined) return values;
  const text =
    problem === "magic"
      ? `metadata block ${blocknr} (superblock): no magic of a thin pool`
      : problemText(store, blocknr, problem, Kind.Superblock);
  throw new DamageError(`${store.name}: ${text}`, { hint: HINT });
}

/** @throws DamageError */
export function soundDevices(store: BlockStore, superblock: SuperblockValues): readonly DeviceReading[] {
  return readDevices(store, superblock, (damage, tree) => {
    throw damageError(store, damage, `the ${tree} tree`);
  });
}

export function damageError(store: BlockStore, damage: TreeDamage, where: string): DamageError {
  const { problem, blocknr, path, low, high } = damage;
  const range = high === Number.POSITIVE_INFINITY ? `from ${low} on` : `${low} to ${high - 1}`;
  return new DamageError(`${where}, ${range}: ${problemText(store, blocknr, problem, Kind.Node, path)}`, {
    hint: HINT,
  });
}
