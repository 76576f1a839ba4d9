/** Where a tool writes new metadata: something that is there, or a file that is to be made. */
import { codeOf, StateError, UsageError } from "../../errors/index.js";
import type { Host, MetadataPlace } from "../../host/index.js";
import type { Context } from "../context.js";

/** Undefined for a file that is to be made. @throws StateError EBUSY for what is no place for metadata */
export async function targetOf(context: Context, output: string): Promise<MetadataPlace | undefined> {
  const host = await context.host();
  try {
    return await presentTargetOf(host, output);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    const { isAmongDevices, placeOf } = await import("../../host/index.js");
    const place = placeOf(output);
    if (place === undefined || isAmongDevices(place)) throw error;
    return undefined;
  }
}

/** Of what is there. @throws StateError ENOENT; EBUSY for the data of a pool, or what a loop device stands on */
export async function presentTargetOf(host: Host, output: string): Promise<MetadataPlace> {
  const place = await host.locateMetadata(output);
  if (place.pool !== undefined) return place;
  const { pool } = await host.locateMetadata(output, "data");
  if (pool !== undefined) {
    throw new StateError("EBUSY", `${output}: holds the data of pool '${pool}'`, {
      hint: "metadata written there would destroy it; name another file or device",
    });
  }
  const { isSamePlace } = await import("../../host/index.js");
  const isWhole = place.sizeBytes === undefined && place.offsetBytes === 0;
  const loop = isWhole ? (await host.listLoops()).find(({ file }) => isSamePlace(file, place.path)) : undefined;
  if (loop !== undefined) {
    throw new StateError("EBUSY", `${output}: is what loop device ${loop.dev} stands on`, {
      hint: "name the loop device, or detach it first",
    });
  }
  return place;
}

/** @throws UsageError */
export async function refuseMetadataAsData(data: MetadataPlace, metadata: MetadataPlace): Promise<void> {
  const { isSamePlace } = await import("../../host/index.js");
  if (!isSamePlace(data.path, metadata.path) || !overlap(data, metadata)) return;
  throw new UsageError(`${data.name}: is the metadata, and cannot be the data`, {
    hint: "name the pool's data device",
  });
}

function overlap(a: MetadataPlace, b: MetadataPlace): boolean {
  const end = ({ offsetBytes, sizeBytes }: MetadataPlace) =>
    sizeBytes === undefined ? Number.POSITIVE_INFINITY : offsetBytes + sizeBytes;
  return a.offsetBytes < end(b) && b.offsetBytes < end(a);
}
