/** A device on an NBD server: ours, nbdkit, qemu-nbd; servers that go away, that forget, that lie. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { openPool } from "../../src/host/index.js";
import { createSparseFile, MemoryDevice, run } from "../../src/io/index.js";
import type { NbdExport } from "../../src/nbd/index.js";
import { DeviceExport, NbdDevice, NbdServer, openServerTls, parseNbdUri } from "../../src/nbd/index.js";
import { describeBlockDevice, pattern, readPart } from "../support/block-device-contract.js";
import { makeCertificates } from "../support/certificates.js";
import { makeFolder } from "../support/make-folder.js";
import { withTemporaryFolder } from "../support/temporary-folder.js";

const MIB = 2 ** 20;
const has = (program: string) => process.env.CI === "true" || spawnSync(program, ["--version"]).error === undefined;

/** A server that others wrote, on a socket in `folder`, until `end`. */
async function start(
  folder: string,
  program: string,
  words: readonly string[],
): Promise<{ socket: string; end(): Promise<void> }> {
  const socket = join(folder, "socket");
  const child: ChildProcess = spawn(program, words, { stdio: ["ignore", "ignore", "inherit"] });
  // The socket is there before it is listened on.
  while (!(existsSync(socket) && (await answers(socket)))) {
    if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}`);
    await sleep(5);
  }
  return {
    socket,
    end: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await gone;
    },
  };
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once("connect", () => socket.end(() => resolve(true)));
    socket.once("error", () => resolve(false));
  });
}

const uriOf = (socket: string, name = "disk") => `nbd+unix:///${name}?socket=${socket}`;

describeBlockDevice("NBD: our own server", {
  runs: 20,
  make: async (sizeBytes) => {
    const folder = makeFolder();
    const below = new MemoryDevice({ sizeBytes });
    const address = { kind: "unix", path: join(folder, "socket") } as const;
    const server = await NbdServer.listen({ address, exports: [new DeviceExport(below, { name: "disk" })] });
    const device = await NbdDevice.connect(server.uri("disk"));
    return {
      device,
      reopen: () => NbdDevice.connect(server.uri("disk")),
      dispose: async () => {
        await device.close();
        await server.close();
        rmSync(folder, { recursive: true, force: true });
      },
    };
  },
});

describe.runIf(has("nbdkit"))("nbdkit", () => {
  describeBlockDevice("NBD: nbdkit, blocks of 4096", {
    runs: 10,
    make: async (sizeBytes) => {
      const folder = makeFolder();
      const words = ["-f", "-U", join(folder, "socket"), "--filter=blocksize-policy", "memory", String(sizeBytes)];
      const policy = [
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
      ];
      const server = await start(folder, "nbdkit", [...words, ...policy]);
      const device = await NbdDevice.connect(uriOf(server.socket, ""));
      return {
        device,
        reopen: () => NbdDevice.connect(uriOf(server.socket, "")),
        dispose: async () => {
          await device.close();
          await server.end();
          rmSync(folder, { recursive: true, force: true });
        },
      };
    },
  });

  test("a pool on a server that is slow as one far away: bytes, snapshots, discards that arrive", async () => {
    await withTemporaryFolder("udm-nbd-", async (folder) => {
      const words = [
        "-f",
        "-U",
        join(folder, "socket"),
        "--filter=delay",
        "memory",
        "64M",
        "delay-read=2ms",
        "delay-write=3ms",
      ];
      const server = await start(folder, "nbdkit", words);
      const data = await NbdDevice.connect(uriOf(server.socket, ""));
      const pool = await openPool({ metadata: new MemoryDevice({ sizeBytes: 8 * MIB }), data });
      const id = await pool.createThin();
      const disk = pool.openThin(id, { sizeBytes: 32 * MIB });
      const bytes = pattern(3 * MIB, 5);
      await Promise.all([0, 1, 2].map((at) => disk.write(at * MIB + 512, bytes.subarray(at * MIB, (at + 1) * MIB))));
      await disk.flush();
      const snapshot = await pool.createSnapshot(id);
      await disk.write(MIB, pattern(4096, 6));
      const old = pool.openThin(snapshot, { sizeBytes: 32 * MIB });
      const wanted = new Uint8Array(4 * MIB);
      wanted.set(bytes, 512);
      // Only the last of the three was cut short by the next: what lies between them was written by both or neither.
      expect(Buffer.compare(await readPart(old, 512, 3 * MIB), bytes)).toBe(0);
      expect(Buffer.compare(await readPart(disk, MIB, 4096), pattern(4096, 6))).toBe(0);
      await old.close();
      await disk.discard(0, 32 * MIB);
      await disk.flush();
      expect(Buffer.compare(await readPart(disk, 0, MIB), new Uint8Array(MIB))).toBe(0);
      await disk.close();
      await pool.close();
      await data.close();
      await server.end();
    });
  });
});

test.runIf(has("qemu-nbd"))("qemu-nbd: holes are told, trims make them", async () => {
  await withTemporaryFolder("udm-nbd-", async (folder) => {
    const file = join(folder, "file");
    await createSparseFile(file, 8 * MIB);
    const words = ["-k", join(folder, "socket"), "-f", "raw", "-x", "disk", "-t", "-e", "4", "--discard=unmap", file];
    const server = await start(folder, "qemu-nbd", words);
    const device = await NbdDevice.connect(uriOf(server.socket));
    await device.write(MIB, pattern(2 * MIB, 1), { fua: true });
    expect(await device.extents(0, 8 * MIB)).toEqual([
      { offset: 0, length: MIB, kind: "zeros" },
      { offset: MIB, length: 2 * MIB, kind: "data" },
      { offset: 3 * MIB, length: 5 * MIB, kind: "zeros" },
    ]);
    await device.discard(MIB, MIB);
    await device.writeZeroes(2 * MIB, 512);
    await device.flush();
    expect((await device.extents(0, 8 * MIB))[1]).toMatchObject({ offset: 2 * MIB });
    expect(
      Buffer.compare(
        await readPart(device, 2 * MIB, 4096),
        Buffer.from(pattern(2 * MIB, 1).subarray(MIB, MIB + 4096)).fill(0, 0, 512),
      ),
    ).toBe(0);
    await device.close();
    await server.end();
  });
});

/** Keeps what was written in memory until it is flushed. */
class ForgetfulExport implements NbdExport {
  readonly name = "disk";
  readonly description = undefined;
  readonly isReadOnly = false;
  readonly minimumBlockBytes = 512;
  readonly preferredBlockBytes = 4096;
  readonly canTrim = true;
  readonly canFastZero = false;
  readonly canMultiConn = true;
  #live: Uint8Array;
  #durable: Uint8Array;

  constructor(readonly sizeBytes: number) {
    this.#live = new Uint8Array(sizeBytes);
    this.#durable = new Uint8Array(sizeBytes);
  }
  get durable(): Uint8Array {
    return this.#durable;
  }
  /** As after a power failure. */
  crash(): void {
    this.#live = this.#durable.slice();
  }
  tryRead(offset: number, buffer: Uint8Array): number {
    buffer.set(this.#live.subarray(offset, offset + buffer.length));
    return buffer.length;
  }
  tryWrite(offset: number, buffer: Uint8Array): number {
    this.#live.set(buffer, offset);
    return buffer.length;
  }
  async read(): Promise<void> {}
  async write(): Promise<void> {}
  async flush(): Promise<void> {
    this.#durable = this.#live.slice();
  }
  async trim(): Promise<void> {}
  async writeZeroes(offset: number, length: number): Promise<boolean> {
    this.#live.fill(0, offset, offset + length);
    return true;
  }
  async extents(offset: number, length: number) {
    return [{ offset, length, kind: "data" as const }];
  }
}

describe("a server that goes away", () => {
  test("and forgets what was not flushed: after the next flush everything is there", async () => {
    await withTemporaryFolder("udm-nbd-", async (folder) => {
      const store = new ForgetfulExport(4 * MIB);
      const address = { kind: "unix", path: join(folder, "socket") } as const;
      const listen = () => NbdServer.listen({ address, exports: [store] });
      let server = await listen();
      const device = await NbdDevice.connect(server.uri("disk"));
      const model = new Uint8Array(4 * MIB);
      for (let round = 0; round < 6; round++) {
        for (let count = 0; count < 40; count++) {
          const offset = ((round * 40 + count * 7) % 500) * 4096;
          const bytes = pattern(8192, round * 100 + count);
          if (count % 9 === 8) {
            await device.writeZeroes(offset, bytes.length);
            model.fill(0, offset, offset + bytes.length);
          } else {
            await device.write(offset, bytes, { fua: count % 5 === 0 });
            model.set(bytes, offset);
          }
          if (count === 20 && round % 2 === 0) await device.flush();
        }
        const waiting = device.write(3 * MIB, pattern(65536, round));
        model.set(pattern(65536, round), 3 * MIB);
        await server.close();
        store.crash();
        server = await listen();
        await waiting;
        expect(Buffer.compare(await readPart(device, 0, 4 * MIB), model)).toBe(0);
      }
      await device.flush();
      expect(Buffer.compare(store.durable, model)).toBe(0);
      await device.close();
      await server.close();
    });
  });

  test("for good: requests fail when the time is up, and work again when it is back", async () => {
    await withTemporaryFolder("udm-nbd-", async (folder) => {
      const address = { kind: "unix", path: join(folder, "socket") } as const;
      const exports = [new DeviceExport(new MemoryDevice({ sizeBytes: MIB }), { name: "disk" })];
      const first = await NbdServer.listen({ address, exports });
      const device = await NbdDevice.connect(first.uri("disk"), { reconnectMs: 100 });
      await device.write(0, pattern(4096, 1));
      await first.close();
      await expect(device.read(0, new Uint8Array(512))).rejects.toThrow(/no connection to the server.*nobody answers/);
      await using _again = await NbdServer.listen({ address, exports });
      expect(Buffer.compare(await readPart(device, 0, 4096), pattern(4096, 1))).toBe(0);
      await device.close();
    });
  });

  test("and comes back smaller: it is not written to", async () => {
    await withTemporaryFolder("udm-nbd-", async (folder) => {
      const address = { kind: "unix", path: join(folder, "socket") } as const;
      const listen = (sizeBytes: number) =>
        NbdServer.listen({ address, exports: [new DeviceExport(new MemoryDevice({ sizeBytes }), { name: "disk" })] });
      const first = await listen(2 * MIB);
      const device = await NbdDevice.connect(first.uri("disk"), { reconnectMs: 100 });
      await first.close();
      await using _again = await listen(MIB);
      await expect(device.write(0, pattern(4096, 1))).rejects.toThrow(/has 1048576 bytes now, had 2097152/);
      await device.close();
    });
  });
});

/** Answers whatever comes with these bytes. */
async function withLiar(bytes: Buffer, use: (uri: string) => Promise<void>): Promise<void> {
  await withTemporaryFolder("udm-nbd-", async (folder) => {
    const path = join(folder, "socket");
    const sockets: Socket[] = [];
    const server: Server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => undefined);
      socket.write(bytes);
      socket.end();
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    await use(uriOf(path));
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
}

test.each([
  ["something else", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")],
  ["nothing", Buffer.alloc(0)],
  [
    "an old server",
    Buffer.concat([Buffer.from("NBDMAGIC"), Buffer.from("0000420281861253", "hex"), Buffer.alloc(200)]),
  ],
  ["a server that cannot count", Buffer.concat([Buffer.from("NBDMAGICIHAVEOPT\0\x03"), Buffer.alloc(40, 1)])],
])("%s is no server: connecting says so", async (_, bytes) => {
  await withLiar(bytes, async (uri) => {
    await expect(NbdDevice.connect(uri)).rejects.toThrow(/socket: /);
  });
});

test("nobody listens, no such export: the message names the address", async () => {
  await expect(NbdDevice.connect("nbd+unix:///x?socket=/nowhere/socket")).rejects.toThrow(
    "nbd+unix:///x?socket=/nowhere/socket: nobody answers there",
  );
  await withTemporaryFolder("udm-nbd-", async (folder) => {
    const address = { kind: "unix", path: join(folder, "socket") } as const;
    const exports = [new DeviceExport(new MemoryDevice({ sizeBytes: MIB }), { name: "disk" })];
    await using server = await NbdServer.listen({ address, exports });
    await expect(NbdDevice.connect(server.uri("other"))).rejects.toThrow(/'other': it has no export of that name/);
  });
});

test.runIf(has("certtool"))("TLS with certificates on both sides, and with a shared key", async () => {
  await withTemporaryFolder("udm-nbd-", async (folder) => {
    await makeCertificates(folder);
    const exports = [new DeviceExport(new MemoryDevice({ sizeBytes: MIB }), { name: "disk" })];
    const address = { kind: "tcp", host: "localhost", port: 0 } as const;
    const tls = openServerTls({ certificates: folder, verifiesPeer: true });
    await using server = await NbdServer.listen({ address, exports, tls });
    await using device = await NbdDevice.connect(`${server.uri("disk")}?tls-certificates=${folder}`);
    await device.write(0, pattern(300_032, 1));
    expect(Buffer.compare(await readPart(device, 0, 300_032), pattern(300_032, 1))).toBe(0);
    await expect(NbdDevice.connect(server.uri("disk"))).rejects.toThrow(/certificate/);
    await expect(NbdDevice.connect(server.uri("disk").replace("nbds", "nbd"))).rejects.toThrow(/TLS/);
    const keys = join(folder, "keys.psk");
    await run("psktool", ["--username", "alice", "--pskfile", keys]);
    const unix = { kind: "unix", path: join(folder, "socket") } as const;
    await using known = await NbdServer.listen({ address: unix, exports, tls: openServerTls({ psk: keys }) });
    await using other = await NbdDevice.connect(`nbds+unix://alice@/disk?socket=${unix.path}&tls-psk-file=${keys}`);
    expect(known.connections).toBe(1);
    expect(Buffer.compare(await readPart(other, 0, 4096), pattern(300_032, 1).subarray(0, 4096))).toBe(0);
  });
});

test.each([
  ["nbd://host/name", { address: { kind: "tcp", host: "host", port: 10809 }, exportName: "name", isEncrypted: false }],
  [
    "nbds://[::1]:99/a%2Fb/c",
    { address: { kind: "tcp", host: "::1", port: 99 }, exportName: "a/b/c", isEncrypted: true },
  ],
  ["nbd+unix:///?socket=/a%20b+c", { address: { kind: "unix", path: "/a b+c" }, exportName: "", isEncrypted: false }],
])("%s", (text, wanted) => {
  expect(parseNbdUri(text)).toEqual(wanted);
});

test.each([
  "nbd:",
  "nbd+unix:///x",
  "nbd+unix:///x?socket=relative",
  "http://host/",
  "nbd://host:99999/x",
  "nbd://h/%zz",
])("%s is no URI of ours", (text) => {
  expect(() => parseNbdUri(text)).toThrow(text);
});
