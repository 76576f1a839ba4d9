import { expect, test } from "vitest";
import { readGoldenRun } from "../support/golden-images.js";
import { KERNEL_TRACE } from "../support/kernel-trace.js";
import { imageDamage, imageDifference, MetadataImage } from "../support/metadata-image.js";
import { PoolModel } from "../support/pool-model.js";
import { firstDifference, type PoolScript, type ScriptRun } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { HAS_THIN_TOOLS, thinCheck, thinDump } from "../support/thin-tools.js";

function expectSameImages(script: PoolScript, ours: ScriptRun, theirs: ScriptRun): void {
  expect(ours.checkpoints.length).toBe(theirs.checkpoints.length);
  for (const [index, { title, metadata }] of ours.checkpoints.entries()) {
    const difference = imageDifference(
      new MetadataImage(metadata),
      new MetadataImage(theirs.checkpoints[index]!.metadata),
    );
    expect(difference, `${script.name}: ${title}`).toBeUndefined();
    expect(imageDamage(new MetadataImage(metadata)), `${script.name}: ${title}`).toEqual([]);
  }
}

test("the golden trace is the one in the specification", () => {
  expect(readGoldenRun("kernel-trace/run.json.br").script).toEqual(KERNEL_TRACE);
});

for (const name of ["kernel-trace/run.json.br", "kernel-random/run.json.br"]) {
  test(`${name}: the engine answers and writes what the kernel did`, async () => {
    const { script, run } = readGoldenRun(name);
    const ours = await runScriptOnEngine(script);
    expectSameImages(script, ours.run, run);
    expect(firstDifference(script, ours.run, run)).toBeUndefined();
  });

  test.skipIf(!HAS_THIN_TOOLS)(`${name}: the tools find what the model says`, () => {
    const { script, run } = readGoldenRun(name);
    const model = new PoolModel(script.shape);
    let next = 0;
    for (const [index, { title, metadata, step }] of run.checkpoints.entries()) {
      for (; next <= step; next++) model.apply(script.steps[next]!);
      expect(thinCheck(metadata), title).toBeUndefined();
      expect(thinDump(metadata), `${index} ${title}`).toEqual(model.dump());
    }
  });
}
