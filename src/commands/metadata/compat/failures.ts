/** Failures of our commands in the words of the programs they stand in for, where those have words for them. */
import { statSync } from "node:fs";
import type { Failure } from "../../context.js";
import { type Given, isGiven, lastValueOf, type Refusal } from "./getopt.js";

export const BAD_PATH = "bad path";
const SUPERBLOCK_BYTES = 4096;

/** What the programs say of an input before they read it; undefined: they go on. */
export function refuseInput(path: string, tooSmall: string): Refusal | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return undefined;
  if (!stat.isFile() && !stat.isBlockDevice()) return { message: BAD_PATH, showsUsage: false };
  if (stat.isFile() && stat.size < SUPERBLOCK_BYTES) return { message: tooSmall, showsUsage: false };
  return undefined;
}

/** Of the tools that read undamaged metadata. */
export function readingFailure({ code, message }: Failure): string {
  switch (code) {
    case "ENOENT":
      return /no such file or device|no pool, device or file/.test(message) ? "Couldn't stat path" : message;
    case "ENODATA":
      return "no current metadata snap";
    case "EUCLEAN": {
      const wanted = /\(superblock\): checksum \S+, wanted (0x[0-9a-f]+)/.exec(message)?.[1];
      if (wanted !== undefined) return `bad checksum in superblock, wanted ${Number(wanted)}`;
      const block = /metadata block (\d+) \(btree node\): checksum/.exec(message)?.[1];
      return block === undefined ? message : `bad checksum in btree node (block ${block})`;
    }
    default:
      return message;
  }
}

export function dumpFailure(failure: Failure): string {
  const text = readingFailure(failure);
  const isInSuperblock = text.includes("superblock");
  if (failure.code !== "EUCLEAN" || isInSuperblock) return text;
  return "metadata contains errors (run thin_check for details).\nperhaps you wanted to run with --repair";
}

export function rmapFailure(failure: Failure): string {
  const text = readingFailure(failure);
  return failure.code === "EUCLEAN" && !text.includes("superblock")
    ? "Damage in mapping tree, please run thin_check.\n"
    : text;
}

export function deltaFailure(failure: Failure, given: Given): string {
  const id = /has no device (\d+)$/.exec(failure.message)?.[1];
  if (id === undefined) return readingFailure(failure);
  const side = lastValueOf(given, "--thin1") === id ? 1 : 2;
  return `Unable to find mapping tree for snap${side} (${id})`;
}

/** With --quiet thin_check says nothing at all. */
export function checkFailure(failure: Failure, given: Given): string | undefined {
  if (isGiven(given, "--quiet")) return undefined;
  return failure.code === "ENODATA" || failure.code === "EUCLEAN" ? failure.message : readingFailure(failure);
}

export const NO_OUTPUT = [
  "Output file does not exist.",
  "",
  "The output file should either be a block device,",
  "or an existing file.  The file needs to be large",
  "enough to hold the metadata.",
].join("\n");

/** Of thin_restore, and whoever else writes metadata. */
export function writingFailure({ code, message }: Failure, given: Given): string {
  const isInput = message.startsWith(`${lastValueOf(given, "--input")}: `);
  if (isInput && code === "ENOENT") return "Couldn't stat file";
  if (isInput && message.endsWith("is a folder")) return "Not a regular file";
  if (code === "ENOENT") return NO_OUTPUT;
  if (message.endsWith("not a file or block device")) return BAD_PATH;
  return message;
}

export function repairFailure(failure: Failure): string {
  const { code, message } = failure;
  if (code === "ENOENT") return "Couldn't stat file";
  return message.endsWith("not a file or block device") ? BAD_PATH : message;
}
