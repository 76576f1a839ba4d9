/** `udm metadata explore`: walks over the blocks of metadata, at the keyboard or one by one. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import type { OpenedMetadata } from "../../host/index.js";
import { type DescribedBlock, describeSure, firstStep, followPath, type Step } from "../../thin/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { exploreOnScreen } from "./explore-screen.js";
import { headingOf, hexLines, listOf } from "./explore-text.js";
import { addSourceOptions, openSource, SOURCE, type SourceFlags, withSource } from "./options.js";

interface ExploreFlags extends SourceFlags {
  readonly block?: number;
  readonly path?: readonly number[];
  readonly hex?: boolean;
}

export function exploreCommand(context: Context): Command {
  const command = new Command("explore")
    .description(
      "Shows metadata block by block: fields, entries, what is wrong, where it leads. At a terminal it is walked with the arrow keys; elsewhere, and with --block or --path, one block is printed.",
    )
    .argument("<source>", SOURCE)
    .addOption(new Option("--block <number>", "print this block").argParser(countOf("block")))
    .addOption(
      new Option("--path <blocks>", "print the block at the end of this way, such as '0 > 7 > 12'").argParser(
        parsePath,
      ),
    )
    .option("--hex", "print the bytes of the block, too");
  return addSourceOptions(command).action((from: string, flags: ExploreFlags) => explore(context, from, flags));
}

function parsePath(text: string): readonly number[] {
  const words = text.split(/[\s>/,]+/).filter((word) => word !== "");
  if (words.length > 0 && words.every((word) => /^\d{1,15}$/.test(word))) return words.map(Number);
  throw new UsageError(`path '${text}' is none`, { hint: "numbers of blocks, such as '0 > 7 > 12'" });
}

async function explore(context: Context, from: string, flags: ExploreFlags): Promise<void> {
  const { block, path } = flags;
  if (block !== undefined && path !== undefined) {
    throw new UsageError("explore: --block and --path exclude each other", { hint: "leave one out" });
  }
  const { stdin, stdout } = context.streams;
  const wantsScreen = block === undefined && path === undefined && !context.globals.json && flags.hex !== true;
  const isTerminal = stdin.isTTY === true && stdout.isTTY === true && context.environment.TERM !== "dumb";
  if (wantsScreen && isTerminal) {
    await using opened = await openSource(context, from, flags);
    return await exploreOnScreen(context, opened);
  }
  await withSource(context, from, flags, async (opened) => print(context, opened, flags));
}

function print(context: Context, opened: OpenedMetadata, { block, path, hex }: ExploreFlags): void {
  const { store, superblock } = opened;
  const steps = path === undefined ? [stepTo(superblock, block)] : followPath(store, path, superblock);
  const described = describeSure(store, steps.at(-1)!);
  if (context.globals.json) return context.json(documentOf(described, steps, hex === true));
  context.lines([
    headingOf(described, steps),
    ...described.problems.map((problem) => `damaged: ${problem}`),
    ...listOf([...described.fields, ...described.entries]),
    ...(hex === true ? hexLines(described.bytes) : []),
  ]);
}

function stepTo(superblock: number, block: number | undefined): Step {
  if (block === undefined || block === superblock) return firstStep(superblock);
  return block === 0 ? firstStep(0) : { block, role: undefined };
}

function documentOf(described: DescribedBlock, steps: readonly Step[], hex: boolean): DocumentOf<"metadataBlock"> {
  const { block, kind, title, problems, fields, entries, bytes } = described;
  const plain = (list: DescribedBlock["entries"]) =>
    list.map(({ label, text, target }) => ({ label, text, ...(target === undefined ? {} : { block: target.block }) }));
  return {
    metadataBlock: {
      block,
      path: steps.map((step) => step.block),
      kind,
      title,
      problems,
      fields: plain(fields),
      entries: plain(entries),
      ...(hex ? { bytes: Buffer.from(bytes).toString("hex") } : {}),
    },
  };
}
