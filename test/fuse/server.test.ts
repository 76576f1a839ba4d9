import { constants } from "node:os";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  ATTR,
  ATTR_OUT_HEAD,
  answerInit,
  DIRENT_HEAD,
  FALLOC,
  FALLOCATE_IN,
  INIT_IN,
  INIT_OUT,
  LSEEK_IN,
  OPCODE,
  OPEN_IN,
  packFolder,
  ROOT_NODE,
  SEEK_DATA,
  SEEK_HOLE,
  STATFS_OUT,
} from "../../src/fuse/protocol.js";
import { type BlockDevice, MemoryDevice } from "../../src/io/index.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { Random } from "../support/random.js";
import { messageOf, ScriptedSource, transferBody } from "./scripted-source.js";

const { EINVAL, ENODEV, ENOENT, ENOSYS, ENXIO, EOPNOTSUPP, EPERM, EROFS, EFBIG } = constants.errno;
const KIB = 1024;

function bodyOf<V>(struct: { size: number; write(view: DataView, values: V): void }, values: V): Uint8Array {
  const body = new Uint8Array(struct.size);
  struct.write(new DataView(body.buffer), values);
  return body;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const below = (random: Random, end: number) => random.between(0, end - 1);

const fallocate = (mode: number, offset: number, length: number) =>
  bodyOf(FALLOCATE_IN, { fh: 0, offset, length, mode, padding: 0 });

describe("the handshake", () => {
  const offered = { major: 7, minor: 45, maxReadahead: 131072, flags: 0xffffffff };
  const limits = { maxWriteBytes: 256 * KIB, maxBackground: 128 };

  test("goes on with the smaller minor and with flags that both know", () => {
    const answer = answerInit({ ...offered, flags: (1 << 0) | (1 << 22) }, limits)!;
    expect(answer.reply).toMatchObject({
      major: 7,
      minor: 38,
      flags: (1 << 0) | (1 << 22),
      maxWrite: 262144,
      maxPages: 64,
    });
    expect(answerInit({ ...offered, minor: 31 }, limits)!.reply.minor).toBe(31);
    expect(answer.isRetry).toBe(false);
  });

  test("never asks for the page cache to write back", () => {
    expect(answerInit(offered, limits)!.reply.flags & (1 << 16)).toBe(0);
  });

  test("asks a newer kernel to come again, and sends an older one away", () => {
    expect(answerInit({ ...offered, major: 8 }, limits)).toMatchObject({ isRetry: true, reply: { major: 7 } });
    expect(answerInit({ ...offered, major: 6 }, limits)).toBeUndefined();
    expect(answerInit({ ...offered, minor: 30 }, limits)).toBeUndefined();
  });

  test("is answered with 64 bytes", async () => {
    const source = new ScriptedSource();
    source.serve();
    const reply = await source.ask(OPCODE.INIT, 0, bodyOf(INIT_IN, offered));
    expect([reply.error, reply.body.length]).toEqual([0, 64]);
    expect(INIT_OUT.get.maxBackground(viewOf(reply.body))).toBe(128);
  });
});

test("a folder read in pieces of any size holds every entry once, in order", () => {
  fc.assert(
    fc.property(
      fc.array(fc.stringMatching(/^[a-zé]{1,40}$/), { maxLength: 60 }),
      fc.integer({ min: 128, max: 700 }),
      (names, room) => {
        const entries = names.map((name, index) => ({ ino: index + 5, name, isFolder: index % 2 === 0 }));
        const found: string[] = [];
        for (let from = 0; ; ) {
          const packed = packFolder(entries, from, room);
          if (packed.length === 0) break;
          for (let at = 0; at < packed.length; ) {
            const view = viewOf(packed);
            const length = DIRENT_HEAD.get.namelen(view, at);
            found.push(Buffer.from(packed.subarray(at + 24, at + 24 + length)).toString());
            from = DIRENT_HEAD.get.off(view, at);
            at += Math.ceil((24 + length) / 8) * 8;
          }
        }
        expect(found).toEqual(names);
      },
    ),
  );
});

describe("files", () => {
  function served(device: BlockDevice = new MemoryDevice({ sizeBytes: 64 * KIB }), readOnly = false) {
    const source = new ScriptedSource();
    const server = source.serve();
    const file = server.add({ name: "disk", device, readOnly });
    return { source, server, file, device };
  }
  const sizeOf = async (source: ScriptedSource, node: number) =>
    ATTR.get.size(viewOf((await source.ask(OPCODE.GETATTR, node)).body), ATTR_OUT_HEAD.size);

  test("are found by name, and nothing else is", async () => {
    const { source, file } = served();
    const found = await source.ask(OPCODE.LOOKUP, ROOT_NODE, Buffer.from("disk\0"));
    expect(viewOf(found.body).getUint32(0, true)).toBe(file.node);
    expect(found.body.length).toBe(128);
    for (const name of ["other\0", "disk", "dis\0k\0", "\0"]) {
      expect((await source.ask(OPCODE.LOOKUP, ROOT_NODE, Buffer.from(name))).error).toBe(-ENOENT);
    }
    expect((await source.ask(OPCODE.LOOKUP, file.node, Buffer.from("disk\0"))).error).toBe(-ENOENT);
  });

  test("cannot have a name that is no name, or one twice", () => {
    const { server, device } = served();
    for (const name of ["", ".", "..", "a/b", "a\0"]) {
      expect(() => server.add({ name, device })).toThrow(expect.objectContaining({ code: "EINVAL" }));
    }
    expect(() => server.add({ name: "disk", device })).toThrow(expect.objectContaining({ code: "EEXIST" }));
  });

  test("keep their size when somebody wants to cut them, and cannot be made, renamed or removed", async () => {
    const { source, file } = served();
    const cut = new Uint8Array(88);
    cut[0] = 8;
    expect((await source.ask(OPCODE.SETATTR, file.node, cut)).error).toBe(-EPERM);
    for (const opcode of [OPCODE.CREATE, OPCODE.UNLINK, OPCODE.RENAME, OPCODE.MKDIR, OPCODE.LINK]) {
      expect((await source.ask(opcode, ROOT_NODE, Buffer.from("x\0"))).error).toBe(-EPERM);
    }
    expect((await source.ask(4711, file.node)).error).toBe(-ENOSYS);
  });

  test("grow with their device, which is announced once", async () => {
    const small = new MemoryDevice({ sizeBytes: 64 * KIB });
    let sizeBytes = small.sizeBytes;
    const device = new Proxy<BlockDevice>(small, {
      get: (target, key) => (key === "sizeBytes" ? sizeBytes : Reflect.get(target, key, target)),
    });
    const { source, server, file } = served(device);
    expect(file.takeUpSize()).toBe(false);
    sizeBytes = 128 * KIB;
    expect(file.takeUpSize()).toBe(true);
    server.announceSize(file)();
    expect(source.replies.at(-1)).toMatchObject({ unique: 0, error: 2 });
    expect(await sizeOf(source, file.node)).toBe(128 * KIB);
    sizeBytes = 32 * KIB;
    expect(file.takeUpSize()).toBe(false);
    expect(await sizeOf(source, file.node)).toBe(128 * KIB);
  });

  test("do not answer writes while the kernel asks for their size, and all of them then", async () => {
    const { source, server, file } = served();
    const letGo = server.announceSize(file);
    const before = source.replies.length;
    const writes = [1, 2].map((at) =>
      source.ask(OPCODE.WRITE, file.node, transferBody(at * 512, Buffer.alloc(512, at))),
    );
    expect(Buffer.from((await source.ask(OPCODE.READ, file.node, transferBody(512, 1024))).body)).toEqual(
      Buffer.concat([Buffer.alloc(512, 1), Buffer.alloc(512, 2)]),
    );
    expect(await sizeOf(source, file.node)).toBe(64 * KIB);
    expect(source.replies.length).toBe(before + 2);
    letGo();
    expect((await Promise.all(writes)).map(({ error }) => error)).toEqual([0, 0]);
    expect((await source.ask(OPCODE.WRITE, file.node, transferBody(0, Buffer.alloc(512)))).error).toBe(0);
  });

  test("that are read-only refuse to be opened for writing, written and punched", async () => {
    const { source, file } = served(undefined, true);
    const open = (flags: number) => source.ask(OPCODE.OPEN, file.node, bodyOf(OPEN_IN, { flags, openFlags: 0 }));
    expect((await open(0)).error).toBe(0);
    expect((await open(2)).error).toBe(-EROFS);
    expect((await source.ask(OPCODE.WRITE, file.node, transferBody(0, Buffer.alloc(512)))).error).toBe(-EROFS);
    expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(3, 0, 4096))).error).toBe(-EROFS);
  });

  test("end where they end: reads are cut, writes refused", async () => {
    const { source, file } = served();
    expect((await source.ask(OPCODE.READ, file.node, transferBody(60 * KIB, 8 * KIB))).body.length).toBe(4 * KIB);
    expect((await source.ask(OPCODE.READ, file.node, transferBody(70 * KIB, 512))).body.length).toBe(0);
    const beyond = transferBody(64 * KIB - 512, Buffer.alloc(1024));
    expect((await source.ask(OPCODE.WRITE, file.node, beyond)).error).toBe(-EFBIG);
    expect((await source.ask(OPCODE.WRITE, file.node, transferBody(100, Buffer.alloc(512)))).error).toBe(-EINVAL);
  });

  test("are read from any byte on", async () => {
    const { source, file, device } = served();
    const bytes = Buffer.from(Array.from({ length: 4096 }, (_, index) => index % 251));
    await device.write(8192, bytes);
    for (const [offset, length] of [
      [8192 + 3, 10],
      [8192 + 500, 1000],
      [8191, 2],
    ] as const) {
      const { body } = await source.ask(OPCODE.READ, file.node, transferBody(offset, length));
      const whole = Buffer.concat([Buffer.alloc(8192), bytes]);
      expect(Buffer.from(body)).toEqual(whole.subarray(offset, offset + length));
    }
  });

  test("tell where data and holes are", async () => {
    const { source, file, device } = served();
    await device.write(16 * KIB, Buffer.alloc(4096, 1));
    const seek = async (whence: number, offset: number) => {
      const reply = await source.ask(OPCODE.LSEEK, file.node, bodyOf(LSEEK_IN, { fh: 0, offset, whence, padding: 0 }));
      return reply.error === 0 ? viewOf(reply.body).getUint32(0, true) : reply.error;
    };
    expect(await seek(SEEK_DATA, 100)).toBe(16 * KIB);
    expect(await seek(SEEK_DATA, 17 * KIB + 1)).toBe(17 * KIB + 1);
    expect(await seek(SEEK_HOLE, 17 * KIB)).toBe(20 * KIB);
    expect(await seek(SEEK_DATA, 20 * KIB)).toBe(-ENXIO);
    expect(await seek(SEEK_HOLE, 63 * KIB)).toBe(63 * KIB);
    expect(await seek(SEEK_HOLE, 64 * KIB)).toBe(-ENXIO);
    expect(await seek(1, 0)).toBe(-EINVAL);
  });

  test("fail once they are removed, which waits for what is under way", async () => {
    const slow = new DelayedDevice(new MemoryDevice({ sizeBytes: 64 * KIB }), { seed: 3 });
    const { source, server, file } = served(slow);
    slow.hold();
    const read = source.ask(OPCODE.READ, file.node, transferBody(0, 4096));
    let isRemoved = false;
    const removed = server.remove(file).then(() => {
      isRemoved = true;
    });
    expect((await source.ask(OPCODE.READ, file.node, transferBody(0, 4096))).error).toBe(-ENODEV);
    expect(isRemoved).toBe(false);
    slow.release();
    expect((await read).error).toBe(0);
    await removed;
    // A new one of the same name is another node.
    expect(server.add({ name: "disk", device: slow }).node).not.toBe(file.node);
  });

  test("announce the device's discard unit as a power of two", async () => {
    const unit = async (discardGranularityBytes: number) => {
      const { source, file } = served(new MemoryDevice({ sizeBytes: 384 * KIB, discardGranularityBytes }));
      return STATFS_OUT.get.bsize(viewOf((await source.ask(OPCODE.STATFS, file.node)).body));
    };
    expect(await unit(64 * KIB)).toBe(64 * KIB);
    expect(await unit(192 * KIB)).toBe(64 * KIB);
    expect(await unit(0)).toBe(4096);
  });
});

describe("holes and zeros", () => {
  const UNIT = 16 * KIB;
  const PUNCH = FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE;
  const ZERO = FALLOC.ZERO_RANGE | FALLOC.KEEP_SIZE;

  test.each([
    ["a hole", PUNCH],
    ["zeros", ZERO],
  ])("%s: every byte in the range reads as zero, none outside changes, and nothing is provisioned for it", (_, mode) =>
    fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 127 }),
        fc.integer({ min: 1, max: 128 }),
        fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
        async (start, count, written) => {
          const device = new MemoryDevice({ sizeBytes: 64 * KIB, pageBytes: UNIT, discardGranularityBytes: UNIT });
          const model = Buffer.alloc(64 * KIB);
          for (const [index, isWritten] of written.entries()) {
            if (!isWritten) continue;
            model.fill(index + 1, index * UNIT, (index + 1) * UNIT);
            device.sync.write(index * UNIT, model.subarray(index * UNIT, (index + 1) * UNIT));
          }
          const before = device.allocatedBytes;
          const source = new ScriptedSource();
          const file = source.serve().add({ name: "disk", device });
          const offset = start * 512;
          const length = Math.min(count * 512, 64 * KIB - offset);
          expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(mode, offset, length))).error).toBe(0);
          model.fill(0, offset, offset + length);
          const found = Buffer.alloc(64 * KIB);
          device.sync.read(0, found);
          expect(found.equals(model)).toBe(true);
          expect(device.allocatedBytes).toBeLessThanOrEqual(before);
        },
      ),
    ),
  );

  test("a device that does not discard punches no holes, and writes zeros", async () => {
    const device = new MemoryDevice({ sizeBytes: 64 * KIB, discardGranularityBytes: 0 });
    device.sync.write(0, Buffer.alloc(8192, 1));
    const source = new ScriptedSource();
    const file = source.serve().add({ name: "disk", device });
    expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(PUNCH, 0, 4096))).error).toBe(-EOPNOTSUPP);
    expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(ZERO, 512, 1024))).error).toBe(0);
    expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(0, 0, 4096))).error).toBe(-EOPNOTSUPP);
    const found = Buffer.alloc(2048);
    device.sync.read(0, found);
    expect([found[511], found[512], found[1535], found[1536]]).toEqual([1, 0, 0, 1]);
  });

  test("where a discard would show something else than zeros, holes are refused", async () => {
    const device = new MemoryDevice({ sizeBytes: 64 * KIB });
    const source = new ScriptedSource();
    const file = source.serve().add({ name: "disk", device, discardReadsZeros: false });
    expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(PUNCH, 0, 4096))).error).toBe(-EOPNOTSUPP);
    expect((await source.ask(OPCODE.FALLOCATE, file.node, fallocate(ZERO, 0, 4096))).error).toBe(0);
  });
});

describe.each([
  ["at once", (below: BlockDevice) => below],
  ["later, in any order", (below: BlockDevice) => new DelayedDevice(below, { seed: 11 })],
])("answered %s", (_, make) => {
  test("random reads and writes find what a plain array holds", async () => {
    const size = 256 * KIB;
    const memory = new MemoryDevice({ sizeBytes: size });
    const source = new ScriptedSource();
    const file = source.serve().add({ name: "disk", device: make(memory) });
    const model = Buffer.alloc(size);
    const random = new Random(5);
    for (let round = 0; round < 60; round++) {
      // What overlaps has no order while it is under way, so a round writes to places of its own.
      const writes = Array.from({ length: 8 }, (_, slot) => {
        const offset = slot * 32 * KIB + below(random, 8) * 512;
        const data = Buffer.alloc((1 + below(random, slot === 0 ? 56 : 8)) * 512, below(random, 256));
        return { offset, data };
      });
      for (const { offset, data } of writes) data.copy(model, offset);
      const isOurs = round % 2 === 0;
      const asked = writes.map(({ offset, data }) =>
        source.ask(OPCODE.WRITE, file.node, transferBody(offset, data), isOurs),
      );
      for (const [index, reply] of (await Promise.all(asked)).entries()) {
        expect([reply.error, viewOf(reply.body).getUint32(0, true)]).toEqual([0, writes[index]!.data.length]);
      }
      expect((await source.ask(OPCODE.FSYNC, file.node, new Uint8Array(16))).error).toBe(0);
      const reads = Array.from({ length: 8 }, () => {
        const offset = below(random, size / 512) * 512;
        return { offset, length: Math.min((1 + below(random, 64)) * 512, size - offset) };
      });
      const got = await Promise.all(
        reads.map(({ offset, length }) => source.ask(OPCODE.READ, file.node, transferBody(offset, length))),
      );
      for (const [index, { offset, length }] of reads.entries()) {
        expect(Buffer.from(got[index]!.body).equals(model.subarray(offset, offset + length))).toBe(true);
      }
    }
  });

  test("a large write keeps its bytes while the next requests come in", async () => {
    const below = new MemoryDevice({ sizeBytes: 1024 * KIB });
    const source = new ScriptedSource();
    const file = source.serve().add({ name: "disk", device: make(below) });
    const asked = Array.from({ length: 8 }, (_, index) =>
      source.ask(OPCODE.WRITE, file.node, transferBody(index * 128 * KIB, Buffer.alloc(128 * KIB, index + 1)), true),
    );
    await Promise.all(asked);
    const found = Buffer.alloc(1024 * KIB);
    below.sync.read(0, found);
    for (let index = 0; index < 8; index++) {
      expect(found.subarray(index * 128 * KIB, (index + 1) * 128 * KIB).every((byte) => byte === index + 1)).toBe(true);
    }
  });
});

describe("messages that are wrong", () => {
  const OPCODES = [...Object.values(OPCODE), 0, 22, 34, 99, 4096];

  function target() {
    const source = new ScriptedSource();
    const server = source.serve();
    const device = new MemoryDevice({ sizeBytes: 64 * KIB });
    const file = server.add({ name: "disk", device });
    return { source, file, device };
  }

  test("cut at every byte: an error or silence, and no byte of the device changes", async () => {
    for (const opcode of OPCODES) {
      const { source, file, device } = target();
      const body = opcode === OPCODE.WRITE ? transferBody(0, Buffer.alloc(512, 7)) : transferBody(0, 64);
      const whole = messageOf(opcode, { node: file.node, unique: 2, body });
      for (let length = 0; length < whole.length; length++) {
        const cut = whole.slice(0, length);
        // Once as the kernel would never send it, once with a length that fits.
        source.give(cut);
        if (length >= 4) {
          new DataView(cut.buffer).setUint32(0, length, true);
          source.give(cut);
        }
      }
      await new Promise((resolve) => setImmediate(resolve));
      if (opcode === OPCODE.WRITE) expect(device.allocatedBytes).toBe(0);
    }
  });

  test("any bytes in any field are answered or passed over, and the server goes on", async () => {
    const { source, file } = target();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...OPCODES),
        fc.constantFrom(0, 1, file.node, 77, 2 ** 40),
        fc.uint8Array({ minLength: 0, maxLength: 160 }),
        async (opcode, node, body) => {
          source.give(messageOf(opcode, { node, unique: 6, body }));
          await new Promise((resolve) => setImmediate(resolve));
          const read = await source.ask(OPCODE.READ, file.node, transferBody(0, 4096));
          expect([read.error, read.body.length]).toEqual([0, 4096]);
        },
      ),
      { numRuns: 400 },
    );
  });
});
