/** What must hold between two runs of one script, and between a run and the tools. */
import { expect } from "vitest";
import { imageDamage, imageDifference, MetadataImage } from "./metadata-image.js";
import type { DumpModel } from "./pool-model.js";
import { firstDifference, firstSurprise, type PoolScript, type ScriptRun } from "./pool-script.js";
import { HAS_THIN_TOOLS, thinCheck, thinDump } from "./thin-tools.js";

/** Both left the same metadata at every checkpoint, in every used byte. */
export function expectSameImages(script: PoolScript, ours: ScriptRun, theirs: ScriptRun): void {
  expect(ours.checkpoints.length).toBe(theirs.checkpoints.length);
  for (const [index, { title, metadata }] of ours.checkpoints.entries()) {
    const image = new MetadataImage(metadata);
    const difference = imageDifference(image, new MetadataImage(theirs.checkpoints[index]!.metadata));
    expect(difference, `${script.name}: ${title}`).toBeUndefined();
    expect(imageDamage(image), `${script.name}: ${title}`).toEqual([]);
  }
}

/** Both answered the same to every step, with as many commits. */
export function expectSameAnswers(script: PoolScript, ours: ScriptRun, theirs: ScriptRun): void {
  expect(firstDifference(script, ours, theirs)).toBeUndefined();
}

/** Every step went well and answered what the model says. */
export function expectModelAnswers(script: PoolScript, run: ScriptRun): void {
  const failed = run.results.findIndex(({ outcome }) => outcome !== "ok");
  expect(
    failed === -1 ? undefined : { failed, step: script.steps[failed], result: run.results[failed] },
  ).toBeUndefined();
  expect(firstSurprise(script, run)).toBeUndefined();
}

/** The tools find no damage and, given a model, exactly what it says. */
export function expectCleanMetadata(title: string, metadata: Uint8Array, dump?: DumpModel): void {
  expect(imageDamage(new MetadataImage(metadata)), title).toEqual([]);
  if (!HAS_THIN_TOOLS) return;
  expect(thinCheck(metadata), title).toBeUndefined();
  if (dump !== undefined) expect(thinDump(metadata), title).toEqual(dump);
}
