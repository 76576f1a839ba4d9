/**
 * Damage done on purpose: for drills on a copy, and for the tests. First a plan, which depends on the metadata, the case
 * and the seed and on nothing else; then it is carried out.
 */
import { StateError, UsageError } from "../../../errors/index.js";
import type { SyncIo } from "../../../io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import type { Run } from "../check.js";
import type { BlockStore } from "../reader/block-store.js";
import { Chance } from "./chance.js";
import type { DamageCase } from "./damage-case.js";
import { WHOLE_DEVICE_CASES } from "./device-cases.js";
import { DATA_MAP_CASES, METADATA_MAP_CASES } from "./space-map-cases.js";
import { SNAPSHOT_CASES, SUPERBLOCK_CASES } from "./superblock-cases.js";
import { DETAILS_CASES, DEVICE_CASES, MAPPING_CASES } from "./tree-cases.js";
import { Victim } from "./victim.js";

export const DAMAGE_CASES: readonly DamageCase[] = [
  ...SUPERBLOCK_CASES,
  ...SNAPSHOT_CASES,
  ...DEVICE_CASES,
  ...DETAILS_CASES,
  ...MAPPING_CASES,
  ...DATA_MAP_CASES,
  ...METADATA_MAP_CASES,
  ...WHOLE_DEVICE_CASES,
];

export interface DamagePlan {
  readonly case: DamageCase;
  readonly seed: number;
  /** What is hit, in words. */
  readonly hits: readonly string[];
  /** Blocks that become zeros. */
  readonly zeroed: readonly Run[];
  /** Blocks and what they hold afterwards, ascending; later than the zeros. */
  readonly blocks: readonly { readonly blocknr: number; readonly bytes: Uint8Array }[];
  /** Size of the device afterwards; undefined: as it is. */
  readonly sizeBytes: number | undefined;
}

/** @throws UsageError when there is no such case */
export function damageCase(id: string): DamageCase {
  const found = DAMAGE_CASES.find((each) => each.id === id);
  if (found !== undefined) return found;
  throw new UsageError(`there is no case of damage '${id}'`, { hint: "udm metadata damage --list names them all" });
}

/**
 * @throws UsageError for an unknown case; DamageError when the superblock is damaged already; StateError ENODATA when the
 * metadata has nothing of the kind
 */
export function planDamage(store: BlockStore, id: string, seed = 1): DamagePlan {
  const chosen = damageCase(id);
  const victim = new Victim(store, new Chance(seed));
  chosen.apply(victim);
  const blocks = [...victim.changed].map(([blocknr, bytes]) => ({ blocknr, bytes }));
  return {
    case: chosen,
    seed,
    hits: victim.hits,
    zeroed: victim.zeroed,
    blocks: blocks.sort((a, b) => a.blocknr - b.blocknr),
    sizeBytes: victim.newNrBlocks === undefined ? undefined : victim.newNrBlocks * METADATA_BLOCK_BYTES,
  };
}

export interface DamageTarget {
  readonly name: string;
  readonly sync: SyncIo | undefined;
  /** Cuts or grows it; undefined where its size is given. */
  readonly resize: ((sizeBytes: number) => void) | undefined;
}

/** Carries a plan out; durable when it returns. @throws StateError EINVAL for a device that cannot change its size; IoError */
export function applyDamage(target: DamageTarget, plan: DamagePlan): void {
  const { name, sync, resize } = target;
  if (sync === undefined) throw new StateError("EOPNOTSUPP", `${name}: metadata must lie on a file or block device`);
  if (plan.sizeBytes !== undefined && resize === undefined) {
    throw new StateError("EINVAL", `${name}: its size cannot be changed, and '${plan.case.id}' wants that`, {
      hint: "take a copy in a file",
    });
  }
  for (const { begin, end } of plan.zeroed) {
    sync.writeZeroes(begin * METADATA_BLOCK_BYTES, (end - begin) * METADATA_BLOCK_BYTES);
  }
  for (const { blocknr, bytes } of plan.blocks) sync.write(blocknr * METADATA_BLOCK_BYTES, bytes);
  sync.flush();
  if (plan.sizeBytes !== undefined) resize?.(plan.sizeBytes);
}
