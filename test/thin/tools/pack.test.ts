/** Packed metadata: what thin_metadata_pack wrote opens here, what we write says the same to a decoder of its own. */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { crc32c } from "../../../src/bytes/index.js";
import { IoError } from "../../../src/errors/index.js";
import { type BlockDevice, MemoryDevice } from "../../../src/io/index.js";
import { Pace } from "../../../src/thin/tools/pace.js";
import {
  type KeepDamaged,
  type Packed,
  PackReader,
  packMetadata,
  unpackMetadata,
  verifyPack,
} from "../../../src/thin/tools/pack/index.js";
import { temporaryFolder } from "../../support/make-folder.js";
import { KINDS, kindsImage, PACK_IMAGES, plainImage, plainUnpack } from "../../support/packed-metadata.js";
import "../../support/seed.js";

const BLOCK = 4096;
const NAMES = Object.keys(PACK_IMAGES);
const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const HAS_PROGRAMS = spawnSync("thin_metadata_unpack", ["--version"], { env: { PATH } }).status === 0;

const golden = (name: string) => readFileSync(new URL(`../../golden/packed/${name}.pack`, import.meta.url));

function deviceOf(image: Uint8Array): MemoryDevice {
  const device = new MemoryDevice({ name: "meta", sizeBytes: image.length });
  device.sync.write(0, image);
  return device;
}

function contentOf(device: BlockDevice): Buffer {
  const bytes = Buffer.alloc(device.sizeBytes);
  device.sync!.read(0, bytes);
  return bytes;
}

async function pack(
  device: BlockDevice,
  keep?: KeepDamaged,
): Promise<{ readonly file: Buffer; readonly packed: Packed }> {
  const pieces: Uint8Array[] = [];
  const packed = await packMetadata(device, {
    pace: new Pace(),
    // A piece is ours until the promise resolves.
    write: async (piece) => void pieces.push(piece.slice()),
    ...(keep === undefined ? {} : { keep }),
  });
  return { file: Buffer.concat(pieces), packed };
}

async function* piecesOf(file: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < file.length; at += size) yield file.subarray(at, at + size);
}

const open = (file: Uint8Array, size?: number) => PackReader.open("a.pack", piecesOf(file, size));

async function unpack(file: Uint8Array): Promise<Buffer> {
  const reader = await open(file);
  const device = new MemoryDevice({ name: "target", sizeBytes: reader.nrBlocks * BLOCK });
  await unpackMetadata(reader, device, new Pace());
  return contentOf(device);
}

/** A device some blocks of which answer with an error. */
function unreadable(below: MemoryDevice, blocks: readonly number[]): BlockDevice {
  const read = (offset: number, buffer: Uint8Array) => {
    if (blocks.some((blocknr) => blocknr * BLOCK < offset + buffer.length && (blocknr + 1) * BLOCK > offset)) {
      throw new IoError("EIO", `${below.name}: unreadable`);
    }
    below.sync.read(offset, buffer);
  };
  const sync = { ...below.sync, read };
  return new Proxy(below, {
    get: (target, key) => (key === "sync" ? sync : Reflect.get(target, key, target)),
  });
}

function without(image: Buffer, blocks: readonly number[]): Buffer {
  const copy = Buffer.from(image);
  for (const blocknr of blocks) copy.fill(0, blocknr * BLOCK, (blocknr + 1) * BLOCK);
  return copy;
}

const same = (left: Buffer, right: Buffer) => expect(Buffer.compare(left, right)).toBe(0);

describe.each(NAMES)("%s", (name) => {
  const image = PACK_IMAGES[name]!();
  const lost = name === "kinds" ? [...KINDS.damaged, ...KINDS.unknown] : [];

  test("what thin_metadata_pack wrote is the device again, but for blocks with a wrong checksum", async () => {
    same(await unpack(golden(name)), without(image, lost));
    same(plainImage(golden(name)), without(image, lost));
  });

  test("our pack is the device again, to a decoder that knows nothing of ours", async () => {
    same(plainImage((await pack(deviceOf(image))).file), without(image, lost));
  });

  test("our instructions are those of thin_metadata_pack, but for literals where it finds more", async () => {
    const theirs = new Map(plainUnpack(golden(name)).blocks.map((block) => [block.blocknr, block.instructions]));
    const ours = plainUnpack((await pack(deviceOf(image))).file).blocks;
    expect(ours.map(({ blocknr }) => blocknr).sort((a, b) => a - b)).toEqual([...theirs.keys()].sort((a, b) => a - b));
    for (const { blocknr, bytes, instructions } of ours) {
      const isLiteral = instructions.length === 3 + BLOCK && Buffer.compare(instructions.subarray(3), bytes) === 0;
      if (!isLiteral) same(instructions, theirs.get(blocknr)!);
      else if (name !== "kinds") expect(instructions.length).toBeLessThanOrEqual(theirs.get(blocknr)!.length);
    }
  });

  test("the same device packs to the same file", async () => {
    same((await pack(deviceOf(image))).file, (await pack(deviceOf(image))).file);
  });

  test.skipIf(!HAS_PROGRAMS)("thin_metadata_unpack makes the device of our pack, and we of its pack", async () => {
    const folder = temporaryFolder();
    const run = (program: string, from: string, to: string) => {
      const words = ["-i", join(folder, from), "-o", join(folder, to)];
      const { status, stderr } = spawnSync(program, words, { env: { PATH }, encoding: "utf8" });
      expect(status, stderr).toBe(0);
      return readFileSync(join(folder, to));
    };
    writeFileSync(join(folder, "meta.img"), image);
    writeFileSync(join(folder, "ours.pack"), (await pack(deviceOf(image), "all")).file);
    same(run("thin_metadata_unpack", "ours.pack", "unpacked.img"), without(image, lost));
    same(await unpack(run("thin_metadata_pack", "meta.img", "theirs.pack")), without(image, lost));
  });
});

describe("blocks that are not sound", () => {
  const image = kindsImage();

  test.each<{ keep: KeepDamaged; kept: readonly number[] }>([
    { keep: "none", kept: [] },
    { keep: "metadata", kept: KINDS.damaged },
    { keep: "all", kept: [...KINDS.damaged, ...KINDS.unknown] },
  ])("keep $keep", async ({ keep, kept }) => {
    const { file, packed } = await pack(deviceOf(image), keep);
    const lost = [...KINDS.damaged, ...KINDS.unknown].filter((blocknr) => !kept.includes(blocknr));
    expect(packed).toEqual({
      blocks: 256,
      sound: KINDS.sound.length,
      damaged: kept.length,
      leftOut: lost.length,
      unreadable: [],
    });
    same(await unpack(file), without(image, lost));
  });

  test("a superblock of which only a part is left survives", async () => {
    const torn = Buffer.from(image);
    torn.fill(0, 0, 512);
    same(await unpack((await pack(deviceOf(torn))).file), without(torn, KINDS.unknown));
  });

  test("more of them than fit one chunk", async () => {
    const noisy = Buffer.alloc(1000 * BLOCK);
    for (let block = 0; block < 1000; block++) noisy.write(`block ${block}`, block * BLOCK + 100);
    const { file, packed } = await pack(deviceOf(noisy), "all");
    expect(packed.damaged).toBe(1000);
    expect(plainUnpack(file)).toMatchObject({ nrBlocks: 1000, blocks: [], chunks: 4 });
    same(await unpack(file), noisy);
  });

  test("blocks that cannot be read are told, the others are there", async () => {
    const device = unreadable(deviceOf(image), [7, 8]);
    const { file, packed } = await pack(device);
    expect(packed.unreadable).toEqual([7, 8]);
    same(await unpack(file), without(image, [7, 8, ...KINDS.unknown]));
  });
});

test("many chunks are in order, whoever is faster", async () => {
  const blocks = 5000;
  const image = Buffer.alloc(blocks * BLOCK);
  const kinds = kindsImage();
  for (let block = 0; block < blocks; block++) {
    const from = KINDS.sound[block % KINDS.sound.length]! * BLOCK;
    kinds.copy(image, block * BLOCK, from, from + BLOCK);
  }
  const { file } = await pack(deviceOf(image));
  const plain = plainUnpack(file);
  expect(plain.chunks).toBe(Math.ceil(blocks / 1024));
  expect(plain.blocks.map(({ blocknr }) => blocknr)).toEqual(Array.from({ length: blocks }, (_, index) => index));
  same(await unpack(file), image);
});

test("many chunks through a sink that is now fast, now slow", async () => {
  const blocks = 12 * 1024 + 5;
  const sound = kindsImage().subarray(6 * BLOCK, 7 * BLOCK);
  const device = new MemoryDevice({ name: "meta", sizeBytes: blocks * BLOCK });
  for (let block = 0; block < blocks; block++) device.sync.write(block * BLOCK, sound);
  const pieces: Uint8Array[] = [];
  const packed = await packMetadata(device, {
    pace: new Pace(),
    write: async (piece) => {
      pieces.push(piece.slice());
      // Chunk after chunk at once, then one that lets the reader run ahead.
      if (pieces.length % 20 > 12) await new Promise((resolve) => setTimeout(resolve, 5));
    },
  });
  expect(packed.sound).toBe(blocks);
  const reader = await open(Buffer.concat(pieces), 100_000);
  expect(await verifyPack(reader, new Pace())).toEqual({ blocks, sound: blocks, damaged: 0 });
});

test("what the sink throws ends the packing", async () => {
  let pieces = 0;
  const write = () => {
    if (++pieces > 4) throw new Error("full");
  };
  await expect(packMetadata(deviceOf(kindsImage()), { pace: new Pace(), write })).rejects.toThrow("full");
});

test("an interrupt ends the packing", async () => {
  const pace = new Pace({ signal: AbortSignal.abort() });
  await expect(packMetadata(deviceOf(kindsImage()), { pace, write: () => undefined })).rejects.toMatchObject({
    code: "EINTR",
  });
});

describe("files that are not what they should be", () => {
  const packed = pack(deviceOf(kindsImage()), "all");

  test("a file of ours cut at any byte is found out", async () => {
    const image = Buffer.alloc(300 * BLOCK);
    for (let block = 0; block < 300; block++) image.write(`block ${block}`, block * BLOCK + 100);
    const { file } = await pack(deviceOf(image), "all");
    for (let length = 0; length < file.length; length += length < 100 ? 1 : 37) {
      const cut = (async () => verifyPack(await open(file.subarray(0, length)), new Pace()))();
      await expect(cut, `${length} bytes`).rejects.toThrow(length < 8 ? /no packed metadata/ : /cut off/);
    }
  });

  test("a file of ours cut between two chunks is found out", async () => {
    const image = Buffer.alloc(300 * BLOCK);
    for (let block = 0; block < 300; block++) image.write(`block ${block}`, block * BLOCK + 100);
    const { file } = await pack(deviceOf(image), "all");
    const end = 32 + 8 + Number(file.readBigUInt64LE(32));
    expect(end).toBeLessThan(file.length);
    await expect((async () => verifyPack(await open(file.subarray(0, end)), new Pace()))()).rejects.toThrow(
      "a.pack: cut off: it ends behind chunk 0, which is not the last",
    );
  });

  test("a changed byte behind the head is found out, or changes nothing", async () => {
    const { file } = await packed;
    const image = await unpack(file);
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 32, max: file.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        async (at, by) => {
          const changed = Buffer.from(file);
          changed[at]! ^= by;
          const made = await unpack(changed).catch((error: { code?: string }) => {
            expect(error.code).toBe("EUCLEAN");
            return undefined;
          });
          // The parts of a zlib stream that say nothing of its content.
          if (made !== undefined) same(made, image);
        },
      ),
      { numRuns: 150 },
    );
  });

  const head = (nrBlocks = 4n, version = 3n, size = 4096n) => {
    const bytes = Buffer.alloc(32);
    [0xa537a0aa6309ef77n, version, size, nrBlocks].forEach(
      (value, index) => void bytes.writeBigUInt64LE(value, 8 * index),
    );
    return bytes;
  };
  const chunk = (...parts: readonly Uint8Array[]) => {
    const stream = deflateSync(Buffer.concat(parts));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(stream.length));
    return Buffer.concat([length, stream]);
  };
  const numbered = (blocknr: number, ...code: readonly number[]) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(blocknr));
    return Buffer.concat([bytes, Buffer.from(code)]);
  };
  const sound = kindsImage().subarray(0, BLOCK);
  const literal = (blocknr: number) => Buffer.concat([numbered(blocknr, 0xa2, 0x00, 0x10), sound]);

  test.each<readonly [string, Buffer, RegExp]>([
    ["nothing", Buffer.alloc(0), /^a.pack: no packed metadata/],
    ["another magic", Buffer.alloc(100, 1), /no packed metadata/],
    ["a head alone", head(), /cut off: it ends behind its head/],
    ["another version", head(4n, 2n), /of version 2, wanted 3/],
    ["another block size", head(4n, 3n, 512n), /4 blocks of 512 bytes, wanted/],
    ["no blocks", head(0n), /0 blocks/],
    ["absurdly many blocks", head(2n ** 60n), /wanted 1 to 268435456/],
    ["an empty chunk", Buffer.concat([head(), Buffer.alloc(8)]), /chunk 0 at byte 32: it says it has 0 bytes/],
    ["a huge chunk", Buffer.concat([head(), Buffer.alloc(8, 0xff)]), /wanted 1 to/],
    ["no zlib stream", Buffer.concat([head(), numbered(5), Buffer.from("hello")]), /it cannot be unpacked/],
    ["a bomb", Buffer.concat([head(), chunk(Buffer.alloc(40 * 2 ** 20))]), /it cannot be unpacked/],
    ["a block outside", Buffer.concat([head(), chunk(literal(4))]), /block 4 is not on a device of 4 blocks/],
    ["a block twice", Buffer.concat([head(), chunk(literal(1), literal(1))]), /block 1 is there twice/],
    [
      "a wrong checksum",
      Buffer.concat([head(), chunk(numbered(1, 0x01, 1, 0x61, 255, 0x61, 0))]),
      /its checksum is wrong/,
    ],
    ["a cut number", Buffer.concat([head(), chunk(Buffer.alloc(5))]), /instructions are cut off/],
    ["cut instructions", Buffer.concat([head(), chunk(numbered(1, 0x01))]), /block 1: its instructions are cut off/],
    ["an unknown instruction", Buffer.concat([head(), chunk(numbered(1, 0xc0))]), /instruction 192 is unknown/],
    [
      "a number of three bytes",
      Buffer.concat([head(), chunk(numbered(1, 0x03, 1, 1, 1))]),
      /of 3 bytes, wanted 1, 2, 4 or 8/,
    ],
    ["too much", Buffer.concat([head(), chunk(numbered(1, 0x62, 0x01))]), /more than 4096 bytes/],
    ["a repeated literal", Buffer.concat([head(), chunk(numbered(1, 0x72, 0x91, 0))]), /is repeated/],
    [
      "a literal that is too long",
      Buffer.concat([head(), chunk(numbered(1, 0xa8, 0, 0, 0, 0, 1, 0, 0, 0))]),
      /more than 4096/,
    ],
    ["a run within a run", Buffer.concat([head(), chunk(numbered(1, 0xb0, 2, 0xb0, 1, 0x00))]), /in another/],
  ])("%s", async (_, file, message) => {
    const failed = (async () => unpack(file))();
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toHaveProperty("hint");
  });

  test("a device that is too small is refused before anything is written", async () => {
    const { file } = await packed;
    const device = deviceOf(Buffer.alloc(255 * BLOCK, 7));
    await expect(unpackMetadata(await open(file), device, new Pace())).rejects.toThrow(
      /^meta: 1020K \(1044480 bytes\), the packed metadata has 1M/,
    );
    expect(contentOf(device).every((byte) => byte === 7)).toBe(true);
  });

  test("a failure on the way leaves no superblock", async () => {
    const { file } = await packed;
    const device = deviceOf(kindsImage());
    const cut = file.subarray(0, file.length - 1);
    await expect(unpackMetadata(await open(cut), device, new Pace())).rejects.toThrow(/cut off/);
    expect(
      contentOf(device)
        .subarray(0, BLOCK)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  test("what lay on a larger device before is gone", async () => {
    const { file } = await packed;
    const device = deviceOf(Buffer.alloc(400 * BLOCK, 7));
    await unpackMetadata(await open(file), device, new Pace());
    same(contentOf(device), Buffer.concat([kindsImage(), Buffer.alloc(144 * BLOCK)]));
  });
});

test("numbers of every shape come back, and the plain decoder agrees", async () => {
  const number = fc.oneof(
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    fc.integer({ min: 0, max: 300 }).map(BigInt),
    fc.constantFrom(0n, 255n, 256n, 65535n, 65536n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n),
  );
  const runs = fc.array(fc.tuple(number, fc.integer({ min: -20, max: 400 }), fc.integer({ min: 1, max: 300 })), {
    maxLength: 40,
  });
  await fc.assert(
    fc.asyncProperty(runs, fc.constantFrom(1, 2), fc.constantFrom(8, 4, 24), async (list, flags, size) => {
      const image = Buffer.alloc(8 * BLOCK);
      const block = image.subarray(BLOCK, 2 * BLOCK);
      let at = 32;
      for (const [first, step, length] of list) {
        for (let index = 0; index < length && at < BLOCK; index++, at += 8) {
          block.writeBigUInt64LE(BigInt.asUintN(64, first + BigInt(step) * BigInt(index)), at);
        }
      }
      [flags, 1, 0, 10, size === 24 ? 126 : 252, size].forEach(
        (value, index) => void block.writeUInt32LE(value, 4 + 4 * index),
      );
      const view = new DataView(block.buffer, block.byteOffset, BLOCK);
      block.writeUInt32LE((crc32c(view, 4) ^ 121107) >>> 0, 0);
      const { file, packed } = await pack(deviceOf(image));
      expect(packed.sound).toBe(1);
      same(plainImage(file), image);
      same(await unpack(file), image);
    }),
    { numRuns: 60 },
  );
});
