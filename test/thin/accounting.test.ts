import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MemoryDevice, type SyncIo } from "../../src/io/index.js";
import {
  diffDevices,
  eachUsedRun,
  findSharers,
  findWriter,
  locateMapping,
  ThinMetadata,
  usageByDevice,
  usageOfSet,
} from "../../src/thin/index.js";

const METADATA_BLOCKS = 4096;
const DATA_BLOCKS = 90_000;
/** Enough for trees of several leaves, whose halves stay shared when one leaf is written. */
const VIRTUAL_BLOCKS = 2_000;
const SLOTS = 5;

type Step =
  | { readonly kind: "create" | "snap" | "delete" | "reserve" | "release" | "commit"; readonly slot: number }
  | { readonly kind: "write" | "discard"; readonly slot: number; readonly begin: number; readonly count: number };

const slot = fc.nat(SLOTS - 1);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("create" as const), slot }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("snap" as const), slot }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("delete" as const), slot }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("reserve" as const, "release" as const), slot }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("commit" as const), slot }) },
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constantFrom("write" as const, "write" as const, "discard" as const),
      slot,
      begin: fc.nat(VIRTUAL_BLOCKS - 1),
      count: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 100, max: 700 })),
    }),
  },
);

interface ModelMapping {
  readonly dataBlock: number;
  readonly time: number;
  readonly writer: ModelDevice;
}

interface ModelDevice {
  readonly id: number;
  mappings: Map<number, ModelMapping>;
}

/** A pool beside a model of plain maps; every step is done to both. */
class Twins {
  readonly #device = new MemoryDevice({ sizeBytes: METADATA_BLOCKS * 4096 });
  metadata: ThinMetadata;
  readonly devices = new Map<number, ModelDevice>();
  held: ModelDevice[] | undefined;

  constructor() {
    this.metadata = this.#open();
    this.metadata.resizeData(DATA_BLOCKS);
    this.metadata.commit();
  }

  #open(): ThinMetadata {
    return ThinMetadata.open(this.#device.sync, METADATA_BLOCKS, {
      dataBlockSectors: 128,
      mayFormat: true,
      isDeviceReadOnly: false,
      cacheBlocks: 64,
    });
  }

  reopen(): void {
    this.metadata.commit();
    this.metadata = this.#open();
  }

  apply(each: Step): void {
    const { metadata, devices } = this;
    const device = devices.get(each.slot);
    switch (each.kind) {
      case "create":
        if (device !== undefined) return;
        metadata.createThin(each.slot);
        devices.set(each.slot, { id: each.slot, mappings: new Map() });
        return;
      case "snap": {
        const id = [...Array(SLOTS).keys()].find((free) => !devices.has(free));
        if (device === undefined || id === undefined) return;
        metadata.createSnapshot(id, each.slot);
        devices.set(id, { id, mappings: new Map(device.mappings) });
        return;
      }
      case "delete":
        if (device === undefined) return;
        metadata.deleteThin(each.slot);
        devices.delete(each.slot);
        return;
      case "reserve":
        if (this.held !== undefined) return;
        metadata.commit();
        metadata.reserveSnapshot();
        metadata.commit();
        this.held = [...devices.values()].map(({ id, mappings }) => ({ id, mappings: new Map(mappings) }));
        return;
      case "release":
        if (this.held === undefined) return;
        metadata.releaseSnapshot();
        metadata.commit();
        this.held = undefined;
        return;
      case "commit":
        metadata.commit();
        return;
      case "write":
      case "discard":
        if (device !== undefined) this.#change(device, each.kind, each.begin, each.begin + each.count);
    }
  }

  #change(device: ModelDevice, kind: "write" | "discard", begin: number, end: number): void {
    const { metadata } = this;
    const open = metadata.openDevice(device.id);
    if (kind === "discard") {
      metadata.removeMappings(open, begin, end);
      for (let block = begin; block < end; block++) device.mappings.delete(block);
    } else {
      for (let block = begin; block < end; block++) {
        const dataBlock = metadata.allocateDataBlock()!;
        metadata.insertMapping(open, block, dataBlock);
        device.mappings.set(block, { dataBlock, time: metadata.time, writer: device });
      }
    }
    metadata.closeDevice(open);
  }

  /** Data block -> ids of the live devices that map it. */
  owners(): Map<number, Set<number>> {
    const owners = new Map<number, Set<number>>();
    for (const { id, mappings } of this.devices.values()) {
      for (const { dataBlock } of mappings.values()) {
        const ids = owners.get(dataBlock) ?? new Set();
        owners.set(dataBlock, ids.add(id));
      }
    }
    return owners;
  }

  heldBlocks(): Set<number> {
    return new Set((this.held ?? []).flatMap(({ mappings }) => [...mappings.values()].map((each) => each.dataBlock)));
  }

  /** The definition, word by word. */
  usage(ids: ReadonlySet<number>): { exclusive: number; shared: number; freed: number } {
    const held = this.heldBlocks();
    const usage = { exclusive: 0, shared: 0, freed: 0 };
    for (const [block, owners] of this.owners()) {
      const all = [...owners];
      if (!all.some((id) => ids.has(id))) continue;
      if (all.every((id) => ids.has(id))) {
        usage.exclusive++;
        if (!held.has(block)) usage.freed++;
      } else usage.shared++;
    }
    return usage;
  }
}

function property(check: (twins: Twins, seed: number) => void): void {
  const steps = fc.array(step, { minLength: 5, maxLength: 40 });
  fc.assert(
    fc.property(steps, fc.nat(), (all, seed) => {
      const twins = new Twins();
      twins.apply({ kind: "create", slot: 0 });
      twins.apply({ kind: "write", slot: 0, begin: 0, count: 1_200 });
      for (const each of all) twins.apply(each);
      check(twins, seed);
    }),
    { numRuns: 60 },
  );
}

describe("usage is what the definition counts", () => {
  test("of each device, in one window or many", () => {
    property((twins) => {
      const expected = new Map([...twins.devices.keys()].sort().map((id) => [id, twins.usage(new Set([id]))]));
      expect(usageByDevice(twins.metadata)).toEqual(expected);
      expect(usageByDevice(twins.metadata, { windowBlocks: 777 })).toEqual(expected);
    });
  });

  test("of a set, and that many blocks are free once it is deleted", () => {
    property((twins, seed) => {
      const ids = new Set([...twins.devices.keys()].filter((id) => (seed >> id) & 1));
      const expected = twins.usage(ids);
      expect(usageOfSet(twins.metadata, ids)).toEqual(expected);
      expect(usageOfSet(twins.metadata, ids, { windowBlocks: 1_001 })).toEqual(expected);
      twins.metadata.commit();
      const before = twins.metadata.freeDataBlocks;
      for (const id of ids) twins.metadata.deleteThin(id);
      twins.metadata.commit();
      expect(twins.metadata.freeDataBlocks - before).toBe(expected.freed);
    });
  });

  test("of data blocks: who maps each, and what only the metadata snapshot holds", () => {
    property((twins) => {
      const expected = new Map<number, string>();
      for (const block of twins.heldBlocks()) expected.set(block, "0 held");
      for (const [block, owners] of twins.owners()) {
        expected.set(block, `${owners.size}${expected.has(block) ? " held" : ""}`);
      }
      for (const windowBlocks of [2 ** 20, 501]) {
        const found = new Map<number, string>();
        let last = -1;
        eachUsedRun(
          twins.metadata,
          (dataBlock, count, mappings, isHeld) => {
            expect(dataBlock).toBeGreaterThan(last);
            last = dataBlock + count - 1;
            for (let each = dataBlock; each <= last; each++) found.set(each, `${mappings}${isHeld ? " held" : ""}`);
          },
          { windowBlocks },
        );
        expect(found).toEqual(new Map([...expected].sort(([a], [b]) => a - b)));
      }
    });
  });
});

test("a difference is where one device maps nothing or another data block", () => {
  property((twins) => {
    const devices = [...twins.devices.values()];
    for (const left of devices) {
      for (const right of devices) {
        const expected = new Map<number, string>();
        for (const [block, { dataBlock }] of left.mappings) {
          const other = right.mappings.get(block);
          if (other === undefined) expected.set(block, "left-only");
          else if (other.dataBlock !== dataBlock) expected.set(block, "differ");
        }
        for (const block of right.mappings.keys()) if (!left.mappings.has(block)) expected.set(block, "right-only");
        const found = new Map<number, string>();
        let last = { end: -1, kind: "" };
        diffDevices(twins.metadata, left.id, right.id, (begin, count, kind) => {
          expect(begin > last.end || (begin === last.end && kind !== last.kind)).toBe(true);
          last = { end: begin + count, kind };
          for (let block = begin; block < begin + count; block++) found.set(block, kind);
        });
        expect(found).toEqual(new Map([...expected].sort(([a], [b]) => a - b)));
      }
    }
  });
});

test("a block is found with its time, its sharers, and its writer or nobody", () => {
  property((twins, seed) => {
    const held = twins.heldBlocks();
    for (const device of twins.devices.values()) {
      for (const block of [seed % VIRTUAL_BLOCKS, (seed * 7) % VIRTUAL_BLOCKS, 0, 1_199]) {
        const expected = device.mappings.get(block);
        const { mapping, path } = locateMapping(twins.metadata, device.id, block)!;
        expect(path[0]!.tree).toBe("devices");
        expect(path.at(-1)!.tree).toBe("mappings");
        expect(mapping).toEqual(
          expected === undefined ? undefined : { dataBlock: expected.dataBlock, time: expected.time },
        );
        if (expected === undefined) continue;
        const { dataBlock, time, writer } = expected;
        const { devices, isHeld } = findSharers(twins.metadata, dataBlock, block);
        const sharers = [...twins.devices.values()].filter((each) => each.mappings.get(block)?.dataBlock === dataBlock);
        expect(devices).toEqual(
          sharers.map(({ id }) => ({ id, virtualBlock: block })).sort((left, right) => left.id - right.id),
        );
        expect(isHeld).toBe(held.has(dataBlock));
        const ids = devices.map(({ id }) => id);
        const named = findWriter(twins.metadata, ids, time);
        if (named !== undefined) expect(twins.devices.get(named)).toBe(writer);
        if (sharers.includes(writer)) expect(named).toBe(writer.id);
      }
    }
  });
});

test("the writer that mapped another block since is found through its last snapshot", () => {
  const twins = new Twins();
  twins.apply({ kind: "create", slot: 0 });
  twins.apply({ kind: "write", slot: 0, begin: 0, count: 10 });
  twins.apply({ kind: "snap", slot: 0 });
  twins.apply({ kind: "write", slot: 0, begin: 0, count: 1 });
  expect(findWriter(twins.metadata, [1], 0)).toBe(0);
  twins.apply({ kind: "snap", slot: 0 });
  // Two snapshots of 0 and one time of the last: the first of them no longer has a provable parent.
  expect(findWriter(twins.metadata, [1], 0)).toBeUndefined();
  expect(findWriter(twins.metadata, [1, 2], 0)).toBe(0);
  twins.apply({ kind: "delete", slot: 0 });
  twins.apply({ kind: "create", slot: 0 });
  expect(findWriter(twins.metadata, [1, 2], 0)).toBeUndefined();
});

/** The model's answers to everything, beside the pool's. */
function expectSame(twins: Twins): void {
  const { metadata, devices } = twins;
  expect(usageByDevice(metadata)).toEqual(
    new Map([...devices.keys()].sort().map((id) => [id, twins.usage(new Set([id]))])),
  );
  const used = new Map<number, number>();
  eachUsedRun(metadata, (dataBlock, count, mappings) => {
    for (let each = dataBlock; each < dataBlock + count; each++) if (mappings > 0) used.set(each, mappings);
  });
  const owners = [...twins.owners()].map(([block, ids]): [number, number] => [block, ids.size]);
  expect(used).toEqual(new Map(owners.sort(([a], [b]) => a - b)));
}

test("inner nodes of deep trees are shared by some devices and not by others", () => {
  const twins = new Twins();
  twins.apply({ kind: "create", slot: 0 });
  twins.apply({ kind: "write", slot: 0, begin: 0, count: 70_000 });
  expect(locateMapping(twins.metadata, 0, 0)!.path).toHaveLength(4);
  for (const [slot, begin] of [
    [0, 0],
    [1, 69_900],
    [0, 25_000],
    [2, 5],
  ] as const) {
    twins.apply({ kind: "snap", slot });
    twins.apply({ kind: "write", slot, begin, count: 2 });
    expectSame(twins);
  }
});

test("what the metadata snapshot holds counts as held wherever the copies of its leaves lie", () => {
  const twins = new Twins();
  // The leaves of 1 come first; once they are free, the allocator of a pool opened anew gives them to the copies.
  for (const slot of [1, 0]) {
    twins.apply({ kind: "create", slot });
    twins.apply({ kind: "write", slot, begin: 0, count: 1_000 });
  }
  const held = locateMapping(twins.metadata, 0, 10)!.path.at(-1)!.metadataBlock;
  twins.apply({ kind: "delete", slot: 1 });
  twins.apply({ kind: "reserve", slot: 0 });
  twins.reopen();
  twins.apply({ kind: "write", slot: 0, begin: 10, count: 1 });
  expect(locateMapping(twins.metadata, 0, 10)!.path.at(-1)!.metadataBlock).toBeLessThan(held);
  expectSame(twins);
  expect(usageByDevice(twins.metadata).get(0)).toEqual({ exclusive: 1_000, shared: 0, freed: 1 });
});

const refuse = (): never => {
  throw new Error("the metadata device is read and written, nothing else");
};
const refusing = { discard: refuse, writeZeroes: refuse, knownZeroes: refuse };

/** Metadata blocks that `look` reads from a pool with a device of 30,000 mappings and snapshots of it. */
function readsOf(snapshots: number, look: (metadata: ThinMetadata) => void): number {
  const device = new MemoryDevice({ sizeBytes: METADATA_BLOCKS * 4096 });
  const options = { dataBlockSectors: 128, mayFormat: true, isDeviceReadOnly: false, cacheBlocks: 16 };
  const metadata = ThinMetadata.open(device.sync, METADATA_BLOCKS, options);
  metadata.resizeData(DATA_BLOCKS);
  metadata.createThin(0);
  const open = metadata.openDevice(0);
  for (let block = 0; block < 30_000; block++) metadata.insertMapping(open, block, metadata.allocateDataBlock()!);
  for (let id = 1; id <= snapshots; id++) metadata.createSnapshot(id, 0);
  if (snapshots > 0) metadata.insertMapping(open, 15_000, metadata.allocateDataBlock()!);
  metadata.commit();
  let count = 0;
  const counting: SyncIo = {
    ...refusing,
    read: (offset, buffer) => {
      count++;
      device.sync.read(offset, buffer);
    },
    write: refuse,
    flush: refuse,
  };
  look(ThinMetadata.open(counting, METADATA_BLOCKS, { ...options, mayFormat: false }));
  return count;
}

test("what devices have in common is read once, however many there are", () => {
  const look = (expected: object) => (metadata: ThinMetadata) =>
    expect(usageByDevice(metadata).get(0)).toEqual(expected);
  const alone = readsOf(0, look({ exclusive: 30_000, shared: 0, freed: 30_000 }));
  const many = readsOf(200, look({ exclusive: 1, shared: 29_999, freed: 1 }));
  expect(alone).toBeGreaterThan(30_000 / 252);
  // The details and the roots of 200 devices take a few nodes more.
  expect(many - alone).toBeLessThan(20);
});

test("a difference is found without reading what both devices have", () => {
  const found: unknown[] = [];
  const reads = readsOf(1, (metadata) => diffDevices(metadata, 0, 1, (...extent) => found.push(extent)));
  expect(found).toEqual([[15_000, 1, "differ"]]);
  expect(reads).toBeLessThan(20);
});

test("a mapping behind the end of the data device is damage", () => {
  const device = new MemoryDevice({ sizeBytes: METADATA_BLOCKS * 4096 });
  const metadata = ThinMetadata.open(device.sync, METADATA_BLOCKS, {
    dataBlockSectors: 128,
    mayFormat: true,
    isDeviceReadOnly: false,
  });
  metadata.resizeData(100);
  metadata.createThin(0);
  metadata.insertMapping(metadata.openDevice(0), 5, 100);
  for (const look of [() => usageByDevice(metadata), () => usageOfSet(metadata, new Set([0]))]) {
    expect(look).toThrow("a mapping names data block 100, the pool has 100");
  }
  expect(() => eachUsedRun(metadata, () => undefined)).toThrow("a mapping names data block 100");
});

test("a device that is not there is refused, not empty", () => {
  const twins = new Twins();
  twins.apply({ kind: "create", slot: 0 });
  expect(() => diffDevices(twins.metadata, 0, 3, () => undefined)).toThrow("thin device 3 does not exist");
  expect(locateMapping(twins.metadata, 3, 0)).toBeUndefined();
});
