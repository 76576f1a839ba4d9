/** A thin device by the forms people type. */
import { StateError } from "../../errors/index.js";
import type { Host, ThinInfo } from "../../host/index.js";

/** @param target a name or POOL:ID @throws StateError ENOENT */
export async function thinNamed(host: Host, target: string): Promise<ThinInfo> {
  const thins = await host.listThins();
  const found = thins.find((thin) => thin.name === target || `${thin.pool}:${thin.id}` === target);
  if (found !== undefined) return found;
  throw new StateError("ENOENT", `${target}: no such thin device`, { hint: "udm thin list shows them all" });
}
