/** The server with clients that others wrote: qemu-img, qemu-io, nbdinfo, nbdcopy, fio, nbdsh's library under them. */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { type BlockDevice, MemoryDevice, run } from "../../src/io/index.js";
import { DeviceExport, NbdServer, openServerTls, type ServerOptions } from "../../src/nbd/index.js";
import { makeCertificates } from "../support/certificates.js";
import { PoolBench } from "../support/pool-bench.js";
import { Random } from "../support/random.js";
import { withTemporaryFolder } from "../support/temporary-folder.js";

const MIB = 2 ** 20;
const BLOCK = 65536;

/** In CI nothing is skipped: a missing tool is a failure there. */
function has(program: string): boolean {
  return process.env.CI === "true" || spawnSync(program, ["--version"]).error === undefined;
}
const HAS_NBDINFO = has("nbdinfo") && has("nbdcopy");
const HAS_QEMU = has("qemu-img") && has("qemu-io");

interface Served {
  readonly uri: string;
  readonly folder: string;
  readonly server: NbdServer;
}

async function serving(
  device: BlockDevice,
  use: (served: Served) => Promise<void>,
  options: Partial<ServerOptions> = {},
) {
  await withTemporaryFolder("udm-nbd-", async (folder) => {
    const sharing =
      "sharing" in device && typeof device.sharing === "function"
        ? { sharing: async (offset: number, length: number) => (device as never as Sharer).sharing(offset, length) }
        : {};
    await using server = await NbdServer.listen({
      address: { kind: "unix", path: join(folder, "socket") },
      exports: [new DeviceExport(device, { name: "disk", description: "a disk", ...sharing })],
      ...options,
    });
    await use({ uri: server.uri("disk"), folder, server });
  });
}

interface Sharer {
  sharing(
    offset: number,
    length: number,
  ): readonly { offset: number; length: number; kind: "hole" | "own" | "shared" }[];
}

/** An image with data, zeros and holes, whose size is no multiple of anything large. */
function makeImage(path: string, sizeBytes: number): void {
  const random = new Random(7);
  const bytes = Buffer.alloc(sizeBytes);
  for (let count = 0; count < 60; count++) {
    const at = random.between(0, sizeBytes - 70_000);
    const length = random.between(1, 70_000);
    bytes.fill(Buffer.from(String(random.next())), at, at + length);
  }
  writeFileSync(path, bytes);
}

async function digest(device: BlockDevice, length: number): Promise<string> {
  const bytes = new Uint8Array(length);
  await device.read(0, bytes);
  return createHash("sha256").update(bytes).digest("hex");
}

const digestOf = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");

describe.each([
  ["system calls", {}],
  ["streams", { streamsOnly: true }],
] as const)("through %s", (_, options) => {
  test.runIf(HAS_NBDINFO)(
    "nbdinfo finds what is offered, and nbdcopy copies both ways with 4 connections",
    async () => {
      const bench = await PoolBench.open({ dataBlocks: 1024, thinBlocks: 512 });
      const thin = await bench.create(0);
      const use = async ({ uri, folder, server }: Served) => {
        const info = JSON.parse((await run("nbdinfo", ["--json", uri])).stdout).exports[0];
        expect(info).toMatchObject({
          "export-name": "disk",
          "export-size": 32 * MIB,
          contexts: ["base:allocation", "udm:shared"],
          is_read_only: false,
          is_rotational: false,
          can_cache: true,
          can_df: true,
          can_fast_zero: true,
          can_flush: true,
          can_fua: true,
          can_multi_conn: true,
          can_trim: true,
          can_zero: true,
          block_size_minimum: 1,
          block_size_preferred: BLOCK,
          block_size_maximum: 32 * MIB,
        });
        expect((await run("nbdinfo", ["--size", uri])).stdout).toBe(String(32 * MIB));
        for (const can of [
          "connect",
          "cache",
          "df",
          "fast-zero",
          "flush",
          "fua",
          "multi-conn",
          "read",
          "trim",
          "zero",
          "write",
        ]) {
          await run("nbdinfo", ["--can", can, uri]);
        }
        await run("nbdinfo", ["--is", "read-only", uri], { okStatuses: [2] });
        expect((await run("nbdinfo", ["--list", uri])).stdout).toContain("description: a disk");
        const image = join(folder, "in.img");
        makeImage(image, 32 * MIB);
        await run("nbdcopy", ["--connections=4", image, uri]);
        expect(await digest(thin, 32 * MIB)).toBe(digestOf(image));
        const back = join(folder, "out.img");
        await run("nbdcopy", ["--connections=4", uri, back]);
        expect(digestOf(back)).toBe(digestOf(image));
        const map = JSON.parse((await run("nbdinfo", ["--map", "--json", uri])).stdout) as {
          length: number;
          type: number;
        }[];
        const data = map.filter(({ type }) => type === 0).reduce((sum, each) => sum + each.length, 0);
        expect(data).toBe(thin.mappedBlocks * BLOCK);
        expect(server.connections).toBe(0);
      };
      await serving(thin, use, options);
      await bench.close();
    },
  );

  test.runIf(HAS_QEMU)("qemu-img sees, maps, compares and converts both ways", async () => {
    const bench = await PoolBench.open({ dataBlocks: 1024, thinBlocks: 512 });
    const thin = await bench.create(0);
    const use = async ({ uri, folder }: Served) => {
      const image = join(folder, "in.img");
      makeImage(image, 32 * MIB);
      await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", image, uri]);
      expect(await digest(thin, 32 * MIB)).toBe(digestOf(image));
      await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", image, uri]);
      const info = JSON.parse((await run("qemu-img", ["info", "--output=json", uri])).stdout);
      expect(info).toMatchObject({ "virtual-size": 32 * MIB, format: "raw" });
      const copy = join(folder, "copy.qcow2");
      await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", uri, copy]);
      await run("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", copy, uri]);
      const map = JSON.parse((await run("qemu-img", ["map", "--output=json", uri])).stdout) as {
        length: number;
        data: boolean;
      }[];
      const data = map.filter((each) => each.data).reduce((sum, each) => sum + each.length, 0);
      expect(data).toBe(thin.mappedBlocks * BLOCK);
    };
    await serving(thin, use, options);
    await bench.close();
  });
});

test.runIf(HAS_QEMU)("qemu-io: any bytes, zeroes with and without holes, discards, FUA, many at a time", async () => {
  const bench = await PoolBench.open({ dataBlocks: 1024, thinBlocks: 512 });
  const thin = await bench.create(0);
  await serving(thin, async ({ uri }) => {
    const io = async (...commands: string[]) => {
      const { stdout } = await run("qemu-io", ["-f", "raw", ...commands.flatMap((each) => ["-c", each]), uri]);
      expect(stdout).not.toMatch(/fail|error/i);
    };
    await io("write -P 7 100 10", "read -P 7 100 10", "read -P 0 110 402");
    await io(
      "write -P 3 1M 1M",
      "write -z 1M 128k",
      "write -z -u 1280k 100k",
      "read -P 0 1M 128k",
      "read -P 0 1280k 100k",
    );
    await io("read -P 3 1380k 100k", "write -P 9 -f 3M 64k", "discard 3M 64k", "read -P 0 3M 64k", "flush");
    await io("aio_write -P 1 4M 3M", "aio_write -P 2 8M 3M", "aio_write -P 4 12M 3M", "aio_flush", "read -P 2 8M 3M");
    await io("read -P 1 4M 3M", "read -P 4 12M 3M");
  });
  await bench.close();
});

test.runIf(has("fio"))("fio's nbd engine reads back what it wrote, out of order", async () => {
  const bench = await PoolBench.open({ dataBlocks: 1024, thinBlocks: 512 });
  const thin = await bench.create(0);
  await serving(thin, async ({ uri, folder }) => {
    const words = [
      "--ioengine=nbd",
      `--uri=${uri}`,
      "--size=32M",
      "--iodepth=32",
      "--verify=crc32c",
      "--verify_fatal=1",
    ];
    await run("fio", ["--name=a", "--rw=randwrite", "--bsrange=4k-256k", ...words], { cwd: folder });
    await run("fio", ["--name=b", "--rw=randrw", "--bs=4k", "--io_size=4M", ...words], { cwd: folder });
    await run("fio", ["--name=c", "--rw=randtrim", "--bs=64k", "--ioengine=nbd", `--uri=${uri}`, "--size=32M"], {
      cwd: folder,
    });
    expect(thin.mappedBlocks).toBe(0);
  });
  await bench.close();
});

/** Mounts need root here, as in CI. */
const CAN_MOUNT = process.getuid?.() === 0 && existsSync("/dev/fuse") && has("nbdfuse");

test.runIf(CAN_MOUNT)("nbdfuse shows it as a file", async () => {
  const bench = await PoolBench.open({ dataBlocks: 1024, thinBlocks: 512 });
  const thin = await bench.create(0);
  await serving(thin, async ({ uri, folder }) => {
    const image = join(folder, "in.img");
    makeImage(image, 4 * MIB);
    const mount = join(folder, "mount");
    mkdirSync(mount);
    const child = spawn("nbdfuse", [join(mount, "disk"), uri], { stdio: "ignore" });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    while (!existsSync(join(mount, "disk"))) await sleep(10);
    await run("dd", [`if=${image}`, `of=${join(mount, "disk")}`, "bs=100k", "conv=notrunc,fsync"]);
    await run("cmp", ["-n", String(4 * MIB), image, join(mount, "disk")]);
    await run("umount", [mount]);
    await ended;
    expect(await digest(thin, 4 * MIB)).toBe(digestOf(image));
  });
  await bench.close();
});

test.runIf(HAS_NBDINFO)("several exports over TCP, one of them read-only", async () => {
  const devices = [1, 2].map((seed) => new MemoryDevice({ sizeBytes: seed * MIB }));
  await using server = await NbdServer.listen({
    address: { kind: "tcp", host: "127.0.0.1", port: 0 },
    exports: [
      new DeviceExport(devices[0]!, { name: "one" }),
      new DeviceExport(devices[1]!, { name: "two/ü", readOnly: true }),
    ],
  });
  const list = JSON.parse((await run("nbdinfo", ["--list", "--json", server.uri("")])).stdout).exports;
  expect(list.map((each: { "export-name": string }) => each["export-name"])).toEqual(["one", "two/ü"]);
  expect((await run("nbdinfo", ["--size", server.uri("two/ü")])).stdout).toBe(String(2 * MIB));
  await run("nbdinfo", ["--is", "read-only", server.uri("two/ü")]);
  expect((await run("nbdinfo", ["--size", server.uri("")])).stdout).toBe(String(MIB));
  await expect(run("nbdinfo", [server.uri("three")])).rejects.toThrow(/export|requested/);
});

describe.runIf(HAS_NBDINFO && has("certtool") && has("psktool"))("TLS", () => {
  const device = new MemoryDevice({ sizeBytes: MIB });

  test("with a key that both sides know", async () => {
    await withTemporaryFolder("udm-psk-", async (folder) => {
      const keys = join(folder, "keys.psk");
      await run("psktool", ["--username", "alice", "--pskfile", keys]);
      await serving(
        device,
        async ({ server, uri }) => {
          expect(uri.startsWith("nbds+unix://")).toBe(true);
          const path = server.address.kind === "unix" ? server.address.path : "";
          const known = `nbds+unix://alice@/disk?socket=${path}&tls-psk-file=${keys}`;
          expect((await run("nbdinfo", ["--size", known])).stdout).toBe(String(MIB));
          await expect(run("nbdinfo", ["--size", `nbd+unix:///disk?socket=${path}`])).rejects.toThrow(/TLS/);
        },
        { tls: openServerTls({ psk: keys }) },
      );
    });
  });

  test("with certificates, which the client shows too when it is asked to", async () => {
    await withTemporaryFolder("udm-x509-", async (folder) => {
      await makeCertificates(folder);
      const use = async ({ server }: Served) => {
        const port = server.address.kind === "tcp" ? server.address.port : 0;
        const uri = `nbds://localhost:${port}/disk`;
        const ran = await run("nbdinfo", ["--size", `${uri}?tls-certificates=${folder}`]);
        expect(ran.stdout).toBe(String(MIB));
      };
      for (const verifiesPeer of [false, true]) {
        const tls = openServerTls({ certificates: folder, verifiesPeer });
        await serving(device, use, { tls, address: { kind: "tcp", host: "localhost", port: 0 } });
      }
    });
  });
});

describe("the socket", () => {
  const device = new MemoryDevice({ sizeBytes: MIB });
  const exports = [new DeviceExport(device, { name: "disk" })];

  test("is its owner's alone, is refused while somebody listens, and replaces what a killed server left", async () => {
    await withTemporaryFolder("udm-nbd-", async (folder) => {
      const address = { kind: "unix", path: join(folder, "socket") } as const;
      const first = await NbdServer.listen({ address, exports });
      expect(statSync(address.path).mode & 0o777).toBe(0o600);
      await expect(NbdServer.listen({ address, exports })).rejects.toThrow(/somebody listens/);
      await first.close();
      const left = `require("net").createServer().listen(${JSON.stringify(address.path)}, () => process.kill(process.pid, 9))`;
      spawnSync(process.execPath, ["-e", left]);
      expect(statSync(address.path).isSocket()).toBe(true);
      await using again = await NbdServer.listen({ address, exports });
      expect(again.connections).toBe(0);
      writeFileSync(join(folder, "file"), "");
      const wrong = { kind: "unix", path: join(folder, "file") } as const;
      await expect(NbdServer.listen({ address: wrong, exports })).rejects.toThrow(/is no socket/);
    });
  });

  test("is not made where its path would be cut off, or its folder is missing", async () => {
    await withTemporaryFolder("udm-nbd-", async (folder) => {
      const long = { kind: "unix", path: join(folder, "x".repeat(150)) } as const;
      await expect(NbdServer.listen({ address: long, exports })).rejects.toThrow(/at most 107 bytes/);
      const nowhere = { kind: "unix", path: join(folder, "no", "socket") } as const;
      await expect(NbdServer.listen({ address: nowhere, exports })).rejects.toThrow(/folder does not exist/);
      expect(readdirSync(folder)).toEqual([]);
    });
  });
});
