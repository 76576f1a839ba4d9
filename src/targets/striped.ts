/** striped N CHUNK (DEV OFFSET)...: chunks of CHUNK sectors, dealt out over N devices in turn. */
import { codeOf } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { StripedDevice } from "./striped-device.js";
import type { Area, TargetLine, TargetType } from "./target.js";
import { asCode, parseDecimal, refuse, toNumber } from "./words.js";

const MAX_U32 = 2n ** 32n - 1n;

export const STRIPED: TargetType = {
  name: "striped",
  version: "1.6.0",
  async parse({ args, lengthSectors }, context) {
    if (args.length < 2) throw refuse("striped", "Not enough arguments");
    const stripes = parseDecimal(args[0]!, { plus: true });
    if (stripes === undefined || stripes === 0n || stripes > MAX_U32) throw refuse("striped", "Invalid stripe count");
    const chunk = parseDecimal(args[1]!, { plus: true });
    if (chunk === undefined || chunk === 0n || chunk > MAX_U32) throw refuse("striped", "Invalid chunk_size");
    if (BigInt(lengthSectors) % stripes !== 0n) {
      throw refuse("striped", "Target length not divisible by number of stripes");
    }
    if ((BigInt(lengthSectors) / stripes) % chunk !== 0n) {
      throw refuse("striped", "Target length not divisible by chunk size");
    }
    if (BigInt(args.length) !== 2n + 2n * stripes) throw refuse("striped", "Not enough destinations specified");
    const words = [String(stripes), String(chunk)];
    for (let index = 2; index < args.length; index += 2) {
      const start = parseDecimal(args[index + 1]!);
      if (start === undefined) throw refuse("striped", "Couldn't parse stripe destination");
      try {
        words.push((await context.find(args[index]!)).number, String(start));
      } catch (error) {
        throw refuse("striped", "Couldn't parse stripe destination", asCode(codeOf(error)), args[index], error);
      }
    }
    return words;
  },
  devices: (args) => [...new Set(stripesOf(args).map((each) => each.device))],
  areas: (line) => areas(line),
  tableText: (args) => args.join(" "),
  fixedStatus: statusText,
  async open(line, context) {
    const stripes = [];
    for (const { device, offset } of stripesOf(line.args)) {
      const below = await context.open(device, { readOnly: context.readOnly });
      stripes.push({ device: below, offsetBytes: Number(offset) * SECTOR_BYTES });
    }
    const device = new StripedDevice(stripes, {
      chunkBytes: Number(line.args[1]) * SECTOR_BYTES,
      sizeBytes: line.lengthSectors * SECTOR_BYTES,
    });
    return { device, status: () => statusText(line.args), close: () => device.close() };
  },
};

function stripesOf(args: readonly string[]): { readonly device: string; readonly offset: string }[] {
  const stripes = [];
  for (let index = 2; index < args.length; index += 2) stripes.push({ device: args[index]!, offset: args[index + 1]! });
  return stripes;
}

function areas(line: TargetLine): Area[] {
  const stripes = stripesOf(line.args);
  return stripes.map(({ device, offset }) => ({
    device,
    startSectors: toNumber(BigInt(offset)),
    startText: offset,
    lengthSectors: line.lengthSectors / stripes.length,
  }));
}

function statusText(args: readonly string[]): string {
  const devices = stripesOf(args).map((each) => each.device);
  return `${devices.length} ${devices.join(" ")} 1 ${"A".repeat(devices.length)}`;
}
