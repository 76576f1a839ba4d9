/** Requests and replies of the server, without a socket. */
import { describe, expect, test } from "vitest";
import { type BlockDevice, MemoryDevice } from "../../src/io/index.js";
import { DeviceExport } from "../../src/nbd/index.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { PoolBench } from "../support/pool-bench.js";
import { type Answer, handshake, optionReplies, request, ServerInMemory, structuredAnswers } from "./wire.js";

const SIZE = 8 * 2 ** 20;
const [READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS] = [0, 1, 2, 3, 4, 5, 6, 7];
const [EPERM, EINVAL, ENOSPC, ENOTSUP] = [1, 22, 28, 95];

function pattern(length: number, seed = 1): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 97 + (index >> 8)) & 0xff));
}

async function serve(
  device: BlockDevice,
  options: { readonly readOnly?: boolean; readonly contexts?: readonly string[] } = {},
) {
  const { contexts = ["base:allocation"], ...rest } = options;
  const server = new ServerInMemory([new DeviceExport(device, { name: "disk", ...rest })]);
  server.push(handshake("disk", { contexts }));
  const { replies, rest: left } = optionReplies(server.take().subarray(18));
  expect(replies.at(-1)).toMatchObject({ option: 7, type: 1 });
  expect(left.length).toBe(0);
  const ask = async (...requests: Parameters<typeof request>[0][]): Promise<readonly Answer[]> => {
    server.push(Buffer.concat(requests.map(request)));
    await server.settle();
    return structuredAnswers(server.take());
  };
  const one = async (fields: Parameters<typeof request>[0]): Promise<Answer> => {
    const answers = await ask(fields);
    expect(answers.length).toBe(1);
    return answers[0]!;
  };
  const read = async (offset: number, length: number): Promise<Buffer> => {
    const { error, data } = await one({ type: READ!, offset, length });
    expect(error).toBe(0);
    const bytes = Buffer.alloc(length);
    for (const each of data) each.bytes.copy(bytes, each.offset - offset);
    expect(data.reduce((sum, each) => sum + each.bytes.length, 0)).toBe(length);
    return bytes;
  };
  return { server, ask, one, read };
}

describe.each([
  ["at once", (device: BlockDevice) => device],
  ["of a device that takes its time", (device: BlockDevice) => new DelayedDevice(device, { seed: 3 })],
] as const)("requests %s", (_, wrap) => {
  const open = (options: Parameters<typeof serve>[1] = {}) =>
    serve(wrap(new MemoryDevice({ sizeBytes: SIZE })), options);

  test.each([
    [4096, 8192],
    [0, 512],
    [100, 10],
    [511, 2],
    [SIZE - 1, 1],
    [65536, 300_000],
    [3, 2 * 2 ** 20 + 5],
    [0, 8 * 2 ** 20],
  ])("what was written at %i, %i bytes, is read", async (offset, length) => {
    const { one, read } = await open();
    const data = pattern(length);
    expect((await one({ type: WRITE!, offset, data })).error).toBe(0);
    expect((await read(offset, length)).equals(data)).toBe(true);
    const around = Math.max(0, offset - 1);
    if (around < offset) expect((await read(around, 1))[0]).toBe(0);
  });

  test("a stream that comes byte by byte is answered as one that comes at once", async () => {
    const { server, ask } = await open();
    const stream = Buffer.concat([
      request({ type: WRITE!, cookie: 1, offset: 1000, data: pattern(3000) }),
      request({ type: FLUSH!, cookie: 2 }),
    ]);
    for (const byte of stream) server.push(Uint8Array.of(byte));
    await server.settle();
    const answers = structuredAnswers(server.take());
    expect(Object.fromEntries(answers.map(({ cookie, error }) => [cookie, error]))).toEqual({ 1: 0, 2: 0 });
    const [read] = await ask({ type: READ!, offset: 1000, length: 3000 });
    expect(read!.data[0]!.bytes.equals(pattern(3000))).toBe(true);
  });

  test("parts of one sector that are written side by side are all there", async () => {
    const { ask, read } = await open();
    const requests = Array.from({ length: 512 }, (_, index) => ({
      type: WRITE!,
      cookie: index,
      offset: index,
      data: Uint8Array.of(index & 0xff),
    }));
    // A neighbour in whole sectors, which must not be undone by them.
    const answers = await ask(...requests, { type: WRITE!, cookie: 999, offset: 512, data: pattern(512, 9) });
    expect(answers.every(({ error }) => error === 0)).toBe(true);
    expect(await read(0, 512)).toEqual(Buffer.from(Uint8Array.from({ length: 512 }, (_, index) => index & 0xff)));
    expect(await read(512, 512)).toEqual(pattern(512, 9));
  });

  test.each([
    ["read beyond the end", { type: READ!, offset: SIZE - 1, length: 2 }, EINVAL],
    ["read far beyond the end", { type: READ!, offset: 2 ** 52, length: 512 }, EINVAL],
    ["read of more than is promised", { type: READ!, length: 33 * 2 ** 20 }, EINVAL],
    ["read with a flag of another request", { type: READ!, flags: 2, length: 512 }, EINVAL],
    ["write beyond the end", { type: WRITE!, offset: SIZE - 511, data: pattern(512) }, ENOSPC],
    ["write with a flag of another request", { type: WRITE!, flags: 8, data: pattern(512) }, EINVAL],
    ["zeroes beyond the end", { type: ZEROES!, offset: SIZE, length: 512 }, ENOSPC],
    ["trim beyond the end", { type: TRIM!, offset: SIZE, length: 512 }, EINVAL],
    ["flush of a range", { type: FLUSH!, offset: 512, length: 0 }, EINVAL],
    ["status of nothing", { type: STATUS!, offset: 512, length: 0 }, EINVAL],
    ["an unknown request", { type: 77, length: 512 }, EINVAL],
    ["an unknown flag", { type: CACHE!, flags: 0x8000, length: 512 }, EINVAL],
  ] as const)("%s is an error, and the next request is served", async (_, fields, error) => {
    const { ask } = await open();
    const answers = await ask({ ...fields, cookie: 5 }, { type: READ!, cookie: 6, length: 512 });
    const byCookie = new Map(answers.map((each) => [each.cookie, each.error]));
    expect(Object.fromEntries(byCookie)).toEqual({ 5: error, 6: 0 });
  });

  test("a read-only export takes the data of writes away and refuses them", async () => {
    const { ask } = await open({ readOnly: true });
    const answers = await ask(
      { type: WRITE!, cookie: 1, data: pattern(400_000) },
      { type: TRIM!, cookie: 2, length: 65536 },
      { type: ZEROES!, cookie: 3, length: 65536 },
      { type: READ!, cookie: 4, length: 1024 },
    );
    expect(Object.fromEntries(answers.map(({ cookie, error }) => [cookie, error]))).toEqual({
      1: EPERM,
      2: EPERM,
      3: EPERM,
      4: 0,
    });
  });

  test("zeroes are zeros, also in parts of sectors, and with room kept", async () => {
    const { one, read } = await open();
    for (const [flags, offset, length] of [
      [0, 70, 3_000_001],
      [2, 4_000_001, 600_000],
    ] as const) {
      await one({ type: WRITE!, offset: 0, data: pattern(SIZE) });
      expect((await one({ type: ZEROES!, flags, offset, length })).error).toBe(0);
      const expected = Buffer.from(pattern(SIZE)).fill(0, offset, offset + length);
      expect((await read(0, SIZE)).equals(expected)).toBe(true);
    }
  });

  test("an undivided read comes in one chunk", async () => {
    const { one } = await open();
    const { data } = await one({ type: READ!, flags: 4, offset: 5, length: 5 * 2 ** 20 });
    expect(data.length).toBe(1);
  });

  test("after a goodbye what is under way is answered, nothing else", async () => {
    const { server, ask } = await open();
    const answers = await ask(
      { type: WRITE!, cookie: 1, data: pattern(4096) },
      { type: DISC! },
      { type: WRITE!, cookie: 2, data: pattern(4096) },
    );
    expect(answers.map(({ cookie }) => cookie)).toEqual([1]);
    expect(server.isOver).toBe(true);
    expect(server.reason).toBeUndefined();
  });

  test("a request without its magic number ends the connection", async () => {
    const { server } = await open();
    server.push(Buffer.alloc(28, 7));
    await server.settle();
    expect(server.isOver).toBe(true);
    expect(server.reason).toMatch(/magic/);
  });
});

test("a client that does not read is not read from", async () => {
  const { server } = await serve(new MemoryDevice({ sizeBytes: SIZE }));
  server.window = 10_000;
  const reads = Buffer.concat(
    Array.from({ length: 4000 }, (_, cookie) => request({ type: READ!, cookie, offset: 0, length: 65536 })),
  );
  server.push(reads);
  await server.settle();
  expect(server.take().length).toBe(10_000);
  expect(server.transmission!.room).toBe(0);
  // It reads on, and gets the rest of the answer that it was in.
  server.window = 100_000;
  server.transmission!.run();
  expect(server.take().length).toBe(100_000);
});

test("what waits for a device is limited", async () => {
  const device = new DelayedDevice(new MemoryDevice({ sizeBytes: SIZE }), { seed: 1 });
  const limits = { maxInFlight: 4, maxInFlightBytes: 2 ** 30 };
  const server = new ServerInMemory([new DeviceExport(device, { name: "disk" })], { limits });
  server.push(handshake("disk"));
  server.take();
  server.push(Buffer.concat(Array.from({ length: 100 }, (_, cookie) => request({ type: READ!, cookie, length: 512 }))));
  expect(server.transmission!.inFlight).toBe(4);
  await server.settle();
  expect(structuredAnswers(server.take()).length).toBe(100);
  expect(device.mostUnderWay).toBeLessThanOrEqual(4);
});

test("a simple reply carries its data", async () => {
  const device = new MemoryDevice({ sizeBytes: SIZE });
  await device.write(4096, pattern(1024));
  const server = new ServerInMemory([new DeviceExport(device, { name: "disk" })]);
  server.push(handshake("disk", { structured: false }));
  server.take();
  server.push(request({ type: READ!, cookie: 77, offset: 4096, length: 1024 }));
  const reply = server.take();
  expect(reply.subarray(0, 16).toString("hex")).toBe("67446698" + "00000000" + "000000000000004d");
  expect(reply.subarray(16).equals(pattern(1024))).toBe(true);
});

describe("a thin device", () => {
  const BLOCK = 65536;

  test("tells holes and data, and blocks in common with a snapshot", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(0);
    await thin.write(2 * BLOCK, pattern(3 * BLOCK));
    await bench.message("create_snap 1 0");
    await thin.write(3 * BLOCK, pattern(512));
    const server = new ServerInMemory([
      new DeviceExport(thin, { name: "disk", sharing: async (offset, length) => thin.sharing(offset, length) }),
    ]);
    server.push(handshake("disk", { contexts: ["base:allocation", "udm:shared", "other:thing"] }));
    server.take();
    server.push(request({ type: STATUS!, offset: BLOCK, length: 8 * BLOCK }));
    server.push(request({ type: STATUS!, cookie: 2, flags: 8, offset: 3 * BLOCK + 512, length: 8 * BLOCK }));
    await server.settle();
    const answers = structuredAnswers(server.take());
    const [first, second] = [1, 2].map((cookie) => answers.find((each) => each.cookie === cookie)!);
    expect(first!.status.get(1)).toEqual([
      [BLOCK, 3],
      [3 * BLOCK, 0],
      [4 * BLOCK, 3],
    ]);
    expect(first!.status.get(2)).toEqual([
      [BLOCK, 1],
      [BLOCK, 2],
      [BLOCK, 0],
      [BLOCK, 2],
      [4 * BLOCK, 1],
    ]);
    expect(second!.status.get(1)).toEqual([[2 * BLOCK - 512, 0]]);
    expect(second!.status.get(2)).toEqual([[BLOCK - 512, 0]]);
    await bench.close();
  });

  test("fast zeroes take whole blocks, refuse parts of mapped ones, and change nothing then", async () => {
    const bench = await PoolBench.open();
    const thin = await bench.create(0);
    const { one, read } = await serve(thin);
    await one({ type: WRITE!, offset: 0, data: pattern(3 * BLOCK) });
    expect((await one({ type: ZEROES!, flags: 16, offset: 512, length: BLOCK })).error).toBe(ENOTSUP);
    expect((await one({ type: ZEROES!, flags: 16 | 2, offset: 0, length: BLOCK })).error).toBe(ENOTSUP);
    expect((await read(0, 3 * BLOCK)).equals(pattern(3 * BLOCK))).toBe(true);
    expect((await one({ type: ZEROES!, flags: 16, offset: BLOCK, length: 4 * BLOCK + 512 })).error).toBe(0);
    const expected = Buffer.from(pattern(3 * BLOCK)).fill(0, BLOCK);
    expect((await read(0, 3 * BLOCK)).equals(expected)).toBe(true);
    expect(thin.mappedBlocks).toBe(1);
    await bench.close();
  });

  test("a full pool answers with ENOSPC, and goes on", async () => {
    const bench = await PoolBench.open({ dataBlocks: 4, features: { errorIfNoSpace: true } });
    const { ask, read } = await serve(await bench.create(0));
    const answers = await ask(
      ...[0, 1, 2, 3, 4, 5].map((cookie) => ({
        type: WRITE!,
        cookie,
        offset: cookie * BLOCK,
        data: pattern(4096, cookie),
      })),
    );
    const errors = [...answers].sort((left, right) => left.cookie - right.cookie).map(({ error }) => error);
    expect(errors).toEqual([0, 0, 0, 0, ENOSPC, ENOSPC]);
    expect((await read(BLOCK, 4096)).equals(pattern(4096, 1))).toBe(true);
    await bench.close();
  });
});
