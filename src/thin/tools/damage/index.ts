/** Damage for drills and tests: a catalogue of cases, each done to a copy as a seed decides. */
export {
  applyDamage,
  DAMAGE_CASES,
  type DamagePlan,
  type DamageTarget,
  damageCase,
  planDamage,
} from "./damage.js";
export type { DamageArea, DamageCase } from "./damage-case.js";
