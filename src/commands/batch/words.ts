/**
 * A line as words, quoted as in a shell: '...' as it stands, "..." with \" \\ \$ \` and \newline, a backslash before any
 * other character takes away its meaning, # begins a comment at the start of a word. Nothing is expanded. What a shell
 * would act on (pipes, redirections, variables, patterns) is refused where it stands unquoted, so that a line never
 * means here what it does not mean there.
 */
import { UsageError } from "../../errors/index.js";

export type Split =
  | { readonly kind: "words"; readonly words: readonly string[] }
  /** Goes on in the next line: a backslash at the end, or a quote that is open. */
  | { readonly kind: "unfinished"; readonly why: string };

const ACTIVE = new Set([..."|&;<>()`$"]);

export function splitWords(text: string): Split {
  const words: string[] = [];
  let word: string | undefined;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at]!;
    if (letter === "\\") {
      const next = text[++at];
      if (next === undefined) return { kind: "unfinished", why: "the line ends with a backslash" };
      // A backslash before the end of a line joins it with the next one.
      if (next !== "\n") word = (word ?? "") + next;
    } else if (letter === "'") {
      const end = text.indexOf("'", at + 1);
      if (end < 0) return { kind: "unfinished", why: "a ' is not closed" };
      word = (word ?? "") + text.slice(at + 1, end);
      at = end;
    } else if (letter === '"') {
      const quoted = doubleQuoted(text, at + 1);
      if (quoted === undefined) return { kind: "unfinished", why: 'a " is not closed' };
      word = (word ?? "") + quoted.text;
      at = quoted.end;
    } else if (letter === " " || letter === "\t" || letter === "\n" || letter === "\r") {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else if (letter === "#" && word === undefined) {
      const end = text.indexOf("\n", at);
      at = end < 0 ? text.length : end - 1;
    } else {
      if (ACTIVE.has(letter)) throw notHere(letter);
      word = (word ?? "") + letter;
    }
  }
  if (word !== undefined) words.push(word);
  return { kind: "words", words };
}

function doubleQuoted(text: string, start: number): { readonly text: string; readonly end: number } | undefined {
  let result = "";
  for (let at = start; at < text.length; at++) {
    const letter = text[at]!;
    if (letter === '"') return { text: result, end: at };
    if (letter === "$" || letter === "`") throw notHere(letter);
    if (letter === "\\") {
      const next = text[++at];
      if (next === undefined) return undefined;
      result += '"\\$`'.includes(next) ? next : next === "\n" ? "" : `\\${next}`;
    } else result += letter;
  }
  return undefined;
}

function notHere(letter: string): UsageError {
  return new UsageError(`'${letter}' has no meaning here`, {
    hint: `lines are commands of udm, not of a shell; quote it where it is meant: '${letter}'`,
  });
}
