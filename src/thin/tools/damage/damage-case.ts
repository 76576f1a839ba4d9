/** What a case of damage is, and what it may refuse with. */
import { StateError } from "../../../errors/index.js";
import type { Victim } from "./victim.js";

export type DamageArea =
  | "superblock"
  | "snapshot"
  | "devices"
  | "details"
  | "mappings"
  | "data map"
  | "metadata map"
  | "device";

export interface DamageCase {
  readonly id: string;
  readonly area: DamageArea;
  /** One sentence: what is wrong afterwards. */
  readonly what: string;
  /** Checksums are right afterwards: only what the blocks say can tell. */
  readonly isSealed: boolean;
  /** Changes the victim, or throws what `cannot` makes when the metadata has nothing of the kind. */
  readonly apply: (victim: Victim) => void;
}

/** The metadata lacks what a case needs. */
export function cannot(what: string): StateError {
  return new StateError("ENODATA", `this metadata has no ${what} that could be damaged`, {
    hint: "take another case, or a pool with more in it",
  });
}
