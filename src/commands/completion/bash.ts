/**
 * For bash, without the bash-completion package. bash divides words at colons and equal signs too; the line is divided
 * anew at blanks, and what stands before the last of them is taken off the replies.
 */
import { type CommandSpec, firstWords, globalSpecs, type Kind, type OptionSpec, verbsOf } from "./specs.js";

export function bashScript(specs: readonly CommandSpec[]): readonly string[] {
  const families = [...new Set(specs.flatMap(({ family }) => family ?? []))];
  return [
    "# bash completion for udm, made by: udm completion bash",
    "",
    "# Sets options, values (OPTION:KIND) and places (KIND of each argument, + for any number) of a command.",
    "_udm_spec() {",
    '  case "$1" in',
    ...specs.flatMap((spec) => caseOf(`"${spec.title}"`, spec.options, placesOf(spec))),
    ...caseOf("*", globalSpecs(), ""),
    "  esac",
    "}",
    "",
    "_udm_verbs() {",
    '  case "$1" in',
    ...families.map((family) => `    ${family}) echo "${names(verbsOf(family))}" ;;`),
    `    "") echo "${names(firstWords())} help" ;;`,
    "  esac",
    "}",
    ...LOGIC.split("\n"),
  ];
}

function names(items: readonly { readonly name: string }[]): string {
  return items.map(({ name }) => name).join(" ");
}

function caseOf(pattern: string, options: readonly OptionSpec[], places: string): readonly string[] {
  const flags = options.flatMap(({ long, short }) => (short === undefined ? [long] : [long, short]));
  const values = options.flatMap(({ long, short, value }) =>
    value === undefined ? [] : [long, short].flatMap((flag) => (flag === undefined ? [] : [`${flag}:${word(value)}`])),
  );
  return [
    `    ${pattern})`,
    `      options="${flags.join(" ")}"`,
    `      values="${values.join(" ")}"`,
    `      places="${places}"`,
    "      ;;",
  ];
}

function placesOf({ places }: CommandSpec): string {
  return places.map(({ kind, isVariadic }) => `${word(kind)}${isVariadic ? "+" : ""}`).join(" ");
}

function word(kind: Kind): string {
  return typeof kind === "string" ? kind : `=${kind.join(",")}`;
}

const LOGIC = String.raw`
# The kind of value an option takes; fails for an option without one.
_udm_value() {
  local entry
  for entry in $values; do
    if [[ $entry == "$1":* ]]; then
      kind=${"$"}{entry#*:}
      return 0
    fi
  done
  return 1
}

_udm_reply() {
  local program=$1 kind=$2 cur=$3
  case $kind in
    =*) mapfile -t COMPREPLY < <(compgen -W "$(tr , ' ' <<< "${"$"}{kind#=}")" -- "$cur") ;;
    files) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    dirs) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    places)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -f -- "$cur"; "$program" __complete any "$cur" 2> /dev/null)
      ;;
    none) ;;
    *) mapfile -t COMPREPLY < <("$program" __complete "$kind" "$cur" 2> /dev/null) ;;
  esac
}

_udm() {
  local IFS=$' \t\n'
  local line=${"$"}{COMP_LINE:0:COMP_POINT} cur='' title='' family='' kind='' options values places
  local -a words kinds
  local i word position=0 isFree='' isFound=''
  COMPREPLY=()
  read -ra words <<< "$line"
  if [[ $line != *[[:space:]] && ${"$"}{#words[@]} -gt 0 ]]; then
    cur=${"$"}{words[-1]}
    unset 'words[-1]'
  fi
  _udm_spec ''
  for word in "${"$"}{words[@]}"; do
    if [[ -z $isFound ]]; then
      [[ ${"$"}{word##*/} == "${"$"}{1##*/}" ]] && isFound=1
    elif [[ -n $kind ]]; then
      kind=''
    elif [[ -n $isFree ]]; then
      position=$((position + 1))
    elif [[ $word == -- ]]; then
      isFree=1
    elif [[ $word == -* ]]; then
      _udm_value "$word"
    elif [[ -n $title ]]; then
      position=$((position + 1))
    elif [[ -n $family ]]; then
      title="$family $word"
      _udm_spec "$title"
    elif [[ -n $(_udm_verbs "$word") ]]; then
      family=$word
    else
      title=$word
      _udm_spec "$title"
    fi
  done
  local full=$cur
  if [[ -n $kind ]]; then
    _udm_reply "$1" "$kind" "$cur"
  elif [[ -z $isFree && $cur == --*=* ]] && _udm_value "${"$"}{cur%%=*}"; then
    cur=${"$"}{cur#*=}
    _udm_reply "$1" "$kind" "$cur"
  elif [[ -z $isFree && $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
  elif [[ -z $title ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_udm_verbs "$family")" -- "$cur")
  else
    read -ra kinds <<< "$places"
    if ((${"$"}{#kinds[@]} > 0)); then
      ((position < ${"$"}{#kinds[@]})) || position=$((${"$"}{#kinds[@]} - 1)) isFree=last
      kind=${"$"}{kinds[position]}
      if [[ $kind == *+ || $isFree != last ]]; then _udm_reply "$1" "${"$"}{kind%+}" "$cur"; fi
    fi
  fi
  # Only what stands behind the last colon or equal sign is replaced.
  local mark
  for mark in : =; do
    if [[ $full == *"$mark"* && $COMP_WORDBREAKS == *"$mark"* ]]; then
      local before=${"$"}{cur%"${"$"}{cur##*"$mark"}"}
      COMPREPLY=("${"$"}{COMPREPLY[@]#"$before"}")
      cur=${"$"}{cur#"$before"}
    fi
  done
}
complete -F _udm udm`;
