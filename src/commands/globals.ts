/** Options every command takes, before or after its words. Source: the command line's specification, section 1. */
import { type Command, Option } from "commander";
import { UsageError } from "../errors/index.js";
import type { Unit } from "../units/index.js";
import { parseSeconds } from "./parse.js";

export interface Globals {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: boolean;
  readonly dryRun: boolean;
  readonly yes: boolean;
  readonly units: Unit | undefined;
  readonly headings: boolean;
  readonly output: string | undefined;
  readonly sort: string | undefined;
  readonly stateDir: string | undefined;
  readonly lockTimeoutMs: number;
}

export const DEFAULT_GLOBALS: Globals = {
  json: false,
  quiet: false,
  verbose: false,
  dryRun: false,
  yes: false,
  units: undefined,
  headings: true,
  output: undefined,
  sort: undefined,
  stateDir: undefined,
  lockTimeoutMs: 30_000,
};

const HELP_GROUP = "Options of every command:";

/** Fresh declarations; commander's options belong to one command each. */
export function globalOptions(): readonly Option[] {
  return [
    new Option("--json", "print one JSON document; sizes are bytes"),
    new Option("-q, --quiet", "no notes and no progress on standard error"),
    new Option("-v, --verbose", "tell on standard error what is done"),
    new Option("--dry-run", "of a command that changes something: print what it would do, change nothing"),
    new Option("-y, --yes", "of a command that destroys data: do not ask"),
    new Option(
      "--units <unit>",
      "print sizes in h (human), b, s (sectors), k m g t p e; capitals are powers of 1000",
    ).argParser(parseUnit),
    new Option("--no-headings", "leave the line of headings out"),
    new Option("-o, --output <columns>", "columns to print, comma-separated; +COL adds to the usual ones"),
    new Option("--sort <column>", "sort by a column; -COL the other way round"),
    new Option("--state-dir <dir>", "where udm keeps its state"),
    new Option("--lock-timeout <seconds>", "how long to wait for another udm (default 30)").argParser(parseSeconds),
  ].map((option) => option.helpGroup(HELP_GROUP));
}

/** Options of the verbs that make or take away; they may stand before the verb too. */
export const EXISTENCE_FLAGS = ["--if-not-exists", "--if-exists"];

/**
 * Adds the global options to one command. Where the command has an option of the same short name, the command's wins
 * and the global one keeps its long name.
 */
export function addGlobalOptions(command: Command): void {
  for (const option of globalOptions()) {
    if (command.options.some((own) => own.long === option.long)) continue;
    const hasClash = option.short !== undefined && command.options.some((own) => own.short === option.short);
    command.addOption(hasClash ? longOnly(option) : option);
  }
  command.helpOption("-h, --help", "show this help");
}

function longOnly(option: Option): Option {
  const copy = new Option(option.flags.replace(/^-\w, /, ""), option.description).helpGroup(HELP_GROUP);
  if (option.parseArg !== undefined) copy.parseArg = option.parseArg;
  return copy;
}

/** Commands whose result has columns. Those of other families say themselves what they take. */
const REPORTS = [
  ...["loop list", "pool list", "pool status", "thin list", "thin usage", "thin map", "thin diff"],
  ...["device list", "device info", "lsblk"],
];
const WITH_REPORTS = ["loop", "pool", "thin", "table", "device"];
const WITHOUT_REPORTS = ["status", "doctor", "batch", "shell", "completion", "schema"];

/**
 * Columns asked of a command that has none would be ignored: it is told.
 * @param title `thin list` @throws UsageError
 */
export function refuseColumns(command: Command, title: string): void {
  const [first = ""] = title.split(" ");
  if (REPORTS.includes(title) || ![...WITH_REPORTS, ...WITHOUT_REPORTS].includes(first)) return;
  for (const name of ["output", "sort"]) {
    const option = command.options.find((each) => each.attributeName() === name);
    if (option?.helpGroupHeading !== HELP_GROUP || command.opts()[name] === undefined) continue;
    throw new UsageError(`${title}: prints no columns, --${name} has no meaning`, {
      hint: `leave --${name} out; see udm ${title} --help`,
    });
  }
}

/** The options as parsed by commander into plain values. */
export function readGlobals(options: Readonly<Record<string, unknown>>): Globals {
  const text = (key: string) => (typeof options[key] === "string" ? options[key] : undefined);
  const seconds = options.lockTimeout;
  return {
    json: options.json === true,
    quiet: options.quiet === true,
    verbose: options.verbose === true,
    dryRun: options.dryRun === true,
    yes: options.yes === true,
    units: text("units") as Unit | undefined,
    headings: options.headings !== false && options.noheadings !== true,
    output: text("output"),
    sort: text("sort"),
    stateDir: text("stateDir"),
    lockTimeoutMs: typeof seconds === "number" ? seconds * 1000 : DEFAULT_GLOBALS.lockTimeoutMs,
  };
}

function parseUnit(text: string): string {
  if (/^[hHbskmgtpeKMGTPE]$/.test(text)) return text;
  throw new UsageError(`unit '${text}' is unknown`, { hint: "one of h b s k m g t p e, or K M G T P E" });
}

/** What stands in front of a command's own words. */
export interface SplitArguments {
  /** Global options found before the word, in their long form. */
  readonly hoisted: readonly string[];
  readonly word: string | undefined;
  readonly rest: readonly string[];
  readonly asksHelp: boolean;
  readonly asksVersion: boolean;
}

/** Splits off the global options before the next word. @throws UsageError for an option nobody knows here */
export function splitAtWord(argv: readonly string[]): SplitArguments {
  const options = globalOptions();
  const hoisted: string[] = [];
  let asksHelp = false;
  let asksVersion = false;
  let index = 0;
  for (; index < argv.length; index++) {
    const argument = argv[index]!;
    if (argument === "--") {
      index++;
      break;
    }
    if (!argument.startsWith("-") || argument === "-") break;
    if (argument === "-h" || argument === "--help") {
      asksHelp = true;
    } else if (argument === "-V" || argument === "--version") {
      asksVersion = true;
    } else if (EXISTENCE_FLAGS.includes(argument)) {
      hoisted.push(argument);
    } else if (argument.startsWith("--")) {
      const equals = argument.indexOf("=");
      const name = equals < 0 ? argument : argument.slice(0, equals);
      const option = options.find((known) => known.long === name);
      if (option === undefined) throw unknownOption(name, options);
      hoisted.push(argument);
      if (option.required && equals < 0) hoisted.push(valueAt(argv, ++index, name));
    } else {
      for (let letter = 1; letter < argument.length; letter++) {
        const short = `-${argument[letter]}`;
        const option = options.find((known) => known.short === short);
        if (option?.long == null) throw unknownOption(short, options);
        hoisted.push(option.long);
        if (option.required) {
          const attached = argument.slice(letter + 1);
          hoisted.push(attached === "" ? valueAt(argv, ++index, short) : attached);
          break;
        }
      }
    }
  }
  return { hoisted, word: argv[index], rest: argv.slice(index + 1), asksHelp, asksVersion };
}

function valueAt(argv: readonly string[], index: number, name: string): string {
  const value = argv[index];
  if (value === undefined) throw new UsageError(`option '${name}' needs a value`, { hint: "see udm --help" });
  return value;
}

function unknownOption(name: string, options: readonly Option[]): UsageError {
  const known = options.map((option) => option.long ?? "").join(" ");
  return new UsageError(`unknown option '${name}'`, {
    hint: `before a command udm knows ${known} --help --version; the command's own options come after it`,
  });
}
