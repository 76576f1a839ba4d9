/**
 * thin_metadata_pack and thin_metadata_unpack of thin-provisioning-tools 1.x, which 0.9 does not have: how they read their
 * command line, and what they say of it. A wrong one ends with status 2, every other failure with 64.
 */
import { statSync } from "node:fs";

interface PackOption {
  readonly short: string;
  readonly long: string;
  /** What the value is; undefined for a switch. */
  readonly value?: string;
  readonly help: string;
}

export interface PackProgram {
  readonly name: string;
  readonly about: string;
  /** In the order of their help; those with a value must be given, first the input. */
  readonly options: readonly PackOption[];
}

export interface OwnAnswer {
  readonly kind: "own";
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const VERSION = "1.1.0";
const WRONG_LINE = 2;
export const PACK_FAILURE = 64;

const COMMON: readonly PackOption[] = [
  { short: "-f", long: "--force", help: "Force overwrite the output file" },
  { short: "-h", long: "--help", help: "Print help" },
];
const LAST: PackOption = { short: "-V", long: "--version", help: "Print version" };

export const PACK_PROGRAM: PackProgram = {
  name: "thin_metadata_pack",
  about: "Produces a compressed file of thin metadata.  Only packs metadata blocks that are actually used.",
  options: [
    ...COMMON,
    { short: "-i", long: "--input", value: "DEV", help: "Specify thinp metadata binary device/file" },
    { short: "-o", long: "--output", value: "FILE", help: "Specify packed output file" },
    LAST,
  ],
};

export const UNPACK_PROGRAM: PackProgram = {
  name: "thin_metadata_unpack",
  about: "Unpack a compressed file of thin metadata.",
  options: [
    ...COMMON,
    { short: "-i", long: "--input", value: "FILE", help: "Specify packed input file" },
    { short: "-o", long: "--output", value: "DEV", help: "Specify thinp metadata binary device/file" },
    LAST,
  ],
};

/** What the program answers by itself; undefined when there is work to do. */
export function packAnswer(program: PackProgram, argv: readonly string[]): OwnAnswer | undefined {
  const given = new Map<string, string>();
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index]!;
    const option = program.options.find(({ short, long }) => isOption(word, short, long));
    if (option === undefined) return wrong(`unexpected argument '${word}' found`, shortUsage(program, true));
    if (option.long === "--help") return tells(helpOf(program));
    if (option.long === "--version") return tells([VERSION]);
    const spelled = option.value === undefined ? option.long : `${option.long} <${option.value}>`;
    if (given.has(option.long)) {
      return wrong(`the argument '${spelled}' cannot be used multiple times`, shortUsage(program, true));
    }
    const attached = attachedValue(word, option);
    if (option.value !== undefined && attached === undefined && index + 1 >= argv.length) {
      return wrong(`a value is required for '${spelled}' but none was supplied`, []);
    }
    given.set(option.long, option.value === undefined ? "" : (attached ?? argv[++index]!));
  }
  const missing = program.options.filter(({ long, value }) => value !== undefined && !given.has(long));
  if (missing.length > 0) {
    const names = missing.map(({ long, value }) => `  ${long} <${value}>`);
    const first = ["error: the following required arguments were not provided:", ...names];
    return fails(WRONG_LINE, [...first, ...shortUsage(program, false), "", TRY_HELP]);
  }
  return inputFault(given.get("--input")!);
}

function tells(lines: readonly string[]): OwnAnswer {
  return { kind: "own", status: 0, stdout: `${lines.join("\n")}\n`, stderr: "" };
}

function fails(status: number, lines: readonly string[]): OwnAnswer {
  return { kind: "own", status, stdout: "", stderr: `${lines.join("\n")}\n` };
}

const TRY_HELP = "For more information, try '--help'.";

function isOption(word: string, short: string, long: string): boolean {
  if (word.startsWith("--")) return word === long || word.startsWith(`${long}=`);
  return word.startsWith(short);
}

function attachedValue(word: string, { short, long }: PackOption): string | undefined {
  if (word.startsWith(`${long}=`)) return word.slice(long.length + 1);
  return word.startsWith("--") || word === short ? undefined : word.slice(short.length);
}

function wrong(what: string, usage: readonly string[]): OwnAnswer {
  return fails(WRONG_LINE, [`error: ${what}`, ...usage, "", TRY_HELP]);
}

function shortUsage({ name, options }: PackProgram, withOptions: boolean): readonly string[] {
  return ["", usageLine({ name, options }, withOptions)];
}

function usageLine({ name, options }: Pick<PackProgram, "name" | "options">, withOptions: boolean): string {
  const needed = options.filter(({ value }) => value !== undefined).map(({ long, value }) => `${long} <${value}>`);
  return `Usage: ${[name, ...(withOptions ? ["[OPTIONS]"] : []), ...needed].join(" ")}`;
}

function helpOf(program: PackProgram): readonly string[] {
  const heads = program.options.map(({ short, long, value }) =>
    value === undefined ? `${short}, ${long}` : `${short}, ${long} <${value}>`,
  );
  const width = Math.max(...heads.map(({ length }) => length));
  const lines = program.options.map(({ help }, index) => `  ${heads[index]!.padEnd(width)}  ${help}`);
  return [program.about, "", usageLine(program, true), "", "Options:", ...lines];
}

function inputFault(input: string): OwnAnswer | undefined {
  const found = statSync(input, { throwIfNoEntry: false });
  if (found?.isFile() === true || found?.isBlockDevice() === true) return undefined;
  const text =
    found === undefined ? `Couldn't find input file '${input}'` : `Not a block device or regular file '${input}'.`;
  return fails(PACK_FAILURE, [text]);
}
