/** Where tools write what they make: a file of their own, or standard output. */
import { once } from "node:events";
import type { Context } from "../context.js";

/**
 * Runs `work` with something to write to. A file takes its name once all of it is written; an interrupt or a failure
 * leaves what was there before.
 * @param file undefined or `-`: standard output
 */
export async function withOutput(
  context: Context,
  file: string | undefined,
  work: (write: (piece: Uint8Array) => void | Promise<void>) => Promise<void>,
): Promise<void> {
  if (file !== undefined && file !== "-") {
    const { OutputFile } = await import("../../host/index.js");
    using output = new OutputFile(file);
    await work((piece) => output.write(piece));
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
