/**
 * What a bench file is given, and what it hands back. A bench file exports `name`, `summary` and `run`; it prepares its
 * own fixture, and calls `session.compare` once per row. Measures are taken in turns, ours and the peer's in the same
 * run, the order changing from round to round, so that a slow minute of the machine hits both.
 */
import { join } from "node:path";

export interface Bench {
  /** Word on the command line. */
  readonly name: string;
  readonly summary: string;
  /** Measures the program, which is built before; others measure the library, bundled with the bench. */
  readonly usesProgram?: boolean;
  run(session: Session): Promise<void>;
}

export type Unit = "ms" | "per second" | "MiB";

/** One of the things compared. */
export interface Side {
  readonly label: string;
  /** Does the work once. @returns what was measured, in the row's unit */
  measure(): Promise<number> | number;
}

/** What the project promises of a row. A ratio is ours to the peer's in time: below 1 we are faster. */
export type Floor =
  | { readonly kind: "ratio"; readonly atMost: number }
  | { readonly kind: "value"; readonly atMost?: number; readonly atLeast?: number }
  | { readonly kind: "above peer"; readonly atMost: number };

export interface Comparison {
  readonly title: string;
  readonly unit: Unit;
  readonly ours: Side;
  readonly peer?: Side;
  /** A peer may come with none: it is shown, nothing is promised. */
  readonly floors?: readonly Floor[];
  /** Rounds that count; default 5. */
  readonly rounds?: number;
  /** Rounds before, which do not; default 1. */
  readonly warmUps?: number;
  /** Runs before every measure, outside it. */
  readonly before?: () => Promise<void> | void;
}

export interface Session {
  /** A folder of this bench's own, removed behind it. */
  readonly folder: string;
  /** The built program, and the folder it was built from. */
  readonly program: string;
  readonly root: string;
  note(text: string): void;
  compare(comparison: Comparison): Promise<void>;
}

export interface Samples {
  readonly label: string;
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export interface Row {
  readonly bench: string;
  readonly title: string;
  readonly unit: Unit;
  readonly ours: Samples;
  readonly peer: Samples | undefined;
  /** Ours to the peer's, turned so that below 1 means we do better. */
  readonly ratio: number | undefined;
  readonly floor: string;
  readonly isMet: boolean | undefined;
}

/** For programs of a bench, or of a folder in it: its own state and sockets, never those of whoever runs it. */
export function environmentOf({ folder }: Pick<Session, "folder">): Record<string, string> {
  return {
    PATH: process.env.PATH ?? "",
    HOME: folder,
    UDM_STATE_DIR: join(folder, "state"),
    UDM_RUN_DIR: join(folder, "run"),
  };
}

/** Milliseconds that `work` takes. */
export async function timed(work: () => Promise<unknown> | unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}
