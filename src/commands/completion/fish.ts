/** For fish: conditions on what the line holds so far, and one `complete` for each option and argument. */
import { type CommandSpec, firstWords, globalSpecs, type Kind, type OptionSpec, verbsOf } from "./specs.js";

export function fishScript(specs: readonly CommandSpec[]): readonly string[] {
  const families = [...new Set(specs.flatMap(({ family }) => family ?? []))];
  return [
    "# fish completion for udm, made by: udm completion fish",
    "",
    "# Options that take a value in the next word.",
    "function __udm_values",
    '  switch "$argv[1]"',
    ...specs.map((spec) => `    case ${quoted(spec.title)}; printf '%s\\n' ${valued(spec.options)}`),
    `    case '*'; printf '%s\\n' ${valued(globalSpecs())}`,
    "  end",
    "end",
    "",
    "# The words of the line that are neither options nor their values: the command, and how many arguments it has.",
    "function __udm_line",
    "  set -l title ''",
    "  set -l family ''",
    "  set -l count 0",
    "  set -l isValue 0",
    "  for word in (commandline -opc)[2..-1]",
    "    if test $isValue = 1",
    "      set isValue 0",
    "    else if string match -q -- '-*' $word",
    '      if contains -- $word (__udm_values "$title")',
    "        set isValue 1",
    "      end",
    '    else if test -n "$title"',
    "      set count (math $count + 1)",
    '    else if test -n "$family"',
    '      set title "$family $word"',
    `    else if contains -- $word ${families.join(" ")}`,
    "      set family $word",
    "    else",
    "      set title $word",
    "    end",
    "  end",
    '  if test -n "$title"',
    "    printf '%s\\n' \"$title\" $count",
    "  else",
    "    printf '%s\\n' \"($family)\" 0",
    "  end",
    "end",
    "",
    "# Whether the line holds a command (`(FAMILY)` before its verb is there), and with so many arguments, `N+` or more.",
    "function __udm_at",
    "  set -l line (__udm_line)",
    '  test "$line[1]" = "$argv[1]"; or return 1',
    "  set -q argv[2]; or return 0",
    "  if string match -q -- '*+' $argv[2]",
    "    test $line[2] -ge (string replace + '' $argv[2])",
    "  else",
    "    test $line[2] -eq $argv[2]",
    "  end",
    "end",
    "",
    "complete -c udm -f",
    ...firstWords().map(({ name, summary }) => wordLine("()", name, summary)),
    ...families.flatMap((family) => verbsOf(family).map(({ name, summary }) => wordLine(`(${family})`, name, summary))),
    ...globalSpecs().map((option) => optionLine("()", option)),
    ...specs.flatMap(commandLines),
  ];
}

function valued(options: readonly OptionSpec[]): string {
  return options
    .filter(({ value }) => value !== undefined)
    .flatMap(({ long, short }) => (short === undefined ? [long] : [long, short]))
    .join(" ");
}

function wordLine(at: string, name: string, summary: string): string {
  return `complete -c udm -n ${condition(at)} -a ${name} -d ${quoted(summary)}`;
}

function commandLines(spec: CommandSpec): readonly string[] {
  return [
    ...spec.options.map((option) => optionLine(spec.title, option)),
    ...spec.places.flatMap(({ kind, isVariadic }, index) => {
      const source = sourceOf(kind);
      return source === ""
        ? []
        : [`complete -c udm -n ${condition(spec.title, `${index}${isVariadic ? "+" : ""}`)}${source}`];
    }),
  ];
}

function optionLine(title: string, { long, short, description, value }: OptionSpec): string {
  const isLong = long.startsWith("--");
  const flags = `${short === undefined ? "" : ` -s ${short.slice(1)}`}${isLong ? ` -l ${long.slice(2)}` : ` -s ${long.slice(1)}`}`;
  const takes = value === undefined ? "" : ` -r${sourceOf(value) === "" ? " -f" : sourceOf(value)}`;
  return `complete -c udm -n ${condition(title)}${flags}${takes} -d ${quoted(description)}`;
}

function sourceOf(kind: Kind): string {
  if (typeof kind !== "string") return ` -f -a ${quoted(kind.join(" "))}`;
  switch (kind) {
    case "files":
      return " -F";
    case "dirs":
      return " -f -a '(__fish_complete_directories)'";
    case "places":
      return " -F -a '(udm __complete any 2> /dev/null)'";
    case "none":
      return "";
    case "pools":
    case "thins":
    case "devices":
    case "loops":
    case "any":
      return ` -f -a '(udm __complete ${kind} 2> /dev/null)'`;
  }
}

function condition(title: string, count?: string): string {
  return quoted(`__udm_at "${title}"${count === undefined ? "" : ` ${count}`}`);
}

function quoted(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
