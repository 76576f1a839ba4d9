/** Changes: their plan instead of them with --dry-run, a question before those that destroy. */
import { codeOf } from "../errors/index.js";
import type { Host, Plan } from "../host/index.js";
import type { Context } from "./context.js";

export interface Change<Result> {
  /** The same in commands of the classic tools; makes the same refusals and changes nothing. */
  readonly plan: (host: Host) => Promise<Plan>;
  /** What is destroyed, `delete thin device 'x'`; asked before it runs. */
  readonly destroys?: string | undefined;
  /** A missing victim is fine; there is nothing to ask then. */
  readonly ifExists?: boolean | undefined;
  readonly run: (host: Host) => Promise<Result>;
  /** Prints the result; without it only --json prints. */
  readonly show?: (result: Result) => void | Promise<void>;
  /** The JSON document, `{"ok": true}` by default. */
  readonly json?: (result: Result) => unknown;
}

export async function change<Result>(context: Context, steps: Change<Result>): Promise<void> {
  const host = await context.host();
  if (context.globals.dryRun) {
    const plan = await steps.plan(host);
    if (context.globals.json) context.json({ plan });
    else context.lines(plan);
    return;
  }
  if (steps.destroys !== undefined && !context.globals.yes) {
    // Ask only for what could be done: an unknown name is reported as that.
    const isThere = await exists(steps.plan(host), steps.ifExists === true);
    if (isThere) await context.confirm(steps.destroys);
  }
  const result = await steps.run(host);
  if (context.globals.json) context.json(steps.json?.(result) ?? { ok: true });
  else await steps.show?.(result);
}

async function exists(plan: Promise<Plan>, mayBeMissing: boolean): Promise<boolean> {
  try {
    await plan;
    return true;
  } catch (error) {
    if (mayBeMissing && ["ENOENT", "ENXIO", "ENODEV", "ENODATA"].includes(codeOf(error) ?? "")) return false;
    throw error;
  }
}

/** Drops the keys whose value is undefined: an option not given is not passed on. */
export function defined<T extends object>(values: T): Defined<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Defined<T>;
}

export type Defined<T> = {
  [K in keyof T as undefined extends T[K] ? never : K]: T[K];
} & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>;
};

/** A word as a shell takes it, quoted only where needed; for plans. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
