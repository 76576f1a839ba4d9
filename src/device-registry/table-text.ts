/**
 * Table text: lines of START LENGTH TYPE [ARGS], read as libdevmapper reads them. Numbers may be followed by anything
 * that is no digit, `#` ends a line even inside a word, empty lines and comments count for line numbers.
 */
import { StateError } from "../errors/index.js";
import { findTargetType, type TargetLine } from "../targets/index.js";

const MAX_U64 = 2n ** 64n - 1n;
const MAX_TYPE_LENGTH = 15;

/** @param source how messages call the text: a file name, or nothing @throws StateError EINVAL with the line's number */
export function parseTable(text: string, source = ""): TargetLine[] {
  const lines: TargetLine[] = [];
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line !== "" && !line.startsWith("#")) lines.push(parseLine(line, index + 1, source));
  }
  return lines;
}

function parseLine(line: string, number: number, source: string): TargetLine {
  const scan = /^([+-]?\d+)(?!\d)\s*([+-]?\d+)(?!\d)\s*(\S+)(.*)$/s.exec(line);
  const [, start, length, type, rest] = scan ?? [];
  if (start === undefined || length === undefined || type === undefined || rest === undefined) {
    throw new StateError("EINVAL", `invalid format on line ${number} of table ${source}`.trimEnd(), {
      hint: `a line is START LENGTH TYPE [ARGS] in sectors, such as '0 2048 linear 7:0 0'; found '${line}'`,
    });
  }
  if (type.length > MAX_TYPE_LENGTH) {
    throw new StateError("EINVAL", `target type name ${type} is too long`, { hint: "at most 15 characters" });
  }
  const args = rest.replace(/#.*$/s, "").trim();
  return {
    startSectors: Number(unsigned(start)),
    lengthSectors: Number(unsigned(length)),
    type,
    args: args === "" ? [] : args.split(/\s+/),
  };
}

/** A sign wraps, too large a number saturates. */
function unsigned(text: string): bigint {
  const value = BigInt(text.replace(/^\+/, ""));
  if (value > MAX_U64) return MAX_U64;
  return value < 0n ? BigInt.asUintN(64, value) : value;
}

/** Parameters of a line as `dmsetup table` prints them; a thin-pool's end in a blank. */
export function tableParams(line: TargetLine): string {
  const type = findTargetType(line.type);
  return type === undefined ? line.args.join(" ") : type.tableText(line.args);
}

/** `START LENGTH TYPE PARAMS`, with the blank behind TYPE even when there are none. */
export function formatLine(line: TargetLine): string {
  return `${line.startSectors} ${line.lengthSectors} ${line.type} ${tableParams(line)}`;
}

export function formatTable(lines: readonly TargetLine[]): string {
  return lines.map((line) => `${formatLine(line)}\n`).join("");
}

/** Sectors of a whole table. */
export function tableSectors(lines: readonly TargetLine[]): number {
  const last = lines.at(-1);
  return last === undefined ? 0 : last.startSectors + last.lengthSectors;
}
