/**
 * Clients that do not keep to the protocol: streams cut at every byte, every field out of range, mutated streams. The answer
 * is an error or a hang-up; never a crash, and never a byte of an export that was not asked for. `npm run test:long` has
 * 100,000 mutated streams.
 */
import { expect, test } from "vitest";
import { MemoryDevice } from "../../src/io/index.js";
import { DeviceExport } from "../../src/nbd/index.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { Random } from "../support/random.js";
import {
  bytesOf,
  CLIENT_FLAGS,
  contextData,
  goData,
  handshake,
  option,
  optionReplies,
  request,
  ServerInMemory,
  structuredAnswers,
} from "./wire.js";

const SIZE = 2 ** 20;
const ROUNDS = process.env.UDM_TEST_LONG === "1" ? 100_000 : 2_000;
/** What the export that nobody asks for is full of. */
const SECRET = 0x5e;

async function exports(seed: number) {
  const open = new MemoryDevice({ sizeBytes: SIZE });
  const secret = new MemoryDevice({ sizeBytes: SIZE });
  const fill = new Uint8Array(SIZE).fill(SECRET);
  await secret.write(0, fill);
  const below = seed % 2 === 0 ? open : new DelayedDevice(open, { seed, maxTurns: 2 });
  return {
    all: [
      new DeviceExport(below, { name: "open", sharing: async (offset, length) => [{ offset, length, kind: "own" }] }),
      new DeviceExport(secret, { name: "a-name-that-no-mutation-comes-upon" }),
    ],
    isSecretWhole: async () => {
      const bytes = new Uint8Array(SIZE);
      await secret.read(0, bytes);
      return Buffer.compare(bytes, fill) === 0;
    },
  };
}

/** A session with a bit of everything. */
function session(options: { readonly structured: boolean }): Buffer {
  const { structured } = options;
  return Buffer.concat([
    CLIENT_FLAGS,
    option(3),
    option(6, goData("open", [1, 2, 3])),
    ...(structured
      ? [option(8), option(9, contextData("open", [])), option(10, contextData("open", ["base:allocation"]))]
      : []),
    option(7, goData("open", [3])),
    request({ type: 1, cookie: 1, offset: 4096, data: Buffer.alloc(5000, 1) }),
    request({ type: 0, cookie: 2, offset: 4000, length: 6000 }),
    request({ type: 3, cookie: 3 }),
    request({ type: 4, cookie: 4, offset: 65536, length: 65536 }),
    request({ type: 6, cookie: 5, flags: 16, offset: 131072, length: 100_000 }),
    request({ type: 5, cookie: 6, length: 4096 }),
    ...(structured ? [request({ type: 7, cookie: 7, offset: 0, length: SIZE })] : []),
    request({ type: 2, cookie: 8 }),
  ]);
}

test.each([true, false])("a stream that ends at any byte is the end of it (structured: %s)", async (structured) => {
  const stream = session({ structured });
  for (let end = 0; end < stream.length; end += end < 400 || end > stream.length - 400 ? 1 : 97) {
    const { all } = await exports(end);
    const server = new ServerInMemory(all);
    server.push(stream.subarray(0, end));
    await server.finish();
    if (server.transmission !== undefined) expect(server.isOver, `cut at ${end}`).toBe(true);
  }
});

test("every option that is malformed is refused, and the next one answered", async () => {
  const long = Buffer.alloc(5000, 0x61);
  const [EINVAL, EUNKNOWN, ETOOBIG, EUNSUP] = [3, 6, 9, 1].map((code) => 0x80000000 + code);
  const cases: readonly (readonly [number, Buffer, number | undefined])[] = [
    [3, Buffer.from("x"), EINVAL],
    [8, Buffer.from("x"), EINVAL],
    [6, Buffer.alloc(0), EINVAL],
    [6, bytesOf([4, 100], "open", [2, 0]), EINVAL],
    [6, bytesOf([4, 0xffffffff], "open", [2, 0]), EINVAL],
    [6, bytesOf([4, 4], "open", [2, 7]), EINVAL],
    [7, bytesOf([4, 4], "open", [2, 0], "more"), EINVAL],
    [7, goData("nobody"), EUNKNOWN],
    [7, bytesOf([4, long.length], long, [2, 0]), ETOOBIG],
    [9, Buffer.alloc(7), EINVAL],
    [9, bytesOf([4, 4], "open", [4, 0xffffffff]), EINVAL],
    [10, bytesOf([4, 4], "open", [4, 1], [4, 0xfffffff0]), EINVAL],
    [10, contextData("nobody", ["base:allocation"]), EUNKNOWN],
    [5, Buffer.alloc(0), EUNSUP],
    [11, Buffer.alloc(0), EUNSUP],
    [0, Buffer.alloc(0), EUNSUP],
    [0xffffffff, Buffer.alloc(60_000), EUNSUP],
  ];
  const { all } = await exports(0);
  const server = new ServerInMemory(all);
  server.push(Buffer.concat([CLIENT_FLAGS, option(8)]));
  server.take();
  for (const [number, data, wanted] of cases) {
    server.push(option(number, data));
    const { replies } = optionReplies(server.take());
    expect(
      replies.map(({ type }) => type),
      `option ${number}`,
    ).toEqual([wanted]);
  }
  server.push(option(7, goData("open")));
  expect(server.transmission).toBeDefined();
});

test.each([
  ["flags that nobody knows", bytesOf([4, 0x83])],
  ["an old style", bytesOf([4, 0])],
  ["an option without its magic number", Buffer.concat([CLIENT_FLAGS, Buffer.alloc(16, 9)])],
  ["an option of 4 GiB", Buffer.concat([CLIENT_FLAGS, bytesOf("IHAVEOPT", [4, 7], [4, 0xffffffff])])],
  ["an export that is not there, by its old name", Buffer.concat([CLIENT_FLAGS, option(1, Buffer.from("nobody"))])],
  ["options without end", Buffer.concat([CLIENT_FLAGS, ...Array.from({ length: 1001 }, () => option(99))])],
])("%s: the server hangs up", async (_, bytes) => {
  const { all } = await exports(0);
  const server = new ServerInMemory(all);
  server.push(bytes);
  expect(server.isOver).toBe(true);
});

test("before TLS nothing is told", async () => {
  const { all } = await exports(0);
  const server = new ServerInMemory(all, { requiresTls: true });
  server.push(CLIENT_FLAGS);
  for (const each of [option(3), option(6, goData("open")), option(7, goData("open")), option(8)]) {
    server.take();
    server.push(each);
    expect(optionReplies(server.take()).replies.map(({ type }) => type)).toEqual([0x80000005]);
  }
  server.push(option(1, Buffer.from("open")));
  expect(server.isOver).toBe(true);
  expect(server.transmission).toBeUndefined();
});

test("every field of a request at its ends is answered", async () => {
  const numbers = [0, 1, 511, 512, SIZE - 1, SIZE, SIZE + 1, 2 ** 31, 2 ** 32 - 1];
  const offsets = [...numbers, 2 ** 32, 2 ** 52, 2 ** 53 - 1, 2 ** 63, 2 ** 64 - 4096];
  const { all, isSecretWhole } = await exports(0);
  const server = new ServerInMemory(all);
  server.push(handshake("open", { contexts: ["base:allocation", "udm:shared"] }));
  server.take();
  for (const type of [0, 2 ** 16 - 1, 3, 4, 5, 6, 7]) {
    for (const flags of [0, 1, 2, 4, 8, 16, 31, 0xffff]) {
      for (const offset of offsets) {
        for (const length of numbers) {
          // What would run long and is covered elsewhere.
          if (type === 6 && (flags & 2) !== 0 && offset + length <= SIZE) continue;
          server.push(request({ type, flags, offset, length, cookie: 42 }));
        }
      }
    }
    await server.settle();
    const answers = structuredAnswers(server.take());
    expect(answers.length).toBeGreaterThan(100);
    expect(answers.every(({ cookie }) => cookie === 42)).toBe(true);
  }
  expect(server.isOver).toBe(false);
  expect(await isSecretWhole()).toBe(true);
});

test(`${ROUNDS} mutated streams: an error or a hang-up, nothing of another export`, {
  timeout: 1_800_000,
}, async () => {
  const random = new Random(20_260);
  const secrets = Buffer.alloc(64, SECRET);
  let served = await exports(0);
  for (let round = 0; round < ROUNDS; round++) {
    const stream = mutated(session({ structured: round % 3 !== 0 }), random);
    if (round % 50 === 0) {
      expect(await served.isSecretWhole()).toBe(true);
      served = await exports(round / 50);
    }
    const { all } = served;
    const server = new ServerInMemory(all);
    for (let at = 0; at < stream.length && !server.isOver; ) {
      const count = random.between(1, stream.length);
      server.push(stream.subarray(at, at + count));
      at += count;
    }
    await server.finish();
    if (server.transmission !== undefined) expect(server.isOver, `round ${round}`).toBe(true);
    expect(server.take().includes(secrets), `round ${round}`).toBe(false);
  }
});

function mutated(stream: Buffer, random: Random): Buffer {
  let bytes = Buffer.from(stream);
  for (let count = random.between(1, 6); count > 0; count--) {
    // The beginning, where everything is decided, more often than data.
    const at = random.between(0, (random.oneIn(2) ? Math.min(400, bytes.length) : bytes.length) - 1);
    switch (random.between(0, 4)) {
      case 0:
        bytes[at] = random.between(0, 255);
        break;
      case 1:
        bytes[at]! ^= 1 << random.between(0, 7);
        break;
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.between(1, 30))]);
        break;
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(0, random.between(1, 60)), bytes.subarray(at)]);
        break;
      default:
        if (at + 4 <= bytes.length)
          bytes.writeUInt32BE(random.pick([0, 0xffffffff, 0x80000000, 0x7fffffff, 65536]), at);
    }
    if (bytes.length === 0) return stream;
  }
  return bytes;
}
