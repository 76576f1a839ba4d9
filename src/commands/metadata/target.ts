/** Where a tool writes new metadata: something that is there, or a file that is to be made. */
import { resolve } from "node:path";
import { codeOf } from "../../errors/index.js";
import type { MetadataPlace } from "../../host/index.js";
import type { Context } from "../context.js";

/** Undefined for a file that is to be made. */
export async function targetOf(context: Context, output: string): Promise<MetadataPlace | undefined> {
  const host = await context.host();
  try {
    return await host.locateMetadata(output);
  } catch (error) {
    // A name that is mistyped must not become a file among the devices.
    if (codeOf(error) !== "ENOENT" || resolve(output).startsWith("/dev/")) throw error;
    return undefined;
  }
}
