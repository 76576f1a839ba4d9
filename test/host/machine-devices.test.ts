/** Pools on real block devices: the kernel's loop devices stand for disks. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { run } from "../../src/io/index.js";
import { attachLoop, detachLoop, whyNoKernelLoops } from "../support/kernel-loops.js";
import { MIB, makeHost, pattern, read, write } from "./make-host.js";

const reason = whyNoKernelLoops();
const title = (text: string) => (reason === undefined ? text : `${text}: ${reason}`);

async function disk(path: string, bytes: number): Promise<string> {
  writeFileSync(path, Buffer.alloc(bytes));
  const device = await attachLoop(path);
  onTestFinished(() => detachLoop(device));
  return device;
}

test.skipIf(reason !== undefined)(title("a pool on two block devices, found again by number"), async () => {
  const host = await makeHost();
  const metadata = await disk(host.path("m"), 4 * MIB);
  const data = await disk(host.path("d"), 32 * MIB);
  const created = await host.createPool({ name: "pool", source: { kind: "devices", data, metadata } });
  expect(created.formatted).toBe(true);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
  await write(host, "a", pattern(MIB, 1), 4096);
  expect((await read(host, "a", 4096, MIB)).equals(pattern(MIB, 1))).toBe(true);
  await host.trimDevice("a");
  const { status, metadataDevice, dataDevice } = await host.poolStatus("pool");
  expect(status.usedDataBlocks).toBe(0);
  expect([metadataDevice, dataDevice].map((each) => each.split(":")[0])).toEqual(["7", "7"]);
  await expect(host.resizePool({ name: "pool", data: { kind: "grow", bytes: MIB } })).rejects.toMatchObject({
    code: "ENOSPC",
  });

  // Its number is taken by a loop device of ours from now on only when nobody means the kernel's by it.
  await host.attachLoop({ file: host.path("own"), sizeBytes: MIB });
  const [own] = await host.listLoops();
  expect([metadataDevice, dataDevice]).not.toContain(own!.dev);
});

test.skipIf(reason !== undefined)(
  title("a device that is mounted, or under a loop device of the kernel, is refused"),
  async () => {
    const host = await makeHost();
    const metadata = await disk(host.path("m"), 4 * MIB);
    const mounted = await disk(host.path("d"), 32 * MIB);
    await run("mkfs.ext4", ["-q", mounted]);
    mkdirSync(host.path("mnt"));
    await run("mount", [mounted, host.path("mnt")]);
    onTestFinished(async () => {
      await run("umount", [host.path("mnt")]);
    });
    const create = (data: string) => host.createPool({ name: "p", source: { kind: "devices", data, metadata } });
    await expect(create(mounted)).rejects.toMatchObject({ code: "EBUSY", message: expect.stringContaining("mounted") });
    await expect(create(host.path("d"))).rejects.toMatchObject({
      code: "EBUSY",
      message: expect.stringContaining(mounted),
    });
    expect(await host.listDevices()).toEqual([]);
    expect(await host.listLoops()).toEqual([]);
  },
);

test.skipIf(reason !== undefined)(
  title("a kernel loop device is made, and shown with the machine's devices"),
  async () => {
    const host = await makeHost();
    const path = await host.attachKernelLoop({ file: host.path("x"), sizeBytes: MIB });
    onTestFinished(() => detachLoop(path));
    const node = (await host.blockNodes()).find((each) => each.path === path);
    expect(node).toMatchObject({ owner: "machine", type: "loop", sizeBytes: MIB, backingFile: host.path("x") });
  },
);

test.skipIf(reason !== undefined)(
  title("a path is the kernel's loop device, though one of ours has its number"),
  async () => {
    const host = await makeHost();
    const metadata = await disk(host.path("m"), 4 * MIB);
    const data = await disk(host.path("d"), 32 * MIB);
    const numbers = [metadata, data].map((path) => Number(/\d+$/.exec(path)![0]));
    for (const number of numbers) {
      await host.attachLoop({ file: host.path(`own-${number}`), sizeBytes: 4 * MIB, number });
      expect(await host.locateMetadata(`7:${number}`)).toMatchObject({ path: host.path(`own-${number}`) });
      expect(await host.locateMetadata(`/dev/loop${number}`)).toMatchObject({ path: `/dev/loop${number}` });
      await expect(host.detachLoop(`/dev/loop${number}`)).rejects.toMatchObject({ code: "ENXIO" });
    }
    await host.createPool({ name: "pool", source: { kind: "devices", data, metadata } });
    await host.createThin({ pool: "pool", name: "a", sizeBytes: 16 * MIB });
    await write(host, "a", pattern(MIB, 1), 4096);
    expect((await read(host, "a", 4096, MIB)).equals(pattern(MIB, 1))).toBe(true);
    for (const number of numbers) {
      expect(readFileSync(host.path(`own-${number}`)).every((byte) => byte === 0)).toBe(true);
    }
    expect(readFileSync(host.path("m")).readUInt32LE(32)).toBe(27022010);
    await host.deactivateThin("a");
    await host.removePool("pool");
    for (const number of numbers) await host.detachLoop(`7:${number}`);
    // Where the kernel has none in use, the path may stand for ours.
    await host.attachLoop({ file: host.path("far"), sizeBytes: MIB, number: 4000 });
    expect(await host.locateMetadata("/dev/loop4000")).toMatchObject({ path: host.path("far") });
    await host.detachLoop("/dev/loop4000");
  },
);
