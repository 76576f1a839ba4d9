/**
 * Damaged metadata. Every used block of a pool is changed in many ways; then the pool is opened, read, written, snapshot,
 * trimmed, deleted from and closed. What a checksum can find must give an error or a right answer, never wrong data. With
 * the checksum made right again, a wrong value (another data block, another count, an older version of a block) cannot be
 * told from a right one, so there only this is asked: every answer is an ordinary error or a result, and it comes.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import { codeOf } from "../../src/errors/index.js";
import type { SyncIo } from "../../src/io/index.js";
import { SyncBackedDevice } from "../../src/io/sync-backed-device.js";
import { Pool } from "../../src/thin/index.js";
import { checkMetadata, deviceSource } from "../support/check-metadata.js";
import { ForkDevice } from "../support/fork-device.js";
import { fillPattern } from "../support/pool-script.js";
import { PoolWorker, WORKLOAD_BLOCK_BYTES, type WorkStep, workloadConfig } from "../support/pool-workload.js";
import { Random } from "../support/random.js";
import { seedOf, WrittenHistory } from "../support/written-history.js";

const METADATA_BLOCKS = 128;
const DATA_BLOCKS = 700;
const THIN_BLOCKS = 400;
const THIN_BYTES = THIN_BLOCKS * WORKLOAD_BLOCK_BYTES;
const SALTS: Readonly<Record<string, number>> = { superblock: 160774, node: 121107, bitmap: 240779, index: 160478 };
/** Far more than the whole of the metadata, several times over. */
const MAX_READS = 20_000;

/** A device that ends a run which reads without end. */
class BoundedDevice extends SyncBackedDevice {
  readonly isReadOnly = false;
  readonly logicalBlockBytes = 512;
  readonly discardGranularityBytes = 4096;
  readonly sync: SyncIo;
  readonly name = "metadata";
  reads = 0;

  constructor(readonly below: ForkDevice) {
    super();
    this.sync = {
      ...below.sync,
      read: (offset, buffer) => {
        if (++this.reads > MAX_READS) throw new Error("work without end");
        below.sync.read(offset, buffer);
      },
    };
  }

  get sizeBytes(): number {
    return this.below.sizeBytes;
  }
}

interface Scene {
  readonly metadata: ForkDevice;
  readonly data: ForkDevice;
  /** The metadata at some earlier commits. */
  readonly earlier: readonly ForkDevice[];
  /** Seed at the head of each virtual block of each device. */
  readonly contents: ReadonlyMap<number, ReadonlyMap<number, number>>;
  readonly blocks: ReturnType<typeof checkMetadata>["blocks"];
}

/** Trees of two levels, shared leaves and shared roots, counts above two in both maps, a metadata snapshot. */
async function prepare(): Promise<Scene> {
  const metadata = new ForkDevice("metadata", METADATA_BLOCKS * 4096);
  const data = new ForkDevice("data", DATA_BLOCKS * WORKLOAD_BLOCK_BYTES);
  const contents = new Map<number, Map<number, number>>();
  const worker = new PoolWorker({
    metadata,
    data,
    dataBlocks: DATA_BLOCKS,
    history: new WrittenHistory(() => 0),
    thinBytes: THIN_BYTES,
  });
  await worker.pool.resume();
  const earlier: ForkDevice[] = [];
  let seed = 0;
  const keep = () => {
    const copy = new ForkDevice("metadata", metadata.sizeBytes);
    copy.sync.write(0, metadata.contents());
    earlier.push(copy);
  };
  const write = (id: number, block: number): WorkStep => {
    contents.get(id)!.set(block, ++seed);
    return { kind: "write", id, offset: block * WORKLOAD_BLOCK_BYTES, length: 512, seed };
  };
  const create = async (id: number) => {
    contents.set(id, new Map());
    await worker.step({ kind: "create", id });
  };
  const snap = async (id: number, origin: number) => {
    contents.set(id, new Map(contents.get(origin)));
    await worker.step({ kind: "snap", id, origin });
    keep();
  };
  await create(0);
  for (let block = 0; block < 300; block++) await worker.step(write(0, block));
  keep();
  await snap(1, 0);
  for (const block of [0, 5, 200, 310]) await worker.step(write(0, block));
  await snap(2, 0);
  await worker.step({ kind: "message", words: ["reserve_metadata_snap"] });
  for (const block of [1, 6, 350]) await worker.step(write(2, block));
  for (const block of [290, 291]) await worker.step(write(1, block));
  await snap(3, 1);
  await create(7);
  await worker.step(write(7, 3));
  await worker.close();
  const report = checkMetadata(deviceSource(metadata));
  expect(report.damage).toEqual([]);
  expect(new Set([...report.blocks.values()].map(({ role }) => role)).size).toBe(11);
  return { metadata, data, earlier, contents, blocks: report.blocks };
}

/** Thousands of errors are expected; their stacks would be most of the work. */
const { stackTraceLimit } = Error;
beforeAll(() => {
  Error.stackTraceLimit = 0;
});

/** Another one makes other mutations. */
const SEED = Number(process.env.UDM_TEST_SEED ?? 0) || 0;

let mutations = 0;
const outcomes = new Map<string, number>();

function tally(outcome: string): void {
  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
}

/** Everything one does with a pool. @returns the first wrong answer, in words */
async function exercise(scene: Scene, metadata: ForkDevice, seed: number): Promise<string | undefined> {
  mutations++;
  const random = new Random(seed);
  const bounded = new BoundedDevice(metadata);
  let wrong: string | undefined;
  let errors = 0;
  const log = (line: string) => {
    if (line.includes("internal error")) throw new Error(line);
  };
  const attempt = async (run: () => unknown): Promise<boolean> => {
    try {
      await run();
      return true;
    } catch (error) {
      // An error of the pool keeps what it came from as its cause.
      for (let each: unknown = error; each !== undefined; each = (each as Error).cause) {
        const code = codeOf(each);
        if (code === undefined || code === "EBUG") throw error;
      }
      errors++;
      return false;
    }
  };
  let pool: Pool | undefined;
  await attempt(() => {
    pool = Pool.load({
      name: "253:0",
      metadata: bounded,
      data: scene.data.fork(),
      config: workloadConfig(DATA_BLOCKS, { errorIfNoSpace: true }),
      commitPeriodMs: 0,
      noSpaceTimeoutMs: 0,
      log,
      cacheBlocks: random.oneIn(4) ? 16 : 1024,
    });
  });
  if (pool === undefined) {
    tally("not opened");
    return undefined;
  }
  const opened = pool;
  if (!(await attempt(() => opened.resume()))) {
    tally("not resumed");
    await attempt(() => opened.close());
    return undefined;
  }
  await attempt(() => opened.metadata.listDevices());
  const sector = new Uint8Array(512);
  for (const [id, blocks] of scene.contents) {
    await attempt(async () => {
      const thin = opened.openThin(id, { name: `thin ${id}`, sizeBytes: THIN_BYTES });
      for (let count = 0; count < 16; count++) {
        const block = random.between(0, THIN_BLOCKS - 1);
        const wasRead = await attempt(() => thin.read(block * WORKLOAD_BLOCK_BYTES, sector));
        const found = seedOf(sector, 0, block * 128);
        if (wasRead && found !== (blocks.get(block) ?? 0)) wrong ??= `device ${id}, block ${block}: ${found}`;
      }
      if (random.oneIn(4)) await attempt(() => thin.extents(0, THIN_BYTES));
      thin.statusParams();
      await thin.close();
    });
  }
  const [id = 0, other = 0] = [random.pick([0, 1, 2, 3, 7]), random.pick([0, 1, 2, 3])];
  await attempt(async () => {
    const thin = opened.openThin(id, { name: `thin ${id}`, sizeBytes: THIN_BYTES });
    for (let count = 0; count < 6; count++) {
      const offset = random.between(0, THIN_BLOCKS - 1) * WORKLOAD_BLOCK_BYTES;
      fillPattern(sector, offset, 0xabcdef);
      const wasWritten = await attempt(() => thin.write(offset, sector));
      const back = new Uint8Array(512);
      if (!wasWritten || !(await attempt(() => thin.read(offset, back)))) continue;
      if (Buffer.compare(back, sector) !== 0) wrong ??= `device ${id} does not give back what was written at ${offset}`;
    }
    await attempt(() => thin.discard(random.between(0, 200) * WORKLOAD_BLOCK_BYTES, 90 * WORKLOAD_BLOCK_BYTES));
    await attempt(() => thin.flush());
    await thin.close();
  });
  await attempt(() => opened.message(["create_snap", "50", String(other)]));
  await attempt(() => opened.message(["delete", String(other)]));
  if (random.oneIn(2)) await attempt(() => opened.message(["release_metadata_snap"]));
  await attempt(() => opened.message(["create_thin", "51"]));
  await attempt(() => opened.status());
  await attempt(() => opened.close());
  tally(errors > 0 ? "answered with errors" : wrong === undefined ? "right" : "wrong");
  return wrong;
}

function blockOf(device: ForkDevice, number: number): Uint8Array {
  const bytes = new Uint8Array(4096);
  device.sync.read(number * 4096, bytes);
  return bytes;
}

function seal(bytes: Uint8Array, kind: string): Uint8Array {
  const view = new DataView(bytes.buffer);
  view.setUint32(0, (crc32c(view, 4) ^ SALTS[kind]!) >>> 0, true);
  return bytes;
}

/** Runs of one kind of change over all blocks. */
async function everyBlock(
  rounds: number,
  seedBase: number,
  change: (scene: Scene, number: number, kind: string, random: Random, fork: ForkDevice) => Uint8Array | undefined,
  mayBeWrong: boolean,
): Promise<void> {
  const scene = await prepare();
  for (let round = 0; round < rounds; round++) {
    for (const [number, { kind, role }] of scene.blocks) {
      const seed = seedBase + round * 1000 + number + SEED;
      const fork = scene.metadata.fork();
      const bytes = change(scene, number, kind, new Random(seed), fork);
      if (bytes === undefined) continue;
      fork.sync.write(number * 4096, bytes);
      const title = `${role} ${number}, seed ${seed}`;
      let wrong: string | undefined;
      try {
        wrong = await exercise(scene, fork, seed);
      } catch (error) {
        throw new Error(title, { cause: error });
      }
      if (!mayBeWrong && wrong !== undefined) expect.fail(`${title}: ${wrong}`);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A u32 or u64 that lies where the kind of block has something of meaning, and what is put there. */
function forge(bytes: Uint8Array, kind: string, number: number, random: Random): void {
  const view = new DataView(bytes.buffer);
  const nr = Math.max(1, Math.min(view.getUint32(16, true), 336));
  const max = Math.min(view.getUint32(20, true), 336);
  const size = Math.min(view.getUint32(24, true), 24);
  const entry = random.between(0, nr - 1);
  const offsets: Readonly<Record<string, readonly number[]>> = {
    superblock: [4, 40, 44, 48, 56, 64, 72, 80, 88, 192, 200, 208, 216, 320, 328, 336, 340, 344, 352, 356, 360],
    node: [
      4,
      16,
      20,
      24,
      32 + 8 * entry,
      32 + 8 * max + size * entry,
      32 + 8 * max + size * entry,
      32 + 8 * max + size * entry + 4,
    ],
    bitmap: [16 + 4 * random.between(0, 60), 16 + 4 * random.between(0, 1000)],
    index: [16, 24, 28, 16 + 16 * random.between(0, 254)],
  };
  const values = [
    0,
    1,
    2,
    3,
    number,
    random.between(0, METADATA_BLOCKS - 1),
    random.between(0, METADATA_BLOCKS - 1),
    random.between(0, METADATA_BLOCKS - 1),
    METADATA_BLOCKS,
    0xffffffff,
    0x7fffffff,
    random.between(0, 0xffffffff),
    view.getUint32(16, true) + 1,
    252,
    84,
  ];
  const at = Math.min(4092, random.pick(offsets[kind]!));
  view.setUint32(at, random.pick(values), true);
  // Duplicates of another entry's value: two parents for one child, two owners for one data block.
  if (kind === "node" && random.oneIn(5)) {
    const other = random.between(0, nr - 1);
    bytes.copyWithin(
      Math.min(4072, 32 + 8 * max + size * entry),
      32 + 8 * max + size * other,
      Math.min(4096, 32 + 8 * max + size * (other + 1)),
    );
  }
}

describe("what a checksum finds is an error or a right answer", () => {
  test("single bits", async () => {
    await everyBlock(
      250,
      1_000_000,
      (scene, number, _kind, random) => {
        const bytes = blockOf(scene.metadata, number);
        bytes[random.between(0, 4095)]! ^= 1 << random.between(0, 7);
        return bytes;
      },
      false,
    );
  });

  test("bytes, stretches, zeroed and torn blocks", async () => {
    await everyBlock(
      160,
      2_000_000,
      (scene, number, _kind, random) => {
        const bytes = blockOf(scene.metadata, number);
        const from = random.between(0, 4090);
        switch (random.between(0, 4)) {
          case 0:
            bytes[from] = (bytes[from]! + random.between(1, 255)) & 255;
            break;
          case 1:
            for (let at = from; at < Math.min(4096, from + random.between(1, 600)); at++)
              bytes[at] = random.between(0, 255);
            break;
          case 2:
            // All zeros is a blank device: of the superblock something stays.
            bytes.fill(0, number === 0 ? 40 : 0);
            break;
          case 3:
            bytes.set(blockOf(random.pick(scene.earlier), number).subarray(0, 512 * random.between(1, 7)));
            break;
          default:
            bytes.copyWithin(random.between(0, 4000), from);
        }
        if (Buffer.compare(bytes, blockOf(scene.metadata, number)) === 0) return undefined;
        return hasRightChecksum(bytes) ? undefined : bytes;
      },
      false,
    );
  });

  test("blocks in each other's place", async () => {
    await everyBlock(
      40,
      3_000_000,
      (scene, number, _kind, random, fork) => {
        const other = random.pick([...scene.blocks.keys()].filter((each) => each !== number));
        if (random.oneIn(2)) fork.sync.write(other * 4096, blockOf(scene.metadata, number));
        return blockOf(scene.metadata, other);
      },
      false,
    );
  });
});

describe("with a right checksum every answer is an ordinary one", () => {
  test("single fields: keys, values, counts, pointers, sizes", async () => {
    await everyBlock(
      300,
      4_000_000,
      (scene, number, kind, random) => {
        const bytes = blockOf(scene.metadata, number);
        for (let count = random.between(1, 2); count > 0; count--) forge(bytes, kind, number, random);
        return seal(bytes, kind);
      },
      true,
    );
  });

  test("any byte", async () => {
    await everyBlock(
      90,
      5_000_000,
      (scene, number, kind, random) => {
        const bytes = blockOf(scene.metadata, number);
        for (let count = random.between(1, 4); count > 0; count--)
          bytes[random.between(16, 4095)] = random.between(0, 255);
        return seal(bytes, kind);
      },
      true,
    );
  });

  test("another block under this block's number", async () => {
    await everyBlock(
      40,
      6_000_000,
      (scene, number, kind, random) => {
        const other = random.pick([...scene.blocks].filter(([each]) => each !== number));
        const bytes = blockOf(scene.metadata, other[0]);
        new DataView(bytes.buffer).setUint32(8, number, true);
        return seal(bytes, random.oneIn(2) ? kind : other[1].kind);
      },
      true,
    );
  });

  test("older versions of blocks", async () => {
    await everyBlock(
      20,
      7_000_000,
      (scene, number, _kind, random) => {
        const bytes = blockOf(random.pick(scene.earlier), number);
        return Buffer.compare(bytes, blockOf(scene.metadata, number)) === 0 || isZero(bytes) ? undefined : bytes;
      },
      true,
    );
  });
});

test("mutations by the ten thousand were made", () => {
  expect(mutations).toBeGreaterThanOrEqual(20_000);
  // Both kinds of answer occurred.
  expect(outcomes.get("answered with errors")).toBeGreaterThan(1000);
  expect(outcomes.get("right")).toBeGreaterThan(100);
});

afterAll(() => {
  Error.stackTraceLimit = stackTraceLimit;
  process.stdout.write(`mutations: ${mutations}: ${JSON.stringify(Object.fromEntries(outcomes))}\n`);
});

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

function hasRightChecksum(bytes: Uint8Array): boolean {
  const view = new DataView(bytes.buffer);
  const stored = view.getUint32(0, true);
  return Object.values(SALTS).some((salt) => (crc32c(view, 4) ^ salt) >>> 0 === stored);
}
