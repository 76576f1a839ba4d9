/** linear DEV OFFSET: a stretch of another device. */
import { codeOf } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { stretchOf } from "./stretch.js";
import type { TargetType } from "./target.js";
import { asCode, parseDecimal, refuse, toNumber } from "./words.js";

export const LINEAR: TargetType = {
  name: "linear",
  version: "1.4.0",
  async parse({ args }, context) {
    const [device, offset] = args;
    if (args.length !== 2 || device === undefined || offset === undefined) {
      throw refuse("linear", "Invalid argument count", "EINVAL", "linear takes a device and an offset in sectors");
    }
    const start = parseDecimal(offset);
    if (start === undefined) {
      throw refuse("linear", "Invalid device sector", "EINVAL", `'${offset}' is not a number of sectors`);
    }
    try {
      return [(await context.find(device)).number, String(start)];
    } catch (error) {
      throw refuse("linear", "Device lookup failed", asCode(codeOf(error)), device, error);
    }
  },
  devices: ([device]) => [device!],
  areas: ({ args: [device, offset], lengthSectors }) => [
    { device: device!, startSectors: toNumber(BigInt(offset!)), startText: offset!, lengthSectors },
  ],
  tableText: (args) => args.join(" "),
  fixedStatus: () => "",
  async open(line, context) {
    const [number, offset] = line.args;
    const below = await context.open(number!, { readOnly: context.readOnly });
    const device = stretchOf(below, {
      offsetBytes: Number(offset) * SECTOR_BYTES,
      lengthBytes: line.lengthSectors * SECTOR_BYTES,
    });
    return { device, status: () => "", close: () => device.close() };
  },
};
