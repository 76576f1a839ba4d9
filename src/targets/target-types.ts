/** The table of target types. */
import { ERROR } from "./error.js";
import { LINEAR } from "./linear.js";
import { STRIPED } from "./striped.js";
import type { TargetType } from "./target.js";
import { THIN } from "./thin.js";
import { THIN_POOL } from "./thin-pool.js";
import { ZERO } from "./zero.js";

export const TARGET_TYPES: readonly TargetType[] = [LINEAR, STRIPED, ZERO, ERROR, THIN_POOL, THIN];

const BY_NAME = new Map(TARGET_TYPES.map((type) => [type.name, type]));

/** The type of that name; case matters. */
export function findTargetType(name: string): TargetType | undefined {
  return BY_NAME.get(name);
}
