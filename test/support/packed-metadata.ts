/**
 * Packed metadata read without the code that is tested, from what is known of the form; and a device with every kind of
 * block that a pack may meet.
 */
import { inflateSync } from "node:zlib";
import { crc32c } from "../../src/bytes/index.js";
import { readGoldenRun } from "./golden-images.js";
import { METADATA_BLOCK_BYTES as BLOCK } from "./metadata-image.js";
import { Random } from "./random.js";

export interface PlainPack {
  readonly nrBlocks: number;
  /** In the order of the file. */
  readonly blocks: readonly { readonly blocknr: number; readonly bytes: Buffer; readonly instructions: Buffer }[];
  readonly chunks: number;
}

/** What thin_metadata_unpack 1.x makes of a file: what stands behind a zlib stream it does not see. */
export function plainUnpack(file: Uint8Array): PlainPack {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  if (bytes.readBigUInt64LE(0) !== 0xa537a0aa6309ef77n) throw new Error("magic");
  if (bytes.readBigUInt64LE(8) !== 3n || bytes.readBigUInt64LE(16) !== 4096n) throw new Error("version");
  const nrBlocks = Number(bytes.readBigUInt64LE(24));
  const blocks: PlainPack["blocks"][number][] = [];
  let chunks = 0;
  for (let at = 32; at < bytes.length; chunks++) {
    const length = Number(bytes.readBigUInt64LE(at));
    const plain = inflateSync(bytes.subarray(at + 8, at + 8 + length));
    for (let from = 0; from < plain.length; ) {
      const machine = new Machine(plain, from + 8);
      const block = machine.run(BLOCK);
      const instructions = plain.subarray(from + 8, machine.at);
      blocks.push({ blocknr: Number(plain.readBigUInt64LE(from)), bytes: block, instructions });
      from = machine.at;
    }
    at += 8 + length;
  }
  return { nrBlocks, blocks, chunks };
}

/** The device that comes of it. */
export function plainImage(file: Uint8Array): Buffer {
  const { nrBlocks, blocks } = plainUnpack(file);
  const image = Buffer.alloc(nrBlocks * BLOCK);
  for (const { blocknr, bytes } of blocks) bytes.copy(image, blocknr * BLOCK);
  return image;
}

class Machine {
  #base = 0n;

  constructor(
    readonly code: Buffer,
    public at: number,
  ) {}

  run(length: number): Buffer {
    const pieces: Buffer[] = [];
    let made = 0;
    while (made < length) {
      const piece = this.#instruction(1);
      pieces.push(piece);
      made += piece.length;
    }
    if (made !== length) throw new Error(`${made} bytes, wanted ${length}`);
    return Buffer.concat(pieces);
  }

  #instruction(times: number): Buffer {
    const code = this.code.readUInt8(this.at++);
    const nibble = code % 16;
    const long = () => nibble * 256 + this.code.readUInt8(this.at++);
    switch (code >> 4) {
      case 0:
        this.#base = this.#operand(nibble);
        return this.#emit(times, 0n);
      case 1:
        return this.#emit(times, BigInt(nibble));
      case 2:
        return this.#emit(times, this.#operand(nibble));
      case 3:
        return this.#emit(times, -BigInt(nibble));
      case 4:
        return this.#emit(times, -this.#operand(nibble));
      case 5:
        return this.#emit(nibble, 0n);
      case 6:
        return this.#emit(long(), 0n);
      case 7:
        return this.#instruction(nibble);
      case 8:
        return this.#instruction(long());
      case 9:
        return this.#literal(nibble);
      case 10:
        return this.#literal(Number(this.#operand(nibble)));
      case 11: {
        const count = long();
        const high = this.run(8 * count);
        const low = this.run(8 * count);
        const joined = Buffer.alloc(8 * count);
        for (let at = 0; at < joined.length; at += 8) {
          const value = (high.readBigUInt64LE(at) << 24n) | (low.readBigUInt64LE(at) & 0xffffffn);
          joined.writeBigUInt64LE(BigInt.asUintN(64, value), at);
        }
        return joined;
      }
    }
    throw new Error(`instruction ${code}`);
  }

  #operand(width: number): bigint {
    let value = 0n;
    for (let index = width - 1; index >= 0; index--) value = value * 256n + BigInt(this.code[this.at + index]!);
    this.at += width;
    return value;
  }

  #emit(times: number, step: bigint): Buffer {
    const made = Buffer.alloc(8 * times);
    for (let index = 0; index < times; index++) {
      this.#base = BigInt.asUintN(64, this.#base + step);
      made.writeBigUInt64LE(this.#base, 8 * index);
    }
    return made;
  }

  #literal(length: number): Buffer {
    const made = this.code.subarray(this.at, this.at + length);
    this.at += length;
    return made;
  }
}

const SALTS = { superblock: 160774, node: 121107, bitmap: 240779, index: 160478 } as const;
/** An array, a cache's superblock, an era's. */
const FOREIGN = [595846735, 9031977, 146538381];
const KINDS_BLOCKS = 256;

/** Blocks of `kindsImage` by what a pack should do with them. */
export const KINDS = {
  sound: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20],
  /** The checksum is wrong; it looks like metadata by its number, its head, or its magic. */
  damaged: [21, 23, 24],
  unknown: [22, 25],
} as const;

/** A megabyte with sound blocks of all kinds, nodes at the limits of the form, and blocks that are not sound. */
export function kindsImage(): Buffer {
  const image = Buffer.alloc(KINDS_BLOCKS * BLOCK);
  const random = new Random(20);
  const noise = (bytes: number) => Buffer.from(Uint8Array.from({ length: bytes }, () => random.between(0, 255)));
  const put = (blocknr: number, body: Buffer, salt: number) => {
    const block = image.subarray(blocknr * BLOCK, (blocknr + 1) * BLOCK);
    body.copy(block, 4);
    const view = new DataView(block.buffer, block.byteOffset, BLOCK);
    block.writeUInt32LE((crc32c(view, 4) ^ salt) >>> 0, 0);
  };
  const node = (
    blocknr: number,
    head: { flags: number; nr: number; max: number; size: number },
    keys: readonly bigint[],
    rest: Buffer,
  ) => {
    const body = Buffer.alloc(BLOCK - 4);
    body.writeUInt32LE(head.flags, 0);
    body.writeBigUInt64LE(BigInt(blocknr), 4);
    [head.nr, head.max, head.size].forEach((value, index) => void body.writeUInt32LE(value, 12 + 4 * index));
    numbers(keys).copy(body, 28);
    rest.copy(body, 28 + 8 * keys.length);
    put(blocknr, body, SALTS.node);
  };
  put(0, noise(4092), SALTS.superblock);
  put(1, noise(4092), SALTS.index);
  put(2, noise(4092), SALTS.bitmap);
  FOREIGN.forEach((salt, index) => void put(3 + index, noise(4092), salt));
  const full = { nr: 252, max: 252, size: 8 };
  const run = (value: (index: number) => number | bigint, count = 252) =>
    Array.from({ length: count }, (_, index) => BigInt(value(index)));
  const down = numbers(run((index) => 1000 - 3 * index));
  node(
    6,
    { flags: 1, ...full },
    run((index) => 5 + index),
    Buffer.concat([down, noise(32)]),
  );
  node(7, { flags: 2, ...full }, [], noise(4064));
  const mappings = numbers(run((index) => BigInt(70000 + index) * 2n ** 24n + BigInt(Math.floor(index / 7))));
  node(
    8,
    { flags: 2, ...full, nr: 100 },
    run((index) => index * index),
    mappings,
  );
  node(
    9,
    { flags: 2, nr: 10, max: 126, size: 24 },
    run((index) => index, 126),
    noise(3000),
  );
  node(10, { flags: 2, nr: 10, max: 0, size: 8 }, [], noise(4064));
  node(11, { flags: 2, nr: 10, max: 252, size: 4 }, [], noise(4064));
  node(12, { flags: 3, ...full, nr: 10 }, [], noise(4064));
  node(13, { flags: 2, nr: 10, max: 1, size: 8 }, [], noise(4064));
  const huge = numbers(run((index) => 2n ** 64n - 1n - BigInt(index)));
  node(
    14,
    { flags: 2, ...full },
    run((index) => 2n ** 53n - 3n + BigInt(index)),
    huge,
  );
  node(
    15,
    { flags: 1, ...full },
    run((index) => 2n ** 53n + 5n * BigInt(index)),
    Buffer.alloc(0),
  );
  node(
    16,
    { flags: 2, ...full },
    run(() => 7),
    numbers(run(() => 2n ** 64n - 1n)),
  );
  node(
    17,
    { flags: 2, nr: 1, max: 338, size: 4 },
    run((index) => 300 * index, 338),
    noise(1360),
  );
  const copy = (from: number, to: number) => image.copy(image, to * BLOCK, from * BLOCK, (from + 1) * BLOCK);
  // A sound block in a wrong place; a node with a flipped bit; noise; a head alone; a lost superblock's copy; old data.
  copy(6, 20);
  copy(8, 21);
  image[21 * BLOCK + 2000]! ^= 1;
  noise(BLOCK).copy(image, 22 * BLOCK);
  image.writeBigUInt64LE(23n, 23 * BLOCK + 8);
  image.write("torn", 23 * BLOCK + 1024);
  image.writeBigUInt64LE(27022010n, 24 * BLOCK + 32);
  image.write("a text that lay here before", 25 * BLOCK);
  return image;
}

function numbers(values: readonly bigint[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length);
  values.forEach((value, index) => void bytes.writeBigUInt64LE(value, 8 * index));
  return bytes;
}

/** thin_metadata_pack 1.1.0 forgets a stretch of a device whose blocks are no multiple of 128. */
const STRETCH_BYTES = 128 * BLOCK;

/** The last checkpoint that it packs whole. */
function lastOf(name: string): Buffer {
  const images = readGoldenRun(`${name}/run.json.br`).run.checkpoints.map(({ metadata }) => metadata);
  return Buffer.from(images.findLast(({ length }) => length % STRETCH_BYTES === 0)!);
}

/** The devices whose packs by thin_metadata_pack lie in test/golden/packed. */
export const PACK_IMAGES: Readonly<Record<string, () => Buffer>> = {
  "kernel-trace": () => lastOf("kernel-trace"),
  "kernel-random": () => lastOf("kernel-random"),
  kinds: kindsImage,
};
