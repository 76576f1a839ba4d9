import { expect, test } from "vitest";
import { expectSameAnswers, expectSameImages } from "../support/compare-runs.js";
import { readGoldenRun } from "../support/golden-images.js";
import { KERNEL_TRACE } from "../support/kernel-trace.js";
import { PoolModel } from "../support/pool-model.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { HAS_THIN_TOOLS, thinCheck, thinDump } from "../support/thin-tools.js";

test("the golden trace is the one in the specification", () => {
  expect(readGoldenRun("kernel-trace/run.json.br").script).toEqual(KERNEL_TRACE);
});

for (const name of ["kernel-trace/run.json.br", "kernel-random/run.json.br"]) {
  test(`${name}: the engine answers and writes what the kernel did`, async () => {
    const { script, run } = readGoldenRun(name);
    const ours = await runScriptOnEngine(script);
    expectSameImages(script, ours.run, run);
    expectSameAnswers(script, ours.run, run);
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
