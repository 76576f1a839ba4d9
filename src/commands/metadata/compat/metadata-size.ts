/** thin_metadata_size: its sizes, units and sentence, around `udm metadata size`. */
import { SIZE_UNITS } from "../size.js";
import { type Given, isGiven, lastValueOf, type Refusal, type ToolOption } from "./getopt.js";

const PROGRAM = "thin_metadata_size";

interface Amount {
  readonly number: number;
  /** Long name of its unit; empty for a plain number. */
  readonly unit: string;
  readonly value: number;
}

const say = (text: string): Refusal => ({ message: `${PROGRAM} - ${text}`, showsUsage: false });

export const SIZE_OPTIONS: readonly ToolOption[] = [
  {
    names: ["-b", "--block-size"],
    value: "needed",
    shown: "-b|--block-size SIZE[bskKmMgGtTpPeEzZyY]",
    refuse: (text) => refuseAmount(text),
  },
  {
    names: ["-s", "--pool-size"],
    value: "needed",
    shown: "-s|--pool-size SIZE[bskKmMgGtTpPeEzZyY]",
    refuse: (text) => refuseAmount(text),
  },
  {
    names: ["-m", "--max-thins"],
    value: "needed",
    shown: "-m|--max-thins NUMBER[bskKmMgGtTpPeEzZyY]",
    refuse: (text) => refuseAmount(text),
  },
  {
    names: ["-u", "--unit"],
    value: "needed",
    shown: "-u|--unit {bskKmMgGtTpPeEzZyY}",
    refuse: (text) => (unitOf(text) === undefined ? say("output unit specifier invalid!") : undefined),
  },
  {
    names: ["-n", "--numeric-only"],
    value: "attached",
    shown: "-n|--numeric-only[short|long]",
    refuse: (text) => (nameForm(text) === undefined ? say("-n invalid option argument") : undefined),
  },
];

export function refuseSizes(given: Given): Refusal | undefined {
  const known = given.options.map(({ option }) => option);
  if (new Set(known).size < known.length) return say("option already given!");
  const [block, pool, thins] = amountsOf(given);
  if (block === undefined || block.value === 0) return say("block size required!");
  if (pool === undefined || pool.value === 0) return say("pool size required!");
  if (thins === undefined || thins.value === 0) return say("max thins required!");
  if (!isPowerOfTwo(block.value)) return say("block size must be 2^^N");
  if (pool.value <= block.value) return say("pool size must be larger than block size");
  return undefined;
}

export function sizeWords(given: Given): readonly string[] {
  const [block, pool, thins] = amountsOf(given);
  const unit = unitOf(lastValueOf(given, "--unit") ?? "s") ?? "s";
  const form = nameForm(lastValueOf(given, "--numeric-only") ?? "");
  return [
    `--block-size=${block!.value}b`,
    `--pool-size=${pool!.value}b`,
    `--max-thins=${thins!.value}`,
    `--unit=${unit}`,
    ...(isGiven(given, "--numeric-only") ? [`--numeric-only${form === undefined ? "" : `=${form}`}`] : []),
  ];
}

/** Around the number, what the program says. */
export function sizeSentence(given: Given, text: string): string {
  if (isGiven(given, "--numeric-only")) return text;
  const [block, pool, thins] = amountsOf(given).map((each) => `${each!.number}${each!.unit}`);
  const echo = `--block-size=${block} --pool-size=${pool} --max-thins=${thins}`;
  return `${PROGRAM} - ${text.trimEnd()} estimated metadata area size for "${echo}"\n`;
}

function amountsOf(given: Given): readonly (Amount | undefined)[] {
  return (["--block-size", "--pool-size", "--max-thins"] as const).map((name) => {
    const text = lastValueOf(given, name);
    return text === undefined ? undefined : amountOf(text, name === "--max-thins" ? "" : "s");
  });
}

/** A number and a unit, whose name may be cut short; without one it is of the unit given. */
function amountOf(text: string, fallback: string): Amount | undefined {
  const match = /^(\d+)(\w*)$/.exec(text);
  if (match === null) return undefined;
  const letter = match[2] === "" ? fallback : unitOf(match[2]!);
  if (letter === undefined) return undefined;
  const unit = SIZE_UNITS[letter];
  const number = Number(match[1]);
  return { number, unit: unit?.long ?? "", value: number * (unit?.bytes ?? 1) };
}

function refuseAmount(text: string): Refusal | undefined {
  return amountOf(text, "s") === undefined ? say("Invalid unit specifier!") : undefined;
}

/** The letter of a unit that is named by it, or by the begin of its long name. */
function unitOf(text: string): string | undefined {
  if (text === "") return "b";
  return Object.keys(SIZE_UNITS).find(
    (letter) => text === letter || (text.length > 1 && SIZE_UNITS[letter]!.long.startsWith(text)),
  );
}

function nameForm(text: string): "short" | "long" | undefined {
  if (text === "") return undefined;
  return (["short", "long"] as const).find((form) => form.startsWith(text));
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}
