/** Mapping blocks a run at a time: a short cut, which must not show in a single byte. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { ThinMetadata } from "../../src/thin/index.js";

const METADATA_BYTES = 4 * 2 ** 20;
const DATA_BLOCKS = 80_000;
const VIRTUAL_BLOCKS = 6000;
const DEVICES = 3;

type Step =
  | { readonly kind: "map"; readonly device: number; readonly first: number; readonly count: number }
  | { readonly kind: "unmap"; readonly device: number; readonly first: number; readonly count: number }
  | { readonly kind: "snapshot"; readonly device: number }
  | { readonly kind: "commit" };

class Side {
  readonly memory = new MemoryDevice({ sizeBytes: METADATA_BYTES });
  readonly metadata = ThinMetadata.open(this.memory.sync, METADATA_BYTES / 4096, {
    dataBlockSectors: 128,
    mayFormat: true,
    isDeviceReadOnly: false,
  });
  #nextId = DEVICES;

  constructor(readonly mapsRuns: boolean) {
    this.metadata.resizeData(DATA_BLOCKS);
    for (let id = 0; id < DEVICES; id++) this.metadata.createThin(id);
    this.metadata.commit();
  }

  carryOut(step: Step): void {
    const { metadata } = this;
    switch (step.kind) {
      case "map": {
        const device = metadata.openDevice(step.device);
        const blocks = Array.from({ length: step.count }, () => metadata.allocateDataBlock()!);
        if (this.mapsRuns) metadata.insertMappings(device, step.first, blocks);
        else for (const [index, block] of blocks.entries()) metadata.insertMapping(device, step.first + index, block);
        metadata.closeDevice(device);
        return;
      }
      case "unmap": {
        const device = metadata.openDevice(step.device);
        metadata.removeMappings(device, step.first, step.first + step.count);
        metadata.closeDevice(device);
        return;
      }
      case "snapshot":
        return metadata.createSnapshot(this.#nextId++, step.device);
      case "commit":
        return metadata.commit();
    }
  }
}

const device = fc.nat(DEVICES - 1);
const first = fc.nat(VIRTUAL_BLOCKS);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("map" as const),
      device,
      first,
      count: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 1024 })),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("unmap" as const),
      device,
      first,
      count: fc.integer({ min: 1, max: 600 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("snapshot" as const), device }) },
  { weight: 1, arbitrary: fc.constant({ kind: "commit" as const }) },
);

test("a run of mappings leaves the bytes that one mapping after the other leaves", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const [runs, singly] = [new Side(true), new Side(false)];
      for (const each of [...steps, { kind: "commit" as const }]) {
        runs.carryOut(each);
        singly.carryOut(each);
      }
      expect(runs.metadata.listDevices()).toEqual(singly.metadata.listDevices());
      expect(Buffer.compare(runs.memory.contents(), singly.memory.contents())).toBe(0);
    }),
    { numRuns: 150 },
  );
});

test("nor where the root becomes full within a run, and another device needs blocks before the next", () => {
  const [runs, singly] = [new Side(true), new Side(false)];
  // In a device filled in order the 252nd leaf comes with block 62,252; the way down for the next block splits the root.
  for (let first = 0; first < 63_000; first += 89) {
    const steps: Step[] = [{ kind: "map", device: 0, first, count: 89 }];
    if (first > 62_000) steps.push({ kind: "map", device: 1, first: first * 1024, count: 1024 });
    for (const each of steps) {
      runs.carryOut(each);
      singly.carryOut(each);
    }
  }
  runs.carryOut({ kind: "commit" });
  singly.carryOut({ kind: "commit" });
  expect(Buffer.compare(runs.memory.contents(), singly.memory.contents())).toBe(0);
});
