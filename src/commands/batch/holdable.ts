/**
 * Which commands may stand in a group that is committed as one: those that change the state and a pool's metadata only,
 * or look at things. What writes data, makes files, waits, or brings pools into being or away runs by itself.
 */
import { UsageError } from "../../errors/index.js";
import { FAMILIES, splitAtWord } from "../index.js";

const TOGETHER: Readonly<Record<string, readonly string[]>> = {
  loop: ["list"],
  pool: ["list", "status", "map", "check", "message"],
  thin: "create snap delete activate deactivate resize rename rollback list usage map diff".split(" "),
  table: ["show", "status", "save"],
  device: ["list", "info", "deps"],
};

/** Messages that are about a commit. */
const BY_ITSELF = ["reserve_metadata_snap", "release_metadata_snap"];

/** Commands that cannot stand inside another, and options that belong to the whole. */
const NEVER = ["batch", "shell"];
const OUTER_OPTIONS = ["--state-dir", "--lock-timeout"];

export interface Verb {
  readonly family: string | undefined;
  readonly name: string;
}

/** What a line calls; both empty where the line's own parser will complain. */
export function verbOf(words: readonly string[]): Verb {
  const first = split(words);
  const word = first?.word ?? "";
  if (!FAMILIES.some((each) => each.name === word)) return { family: undefined, name: word };
  return { family: word, name: split(first!.rest)?.word ?? "" };
}

function split(words: readonly string[]): ReturnType<typeof splitAtWord> | undefined {
  try {
    return splitAtWord(words);
  } catch (error) {
    if (error instanceof UsageError) return undefined;
    throw error;
  }
}

export function isHoldable(words: readonly string[]): boolean {
  const { family, name } = verbOf(words);
  if (family === undefined || TOGETHER[family]?.includes(name) !== true) return false;
  return !words.some((word) => BY_ITSELF.includes(word.toLowerCase()));
}

/** Asks before it is done, unless it has --yes. */
const ASKING = ["delete", "rollback"];

export function mayAsk(words: readonly string[]): boolean {
  return ASKING.includes(verbOf(words).name) && !words.some((word) => word === "-y" || word === "--yes");
}

/** Prints bytes that are no text. */
export function isRaw(words: readonly string[]): boolean {
  const { family, name } = verbOf(words);
  return family !== undefined && (name === "read" || (name === "export" && words.includes("-")));
}

/** @throws UsageError for what belongs to the outer command */
export function refuseOuter(words: readonly string[], outer: string): void {
  const { family, name } = verbOf(words);
  if (family === undefined && NEVER.includes(name)) {
    throw new UsageError(`${name}: not inside udm ${outer}`, { hint: "leave it, or write its lines here" });
  }
  const end = words.indexOf("--");
  const option = words
    .slice(0, end < 0 ? undefined : end)
    .find((word) => OUTER_OPTIONS.some((each) => word === each || word.startsWith(`${each}=`)));
  if (option !== undefined) {
    throw new UsageError(`${option}: holds for all lines`, { hint: `give it to udm ${outer}` });
  }
}
