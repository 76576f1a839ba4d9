/** The form of thin_shrink: data moves into free blocks, the new metadata goes to another file. */
import { createReadStream, type Stats, statSync } from "node:fs";
import { resolve } from "node:path";
import { StateError, UsageError } from "../../errors/index.js";
import type { Host, OpenedPlace } from "../../host/index.js";
import { type BlockDevice, systemError } from "../../io/index.js";
import {
  BlockStore,
  planSoundShrink,
  refuseShortData,
  type ShrinkFigures,
  shrinkPool,
  shrinkXml,
} from "../../thin/index.js";
import type { Context } from "../context.js";
import type { DocumentOf } from "../schema/documents.js";
import { withPace } from "./options.js";
import { withOutput } from "./output.js";
import type { ShrinkFlags } from "./shrink.js";
import { targetOf } from "./target.js";

type ElsewhereFlags = ShrinkFlags & { readonly input: string; readonly output: string };

const PIECE_BYTES = 1024 * 1024;
const METADATA_BLOCK_BYTES = 4096;

export async function shrinkElsewhere(context: Context, flags: ElsewhereFlags): Promise<void> {
  const { input, output, copy, nrBlocks } = flags;
  const device = flags.data ?? flags.dataDev;
  if (device === undefined) {
    throw new UsageError("metadata shrink: --data is missing", { hint: "the pool's data device" });
  }
  if (nrBlocks === undefined) {
    throw new UsageError("metadata shrink: with --input the size is given in blocks", { hint: "--nr-blocks NUMBER" });
  }
  const { isSamePlace, openPlace } = await import("../../host/index.js");
  if (input === output || isSamePlace(input, output)) {
    throw new UsageError("metadata shrink: input and output are the same", {
      hint: "name two files; without --input and --output the pool is shrunk in place",
    });
  }
  context.takeInterrupt();
  const host = await context.host();
  const place = await host.locateMetadata(device, "data");
  const { dryRun } = context.globals;
  const data = copy ? openPlace(place, { write: !dryRun, role: "data to shrink" }) : undefined;
  try {
    const work = flags.binary === true ? shrinkBinary : shrinkText;
    const figures = await work(context, host, { ...flags, nrBlocks }, data?.device);
    if (dryRun) {
      const words = ["thin_shrink", "--input", input, "--output", output, "--data", device];
      const more = [...(copy ? [] : ["--no-copy"]), ...(flags.binary === true ? ["--binary"] : [])];
      const plan = [[...words, "--nr-blocks", nrBlocks, ...more].join(" ")];
      if (context.globals.json) context.json({ plan } satisfies DocumentOf<"plan">);
      else context.lines(plan);
    } else if (context.globals.json) {
      const { blockBytes, blocksBefore, blocksAfter, blocksToMove, bytesToMove } = figures;
      const moved = { movedBlocks: blocksToMove, movedBytes: bytesToMove, commits: 0 };
      const sizes = { blockBytes, blocksBefore, blocksAfter, ...moved, fileBytes: null };
      context.json({ shrunk: { pool: null, ...sizes } } satisfies DocumentOf<"shrunk">);
    }
  } finally {
    await data?.close();
  }
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw systemError(error, path);
  }
}

type Counted = ElsewhereFlags & { readonly nrBlocks: number };

async function shrinkText(
  context: Context,
  _host: Host,
  flags: Counted,
  data: BlockDevice | undefined,
): Promise<ShrinkFigures> {
  const { input, output, nrBlocks } = flags;
  const stat = statOf(input);
  if (stat === undefined) throw new StateError("ENOENT", `${input}: no such file`, { hint: "name the XML of a dump" });
  if (!stat.isFile()) {
    throw new StateError("EINVAL", `${input}: not a file; it is read twice`, {
      hint: "save the dump in a file; with --binary name metadata",
    });
  }
  const common = {
    name: input,
    open: () => createReadStream(input, { highWaterMark: PIECE_BYTES }) as AsyncIterable<Uint8Array>,
    textBytes: stat.size,
    blocksAfter: nrBlocks,
    data,
  };
  const planned = await withPace(context, `read ${input}`, 1, (pace) =>
    shrinkXml({ ...common, pace, isDryRun: true, write: () => undefined }),
  );
  if (context.globals.dryRun) return planned;
  if (data !== undefined && planned.blocksToMove > 0) {
    // A dump that is old, or of some devices alone, has blocks as free that are not.
    await context.confirm(
      `copy ${planned.blocksToMove} data blocks on '${data.name}' over some that '${input}' has as free`,
    );
  }
  let figures: ShrinkFigures | undefined;
  const { isSamePlace } = await import("../../host/index.js");
  const source = { isFile: (path: string) => isSamePlace(path, input), confirm: () => undefined };
  await withOutput(context, { file: output, source }, async (write) => {
    figures = await withPace(context, `shrink ${input}`, 1, (pace) => shrinkXml({ ...common, pace, write }));
  });
  return figures!;
}

/** The output is a copy of the input at first, a pool with the same data; then it is shrunk in place. */
async function shrinkBinary(
  context: Context,
  host: Host,
  flags: Counted,
  data: BlockDevice | undefined,
): Promise<ShrinkFigures> {
  const { input, output, nrBlocks } = flags;
  const { NewDeviceFile, openPlace } = await import("../../host/index.js");
  const source = openPlace(await host.locateMetadata(input), { role: "metadata to read" });
  let target: OpenedPlace | undefined;
  try {
    const plan = await withPace(context, `check ${input}`, METADATA_BLOCK_BYTES, (pace) =>
      planSoundShrink(new BlockStore(source.device), { blocksAfter: nrBlocks, mayHoldSnapshot: false, pace }),
    );
    refuseShortData(plan, data);
    if (context.globals.dryRun) return plan.figures;
    const bytes = plan.superblock.metadataMap.nrBlocks * METADATA_BLOCK_BYTES;
    const shrinkCopy = async (target: BlockDevice): Promise<void> => {
      await copyMetadata(source.device, target, bytes);
      await withPace(context, `shrink ${input}`, 1, (pace) => shrinkPool(target, plan, { data, pace }));
    };
    const place = await targetOf(context, output);
    if (place === undefined) {
      await using file = new NewDeviceFile(resolve(output), bytes);
      await shrinkCopy(file.device);
      await file.finish();
      return plan.figures;
    }
    target = openPlace(place, { write: true, role: "metadata to write" });
    if (target.device.sizeBytes < bytes) {
      throw new StateError("ENOSPC", `${output}: ${target.device.sizeBytes} bytes, the metadata has ${bytes}`, {
        hint: "give it the size of the input, or name a file that does not exist",
      });
    }
    await context.confirm(`overwrite '${output}' with metadata`);
    await shrinkCopy(target.device);
    return plan.figures;
  } finally {
    await source.close();
    await target?.close();
  }
}

/** The superblock is wiped first and written last: what is cut off is no pool. */
async function copyMetadata(from: BlockDevice, to: BlockDevice, bytes: number): Promise<void> {
  await to.write(0, new Uint8Array(METADATA_BLOCK_BYTES));
  await to.flush();
  const buffer = new Uint8Array(PIECE_BYTES);
  for (let at = METADATA_BLOCK_BYTES; at < bytes; at += buffer.length) {
    const piece = buffer.subarray(0, Math.min(buffer.length, bytes - at));
    await from.read(at, piece);
    await to.write(at, piece);
  }
  await to.flush();
  const superblock = buffer.subarray(0, METADATA_BLOCK_BYTES);
  await from.read(0, superblock);
  await to.write(0, superblock);
  await to.flush();
}
