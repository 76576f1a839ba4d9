/**
 * The programs of thin-provisioning-tools 0.9 that bin/compat stands in for: which of our commands does their work, and what
 * they say themselves. Scripts and LVM look at the version, the output and the exit status, which is 0 or 1.
 */
import { SIZE_UNITS } from "./size.js";

/** LVM asks for it to learn which options there are. */
const VERSION = "0.9.0";

export interface ThinTool {
  /** Words in front of the program's own. */
  readonly words: readonly string[];
  readonly usage: readonly string[];
  /** Options that are followed by a value. */
  readonly valued: readonly string[];
  /** Whether there must be a source behind the options. */
  readonly wantsSource: boolean;
}

const SNAPSHOT = "-m|--metadata-snap [block#]";

export const THIN_TOOLS: Readonly<Record<string, ThinTool>> = {
  thin_check: {
    words: ["metadata", "check", "--compat", "thin_check"],
    usage: usage("thin_check [options] {device|file}", [
      "-q|--quiet",
      "-m|--metadata-snap",
      "--auto-repair",
      "--clear-needs-check-flag",
      "--ignore-non-fatal-errors",
      "--skip-mappings",
      "--super-block-only",
    ]),
    valued: [],
    wantsSource: true,
  },
  thin_dump: {
    words: ["metadata", "dump"],
    usage: usage("thin_dump [options] {device|file}", [
      "-f|--format {xml|human_readable}",
      "-r|--repair",
      SNAPSHOT,
      "-o <xml file>",
      "--dev-id <dev-id>",
      "--skip-mappings",
    ]),
    valued: ["-f", "--format", "-o", "--output", "--dev-id"],
    wantsSource: true,
  },
  thin_restore: {
    words: ["metadata", "restore", "--yes"],
    usage: usage("thin_restore [options]", [
      "-i|--input <input xml file>",
      "-o|--output <output device or file>",
      "--transaction-id <natural>",
      "--data-block-size <natural>",
      "--nr-data-blocks <natural>",
      "-q|--quiet",
    ]),
    valued: [],
    wantsSource: false,
  },
  thin_ls: {
    words: ["metadata", "ls"],
    usage: usage("thin_ls [options] {metadata device}", ["-m|--metadata-snap", "--no-headers", "-o|--format <fields>"]),
    valued: ["-o", "--format"],
    wantsSource: true,
  },
  thin_delta: {
    words: ["metadata", "delta"],
    usage: usage("thin_delta [options] <device or file>", [
      "--thin1, --snap1 <dev-id>",
      "--thin2, --snap2 <dev-id>",
      "--root1, --root2 <block#>",
      SNAPSHOT,
      "--verbose",
    ]),
    valued: ["--thin1", "--snap1", "--thin2", "--snap2", "--root1", "--root2"],
    wantsSource: true,
  },
  thin_rmap: {
    words: ["metadata", "rmap"],
    usage: usage("thin_rmap [options] {device|file}", ["--region <begin>..<one-past-the-end>"]),
    valued: ["--region"],
    wantsSource: true,
  },
  thin_metadata_size: {
    words: ["metadata", "size"],
    usage: usage("thin_metadata_size [options]", [
      "-b|--block-size SIZE[bskKmMgGtTpPeE]",
      "-s|--pool-size SIZE[bskKmMgGtTpPeE]",
      "-m|--max-thins NUMBER",
      "-u|--unit {bskKmMgGtTpPeEzZyY}",
      "-n|--numeric-only [short|long]",
    ]),
    valued: [],
    wantsSource: false,
  },
  thin_shrink: {
    words: ["metadata", "shrink", "--yes"],
    usage: usage("thin_shrink [options] --input <file> --output <file> --data <device> --nr-blocks <natural>", [
      "-i|--input <input xml file>",
      "-o|--output <output xml file>",
      "--data <data device>",
      "--nr-blocks <natural>",
      "--no-copy",
      "--binary",
    ]),
    valued: [],
    wantsSource: false,
  },
};

function usage(line: string, options: readonly string[]): readonly string[] {
  return [`Usage: ${line}`, "Options:", ...[...options, "-h|--help", "-V|--version"].map((option) => `  {${option}}`)];
}

/** What a program answers by itself; undefined when the work is the command's. */
export function ownAnswer(
  tool: ThinTool,
  argv: readonly string[],
): { readonly status: number; readonly stdout: readonly string[]; readonly stderr: readonly string[] } | undefined {
  if (argv.includes("-V") || argv.includes("--version")) return { status: 0, stdout: [VERSION], stderr: [] };
  if (argv.includes("-h") || argv.includes("--help")) return { status: 0, stdout: tool.usage, stderr: [] };
  if (tool.wantsSource && !hasSource(tool, argv)) {
    return { status: 1, stdout: [], stderr: ["No input file provided.", ...tool.usage] };
  }
  return undefined;
}

function hasSource({ valued }: ThinTool, argv: readonly string[]): boolean {
  return argv.some((word, index) => {
    if (word.startsWith("-") && word !== "-") return false;
    return !valued.includes(argv[index - 1] ?? "");
  });
}

/** Around the number of `udm metadata size`, what thin_metadata_size says. */
export function sizeSentence(argv: readonly string[], text: string): string {
  if (argv.some((word) => /^(-n|--numeric-only)/.test(word))) return text;
  const echo = [
    ["--block-size", "-b"],
    ["--pool-size", "-s"],
    ["--max-thins", "-m"],
  ].map(([long, short]) => `${long}=${spelledOut(wordOf(argv, long!, short!), long === "--max-thins")}`);
  return `thin_metadata_size - ${text.trimEnd()} estimated metadata area size for "${echo.join(" ")}"\n`;
}

function wordOf(argv: readonly string[], long: string, short: string): string {
  const index = argv.findIndex((word) => word.startsWith(short) || word.split("=")[0] === long);
  const word = argv[index] ?? "";
  if (word === short || word === long) return argv[index + 1] ?? "";
  return word.startsWith("--") ? word.slice(long.length + 1) : word.slice(short.length);
}

/** `64k` as `64kibibytes`; a number alone is sectors. */
function spelledOut(value: string, isCount: boolean): string {
  const match = /^(\d+)(\w?)$/.exec(value);
  if (match === null || isCount) return value;
  return `${match[1]}${SIZE_UNITS[match[2] || "s"]?.long ?? ""}`;
}
