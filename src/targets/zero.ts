/** zero: reads zeros, drops writes. */
import { SECTOR_BYTES } from "../units/index.js";
import { FixedDevice } from "./fixed-device.js";
import type { TargetType } from "./target.js";
import { refuse } from "./words.js";

export const ZERO: TargetType = {
  name: "zero",
  version: "1.1.0",
  async parse({ args }) {
    if (args.length > 0) throw refuse("zero", "No arguments required", "EINVAL", "zero stands alone in its line");
    return [];
  },
  devices: () => [],
  areas: () => [],
  tableText: () => "",
  fixedStatus: () => "",
  async open(line) {
    const device = new FixedDevice("zero", line.lengthSectors * SECTOR_BYTES);
    return { device, status: () => "", close: () => device.close() };
  },
};
