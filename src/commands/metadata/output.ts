/** Where tools write what they make: a file of their own, or standard output. */
import { once } from "node:events";
import { statSync } from "node:fs";
import { StateError, UsageError } from "../../errors/index.js";
import type { OpenedMetadata } from "../../host/index.js";
import { FileDevice } from "../../io/index.js";
import type { Context } from "../context.js";
import { poolVictimOf, victimOf } from "./victim.js";

const STANDARD_OUTPUT: ReadonlySet<string> = new Set(["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]);

export function isStandardOutput(file: string): boolean {
  return STANDARD_OUTPUT.has(file);
}

/**
 * Runs `work` with something to write to. A file takes its name once all of it is written; an interrupt or a failure
 * leaves what was there before.
 * @param file undefined, `-` or another name of it: standard output
 * @param source what it is made of: not written over, and asked to confirm before the file takes its name
 * @param isForced the user is not asked whatever the output holds
 */
export async function withOutput(
  context: Context,
  {
    file,
    source,
    isForced,
  }: {
    readonly file: string | undefined;
    readonly source: Pick<OpenedMetadata, "isFile" | "confirm">;
    readonly isForced?: boolean | undefined;
  },
  work: (write: (piece: Uint8Array) => void | Promise<void>) => Promise<void>,
): Promise<void> {
  if (file !== undefined && !isStandardOutput(file)) {
    const { isSamePlace, OutputFile, placeOf } = await import("../../host/index.js");
    // Whether anybody may come to it is seen before anything else is said about it.
    placeOf(file);
    if (source.isFile(file)) {
      throw new UsageError(`${file}: is what is read, and would be written over`, { hint: "name another file" });
    }
    const host = await context.host();
    const loop = (await host.listLoops()).find((each) => isSamePlace(each.file, file));
    if (loop !== undefined) {
      throw new StateError("EBUSY", `${file}: is what loop device ${loop.dev} stands on`, {
        hint: "name another file",
      });
    }
    if (isForced !== true) await confirmOutput(context, file);
    using output = new OutputFile(file);
    await work((piece) => output.write(piece));
    source.confirm();
    output.finish();
    return;
  }
  const { stdout } = context.streams;
  await context.whileRead(
    work(async (piece) => {
      if (!stdout.write(piece)) await once(stdout, "drain");
    }),
  );
}

/** A pool, or a device with something on it, in the place of the output was meant to be the input. */
async function confirmOutput(context: Context, file: string): Promise<void> {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (stat?.isFile() !== true && stat?.isBlockDevice() !== true) return;
  await using device = FileDevice.open(file, { readOnly: true });
  const deed = stat.isFile() ? poolVictimOf(device, file) : victimOf(device, file);
  if (deed !== undefined) await context.confirm(deed);
}
