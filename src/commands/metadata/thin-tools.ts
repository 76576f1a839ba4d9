/**
 * The programs of thin-provisioning-tools 0.9 that bin/compat stands in for, and two that came with 1.x: their options, which of our commands does the
 * work, and what they say themselves. Scripts and LVM look at the version, the output and the exit status, which is 0 or 1.
 * Options of the 1.x versions are taken too; what others have in use is refused in our words, with the holder's name.
 */
import { existsSync } from "node:fs";
import type { Failure } from "../context.js";
import {
  BAD_PATH,
  checkFailure,
  deltaFailure,
  dumpFailure,
  NO_OUTPUT,
  readingFailure,
  refuseInput,
  repairFailure,
  rmapFailure,
  writingFailure,
} from "./compat/failures.js";
import {
  type Given,
  HELP,
  isGiven,
  lastValueOf,
  oursOf,
  parseWords,
  type Refusal,
  type ToolOption,
  VERSION,
} from "./compat/getopt.js";
import { refuseSizes, SIZE_OPTIONS, sizeSentence, sizeWords } from "./compat/metadata-size.js";
import { PACK_FAILURE, PACK_PROGRAM, type PackProgram, packAnswer, UNPACK_PROGRAM } from "./compat/pack-programs.js";

/** LVM asks for it to learn which options there are. */
const PROGRAM_VERSION = "0.9.0";

export interface ThinTool {
  /** Words in front of the program's own. */
  readonly words: readonly string[];
  /** Behind the program's name in its help. */
  readonly synopsis: string;
  /** In the order of the help. */
  readonly options: readonly ToolOption[];
  /** More of the help. */
  readonly explained?: readonly string[];
  /** Words that are no options: the source, of which there must be one (more are ignored); none; whatever. */
  readonly takes: "source" | "nothing" | "anything";
  /** What it says when there is no source. */
  readonly noSource?: string;
  /** What it says of a source that is no metadata for being too small. */
  readonly tooSmall?: string;
  /** What it says of options that do not go together, or that are missing. */
  readonly refuse?: (given: Given) => Refusal | undefined;
  /** Our words for what was given; default option by option. */
  readonly ours?: (given: Given) => readonly string[];
  /** A failure in its words; undefined: nothing is said. */
  readonly failure: (failure: Failure, given: Given) => string | undefined;
  /** They are looked at before the source. */
  readonly looksAtOptionsFirst?: boolean;
  /** What it says on one line has no end of line. */
  readonly endsOpen?: boolean;
  /** Its help stands below every failure. */
  readonly alwaysShowsUsage?: boolean;
  /** What our command prints is for itself. */
  readonly isSilent?: boolean;
  readonly output?: (given: Given, text: string) => string;
  /** It came with 1.x, and takes its words in another way. */
  readonly pack?: PackProgram;
  /** Status of a failure of our command; 1 unless given. */
  readonly failureStatus?: number;
}

const TOO_SMALL = "Metadata is not large enough for superblock.";

const flag = (...names: string[]): ToolOption => ({ names });
const withUsage = (message: string): Refusal => ({ message, showsUsage: true });
const natural =
  (message: (value: string) => string): NonNullable<ToolOption["refuse"]> =>
  (value) =>
    /^\d+$/.test(value) ? undefined : withUsage(message(value));

/** Of 1.x: taken, and not told. */
const QUIET_1X: ToolOption = { names: ["-q", "--quiet"], shown: null };

const overrides = (isShown: boolean): readonly ToolOption[] =>
  (
    [
      ["--transaction-id", "transaction id"],
      ["--data-block-size", "data block size"],
      ["--nr-data-blocks", "nr data blocks"],
    ] as const
  ).map(([name, what]) => ({
    names: [name],
    value: "needed",
    shown: isShown ? `{${name}} <natural>` : null,
    refuse: natural((value) => `Couldn't parse ${what}: '${value}'`),
  }));

const snapshotBlock = (shown: string, message: (value: string) => string): ToolOption => ({
  names: ["-m", "--metadata-snap"],
  value: "attached",
  shown,
  refuse: natural(message),
});

const FIXES = ["--auto-repair", "--clear-needs-check-flag"];

function refuseFixes(given: Given): Refusal | undefined {
  if (!FIXES.some((name) => isGiven(given, name))) return undefined;
  const obstacle = (
    [
      ["--ignore-non-fatal-errors", "by ignoring non-fatal errors"],
      ["--metadata-snap", "within metadata snap"],
      ["--override-mapping-root", "with an overridden mapping root"],
      ["--skip-mappings", "without a full examination"],
      ["--super-block-only", "without a full examination"],
    ] as const
  ).find(([name]) => isGiven(given, name));
  return obstacle === undefined ? undefined : withUsage(`cannot perform fix ${obstacle[1]}`);
}

const thinOption = (side: 1 | 2): ToolOption => ({
  names: [`--thin${side}`, `--snap${side}`],
  value: "needed",
  shown: `{--thin${side}, --snap${side}}`,
  refuse: natural((value) => `Couldn't parse thin id ${side}: '${value}'`),
});

const rootOption = (side: 1 | 2): ToolOption => ({
  names: [`--root${side}`],
  value: "needed",
  shown: null,
  refuse: natural((value) => `Couldn't parse root ${side}: '${value}'`),
});

function refuseSides(given: Given): Refusal | undefined {
  for (const side of [1, 2]) {
    if (!isGiven(given, `--thin${side}`) && !isGiven(given, `--root${side}`)) {
      return withUsage(`--snap${side} not specified.`);
    }
  }
  return undefined;
}

function refuseRegion(text: string): Refusal | undefined {
  const say = (why: string) => ({ message: `badly formed region (${why})`, showsUsage: false });
  const [begin, end] = text.split("..");
  if (end === undefined || !/^\d+$/.test(begin!)) return say("no dots");
  if (!/^\d+$/.test(end)) return say("couldn't parse numbers");
  return Number(end) <= Number(begin) ? say("end <= begin") : undefined;
}

/** As in the help of thin_ls. */
export const LS_FIELDS = [
  ...["DEV", "MAPPED_BLOCKS", "EXCLUSIVE_BLOCKS", "SHARED_BLOCKS", "MAPPED_SECTORS", "EXCLUSIVE_SECTORS"],
  ...["SHARED_SECTORS", "MAPPED_BYTES", "EXCLUSIVE_BYTES", "SHARED_BYTES", "MAPPED", "EXCLUSIVE", "SHARED"],
  ...["TRANSACTION", "CREATE_TIME", "SNAP_TIME"],
];

export const THIN_TOOLS: Readonly<Record<string, ThinTool>> = {
  thin_check: {
    words: ["metadata", "check", "--compat", "thin_check"],
    synopsis: "[options] {device|file}",
    options: [
      flag("-q", "--quiet"),
      HELP,
      VERSION,
      flag("-m", "--metadata-snap"),
      flag("--auto-repair"),
      {
        names: ["--override-mapping-root"],
        value: "needed",
        shown: "{--override-mapping-root}",
        refuse: natural((value) => `Couldn't parse mapping root: '${value}'`),
      },
      flag("--clear-needs-check-flag"),
      flag("--ignore-non-fatal-errors"),
      flag("--skip-mappings"),
      flag("--super-block-only"),
    ],
    takes: "source",
    tooSmall: "Metadata device/file too small.  Is this binary metadata?",
    refuse: refuseFixes,
    looksAtOptionsFirst: true,
    // The devices are looked at whatever stands beside --skip-mappings.
    ours: (given) =>
      oursOf(given).filter((word) => word !== "--super-block-only" || !isGiven(given, "--skip-mappings")),
    failure: checkFailure,
  },
  thin_dump: {
    words: ["metadata", "dump", "--yes"],
    synopsis: "[options] {device|file}",
    options: [
      HELP,
      {
        names: ["-f", "--format"],
        value: "needed",
        shown: "{-f|--format} {xml|human_readable}",
        refuse: (value) =>
          value === "xml" || value === "human_readable"
            ? undefined
            : { message: `unknown format '${value}'`, showsUsage: false },
      },
      flag("-r", "--repair"),
      snapshotBlock("{-m|--metadata-snap} [block#]", () => "couldn't parse <metadata-snap>"),
      { names: ["-o", "--output"], value: "needed", shown: "{-o <xml file>}" },
      {
        names: ["--dev-id"],
        value: "needed",
        shown: "{--dev-id} <dev-id>",
        refuse: natural(() => "couldn't parse <dev-id>"),
      },
      flag("--skip-mappings"),
      VERSION,
      ...overrides(false),
      QUIET_1X,
    ],
    takes: "source",
    failure: dumpFailure,
  },
  thin_restore: {
    words: ["metadata", "restore", "--yes"],
    synopsis: "[options]",
    options: [
      HELP,
      { names: ["-i", "--input"], value: "needed", shown: "{-i|--input} <input xml file>" },
      { names: ["-o", "--output"], value: "needed", shown: "{-o|--output} <output device or file>" },
      ...overrides(true),
      flag("-q", "--quiet"),
      VERSION,
    ],
    takes: "nothing",
    refuse: refuseMissingFiles,
    failure: writingFailure,
    isSilent: true,
  },
  thin_repair: {
    words: ["metadata", "repair", "--yes", "--no-backup"],
    synopsis: "[options] {device|file}",
    options: [
      HELP,
      { names: ["-i", "--input"], value: "needed", shown: "{-i|--input} <input metadata (binary format)>" },
      { names: ["-o", "--output"], value: "needed", shown: "{-o|--output} <output metadata (binary format)>" },
      ...overrides(true),
      VERSION,
      QUIET_1X,
    ],
    takes: "anything",
    refuse: refuseRepair,
    failure: repairFailure,
    isSilent: true,
  },
  thin_ls: {
    words: ["metadata", "ls"],
    synopsis: "[options] {metadata device}",
    options: [
      HELP,
      flag("-m", "--metadata-snap"),
      flag("--no-headers"),
      {
        names: ["-o", "--format"],
        value: "needed",
        shown: "{-o|--format <fields>}",
        refuse: (value) =>
          value.split(",").every((field) => LS_FIELDS.includes(field))
            ? undefined
            : { message: "unknown field", showsUsage: false },
      },
      VERSION,
    ],
    explained: ["", "where <fields> is a comma separated list from:", ...LS_FIELDS.map((field) => `  ${field}`)],
    takes: "source",
    failure: readingFailure,
  },
  thin_delta: {
    words: ["metadata", "delta", "--yes"],
    synopsis: "[options] <device or file>",
    options: [
      thinOption(1),
      thinOption(2),
      snapshotBlock("{-m, --metadata-snap} [block#]", (value) => `Couldn't parse metadata snapshot block: '${value}'`),
      flag("--verbose"),
      HELP,
      VERSION,
      rootOption(1),
      rootOption(2),
    ],
    takes: "source",
    noSource: "No input device provided.",
    refuse: refuseSides,
    failure: deltaFailure,
    alwaysShowsUsage: true,
  },
  thin_rmap: {
    words: ["metadata", "rmap"],
    synopsis: "[options] {device|file}",
    options: [
      HELP,
      VERSION,
      { names: ["--region"], value: "needed", shown: "{--region <block range>}*", refuse: refuseRegion },
    ],
    explained: [
      "Where:",
      "  <block range> is of the form <begin>..<one-past-the-end>",
      "  for example 5..45 denotes blocks 5 to 44 inclusive, but not block 45",
    ],
    takes: "source",
    refuse: (given) => (isGiven(given, "--region") ? undefined : withUsage("No regions provided.")),
    failure: rmapFailure,
    endsOpen: true,
  },
  thin_trim: {
    words: ["metadata", "trim", "--compat", "thin_trim", "--yes"],
    synopsis: "[options] --metadata-dev {device|file} --data-dev {device|file}",
    options: [
      HELP,
      VERSION,
      { names: ["--metadata-dev"], value: "needed", shown: null },
      { names: ["--data-dev"], value: "needed", shown: null },
      QUIET_1X,
    ],
    takes: "anything",
    refuse: (given) => (isGiven(given, "--metadata-dev") && isGiven(given, "--data-dev") ? undefined : withUsage("")),
    failure: ({ message }) => message,
  },
  thin_metadata_pack: packTool("pack", PACK_PROGRAM),
  thin_metadata_unpack: packTool("unpack", UNPACK_PROGRAM),
  thin_metadata_size: {
    words: ["metadata", "size", "--quiet"],
    synopsis: "[options]",
    options: [...SIZE_OPTIONS, HELP, VERSION],
    takes: "anything",
    refuse: refuseSizes,
    ours: sizeWords,
    failure: ({ message }) => message,
    output: sizeSentence,
  },
  thin_shrink: {
    words: ["metadata", "shrink", "--yes"],
    synopsis: "[options] --input <file> --output <file> --data <device> --nr-blocks <natural>",
    options: [
      HELP,
      { names: ["-i", "--input"], value: "needed", shown: "{-i|--input} <input xml file>" },
      { names: ["-o", "--output"], value: "needed", shown: "{-o|--output} <output xml file>" },
      { names: ["--data"], value: "needed", shown: "{--data} <data device>" },
      { names: ["--nr-blocks"], value: "needed", shown: "{--nr-blocks} <natural>" },
      flag("--no-copy"),
      flag("--binary"),
      VERSION,
    ],
    takes: "nothing",
    failure: ({ message }) => message,
  },
};

function refuseMissingFiles(given: Given): Refusal | undefined {
  for (const name of ["input", "output"]) {
    if (lastValueOf(given, `--${name}`) === undefined) return withUsage(`No ${name} file provided.\n`);
  }
  return undefined;
}

function packTool(word: string, pack: PackProgram): ThinTool {
  return {
    words: ["metadata", word, ...(word === "unpack" ? ["--compat", "thin_metadata_unpack"] : [])],
    synopsis: "",
    options: [],
    takes: "nothing",
    pack,
    failure: ({ message }) => message,
    failureStatus: PACK_FAILURE,
    isSilent: true,
  };
}

function refuseRepair(given: Given): Refusal | undefined {
  const [input, output] = ["--input", "--output"].map((name) => lastValueOf(given, name));
  if (input === undefined) return withUsage("no input file provided");
  if (output === undefined) return withUsage("No output file provided.");
  // Ours would make it.
  return existsSync(output) ? undefined : { message: NO_OUTPUT, showsUsage: false };
}

export type Answer =
  /** The program answers by itself. */
  | { readonly kind: "own"; readonly status: number; readonly stdout: string; readonly stderr: string }
  /** Our command does it. */
  | { readonly kind: "command"; readonly words: readonly string[]; readonly given: Given };

/** What a program makes of its words. */
export function answerOf(name: string, tool: ThinTool, argv: readonly string[]): Answer {
  if (tool.pack !== undefined) {
    const own = packAnswer(tool.pack, argv);
    return own ?? { kind: "command", words: [...tool.words, ...argv], given: { options: [], words: [] } };
  }
  const parsed = parseWords(name, tool.options, argv);
  switch (parsed.kind) {
    case "help":
      return { kind: "own", status: 0, stdout: `${usageOf(name, tool)}\n`, stderr: "" };
    case "version":
      return { kind: "own", status: 0, stdout: `${PROGRAM_VERSION}\n`, stderr: "" };
    case "refused":
      return refused(name, tool, parsed.refusal);
    case "given": {
      const options = () => tool.refuse?.(parsed);
      const source = () => refuseMissing(tool, parsed);
      const refusal =
        (tool.looksAtOptionsFirst === true ? (options() ?? source()) : (source() ?? options())) ??
        refuseSource(tool, parsed);
      if (refusal !== undefined) {
        // thin_check that is to be quiet does not even tell that it has nothing to look at.
        const isMuffled = isGiven(parsed, "--quiet") && MUFFLED.includes(refusal.message);
        return isMuffled ? fails("") : refused(name, tool, refusal);
      }
      const sources = tool.takes === "source" ? ["--", parsed.words[0]!] : [];
      const words = [...tool.words, ...(tool.ours ?? oursOf)(parsed), ...sources];
      return { kind: "command", words, given: parsed };
    }
  }
}

const NO_SOURCE = "No input file provided.";

const MUFFLED = [NO_SOURCE, BAD_PATH];

function refuseMissing(tool: ThinTool, { words }: Given): Refusal | undefined {
  if (tool.takes === "nothing" && words.length > 0) return withUsage("");
  return tool.takes === "source" && words.length === 0 ? withUsage(tool.noSource ?? NO_SOURCE) : undefined;
}

function refuseSource(tool: ThinTool, { words }: Given): Refusal | undefined {
  return tool.takes === "source" ? refuseInput(words[0]!, tool.tooSmall ?? TOO_SMALL) : undefined;
}

/** How the program tells a failure of our command. */
export function failureText(name: string, tool: ThinTool, failure: Failure, given: Given): string {
  const message = isNoSnapshot(failure, given) ? "no current metadata snap" : tool.failure(failure, given);
  if (message === undefined) return "";
  return refusalText(name, tool, { message, showsUsage: false });
}

/** A block was named as the metadata snapshot that is none. */
function isNoSnapshot({ code, message }: Failure, given: Given): boolean {
  const block = lastValueOf(given, "--metadata-snap");
  return block !== undefined && code === "EUCLEAN" && message.includes(`metadata block ${Number(block)} (superblock)`);
}

function refused(name: string, tool: ThinTool, refusal: Refusal): Answer {
  return fails(refusalText(name, tool, refusal));
}

function fails(stderr: string): Answer {
  return { kind: "own", status: 1, stdout: "", stderr };
}

function refusalText(name: string, tool: ThinTool, { message, showsUsage }: Refusal): string {
  const hasUsage = (showsUsage || tool.alwaysShowsUsage === true) && name !== "thin_metadata_size";
  const lines = [...(message === "" ? [] : [message]), ...(hasUsage ? [usageOf(name, tool)] : [])];
  return `${lines.join("\n")}${tool.endsOpen === true && !hasUsage ? "" : "\n"}`;
}

function usageOf(name: string, tool: ThinTool): string {
  const options = tool.options
    .filter(({ shown }) => shown !== null)
    .map(({ names, shown }) => `  ${shown ?? `{${names.join("|")}}`}`);
  return [`Usage: ${name} ${tool.synopsis}`, "Options:", ...options, ...(tool.explained ?? [])].join("\n");
}
