/** What the metadata tools have in common on the command line: the source, the metadata snapshot, progress. */
import { type Command, Option } from "commander";
import { codeOf } from "../../errors/index.js";
import type { OpenedMetadata } from "../../host/index.js";
import { Pace } from "../../thin/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";

export interface SourceFlags {
  readonly metadataSnap?: true | number;
  readonly forceReadOnly?: boolean;
}

/** `-m, --metadata-snap[=BLOCK]`: as getopt has it, a value must be attached, so that what follows is the source. */
export function addSnapshotOption(command: Command): Command {
  const parseBlock = countOf("block of the metadata snapshot");
  command.addOption(
    new Option(
      "-m, --metadata-snap [block]",
      "read the metadata snapshot; of a pool in use nothing else is sure",
    ).argParser((text: string) => (text === "" ? true : parseBlock(text))),
  );
  const parse = command.parseOptions.bind(command);
  command.parseOptions = (words) => parse(words.map(attachNothing));
  return command;
}

function attachNothing(word: string, index: number, words: readonly string[]): string {
  const isOption = word === "-m" || word === "--metadata-snap";
  return isOption && !words.slice(0, index).includes("--") ? "--metadata-snap=" : word;
}

export function addSourceOptions(command: Command): Command {
  return addSnapshotOption(command).option(
    "--force-read-only",
    "read although somebody else has it in use; fails when it changed meanwhile",
  );
}

export const SOURCE = "a pool, or the file or block device that holds its metadata";

/** Opens the source for reading. The caller disposes of it, and asks it to confirm what was read: better `withSource`. */
export async function openSource(context: Context, from: string, flags: SourceFlags): Promise<OpenedMetadata> {
  const host = await context.host();
  const place = await host.locateMetadata(from);
  const { openMetadata } = await import("../../host/index.js");
  const opened = await openMetadata(place, { snapshot: flags.metadataSnap, forceReadOnly: flags.forceReadOnly, host });
  if (opened.mayBeOld && flags.metadataSnap === undefined) noteOld(context, opened);
  return opened;
}

export function noteOld(context: Context, { name }: OpenedMetadata): void {
  context.note(`${name}: it is in use; its metadata snapshot is read, which may be older`);
}

/**
 * Works on a source that is only read. Where others have it in use and it changed meanwhile, that is the failure, whatever
 * was found: success means that all was of one moment.
 */
export async function withSource<T>(
  context: Context,
  from: string,
  flags: SourceFlags,
  work: (opened: OpenedMetadata) => Promise<T>,
): Promise<T> {
  await using opened = await openSource(context, from, flags);
  let result: T;
  try {
    result = await work(opened);
  } catch (error) {
    if (codeOf(error) === "EUCLEAN") opened.confirm();
    throw error;
  }
  opened.confirm();
  return result;
}

/**
 * Runs long work with a bar on the terminal from the first second on; an interrupt ends it between two steps.
 * @param unit bytes of what the work counts, for the rate
 */
export async function withPace<T>(
  context: Context,
  label: string,
  unitBytes: number,
  work: (pace: Pace) => Promise<T>,
): Promise<T> {
  context.unwinds();
  const bar = context.progress(label);
  const begun = performance.now();
  const pace = new Pace({
    signal: context.interrupt,
    onProgress: (done, total) => {
      if (performance.now() - begun > BAR_AFTER_MS) bar.update(done * unitBytes, total * unitBytes);
    },
  });
  try {
    return await work(pace);
  } finally {
    bar.finish();
  }
}

const BAR_AFTER_MS = 700;
