/**
 * Command lines as getopt_long takes them apart: options anywhere, long ones shortened as far as they stay unambiguous,
 * letters together, values attached or behind. What cannot be taken is said in its words.
 */

export interface ToolOption {
  /** `-q|--quiet`, in the order of the program's help; a long name first where there are aliases. */
  readonly names: readonly string[];
  /** `needed`: the next word, or attached; `attached`: only attached, and may be left out. */
  readonly value?: "needed" | "attached";
  /** What is wrong with the value; told before later words are looked at. */
  readonly refuse?: (value: string) => Refusal | undefined;
  /** Our option for it; default its long name. Null: nothing of ours. */
  readonly ours?: string | null;
  /** Its line in the help; default the names in braces. Null: the program does not tell it. */
  readonly shown?: string | null;
}

/** Said on standard error, with the program's help where it shows that, and status 1. */
export interface Refusal {
  readonly message: string;
  readonly showsUsage: boolean;
}

export interface GivenOption {
  readonly option: ToolOption;
  readonly value: string | undefined;
}

export interface Given {
  readonly options: readonly GivenOption[];
  /** Words that are no options. */
  readonly words: readonly string[];
}

/** The help and the version are asked for where `asked` says so: whatever stands behind is not looked at. */
export type Parsed =
  | ({ readonly kind: "given" } & Given)
  | { readonly kind: "help" | "version" }
  | { readonly kind: "refused"; readonly refusal: Refusal };

export const HELP: ToolOption = { names: ["-h", "--help"] };
export const VERSION: ToolOption = { names: ["-V", "--version"] };

export function parseWords(program: string, known: readonly ToolOption[], argv: readonly string[]): Parsed {
  const options: GivenOption[] = [];
  const words: string[] = [];
  const queue = [...argv];
  const no = (message: string): Parsed => ({
    kind: "refused",
    refusal: { message: `${program}: ${message}`, showsUsage: true },
  });
  for (let word = queue.shift(); word !== undefined; word = queue.shift()) {
    if (word === "--") {
      words.push(...queue.splice(0));
      break;
    }
    if (!word.startsWith("-") || word === "-") {
      words.push(word);
      continue;
    }
    let found: GivenOption;
    if (word.startsWith("--")) {
      const [name = "", attached] = splitAtEquals(word);
      const matches = matching(known, name);
      if (matches.length === 0) return no(`unrecognized option '${name}'`);
      if (matches.length > 1) {
        const names = matches.map((each) => `'${each.name}'`).join(" ");
        return no(`option '${name}' is ambiguous; possibilities: ${names}`);
      }
      const { name: full, option } = matches[0]!;
      if (attached !== undefined && option.value === undefined) return no(`option '${full}' doesn't allow an argument`);
      const value = attached ?? (option.value === "needed" ? queue.shift() : undefined);
      if (option.value === "needed" && value === undefined) return no(`option '${full}' requires an argument`);
      found = { option, value };
    } else {
      const letter = word.charAt(1);
      const option = known.find(({ names }) => names.includes(`-${letter}`));
      if (option === undefined) return no(`invalid option -- '${letter}'`);
      const rest = word.slice(2);
      if (option.value === undefined && rest !== "") queue.unshift(`-${rest}`);
      const attached = option.value === undefined || rest === "" ? undefined : rest;
      const value = attached ?? (option.value === "needed" ? queue.shift() : undefined);
      if (option.value === "needed" && value === undefined) return no(`option requires an argument -- '${letter}'`);
      found = { option, value };
    }
    if (found.option === HELP) return { kind: "help" };
    if (found.option === VERSION) return { kind: "version" };
    const refusal = found.value === undefined ? undefined : found.option.refuse?.(found.value);
    if (refusal !== undefined) return { kind: "refused", refusal };
    options.push(found);
  }
  return { kind: "given", options, words };
}

function splitAtEquals(word: string): readonly [string, string | undefined] {
  const at = word.indexOf("=");
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}

/** The option of that name, else those whose names begin with it. */
function matching(
  known: readonly ToolOption[],
  name: string,
): { readonly name: string; readonly option: ToolOption }[] {
  const all = known.flatMap((option) =>
    option.names.filter((each) => each.startsWith("--")).map((each) => ({ name: each, option })),
  );
  const exact = all.filter((each) => each.name === name);
  if (exact.length > 0) return exact;
  const near = all.filter((each) => each.name.startsWith(name));
  return near.every(({ option }) => option === near[0]?.option) ? near.slice(0, 1) : near;
}

/** Whether an option was given, by one of its names. */
export function isGiven({ options }: Given, name: string): boolean {
  return options.some(({ option }) => option.names.includes(name));
}

/** The value it was given last. */
export function lastValueOf({ options }: Given, name: string): string | undefined {
  return options.findLast(({ option }) => option.names.includes(name))?.value;
}

/** Our words for what was given, without the words that are no options. */
export function oursOf({ options }: Given): string[] {
  return options.flatMap(({ option, value }) => {
    if (option.ours === null) return [];
    const name = option.ours ?? option.names.find((each) => each.startsWith("--")) ?? option.names[0]!;
    return [value === undefined ? name : `${name}=${value}`];
  });
}
