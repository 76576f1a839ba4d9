/** What can stand where on a command line, taken from the commands' own declarations. */
import type { Option } from "commander";
import type { Context } from "../context.js";
import { addGlobalOptions, COMMANDS, type CommandEntry, FAMILIES, globalOptions } from "../index.js";
import { NOUNS } from "../schema/documents.js";

/** What completes a word: names that the state knows, files, a fixed list, or nothing. */
export type Kind =
  | "pools"
  | "thins"
  | "devices"
  | "loops"
  /** Loop and mapped devices. */
  | "any"
  | "files"
  | "dirs"
  /** A device or a file. */
  | "places"
  | "none"
  | readonly string[];

export const NAME_KINDS = ["pools", "thins", "devices", "loops", "any"] as const;
export type NameKind = (typeof NAME_KINDS)[number];

export interface OptionSpec {
  readonly long: string;
  readonly short: string | undefined;
  readonly description: string;
  /** Undefined for an option without a value. */
  readonly value: Kind | undefined;
  readonly valueName: string;
}

export interface PlaceSpec {
  readonly name: string;
  readonly kind: Kind;
  readonly isVariadic: boolean;
}

export interface CommandSpec {
  readonly family: string | undefined;
  readonly name: string;
  /** `thin snap` */
  readonly title: string;
  readonly summary: string;
  readonly options: readonly OptionSpec[];
  readonly places: readonly PlaceSpec[];
}

const DATA = {
  read: ["devices"],
  write: ["devices"],
  export: ["devices", "files"],
  import: ["devices", "files"],
  trim: ["devices"],
} as const;

const dataPlaces = (family: string): Readonly<Record<string, readonly Kind[]>> =>
  Object.fromEntries(Object.entries(DATA).map(([verb, kinds]) => [`${family} ${verb}`, kinds]));

const NOUN_WORDS: readonly string[] = NOUNS;

/** What the arguments of each command name. A command that is not here has names that do not exist yet, or none. */
const PLACES: Readonly<Record<string, readonly Kind[]>> = {
  "loop attach": ["files"],
  "loop detach": ["loops"],
  "loop resize": ["loops"],
  "loop list": ["loops"],
  "pool resize": ["pools"],
  "pool status": ["pools"],
  "pool set": ["pools"],
  "pool check": ["pools"],
  "pool map": ["pools"],
  "pool message": [
    "pools",
    ["create_thin", "create_snap", "delete", "set_transaction_id", "reserve_metadata_snap", "release_metadata_snap"],
  ],
  "pool remove": ["pools"],
  "thin create": ["pools"],
  "thin snap": ["thins"],
  "thin delete": ["thins"],
  "thin activate": ["thins"],
  "thin deactivate": ["thins"],
  "thin resize": ["thins"],
  "thin rename": ["thins"],
  "thin rollback": ["thins", "thins"],
  "thin list": ["pools"],
  "thin usage": ["thins"],
  "thin map": ["thins"],
  "thin diff": ["thins", "thins"],
  ...dataPlaces("thin"),
  "table load": ["devices"],
  "table resume": ["devices"],
  "table suspend": ["devices"],
  "table clear": ["devices"],
  "table show": ["devices"],
  "table status": ["devices"],
  "table restore": ["files"],
  "device info": ["devices"],
  "device deps": ["devices"],
  "device rename": ["devices"],
  "device remove": ["devices"],
  "device message": ["devices"],
  "device wait": ["devices"],
  ...dataPlaces("device"),
  lsblk: ["any"],
  batch: ["files"],
  mount: ["devices", "dirs"],
  umount: ["any"],
  "metadata check": ["places"],
  "metadata dump": ["places"],
  "metadata restore": ["places"],
  "metadata damage": ["places"],
  "metadata repair": ["places"],
  "metadata delta": ["places"],
  "metadata ls": ["places"],
  "metadata rmap": ["places"],
  "metadata size": ["places"],
  "metadata trim": ["places"],
  "metadata shrink": ["places"],
  "metadata stat": ["places"],
  "metadata explore": ["places"],
  "metadata pack": ["places"],
  "metadata unpack": ["places"],
  attach: ["devices"],
  detach: ["devices"],
  serve: ["devices"],
  monitor: ["pools"],
  events: ["pools"],
  completion: [["bash", "zsh", "fish"]],
  schema: [NOUN_WORDS],
};

const TARGETS = ["error", "linear", "striped", "thin", "thin-pool", "zero"];

/** By long name; an option that is not here takes a number, a size or a text. */
const VALUES: Readonly<Record<string, Kind>> = {
  "--data": "places",
  "--metadata": "places",
  "--device": "places",
  "--external-origin": "any",
  "--table": "files",
  "--state-dir": "dirs",
  "--target": TARGETS,
  "--units": [..."hbskmgtpeKMGTPE"],
};

/** Every command, in the order of the list of commands. */
export function commandSpecs(context: Context): Promise<readonly CommandSpec[]> {
  return Promise.all(COMMANDS.map((entry) => specOf(context, entry)));
}

function titleOf({ family, name }: CommandEntry): string {
  return family === undefined ? name : `${family} ${name}`;
}

async function specOf(context: Context, entry: CommandEntry): Promise<CommandSpec> {
  const title = titleOf(entry);
  const command = (await entry.load())(context);
  addGlobalOptions(command);
  const kinds = PLACES[title] ?? [];
  const { family, name, summary } = entry;
  return {
    family,
    name,
    title,
    summary,
    options: [...command.options.filter((option) => !option.hidden).map(optionSpec), HELP],
    places: command.registeredArguments.map((argument, index) => ({
      name: argument.name(),
      kind: kinds[index] ?? "none",
      isVariadic: argument.variadic,
    })),
  };
}

export function globalSpecs(): readonly OptionSpec[] {
  return [...globalOptions().map(optionSpec), HELP];
}

/** Words that may come first: families and commands of one word. */
export function firstWords(): readonly { readonly name: string; readonly summary: string }[] {
  return [...FAMILIES, ...COMMANDS.filter(({ family }) => family === undefined)];
}

export function verbsOf(family: string): readonly { readonly name: string; readonly summary: string }[] {
  return COMMANDS.filter((each) => each.family === family);
}

const HELP: OptionSpec = {
  long: "--help",
  short: "-h",
  description: "show help",
  value: undefined,
  valueName: "",
};

function optionSpec(option: Option): OptionSpec {
  const long = option.long ?? option.short ?? "";
  return {
    long,
    short: option.long == null ? undefined : (option.short ?? undefined),
    description: option.description,
    value: option.required || option.optional ? (VALUES[long] ?? "none") : undefined,
    valueName: /<([^>]+)>/.exec(option.flags)?.[1] ?? "",
  };
}
