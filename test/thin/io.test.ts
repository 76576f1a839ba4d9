/** Reading, writing and discarding thin devices, byte by byte: section 7 of the engine's specification. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { codeOfFailure, expectBytes, expectZeros, PoolBench, pattern, readBytes } from "../support/pool-bench.js";
import { RecordingDevice } from "../support/recording-device.js";

const BLOCK = 65536;

/** Data that was not zero before, so that what is not written shows. */
function dirtyData(dataBlocks: number, blockBytes = BLOCK): MemoryDevice {
  const data = new MemoryDevice({ name: "data", sizeBytes: dataBlocks * blockBytes });
  data.sync.write(0, new Uint8Array(data.sizeBytes).fill(0xdd));
  return data;
}

function metadata(): MemoryDevice {
  return new MemoryDevice({ name: "metadata", sizeBytes: 2048 * 4096 });
}

describe("reading", () => {
  test("what was never written is zeros and allocates nothing", async () => {
    const bench = await PoolBench.open({ from: { metadata: metadata(), data: dirtyData(64) } });
    const thin = await bench.create(0);
    await expectZeros(thin, 0, 5 * BLOCK + 512);
    expect(thin.mappedBlocks).toBe(0);
    expect(thin.statusParams()).toBe("0 -");
    await bench.close();
  });

  test("requests that leave the device or are not in sectors are refused", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(0);
    const size = thin.sizeBytes;
    for (const [offset, length] of [
      [size, 512],
      [size - 512, 1024],
      [-512, 512],
      [100, 512],
      [0, 100],
    ] as const) {
      expect(await codeOfFailure(() => thin.read(offset, new Uint8Array(length)))).toBe("EINVAL");
      expect(await codeOfFailure(() => thin.write(offset, new Uint8Array(length)))).toBe("EINVAL");
      expect(await codeOfFailure(() => thin.discard(offset, length))).toBe("EINVAL");
    }
    expect(thin.mappedBlocks).toBe(0);
    await bench.close();
  });
});

describe("writing", () => {
  test("a first write to part of a block zeroes the rest of it", async () => {
    const bench = await PoolBench.open({ from: { metadata: metadata(), data: dirtyData(64) } });
    const thin = await bench.create(0);
    await thin.write(3 * BLOCK + 1024, pattern(3 * BLOCK + 1024, 512, 1));
    await expectZeros(thin, 3 * BLOCK, 1024);
    await expectBytes(thin, 3 * BLOCK + 1024, pattern(3 * BLOCK + 1024, 512, 1));
    await expectZeros(thin, 3 * BLOCK + 1536, BLOCK - 1536);
    expect(thin.mappedBlocks).toBe(1);
    await bench.close();
  });

  test("with skip_block_zeroing the rest shows what the data device held", async () => {
    const bench = await PoolBench.open({
      from: { metadata: metadata(), data: dirtyData(64) },
      features: { skipBlockZeroing: true },
    });
    const thin = await bench.create(0);
    await thin.write(1024, pattern(1024, 512, 1));
    expect((await readBytes(thin, 0, 1024)).every((byte) => byte === 0xdd)).toBe(true);
    expect((await readBytes(thin, 1536, BLOCK - 1536)).every((byte) => byte === 0xdd)).toBe(true);
    await bench.close();
  });

  test("a whole block is written once, without zeroing before", async () => {
    const bench = await PoolBench.open({
      from: { metadata: metadata(), data: dirtyData(64) },
      wrapData: (data) => new RecordingDevice(data),
    });
    const thin = await bench.create(0);
    const recorder = bench.pool.data as RecordingDevice;
    recorder.clear();
    await thin.write(BLOCK, pattern(BLOCK, BLOCK, 1));
    expect(recorder.log.map(({ kind }) => kind)).toEqual(["write"]);
    await bench.close();
  });

  test("neighbouring new blocks go to the data device as one transfer", async () => {
    const bench = await PoolBench.open({ wrapData: (data) => new RecordingDevice(data) });
    const thin = await bench.create(0);
    const recorder = bench.pool.data as RecordingDevice;
    recorder.clear();
    await thin.write(0, pattern(0, 8 * BLOCK, 1));
    expect(recorder.log.map((entry) => (entry.kind === "write" ? entry.data.length : entry.kind))).toEqual([8 * BLOCK]);
    recorder.clear();
    await thin.write(512, pattern(512, 7 * BLOCK, 2));
    expect(recorder.log.length).toBe(1);
    await bench.close();
  });

  test("both sides of a snapshot keep their bytes, whichever writes first, partly or whole", async () => {
    for (const first of [0, 1]) {
      const bench = await PoolBench.open({ from: { metadata: metadata(), data: dirtyData(64) } });
      const origin = await bench.create(0);
      await origin.write(0, pattern(0, 4 * BLOCK, 1));
      await bench.message("create_snap 1 0");
      const snapshot = bench.thin(1);
      const [writer, other] = first === 0 ? [origin, snapshot] : [snapshot, origin];
      await writer.write(4096, pattern(4096, 512, 2));
      await writer.write(BLOCK, pattern(BLOCK, BLOCK, 3));
      await writer.write(2 * BLOCK + 512, pattern(2 * BLOCK + 512, BLOCK, 4));
      await expectBytes(other, 0, pattern(0, 4 * BLOCK, 1));
      await expectBytes(writer, 0, pattern(0, 4096, 1));
      await expectBytes(writer, 4096, pattern(4096, 512, 2));
      await expectBytes(writer, 4608, pattern(4608, BLOCK - 4608, 1));
      await expectBytes(writer, BLOCK, pattern(BLOCK, BLOCK, 3));
      await expectBytes(writer, 2 * BLOCK, pattern(2 * BLOCK, 512, 1));
      await expectBytes(writer, 2 * BLOCK + 512, pattern(2 * BLOCK + 512, BLOCK, 4));
      await expectBytes(writer, 3 * BLOCK + 512, pattern(3 * BLOCK + 512, BLOCK - 512, 1));
      expect(bench.pool.statusNow().usedDataBlocks).toBe(8);
      await bench.close();
    }
  });

  test("a block counts as shared until it is rewritten, also when the other side is gone", async () => {
    const bench = await PoolBench.open();
    const origin = await bench.create(0);
    await origin.write(0, pattern(0, BLOCK, 1));
    await bench.message("create_snap 1 0");
    await bench.message("delete 1");
    const before = bench.pool.metadata.details(0);
    await origin.write(512, pattern(512, 512, 2));
    await origin.flush();
    await expectBytes(origin, 1024, pattern(1024, BLOCK - 1024, 1));
    expect(bench.pool.metadata.details(0).mappedBlocks).toBe(before.mappedBlocks);
    const report = await bench.close();
    expect(report.pool.devices[0]!.mappings).toEqual([[0, 1, 1]]);
  });

  test("an overwrite of an exclusive block changes no metadata", async () => {
    const recorders: RecordingDevice[] = [];
    const bench = await PoolBench.open({
      wrapMetadata: (device) => {
        recorders.push(new RecordingDevice(device));
        return recorders[0]!;
      },
    });
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, BLOCK, 1));
    await thin.flush();
    const [{ log }] = recorders as [RecordingDevice];
    expect(log.length).toBeGreaterThan(10);
    log.length = 0;
    await thin.write(512, pattern(512, 1024, 2));
    await thin.flush();
    expect(log).toEqual([]);
    await bench.close();
  });

  test("a device larger than the pool, shrunk and grown, of odd length", async () => {
    const bench = await PoolBench.open({ dataBlocks: 16 });
    await bench.message("create_thin 0");
    const large = bench.thin(0, { bytes: 1000 * BLOCK + 1536 });
    const end = 1000 * BLOCK;
    await large.write(end, pattern(end, 1536, 1));
    await large.write(0, pattern(0, 512, 2));
    expect(large.statusParams()).toBe(`256 ${1001 * 128 - 1}`);
    large.resize(BLOCK);
    expect(await codeOfFailure(() => large.read(BLOCK, new Uint8Array(512)))).toBe("EINVAL");
    expect(large.statusParams()).toBe(`256 ${1001 * 128 - 1}`);
    large.resize(1001 * BLOCK);
    await expectBytes(large, end, pattern(end, 1536, 1));
    await expectZeros(large, end + 1536, BLOCK - 1536);
    // The partly covered last block of a device is kept.
    large.resize(end + 1536);
    await large.discard(end, 1536);
    await expectBytes(large, end, pattern(end, 1536, 1));
    await bench.close();
  });

  test.each([128, 384, 2048, 128 * 3 * 5])(
    "blocks of %i sectors equal a plain array of bytes",
    async (blockSectors) => {
      const blockBytes = blockSectors * 512;
      const size = 7 * blockBytes + 512 * 5;
      const request = fc.record({
        kind: fc.constantFrom("write", "write", "write", "discard", "zeroes", "snap", "flush"),
        sector: fc.nat(size / 512 - 1),
        count: fc.oneof(
          fc.integer({ min: 1, max: 40 }),
          fc.constantFrom(blockSectors, 2 * blockSectors, blockSectors + 3),
        ),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(request, { maxLength: 25, size: "max" }), async (requests) => {
          const bench = await PoolBench.open({
            from: { metadata: metadata(), data: dirtyData(45, blockBytes) },
            dataBlocks: 45,
            blockSectors,
          });
          await bench.message("create_thin 0");
          const thin = bench.thin(0, { bytes: size });
          const model = new Uint8Array(size);
          const snapshots: [number, Uint8Array][] = [];
          let seed = 0;
          for (const { kind, sector, count } of requests) {
            const offset = sector * 512;
            const length = Math.min(count * 512, size - offset);
            if (kind === "write") {
              const bytes = pattern(offset, length, ++seed);
              await thin.write(offset, bytes);
              model.set(bytes, offset);
            } else if (kind === "discard") {
              await thin.discard(offset, length);
              const begin = Math.ceil(offset / blockBytes) * blockBytes;
              const end = Math.floor((offset + length) / blockBytes) * blockBytes;
              if (end > begin) model.fill(0, begin, end);
            } else if (kind === "zeroes") {
              await thin.writeZeroes(offset, length);
              model.fill(0, offset, offset + length);
            } else if (kind === "flush") await thin.flush();
            else if (snapshots.length < 4) {
              await bench.message(`create_snap ${snapshots.length + 1} 0`);
              snapshots.push([snapshots.length + 1, model.slice()]);
            }
          }
          await expectBytes(thin, 0, model);
          for (const [id, bytes] of snapshots) await expectBytes(bench.thin(id, { bytes: size }), 0, bytes);
          await bench.close();
        }),
        { numRuns: blockSectors > 1000 ? 8 : 40 },
      );
    },
  );
});

describe("external origins", () => {
  /** Origins that end before, in, at and behind blocks. */
  test.each([0, 512, BLOCK - 512, BLOCK, BLOCK + 4096, 3 * BLOCK + 1536, 8 * BLOCK])(
    "of %i bytes shine through, and are copied",
    async (originBytes) => {
      for (const skipBlockZeroing of [false, true]) {
        const origin = new MemoryDevice({ name: "origin", sizeBytes: originBytes });
        origin.sync.write(0, pattern(0, originBytes, 9));
        const bench = await PoolBench.open({
          from: { metadata: metadata(), data: dirtyData(64) },
          features: { skipBlockZeroing },
        });
        await bench.message("create_thin 0");
        const thin = bench.thin(0, { blocks: 6, externalOrigin: origin });
        const size = thin.sizeBytes;
        const model = new Uint8Array(size);
        model.set(pattern(0, originBytes, 9).subarray(0, size));
        await expectBytes(thin, 0, model);
        expect(thin.mappedBlocks).toBe(0);
        const write = async (offset: number, length: number, seed: number) => {
          await thin.write(offset, pattern(offset, length, seed));
          model.set(pattern(offset, length, seed), offset);
          // Without zeroing, what is behind the origin's end in a new block is what the data device held.
          if (!skipBlockZeroing) return;
          for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + length; block++) {
            const tail = Math.max(block * BLOCK, Math.min(originBytes, (block + 1) * BLOCK));
            for (let at = tail; at < (block + 1) * BLOCK; at++) {
              if (at < offset || at >= offset + length) model[at] = 0xdd;
            }
          }
        };
        await write(512, 512, 1);
        await write(BLOCK, BLOCK, 2);
        await write(3 * BLOCK + 1024, 1024, 3);
        await write(5 * BLOCK - 512, 1024, 4);
        await expectBytes(thin, 0, model);
        expect(thin.mappedBlocks).toBe(5);
        // A discard lets the origin show again.
        await thin.discard(BLOCK, BLOCK);
        model.fill(0, BLOCK, 2 * BLOCK);
        model.set(
          pattern(0, originBytes, 9).subarray(Math.min(originBytes, BLOCK), 2 * BLOCK),
          Math.min(originBytes, BLOCK),
        );
        model.fill(0, Math.max(BLOCK, Math.min(originBytes, 2 * BLOCK)), 2 * BLOCK);
        await expectBytes(thin, 0, model);
        // A snapshot needs the origin too; without it holes are zeros.
        await bench.message("create_snap 1 0");
        await expectBytes(bench.thin(1, { blocks: 6, externalOrigin: origin }), 0, model);
        await expectZeros(bench.thin(1, { blocks: 6 }), BLOCK, BLOCK);
        await bench.close();
      }
    },
  );
});

describe("discarding", () => {
  const holes = (bench: PoolBench) => bench.data.allocatedBytes / 4096;

  test("only whole blocks go; the rest of the range is kept", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, 6 * BLOCK, 1));
    await thin.discard(512, 3 * BLOCK);
    await expectBytes(thin, 0, pattern(0, BLOCK, 1));
    await expectZeros(thin, BLOCK, 2 * BLOCK);
    await expectBytes(thin, 3 * BLOCK, pattern(3 * BLOCK, 3 * BLOCK, 1));
    await thin.discard(4 * BLOCK + 512, BLOCK);
    await expectBytes(thin, 4 * BLOCK, pattern(4 * BLOCK, 2 * BLOCK, 1));
    expect(thin.mappedBlocks).toBe(4);
    expect(holes(bench)).toBe(4 * 16);
    await bench.close();
  });

  test("blocks a snapshot still maps are not passed down, and stay in the snapshot", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, 4 * BLOCK, 1));
    await bench.message("create_snap 1 0");
    await thin.discard(0, 4 * BLOCK);
    await expectZeros(thin, 0, 4 * BLOCK);
    await expectBytes(bench.thin(1), 0, pattern(0, 4 * BLOCK, 1));
    expect(holes(bench)).toBe(64);
    await bench.thin(1).discard(0, 4 * BLOCK);
    expect(holes(bench)).toBe(0);
    await bench.pool.status();
    expect(bench.pool.statusNow().usedDataBlocks).toBe(0);
    await bench.close();
  });

  test("without passdown blocks are freed and the data device hears nothing", async () => {
    const bench = await PoolBench.open({ features: { noDiscardPassdown: true } });
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, 4 * BLOCK, 1));
    await thin.discard(0, 3 * BLOCK);
    await expectZeros(thin, 0, 3 * BLOCK);
    expect(holes(bench)).toBe(64);
    await bench.pool.status();
    expect(bench.pool.statusNow()).toMatchObject({ usedDataBlocks: 1, discardPassdown: false });
    // A freed block that is given out again shows zeros.
    await thin.write(20 * BLOCK, pattern(0, 512, 2));
    await expectZeros(thin, 20 * BLOCK + 512, BLOCK - 512);
    await bench.close();
  });

  test("ignore_discard refuses, and says so by a granularity of 0", async () => {
    const bench = await PoolBench.open({ features: { ignoreDiscard: true } });
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, BLOCK, 1));
    expect(thin.discardGranularityBytes).toBe(0);
    expect(await codeOfFailure(() => thin.discard(0, BLOCK))).toBe("EOPNOTSUPP");
    await thin.writeZeroes(0, BLOCK);
    await expectZeros(thin, 0, BLOCK);
    expect(thin.mappedBlocks).toBe(1);
    await bench.close();
  });

  test("a block freed in this transaction is not given to anybody before the commit", async () => {
    const bench = await PoolBench.open({ dataBlocks: 4, features: { noDiscardPassdown: true } });
    const thin = await bench.create(0);
    await thin.write(0, pattern(0, 3 * BLOCK, 1));
    await thin.flush();
    await thin.discard(0, BLOCK);
    await thin.write(10 * BLOCK, pattern(0, 512, 2));
    const { pool } = bench;
    expect(pool.metadata.dataBlockCount(0)).toBe(0);
    expect(pool.metadata.dataBlockCount(3)).toBe(1);
    await bench.close();
  });
});

describe("extents", () => {
  test("tell mapped stretches from holes, in order and without gap", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(0);
    await thin.write(2 * BLOCK, pattern(0, 512, 1));
    await thin.write(3 * BLOCK, pattern(0, 512, 1));
    await thin.write(7 * BLOCK, pattern(0, 512, 1));
    expect(await thin.extents(0, 9 * BLOCK)).toEqual([
      { offset: 0, length: 2 * BLOCK, kind: "zeros" },
      { offset: 2 * BLOCK, length: 2 * BLOCK, kind: "data" },
      { offset: 4 * BLOCK, length: 3 * BLOCK, kind: "zeros" },
      { offset: 7 * BLOCK, length: BLOCK, kind: "data" },
      { offset: 8 * BLOCK, length: BLOCK, kind: "zeros" },
    ]);
    expect(await thin.extents(2 * BLOCK + 512, 512)).toEqual([{ offset: 2 * BLOCK + 512, length: 512, kind: "data" }]);
    await bench.close();
  });
});
