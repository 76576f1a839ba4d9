/** `udm metadata delta`: in which blocks two thin devices differ, as thin_delta tells it. */
import { Command, Option } from "commander";
import { UsageError } from "../../errors/index.js";
import { type DeltaSide, deltaMetadata } from "../../thin/index.js";
import type { Context } from "../context.js";
import { DOCUMENT_VERSION } from "../document-version.js";
import { countOf, parseThinId } from "../parse.js";
import { addSourceOptions, SOURCE, type SourceFlags, withPace, withSource } from "./options.js";
import { withOutput } from "./output.js";

interface DeltaFlags extends SourceFlags {
  readonly thin1?: number;
  readonly snap1?: number;
  readonly root1?: number;
  readonly thin2?: number;
  readonly snap2?: number;
  readonly root2?: number;
  readonly output?: string;
}

const METADATA_BLOCK_BYTES = 4096;

export function deltaCommand(context: Context): Command {
  const root = countOf("metadata block", { min: 1 });
  const command = new Command("delta")
    .description(
      "Tells which blocks only one of two thin devices has, and which lie in the same place or in different ones, as XML in the form of thin_delta. From the mappings alone: blocks in different places may hold the same bytes.",
    )
    .argument("<source>", SOURCE)
    .addOption(new Option("--thin1 <id>", "the left device").argParser(parseThinId))
    .addOption(new Option("--snap1 <id>", "the same").argParser(parseThinId))
    .addOption(new Option("--root1 <block>", "or the root of its mapping tree").argParser(root))
    .addOption(new Option("--thin2 <id>", "the right device").argParser(parseThinId))
    .addOption(new Option("--snap2 <id>", "the same").argParser(parseThinId))
    .addOption(new Option("--root2 <block>", "or the root of its mapping tree").argParser(root))
    .option("--output <file>", "write to a file, which takes its name when it is whole")
    .option("--verbose", "with the data blocks");
  return addSourceOptions(command).action((from: string, flags: DeltaFlags & { verbose?: boolean }) =>
    delta(context, from, flags),
  );
}

async function delta(context: Context, from: string, flags: DeltaFlags & { verbose?: boolean }): Promise<void> {
  const left = sideOf(flags.thin1 ?? flags.snap1, flags.root1, 1);
  const right = sideOf(flags.thin2 ?? flags.snap2, flags.root2, 2);
  const isVerbose = flags.verbose === true || context.globals.verbose;
  await withSource(context, from, flags, (opened) =>
    withPace(context, `delta ${opened.name}`, METADATA_BLOCK_BYTES, (pace) =>
      withOutput(context, { file: flags.output, source: opened }, (write) =>
        deltaMetadata(opened.store, {
          superblock: opened.superblock,
          left,
          right,
          format: context.globals.json ? "json" : isVerbose ? "verbose-xml" : "xml",
          documentVersion: DOCUMENT_VERSION,
          pace,
          write,
        }),
      ),
    ),
  );
}

function sideOf(id: number | undefined, root: number | undefined, side: 1 | 2): DeltaSide {
  if (id !== undefined && root !== undefined) {
    throw new UsageError(`metadata delta: --thin${side} and --root${side} exclude each other`, {
      hint: "leave one out",
    });
  }
  if (id !== undefined) return { kind: "device", id };
  if (root !== undefined) return { kind: "root", block: root };
  throw new UsageError(`metadata delta: --thin${side} is missing`, {
    hint: "udm metadata delta --thin1 ID --thin2 ID SOURCE; udm metadata ls lists the ids",
  });
}
