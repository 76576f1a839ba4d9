/**
 * What Tab offers at the prompt: the same words that the completion scripts know, with names as they are now. It answers
 * at once, since keys that come in meanwhile would end up in the wrong place.
 */
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { splitWords } from "../batch/words.js";
import { type NameReader, nameReader } from "../completion/names.js";
import {
  type CommandSpec,
  commandSpecs,
  firstWords,
  globalSpecs,
  type Kind,
  type OptionSpec,
  verbsOf,
} from "../completion/specs.js";
import type { Context } from "../context.js";
import { FAMILIES } from "../index.js";

/** Words of the prompt itself. */
export const OWN_WORDS = ["exit", "help", "quit"] as const;

export interface Knowledge {
  readonly specs: ReadonlyMap<string, CommandSpec>;
  readonly names: NameReader;
}

export async function gatherKnowledge(context: Context): Promise<Knowledge> {
  const [specs, names] = await Promise.all([commandSpecs(context), nameReader(context.directories.stateDir)]);
  return { specs: new Map(specs.map((spec) => [spec.title, spec])), names };
}

/** @returns what may stand in place of the last word, and that word as it was typed */
export function completeLine(known: Knowledge, text: string): [hits: string[], word: string] {
  const words = wordsOf(text);
  if (words === undefined) return [[], ""];
  const current = words.pop() ?? "";
  const found = candidates(known, words, current);
  const hits = found.filter((each) => each.startsWith(current));
  const isWhole = hits.length === 1 && !/[/=]$/.test(hits[0]!);
  return [isWhole ? [`${hits[0]} `] : hits, current];
}

/** The last one is being typed; undefined where the quotes are not closed. */
function wordsOf(text: string): string[] | undefined {
  try {
    const split = splitWords(text);
    if (split.kind === "unfinished") return undefined;
    const words = split.words[0] === "udm" ? split.words.slice(1) : split.words;
    return /(^|\s)$/.test(text) ? [...words, ""] : [...words];
  } catch {
    return undefined;
  }
}

function candidates(known: Knowledge, words: readonly string[], current: string): readonly string[] {
  let family = "";
  let title = "";
  let position = 0;
  let options: readonly OptionSpec[] = globalSpecs();
  let places: readonly { readonly kind: Kind; readonly isVariadic: boolean }[] = [];
  let expected: Kind | undefined;
  let isFree = false;
  const take = (found: string) => {
    title = found;
    const spec = known.specs.get(found);
    options = spec?.options ?? options;
    places = spec?.places ?? [];
  };
  for (const word of words) {
    if (expected !== undefined) expected = undefined;
    else if (isFree) position++;
    else if (word === "--") isFree = true;
    else if (word.startsWith("-")) expected = valueKind(options, word);
    else if (title !== "") position++;
    else if (family !== "") take(`${family} ${word}`);
    else if (FAMILIES.some(({ name }) => name === word)) family = word;
    else take(word);
  }
  if (expected !== undefined) return ofKind(known, expected, current);
  if (!isFree && current.startsWith("-")) {
    const equals = current.indexOf("=");
    const value = equals < 0 ? undefined : valueKind(options, current.slice(0, equals));
    if (value === undefined)
      return options.flatMap(({ long, short }) => (short === undefined ? [long] : [long, short]));
    const before = current.slice(0, equals + 1);
    return ofKind(known, value, current.slice(equals + 1)).map((each) => `${before}${each}`);
  }
  if (title === "" && family !== "") return verbsOf(family).map(({ name }) => name);
  if (title === "") return [...firstWords().map(({ name }) => name), ...OWN_WORDS];
  const place = places[position] ?? (places.at(-1)?.isVariadic === true ? places.at(-1) : undefined);
  return place === undefined ? [] : ofKind(known, place.kind, current);
}

function valueKind(options: readonly OptionSpec[], word: string): Kind | undefined {
  return options.find(({ long, short }) => long === word || short === word)?.value;
}

function ofKind(known: Knowledge, kind: Kind, current: string): readonly string[] {
  if (typeof kind !== "string") return kind;
  switch (kind) {
    case "none":
      return [];
    case "files":
      return files(current, false);
    case "dirs":
      return files(current, true);
    case "places":
      return [...known.names("any"), ...files(current, false)];
    case "pools":
    case "thins":
    case "devices":
    case "loops":
    case "any":
      return known.names(kind);
  }
}

function files(current: string, isForFolders: boolean): readonly string[] {
  const folder = current.endsWith("/") ? current : dirname(current);
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    const before = current.endsWith("/") ? current : folder === "." && !current.startsWith("./") ? "" : folder;
    return entries
      .filter((each) => !isForFolders || each.isDirectory())
      .map((each) => `${before === "" ? each.name : join(before, each.name)}${each.isDirectory() ? "/" : ""}`)
      .sort();
  } catch {
    return [];
  }
}
