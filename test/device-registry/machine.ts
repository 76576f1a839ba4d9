/** A machine for tests: the disks of the captures (vda, vdb 64 MiB, vdc 256 MiB), in memory. */

import type { Below } from "../../src/device-registry/index.js";
import { StateError } from "../../src/errors/index.js";
import { type BlockDevice, MemoryDevice } from "../../src/io/index.js";

const DISKS = [
  { name: "vda", number: "254:0", hex: "fe00", sectors: 131072 },
  { name: "vdb", number: "254:16", hex: "fe10", sectors: 131072 },
  { name: "vdc", number: "254:32", hex: "fe20", sectors: 524288 },
];

export class TestMachine implements Below {
  readonly mounted = new Set<string>();
  readonly #devices = new Map<string, BlockDevice>();

  async find(word: string) {
    const [major, minor] = /^(\d+):(\d+)$/.exec(word)?.slice(1).map(Number) ?? [];
    const disk =
      DISKS.find((each) => each.number === `${major}:${minor}`) ??
      DISKS.find((each) => `/dev/${each.name}` === word || each.hex === word.replace(/^0x/, ""));
    if (disk === undefined) {
      throw new StateError(major === undefined ? "ENODEV" : "ENXIO", `no device ${word}`);
    }
    if (this.mounted.has(disk.name)) throw new StateError("EBUSY", `${word} is mounted`);
    return { number: disk.number, kernelName: disk.name, kind: "machine" as const };
  }

  async open(number: string): Promise<BlockDevice> {
    let device = this.#devices.get(number);
    if (device === undefined) {
      const disk = DISKS.find((each) => each.number === number)!;
      device = new MemoryDevice({ name: disk.name, sizeBytes: disk.sectors * 512 });
      this.#devices.set(number, device);
    }
    return device;
  }

  /** The first 4 KiB of a disk, as dd would. */
  async overwrite(name: string, byte: number): Promise<void> {
    const device = await this.open(DISKS.find((each) => each.name === name)!.number);
    await device.write(0, Buffer.alloc(4096, byte));
  }

  async sizeSectors(number: string): Promise<number> {
    return DISKS.find((each) => each.number === number)!.sectors;
  }
}
