/** Options that several commands share, declared once. */
import { Option } from "commander";
import type { PoolFeatures } from "../thin/index.js";

export const ifExistsOption = () => new Option("--if-exists", "it is no failure when there is nothing to take away");
export const ifNotExistsOption = () => new Option("--if-not-exists", "it is no failure when it is there already");

/** Features as `pool create` takes them: only turned on. */
export function featureOptions(): readonly Option[] {
  return [
    new Option("--skip-block-zeroing", "do not zero new blocks"),
    new Option("--ignore-discard", "discards are not taken"),
    new Option("--no-discard-passdown", "discards free blocks, but are not handed to the data device"),
    new Option("--read-only", "nothing may be changed through the pool"),
    new Option("--queue-if-no-space", "writes wait when the pool is full; without it they fail at once"),
  ];
}

export interface FeatureFlags {
  readonly skipBlockZeroing?: boolean;
  readonly ignoreDiscard?: boolean;
  readonly discardPassdown: boolean;
  readonly readOnly?: boolean;
  readonly queueIfNoSpace?: boolean;
}

/** Whether any feature option was given. */
export function hasFeatureFlags(flags: FeatureFlags): boolean {
  const on = [flags.skipBlockZeroing, flags.ignoreDiscard, flags.readOnly, flags.queueIfNoSpace];
  return on.includes(true) || !flags.discardPassdown;
}

/** A pool made here answers ENOSPC when it is full unless it was asked to queue. */
export function featuresOf(flags: FeatureFlags): PoolFeatures {
  return {
    skipBlockZeroing: flags.skipBlockZeroing === true,
    ignoreDiscard: flags.ignoreDiscard === true,
    noDiscardPassdown: !flags.discardPassdown,
    readOnly: flags.readOnly === true,
    errorIfNoSpace: flags.queueIfNoSpace !== true,
  };
}
