/** Words of table lines: numbers as the kernel's parsers take them, and the errors they give. */
import { type Code, StateError } from "../errors/index.js";

const MAX_U64 = 2n ** 64n - 1n;

/** A refusal of a line: the kernel's reason behind the type, the errno, and where it helps a hint. */
export function refuse(
  type: string,
  reason: string,
  code: Code = "EINVAL",
  hint?: string,
  cause?: unknown,
): StateError {
  return new StateError(code, `${type}: ${reason}`, {
    ...(hint === undefined ? {} : { hint }),
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Decimal digits only, within 64 bits; printed back without leading zeros. */
export function parseDecimal(text: string, options: { readonly plus?: boolean } = {}): bigint | undefined {
  const digits = options.plus === true && text.startsWith("+") ? text.slice(1) : text;
  if (!/^\d+$/.test(digits)) return undefined;
  const value = BigInt(digits);
  return value > MAX_U64 ? undefined : value;
}

/** The number as a JS number, at most 2^53 - 1. */
export function toNumber(value: bigint): number {
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}

const PASSED_ON: readonly Code[] = ["ENODEV", "ENXIO", "EBUSY", "EACCES", "EPERM", "EROFS", "EIO"];

/** The code of a failed look-up where it is one that tables report; ENODEV else. */
export function asCode(code: string | undefined): Code {
  return PASSED_ON.find((each) => each === code) ?? "ENODEV";
}
