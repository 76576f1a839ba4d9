/** thin POOL ID [EXTERNAL_ORIGIN]: a thin device of a pool. Checks in the order of the kernel's target. */
import { type Code, codeOf, UdmError } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { TargetType } from "./target.js";
import { asCode, parseDecimal, refuse } from "./words.js";

export const MAX_DEVICE_ID = 16777215;

export const THIN: TargetType = {
  name: "thin",
  version: "1.22.0",
  async parse({ args }, context) {
    const no = (reason: string, code: Code = "EINVAL", hint?: string, cause?: unknown) =>
      refuse("thin", reason, code, hint, cause);
    const [poolWord, idWord, originWord] = args;
    if (poolWord === undefined || idWord === undefined || args.length > 3) {
      throw no("Invalid argument count", "EINVAL", "thin POOL ID [EXTERNAL_ORIGIN]");
    }
    let origin: string | undefined;
    if (originWord !== undefined) {
      if (originWord === poolWord) throw no("Error setting origin device", "EINVAL", "the pool cannot be the origin");
      const found = await context.find(originWord).catch((error: unknown) => {
        throw no("Error opening origin device", asCode(codeOf(error)), originWord, error);
      });
      origin = found.number;
    }
    const pool = await context.find(poolWord).catch((error: unknown) => {
      throw no("Error opening pool device", asCode(codeOf(error)), poolWord, error);
    });
    if (origin === pool.number) throw no("Error setting origin device", "EINVAL", "the pool cannot be the origin");
    const id = parseDecimal(idWord, { plus: true });
    if (id === undefined || id > BigInt(MAX_DEVICE_ID)) {
      throw no("Invalid device id", "EINVAL", `a device id is a number from 0 to ${MAX_DEVICE_ID}`);
    }
    if (!context.isMapped(pool.number)) throw no("Couldn't get pool mapped device", "EINVAL", `${poolWord} is none`);
    const known = context.poolOf(pool.number);
    if (known === undefined) throw no("Couldn't find pool object", "EINVAL", `${poolWord} is not a thin-pool`);
    if (known.isFailed) throw no("Couldn't open thin device, Pool is in fail mode");
    return [pool.number, String(id), ...(origin === undefined ? [] : [origin])];
  },
  devices: ([pool, , origin]) => (origin === undefined ? [pool!] : [origin, pool!]),
  areas: () => [],
  tableText: (args) => args.join(" "),
  async open(line, context) {
    const [poolNumber, id, origin] = line.args;
    const external = origin === undefined ? undefined : await context.open(origin, { readOnly: true });
    const { pool, isSuspended } = await context.poolOf(poolNumber!);
    if (isSuspended) {
      // The kernel looks for the device first: an unknown one is reported even while the pool is suspended.
      pool.metadata.details(Number(id));
      throw refuse(
        "thin",
        "Unable to activate thin device while pool is suspended",
        "EINVAL",
        "resume the pool first: udm table resume",
      );
    }
    try {
      const device = pool.openThin(Number(id), {
        name: context.deviceNumber,
        sizeBytes: line.lengthSectors * SECTOR_BYTES,
        ...(external === undefined ? {} : { externalOrigin: external }),
      });
      return { device, status: () => device.statusParams(), close: () => device.close() };
    } catch (error) {
      if (!(error instanceof UdmError) || error.code === "EBUG") throw error;
      throw refuse("thin", "Couldn't open thin internal device", error.code, `no device ${id} in the pool?`, error);
    }
  },
};
