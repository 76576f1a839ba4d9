/** Pools on real block devices: the kernel's loop devices stand for disks. */
import { mkdirSync, writeFileSync } from "node:fs";
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
