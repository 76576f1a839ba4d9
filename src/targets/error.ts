/** error: every read and write fails with EIO. */
import { SECTOR_BYTES } from "../units/index.js";
import { FixedDevice } from "./fixed-device.js";
import type { TargetType } from "./target.js";

export const ERROR: TargetType = {
  name: "error",
  version: "1.5.0",
  parse: async () => [],
  devices: () => [],
  areas: () => [],
  tableText: () => "",
  fixedStatus: () => "",
  async open(line) {
    const device = new FixedDevice("error", line.lengthSectors * SECTOR_BYTES);
    return { device, status: () => "", close: () => device.close() };
  },
};
