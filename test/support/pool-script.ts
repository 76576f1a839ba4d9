/**
 * What is done to a pool, step by step, as plain values: a kernel in the guest and our engine carry out the same script,
 * and a model says what must come out.
 *
 * A pool of the kernel also commits by itself about once a second while a thin device has changes. So that both commit at
 * the same points, scripts follow every write that maps something with a flush; only writes of a group that takes
 * milliseconds share one. Executors report the commits of every step; a stray one is found by comparing them.
 */

export const SECTOR_BYTES = 512;

/** What the external origin holds everywhere. */
export const ORIGIN_SEED = 0x0012345;

/** Words of a pool's table line behind the low-water mark. */
export type FeatureWord =
  | "skip_block_zeroing"
  | "ignore_discard"
  | "no_discard_passdown"
  | "read_only"
  | "error_if_no_space";

export interface PoolShape {
  readonly metadataBlocks: number;
  readonly dataBlocks: number;
  readonly blockSectors: number;
  readonly lowWaterBlocks: number;
  readonly features: readonly FeatureWord[];
  /** Size of every thin device of the script, a multiple of 4096. */
  readonly thinBytes: number;
  /** Size of the external origin that thin devices may be activated with, a multiple of 4096; none without. */
  readonly originBytes?: number;
}

export type PoolStep =
  | { readonly kind: "create-thin"; readonly id: number }
  | { readonly kind: "create-snap"; readonly id: number; readonly origin: number }
  | { readonly kind: "delete"; readonly id: number }
  /** The thin device's table is loaded; only then it can be written. */
  | { readonly kind: "activate"; readonly id: number; readonly external?: boolean }
  | { readonly kind: "deactivate"; readonly id: number }
  | {
      readonly kind: "write";
      readonly id: number;
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly seed: number;
    }
  | { readonly kind: "flush"; readonly id: number }
  | { readonly kind: "discard"; readonly id: number; readonly offsetBytes: number; readonly lengthBytes: number }
  | { readonly kind: "grow-data"; readonly dataBlocks: number }
  | { readonly kind: "grow-metadata"; readonly metadataBlocks: number }
  /** Another table line for the live pool: suspend, load, resume. */
  | {
      readonly kind: "reload";
      readonly features: readonly FeatureWord[];
      readonly lowWaterBlocks: number;
      readonly dataBlocks: number;
    }
  | { readonly kind: "reserve" }
  | { readonly kind: "release" }
  | { readonly kind: "set-transaction-id"; readonly from: number; readonly to: number }
  | { readonly kind: "message"; readonly words: readonly string[] }
  /** All thin devices and the pool are removed, and the pool is made again on the same devices. */
  | { readonly kind: "reopen" }
  /** A write that may have to wait for room; what became of it is the text of the next join, in order. */
  | {
      readonly kind: "start-write";
      readonly id: number;
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly seed: number;
    }
  | { readonly kind: "join" }
  | { readonly kind: "wait"; readonly milliseconds: number }
  /** From now on the metadata device refuses writes, or everything, or nothing. */
  | { readonly kind: "metadata-fault"; readonly refuses: "writes" | "everything" | "nothing" }
  | { readonly kind: "status"; readonly noflush?: boolean }
  | { readonly kind: "table" }
  | { readonly kind: "thin-status"; readonly id: number }
  | { readonly kind: "thin-table"; readonly id: number }
  /** The pool's event counter. */
  | { readonly kind: "events" }
  /** Fingerprint of all bytes of an active thin device. */
  | { readonly kind: "sum"; readonly id: number }
  /** The metadata device as it is now is put aside. */
  | { readonly kind: "checkpoint"; readonly title: string };

export interface PoolScript {
  readonly name: string;
  readonly shape: PoolShape;
  readonly steps: readonly PoolStep[];
  /** What a model says that steps answer (sums, states of thin devices), by number of the step. */
  readonly expected?: Readonly<Record<number, string>>;
}

export interface StepResult {
  /** "ok" or the name of an errno. */
  readonly outcome: string;
  /** Superblocks written meanwhile; undefined where the two ways of doing the step differ in that. */
  readonly commits: number | undefined;
  /** Status words, table words or a fingerprint; else empty. */
  readonly text: string;
}

export interface ScriptRun {
  readonly results: readonly StepResult[];
  /** Images put aside by checkpoints, in order. */
  readonly checkpoints: readonly { readonly title: string; readonly step: number; readonly metadata: Uint8Array }[];
}

/** A step on one line, for messages. */
export function stepText(step: PoolStep): string {
  const { kind, ...rest } = step;
  return [kind, ...Object.entries(rest).map(([key, value]) => `${key}=${String(value)}`)].join(" ");
}

/** The first step at which two runs of a script differ, in words; undefined when there is none. */
export function firstDifference(script: PoolScript, ours: ScriptRun, theirs: ScriptRun): string | undefined {
  for (const [index, step] of script.steps.entries()) {
    const a = ours.results[index];
    const b = theirs.results[index];
    const at = `${script.name}: step ${index} (${stepText(step)})`;
    if (a === undefined || b === undefined) return `${at}: only one side carried it out`;
    if (a.outcome !== b.outcome) return `${at}: ${a.outcome}, wanted ${b.outcome}`;
    if (a.text !== b.text) return `${at}: "${a.text}", wanted "${b.text}"`;
    if (a.commits !== undefined && b.commits !== undefined && a.commits !== b.commits) {
      return `${at}: ${a.commits} commits, wanted ${b.commits}`;
    }
  }
  return undefined;
}

/** The first step that does not answer what the model said, or fails although it has an opinion on it. */
export function firstSurprise(script: PoolScript, run: ScriptRun): string | undefined {
  for (const [index, text] of Object.entries(script.expected ?? {})) {
    const step = script.steps[Number(index)]!;
    const result = run.results[Number(index)];
    if (result?.outcome !== "ok" || result.text !== text) {
      return `${script.name}: step ${index} (${stepText(step)}): ${result?.outcome} "${result?.text}", the model says "${text}"`;
    }
  }
  return undefined;
}

/** The first commit where the script has none, made by the one-second timer of a kernel; undefined when there is none. */
export function strayCommit(script: PoolScript, run: ScriptRun): string | undefined {
  for (const [index, step] of script.steps.entries()) {
    const commits = run.results[index]?.commits ?? 0;
    const most = step.kind === "flush" ? 1 : step.kind === "write" || step.kind === "discard" ? 0 : undefined;
    if (most !== undefined && commits > most)
      return `${script.name}: step ${index} (${stepText(step)}): ${commits} commits`;
  }
  return undefined;
}

/**
 * A write of one block that the kernel's timer committed at once, before its flush could: the same commit, only earlier.
 * Counts it where the script has it.
 */
export function foldEarlyCommits(script: PoolScript, run: ScriptRun): ScriptRun {
  const results = [...run.results];
  const blockBytes = script.shape.blockSectors * SECTOR_BYTES;
  for (const [index, step] of script.steps.entries()) {
    const previous = script.steps[index - 1];
    const next = script.steps[index + 1];
    if (step.kind !== "write" || next?.kind !== "flush" || next.id !== step.id) continue;
    if (previous?.kind === "write" || previous?.kind === "discard") continue;
    const last = Math.floor((step.offsetBytes + step.lengthBytes - 1) / blockBytes);
    if (last !== Math.floor(step.offsetBytes / blockBytes)) continue;
    if (results[index]?.commits !== 1 || results[index + 1]?.commits !== 0) continue;
    results[index] = { ...results[index]!, commits: 0 };
    results[index + 1] = { ...results[index + 1]!, commits: 1 };
  }
  return { ...run, results };
}

/** Fills `buffer` with what a write step puts at `offsetBytes`: each sector repeats its seed and its number. */
export function fillPattern(buffer: Uint8Array, offsetBytes: number, seed: number): void {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  for (let at = 0; at < buffer.length; at += SECTOR_BYTES) {
    const sector = (offsetBytes + at) / SECTOR_BYTES;
    view.setUint32(at, seed, true);
    view.setUint32(at + 4, sector, true);
    for (let size = 8; size < SECTOR_BYTES; size *= 2) buffer.copyWithin(at + size, at, at + size);
  }
}
