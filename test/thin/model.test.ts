/** Random operations against plain maps. fast-check prints seed and path of a failure; give both back to run it again. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { checkMetadata, deviceSource } from "../support/check-metadata.js";
import { METADATA_OPERATION, runMetadataModel } from "../support/metadata-model.js";
import { PoolModel } from "../support/pool-model.js";
import { POOL_OPERATION, POOL_OPERATION_KINDS, type PoolOperation, scriptOf } from "../support/pool-operations.js";
import { firstSurprise, type PoolScript, type PoolShape, type PoolStep } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { Random } from "../support/random.js";
import { HAS_THIN_TOOLS, thinCheck, thinDump } from "../support/thin-tools.js";

const SHAPE: PoolShape = {
  metadataBlocks: 160,
  dataBlocks: 120,
  blockSectors: 128,
  lowWaterBlocks: 0,
  features: [],
  thinBytes: 20 * 65536 + 4096 * 5,
};

/** After these everything is committed. */
const COMMITTING: ReadonlySet<PoolStep["kind"]> = new Set<PoolStep["kind"]>([
  "create-thin",
  "create-snap",
  "delete",
  "reserve",
  "release",
  "set-transaction-id",
  "grow-data",
  "grow-metadata",
  "reload",
  "reopen",
]);

/** Runs a script; at every commit the image must be clean and hold what the model says. */
async function runAgainstModel(
  script: PoolScript,
  onCommit: (image: () => Uint8Array, model: PoolModel, step: PoolStep) => void,
) {
  const { shape } = script;
  const metadata = new MemoryDevice({ sizeBytes: shape.metadataBlocks * 4096 });
  const data = new MemoryDevice({ sizeBytes: shape.dataBlocks * shape.blockSectors * 512 });
  const model = new PoolModel(shape);
  const { run } = await runScriptOnEngine(script, {
    from: { metadata, data },
    onStep: (_index, step) => {
      model.apply(step);
      if (!COMMITTING.has(step.kind)) return;
      onCommit(() => metadata.contents(), model, step);
      const { damage, pool } = checkMetadata(deviceSource(metadata));
      expect(damage).toEqual([]);
      expect(pool).toEqual(model.dump());
    },
  });
  const failed = run.results.findIndex(({ outcome }) => outcome !== "ok");
  expect(failed === -1 ? undefined : [script.steps[failed], run.results[failed]]).toBeUndefined();
  expect(firstSurprise(script, run)).toBeUndefined();
  const { damage, pool, heldRoot } = checkMetadata(deviceSource(metadata));
  expect(damage).toEqual([]);
  expect(pool).toEqual(model.dump());
  expect(heldRoot !== 0).toBe(model.isHeld);
}

describe("a pool equals a plain in-memory model, byte for byte and mapping for mapping", () => {
  test.each([
    ["64 KiB blocks", SHAPE, 700],
    ["192 KiB blocks", { ...SHAPE, blockSectors: 384, dataBlocks: 60, thinBytes: 9 * 196608 + 8192 }, 200],
    ["no passdown", { ...SHAPE, features: ["no_discard_passdown"] }, 50],
    ["1 MiB blocks", { ...SHAPE, blockSectors: 2048, dataBlocks: 40, thinBytes: 4 * 1048576 }, 50],
  ] as const)("%s", async (name, shape, numRuns) => {
    let sampled = 0;
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(POOL_OPERATION, { minLength: 5, maxLength: 45, size: "max" }), async (operations) => {
        runs++;
        await runAgainstModel(scriptOf(name, shape, operations), (image, model, step) => {
          // The tools are asked about a sample: they cost a process each.
          if (!HAS_THIN_TOOLS || runs % 20 !== 0 || sampled > 40) return;
          sampled++;
          expect(thinCheck(image()), step.kind).toBeUndefined();
          expect(thinDump(image())).toEqual(model.dump());
        });
      }),
      { numRuns },
    );
  });

  // CI has the tools; there this test runs in any case and says so when they are missing.
  test.skipIf(!HAS_THIN_TOOLS && process.env.CI !== "true")(
    "thin_check is clean and thin_dump says what the model says after every kind of operation",
    async () => {
      const random = new Random(4);
      const kinds = [...POOL_OPERATION_KINDS, ...POOL_OPERATION_KINDS];
      const operations: PoolOperation[] = [
        { kind: "create", a: 0, b: 1, c: 0 },
        { kind: "write", a: 0, b: 3, c: 12 },
      ];
      for (const kind of kinds) {
        operations.push({ kind, a: random.between(0, 9999), b: random.between(0, 9999), c: random.between(0, 9999) });
        // What does not commit by itself is committed and looked at behind it.
        operations.push({ kind: "status", a: 0, b: 1, c: 0 });
      }
      const seen = new Set<string>();
      const script = scriptOf("every kind", SHAPE, operations);
      const metadata = new MemoryDevice({ sizeBytes: SHAPE.metadataBlocks * 4096 });
      const data = new MemoryDevice({ sizeBytes: SHAPE.dataBlocks * 65536 });
      const model = new PoolModel(SHAPE);
      await runScriptOnEngine(script, {
        from: { metadata, data },
        onStep: (_index, step) => {
          model.apply(step);
          seen.add(step.kind);
          if (!COMMITTING.has(step.kind) && step.kind !== "status") return;
          if (step.kind === "status" && step.noflush === true) return;
          const image = metadata.contents();
          expect(thinCheck(image), step.kind).toBeUndefined();
          expect(thinDump(image), step.kind).toEqual(model.dump());
        },
      });
      for (const kind of [...COMMITTING, "write", "discard", "flush"] as const) expect([...seen]).toContain(kind);
    },
  );
});

describe("the metadata alone, with thousands of mappings, equals plain maps at every commit", () => {
  test.each([
    ["roomy", { metadataBlocks: 2048, dataBlocks: 20_000, maxRun: 500 }, 200],
    ["a cache of 16 blocks", { metadataBlocks: 1024, dataBlocks: 20_000, maxRun: 300, cacheBlocks: 16 }, 60],
    ["metadata that runs full", { metadataBlocks: 48, dataBlocks: 20_000, maxRun: 400 }, 60],
    ["data that runs full", { metadataBlocks: 512, dataBlocks: 900, maxRun: 300 }, 60],
  ] as const)("%s", (_name, options, numRuns) => {
    fc.assert(
      fc.property(fc.array(METADATA_OPERATION, { maxLength: 60, size: "max" }), (operations) => {
        runMetadataModel(options, operations);
      }),
      { numRuns },
    );
  });
});
