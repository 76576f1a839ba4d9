/** A device of a candidate in the making. */
import type { DetailsValues } from "../reader/devices.js";
import type { Adoption } from "./candidate.js";
import type { Hole } from "./forest.js";

export interface Draft {
  readonly id: number;
  /** 0: no tree, or one whose root is lost. */
  readonly root: number;
  readonly isFoundRoot: boolean;
  readonly details: DetailsValues | undefined;
  readonly holes: readonly Hole[];
  /** Mappings below the root that can be read. */
  readonly held: number;
  adoptions: readonly Adoption[];
}

/** All trees of a device: its own, and what it adopted. */
export function treesOf({ root, adoptions }: Pick<Draft, "root" | "adoptions">): number[] {
  const adopted = adoptions.flatMap(({ blocks }) => blocks);
  return root === 0 ? adopted : [root, ...adopted];
}
