// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the text is a zsh script, ${...} is zsh's.
/** For zsh: a function for a folder of fpath, or for eval. */
import { type CommandSpec, firstWords, globalSpecs, type Kind, type OptionSpec, verbsOf } from "./specs.js";

export function zshScript(specs: readonly CommandSpec[]): readonly string[] {
  const families = [...new Set(specs.flatMap(({ family }) => family ?? []))];
  const withValue = globalSpecs().filter(({ value }) => value !== undefined);
  const valued = withValue.flatMap(({ long, short }) => (short === undefined ? [long] : [long, short])).join("|");
  return [
    "#compdef udm",
    "# zsh completion for udm, made by: udm completion zsh",
    "",
    "_udm_names() {",
    "  local -a names",
    '  names=(${(f)"$($_udm_program __complete $1 2> /dev/null)"})',
    "  compadd -a names",
    "}",
    "",
    "_udm_places() {",
    "  _udm_names any",
    "  _files",
    "}",
    "",
    "_udm() {",
    '  local _udm_program=$words[1] family="" verb="" title=""',
    "  local -i at=2",
    "  while ((at < CURRENT)); do",
    "    case $words[at] in",
    `      (${valued}) ((at++)) ;;`,
    "      (-*) ;;",
    "      (*)",
    '        if [[ -n $family ]]; then title="$family $words[at]"; break; fi',
    "        case $words[at] in",
    `          (${families.join("|")}) family=$words[at] ;;`,
    "          (*) title=$words[at]; break ;;",
    "        esac",
    "        ;;",
    "    esac",
    "    ((at++))",
    "  done",
    "  if [[ -z $title ]]; then",
    "    # An option of every command, or the value of one, which the loop has stepped over.",
    "    local -i known=0",
    '    if ((at > CURRENT)); then known=1 words=(udm "$words[CURRENT-1]" "$words[CURRENT]") CURRENT=3',
    '    elif [[ $words[CURRENT] == -* ]]; then known=1 words=(udm "$words[CURRENT]") CURRENT=2',
    "    fi",
    "    if ((known)); then",
    "      _arguments -S : \\",
    ...globalSpecs().map(
      (option, index, all) => `        ${optionSpec(option)}${index === all.length - 1 ? "" : " \\"}`,
    ),
    "      return",
    "    fi",
    "    local -a list",
    "    case $family in",
    ...families.map((family) => `      (${family}) list=(${described(verbsOf(family))}) ;;`),
    `      (*) list=(${described(firstWords())}) ;;`,
    "    esac",
    "    _describe -t commands command list",
    "    return",
    "  fi",
    '  words=("$title" "${(@)words[at + 1, -1]}")',
    "  ((CURRENT -= at - 1))",
    "  case $title in",
    ...specs.flatMap(caseOf),
    "  esac",
    "}",
    "",
    'if [[ ${funcstack[1]:-} == _udm ]]; then _udm "$@"; else compdef _udm udm; fi',
  ];
}

function described(items: readonly { readonly name: string; readonly summary: string }[]): string {
  return items.map(({ name, summary }) => quoted(`${name}:${summary}`)).join(" ");
}

function caseOf(spec: CommandSpec): readonly string[] {
  const places = spec.places.map(
    ({ name, kind, isVariadic }, index) =>
      `      ${quoted(`${isVariadic ? "*" : index + 1}:${name}:${action(kind)}`)} \\`,
  );
  return [
    `    (${quoted(spec.title)})`,
    "      _arguments -S : \\",
    ...spec.options.map((option) => `      ${optionSpec(option)} \\`),
    ...places,
    "      ;;",
  ].map((line, index, all) => (index === all.length - 2 ? line.replace(/ \\$/, "") : line));
}

function optionSpec({ long, short, description, value, valueName }: OptionSpec): string {
  const text = `[${description.replaceAll(/[[\]\\:]/g, "\\$&")}]`;
  const behind = value === undefined ? "" : `:${valueName}:${action(value)}`;
  const isLong = long.startsWith("--");
  const name = `${long}${value !== undefined && isLong ? "=" : ""}`;
  if (short === undefined) return quoted(`${name}${text}${behind}`);
  return `${quoted(`(${short} ${long})`)}{${quoted(`${short}${text}${behind}`)},${quoted(`${name}${text}${behind}`)}}`;
}

function action(kind: Kind): string {
  if (typeof kind !== "string") return `(${kind.join(" ")})`;
  switch (kind) {
    case "files":
      return "_files";
    case "dirs":
      return "_files -/";
    case "places":
      return " _udm_places";
    case "none":
      return " ";
    case "pools":
    case "thins":
    case "devices":
    case "loops":
    case "any":
      return ` _udm_names ${kind}`;
  }
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
