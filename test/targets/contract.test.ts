/** Targets, and stacks of them, keep what every block device promises. */
import { describe, expect, test } from "vitest";
import { Registry } from "../../src/device-registry/index.js";
import { type BlockDevice, MemoryDevice } from "../../src/io/index.js";
import { FixedDevice, StripedDevice, type TargetLine } from "../../src/targets/index.js";
import { TestMachine } from "../device-registry/machine.js";
import { describeBlockDevice } from "../support/block-device-contract.js";

function line(startSectors: number, lengthSectors: number, type: string, ...args: string[]): TargetLine {
  return { startSectors, lengthSectors, type, args };
}

/** Mapped devices made in order; the last one is under test. */
function describeStack(
  title: string,
  tables: (sectors: number) => Readonly<Record<string, readonly TargetLine[]>>,
): void {
  describeBlockDevice(title, {
    runs: 20,
    async make(sizeBytes) {
      const registry = new Registry({ devices: [], below: new TestMachine() });
      let last = "";
      for (const [name, lines] of Object.entries(tables(sizeBytes / 512))) {
        registry.create({ name });
        await registry.load(name, lines);
        await registry.resume(name);
        last = name;
        if (lines[0]?.type === "thin-pool") await registry.message(name, 0, ["create_thin", "0"]);
      }
      return { device: await registry.open(last), dispose: () => registry.close() };
    },
  });
}

describeStack("linear", (sectors) => ({ a: [line(0, sectors, "linear", "/dev/vda", "17")] }));

describeStack("two linear lines on two disks", (sectors) => ({
  a: [line(0, 96, "linear", "/dev/vdb", "1000"), line(96, sectors - 96, "linear", "/dev/vda", "8")],
}));

describeStack("striped over two disks", (sectors) => ({
  a: [line(0, sectors, "striped", "2", "8", "/dev/vda", "0", "/dev/vdb", "64")],
}));

describeStack("linear on striped on linear", (sectors) => ({
  x: [line(0, sectors, "linear", "/dev/vda", "0")],
  s: [line(0, sectors * 2, "striped", "2", "16", "x", "0", "/dev/vdb", "0")],
  a: [line(0, sectors, "linear", "s", "48")],
}));

describeStack("thin on a pool on linear devices", (sectors) => ({
  meta: [line(0, 8192, "linear", "/dev/vda", "0")],
  data: [line(0, 65536, "linear", "/dev/vdb", "0")],
  pool: [line(0, 65536, "thin-pool", "meta", "data", "128", "0")],
  t: [line(0, sectors, "thin", "pool", "0")],
}));

function mirror(device: BlockDevice): Promise<Buffer> {
  const buffer = Buffer.alloc(device.sizeBytes);
  return device.read(0, buffer).then(() => buffer);
}

describe("striped", () => {
  test("every byte lies where the kernel's arithmetic puts it, on both sides of the device", async () => {
    for (const [stripes, chunkSectors] of [
      [1, 8],
      [2, 3],
      [3, 16],
      [5, 1],
    ] as const) {
      const rows = 4;
      const disks = Array.from(
        { length: stripes },
        () => new MemoryDevice({ sizeBytes: (rows * chunkSectors + 7) * 512 }),
      );
      const device = new StripedDevice(
        disks.map((disk) => ({ device: disk, offsetBytes: 7 * 512 })),
        { chunkBytes: chunkSectors * 512, sizeBytes: stripes * rows * chunkSectors * 512 },
      );
      const bytes = Buffer.alloc(device.sizeBytes);
      for (let sector = 0; sector * 512 < bytes.length; sector++)
        bytes.fill(sector % 251 || 255, sector * 512, sector * 512 + 512);
      await device.write(0, bytes);
      for (let sector = 0; sector * 512 < bytes.length; sector++) {
        const chunk = Math.floor(sector / chunkSectors);
        const disk = await mirror(disks[chunk % stripes]!);
        const below = 7 + Math.floor(chunk / stripes) * chunkSectors + (sector % chunkSectors);
        expect(disk[below * 512]).toBe(sector % 251 || 255);
      }
      expect((await mirror(device)).equals(bytes)).toBe(true);
      const through = Buffer.alloc(bytes.length);
      device.sync!.read(0, through);
      expect(through.equals(bytes)).toBe(true);
    }
  });

  test("a request over many chunks is one transfer for each disk", async () => {
    const counts = [0, 0];
    const disks = counts.map((_, index) => {
      const disk = new MemoryDevice({ sizeBytes: 1 << 20 });
      const write = disk.write.bind(disk);
      disk.write = (...args) => {
        counts[index]!++;
        return write(...args);
      };
      return disk;
    });
    const device = new StripedDevice(
      disks.map((disk) => ({ device: disk, offsetBytes: 0 })),
      { chunkBytes: 4096, sizeBytes: 1 << 20 },
    );
    await device.write(4096, Buffer.alloc(40 * 4096, 1));
    expect(counts).toEqual([1, 1]);
  });
});

describe("zero and error", () => {
  test("zero reads zeros and forgets writes; both answer past their end with EINVAL", async () => {
    const zero = new FixedDevice("zero", 4096);
    await zero.write(0, Buffer.alloc(4096, 7));
    expect((await mirror(zero)).every((byte) => byte === 0)).toBe(true);
    expect(await zero.extents(0, 4096)).toEqual([{ offset: 0, length: 4096, kind: "zeros" }]);
    await expect(zero.read(4096, Buffer.alloc(512))).rejects.toMatchObject({ code: "EINVAL" });
  });

  test("error fails every read and write with EIO, and flushes", async () => {
    const error = new FixedDevice("error", 4096);
    await expect(error.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EIO" });
    await expect(error.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EIO" });
    await expect(error.discard(0, 512)).rejects.toMatchObject({ code: "EIO" });
    await error.flush();
  });
});
