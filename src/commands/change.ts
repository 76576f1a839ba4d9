/** Changes: their plan instead of them with --dry-run, a question before those that destroy. */
import type { Host, Plan } from "../host/index.js";
import type { Context } from "./context.js";
import type { DocumentOf } from "./schema/documents.js";

export interface Change<Result> {
  /** The same in commands of the classic tools; makes the same refusals and changes nothing. Empty: nothing to do. */
  readonly plan: (host: Host) => Promise<Plan>;
  /** What is destroyed, `delete thin device 'x'`; asked before it runs. */
  readonly destroys?: string | undefined | ((host: Host) => Promise<string | undefined>);
  readonly run: (host: Host) => Promise<Result>;
  /** Prints the result; without it only --json prints. */
  readonly show?: (result: Result) => void | Promise<void>;
  /** The JSON document, `done` by default. */
  readonly json?: (result: Result) => object;
}

export async function change<Result>(context: Context, steps: Change<Result>): Promise<void> {
  const host = await context.host();
  if (context.globals.dryRun) {
    const plan = await steps.plan(host);
    if (context.globals.json) context.json({ plan } satisfies DocumentOf<"plan">);
    else context.lines(plan);
    return;
  }
  if (steps.destroys !== undefined && !context.globals.yes) {
    // Ask only for what could be done: an unknown name is reported as that.
    const plan = await steps.plan(host);
    const deed = typeof steps.destroys === "function" ? await steps.destroys(host) : steps.destroys;
    if (plan.length > 0 && deed !== undefined) await context.confirm(deed);
  }
  const result = await steps.run(host);
  if (context.globals.json) context.json(steps.json?.(result) ?? ({ ok: true } satisfies DocumentOf<"done">));
  else await steps.show?.(result);
}

/** The plans of several, one after the other. */
export async function plansOf<T>(all: readonly T[], planOf: (each: T) => Promise<Plan>): Promise<Plan> {
  const lines: string[] = [];
  for (const each of all) lines.push(...(await planOf(each)));
  return lines;
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
