/** Sizes as `docker info` prints them, and shares of a whole. */

const DECIMAL_UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/** Powers of 1000 with four significant digits, trailing zeros cut: `65.54kB`, `107.4GB`. */
export function formatDecimalSize(bytes: number): string {
  let value = bytes;
  let index = 0;
  while (value >= 1000 && index < DECIMAL_UNITS.length - 1) {
    value /= 1000;
    index++;
  }
  return `${Number(value.toPrecision(4))}${DECIMAL_UNITS[index]}`;
}

/** `12.34`, the form LVM's percent columns have; an empty whole is 0. */
export function formatPercent(part: number, whole: number): string {
  return percentOf(part, whole).toFixed(2);
}

export function percentOf(part: number, whole: number): number {
  return whole === 0 ? 0 : (part / whole) * 100;
}
