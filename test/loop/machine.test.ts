import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { FileDevice, run } from "../../src/io/index.js";
import {
  attachKernelLoop,
  detachKernelLoop,
  deviceNumberOf,
  listKernelLoops,
  machineBlockDevices,
  resizeKernelLoop,
  resolveDeviceNumber,
} from "../../src/loop/index.js";
import { failureOf } from "../support/block-device-contract.js";
import { whyNoKernelLoops } from "../support/kernel-loops.js";
import { temporaryFolder } from "../support/make-folder.js";

const noLoops = whyNoKernelLoops();

/** A /sys with a disk of two partitions, a mapped device on one of them, and an unused loop device. */
function makeSys(): string {
  const sys = temporaryFolder();
  const files: Record<string, string> = {
    "block/sdx/dev": "8:240",
    "block/sdx/size": "2097152",
    "block/sdx/ro": "0",
    "block/sdx/removable": "1",
    "block/sdx/queue/logical_block_size": "4096",
    "block/sdx/queue/physical_block_size": "4096",
    "block/sdx/queue/rotational": "1",
    "block/sdx/sdx1/dev": "8:241",
    "block/sdx/sdx1/size": "1024",
    "block/sdx/sdx1/partition": "1",
    "block/sdx/sdx2/dev": "8:242",
    "block/sdx/sdx2/size": "2048",
    "block/sdx/sdx2/ro": "1",
    "block/sdx/sdx2/partition": "2",
    "block/dm-7/dev": "253:7",
    "block/dm-7/size": "512",
    "block/dm-7/dm/name": "vg-root",
    "block/dm-7/dm/uuid": "LVM-abcdef",
    "block/loop99/dev": "7:99",
    "block/loop99/size": "0",
    "block/cciss!c0d0/dev": "104:0",
    "block/cciss!c0d0/size": "8",
    "block/sr9/dev": "11:9",
    "block/sr9/size": "16",
    "block/sr9/device/type": "5",
    "block/ram0/dev": "1:0",
    "block/ram0/size": "8192",
    "block/nonsense/size": "8",
  };
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(sys, name)), { recursive: true });
    writeFileSync(join(sys, name), `${text}\n`);
  }
  mkdirSync(join(sys, "block/dm-7/slaves"));
  symlinkSync("../../sdx/sdx2", join(sys, "block/dm-7/slaves/sdx2"));
  return sys;
}

test("disks, partitions and maps are found with type, size and what they stand on", () => {
  const sysFolder = makeSys();
  const devices = machineBlockDevices({ sysFolder });
  expect(
    devices.map(({ name, path, majMin, sizeBytes, type, parents }) => [name, path, majMin, sizeBytes, type, parents]),
  ).toEqual([
    ["sdx", "/dev/sdx", "8:240", 1073741824, "disk", []],
    ["sdx1", "/dev/sdx1", "8:241", 524288, "part", ["8:240"]],
    ["sdx2", "/dev/sdx2", "8:242", 1048576, "part", ["8:240"]],
    ["sr9", "/dev/sr9", "11:9", 8192, "rom", []],
    ["cciss/c0d0", "/dev/cciss/c0d0", "104:0", 4096, "disk", []],
    ["vg-root", "/dev/mapper/vg-root", "253:7", 262144, "lvm", ["8:242"]],
  ]);
  expect(devices.map((each) => each.readOnly)).toEqual([false, false, true, false, false, false]);
  expect(devices.map((each) => each.removable)).toEqual([true, true, true, false, false, false]);
  expect(devices[1]).toMatchObject({ logicalBlockBytes: 4096, physicalBlockBytes: 4096, rotational: true });
  const all = machineBlockDevices({ sysFolder, all: true }).map((each) => each.kname);
  expect(all).toEqual(["ram0", "loop99", "sdx", "sdx1", "sdx2", "sr9", "cciss/c0d0", "dm-7"]);
});

test("numbers and nodes of this machine's devices lead to each other", () => {
  for (const device of machineBlockDevices()) {
    expect(resolveDeviceNumber(device.major, device.minor)).toBe(`/dev/${device.kname}`);
  }
  expect(resolveDeviceNumber(4095, 1)).toBeUndefined();
  expect(deviceNumberOf("/dev/null")).toBeUndefined();
  expect(deviceNumberOf("/nonexistent")).toBeUndefined();
});

test("a file that is not there cannot be attached", async () => {
  expect(["ENOENT", "EPERM"]).toContain(await failureOf(attachKernelLoop({ file: "/nonexistent/file" })));
});

describe.skipIf(noLoops !== undefined)(`kernel loop devices${noLoops === undefined ? "" : `: ${noLoops}`}`, () => {
  function makeFile(bytes: number): string {
    const file = join(temporaryFolder(), "disk a.img");
    writeFileSync(file, "");
    truncateSync(file, bytes);
    return file;
  }

  test("are attached, listed, resized and detached", async () => {
    const file = makeFile(4194304);
    const loop = await attachKernelLoop({ file, offsetBytes: 4096, sizeLimitBytes: 2097152, sectorBytes: 4096 });
    try {
      expect(loop.warnings).toEqual([]);
      expect(listKernelLoops().find((each) => each.number === loop.number)).toEqual({
        number: loop.number,
        path: loop.path,
        backingFile: file,
        isDeleted: false,
        offsetBytes: 4096,
        sizeLimitBytes: 2097152,
        sizeBytes: 2097152,
        sectorBytes: 4096,
        autoclear: false,
        partscan: false,
        directIo: false,
        readOnly: false,
      });
      expect(machineBlockDevices().find((each) => each.path === loop.path)).toMatchObject({
        type: "loop",
        majMin: `7:${loop.number}`,
        sizeBytes: 2097152,
        backingFile: file,
        parents: [],
        mountpoints: [],
      });
      expect(deviceNumberOf(loop.path)).toEqual({ major: 7, minor: loop.number });
      const same = { file, number: loop.number };
      expect(await failureOf(attachKernelLoop(same))).toBe("EBUSY");
    } finally {
      expect(await detachKernelLoop(loop.path)).toBeUndefined();
    }
    expect(await failureOf(detachKernelLoop(loop.path))).toBe("ENXIO");
  });

  test("take up a grown file when asked", async () => {
    const file = makeFile(1048576);
    const loop = await attachKernelLoop({ file });
    try {
      await using device = FileDevice.open(loop.path);
      truncateSync(file, 2097152);
      await device.refreshSize();
      expect(device.sizeBytes).toBe(1048576);
      await resizeKernelLoop(loop.path);
      await device.refreshSize();
      expect(device.sizeBytes).toBe(2097152);
    } finally {
      await detachKernelLoop(loop.path);
    }
  });

  test("in use go with their last user", async () => {
    const file = makeFile(1048576);
    const loop = await attachKernelLoop({ file });
    const device = FileDevice.open(loop.path);
    expect(await detachKernelLoop(loop.path)).toMatchObject({ number: loop.number, autoclear: true });
    await device.close();
    expect(listKernelLoops().some((each) => each.number === loop.number && each.backingFile === file)).toBe(false);
  });

  test("show mounts of what stands on them, and warnings of losetup", async () => {
    const file = makeFile(8388608 + 100);
    await run("mkfs.ext4", ["-q", file]);
    const loop = await attachKernelLoop({ file });
    const folder = temporaryFolder();
    try {
      expect(loop.warnings.join()).toContain("the end of the file will be ignored");
      await run("mount", [loop.path, folder]);
      expect(machineBlockDevices().find((each) => each.path === loop.path)?.mountpoints).toEqual([folder]);
      await run("umount", [folder]);
    } finally {
      await detachKernelLoop(loop.path);
    }
  });
});
