/** What a host looks like from outside, to compare before and after; and copies of its folder. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Host } from "../../src/index.js";
import { makeFolder } from "../support/make-folder.js";
import { digest } from "./make-host.js";

/** What a user sees of a host: devices, thin devices, loops, and the content of what is active. */
export async function sight(host: Host): Promise<string> {
  const lines: string[] = [];
  for (const loop of await host.listLoops()) lines.push(`loop ${loop.number} ${loop.sizeBytes} ${loop.usedBy}`);
  for (const device of await host.listDevices()) {
    lines.push(`device ${device.name} ${device.sizeBytes} ${device.state} ${device.hasInactiveTable}`);
  }
  for (const pool of await host.listPools()) {
    const { status } = await host.poolStatus(pool.name);
    lines.push(
      `pool ${pool.name} ${status.totalDataBlocks} ${status.totalMetadataBlocks} used ${status.usedDataBlocks}`,
    );
    for (const thin of await host.listThins(pool.name)) {
      const isReadable = thin.active && pool.state === "ACTIVE";
      const content = isReadable ? await digest(host, thin.name!) : "";
      lines.push(`thin ${thin.name} ${thin.sizeBytes} ${thin.mappedBytes} ${content}`);
    }
  }
  return lines.sort().join("\n");
}

/** A folder as it is now, with the paths in its state led to the copy. */
export function copyOf(folder: string): string {
  const copy = makeFolder();
  // Holes stay holes, which node's own copy fills.
  execFileSync("cp", ["--archive", "--sparse=auto", `${folder}/.`, copy]);
  const state = join(copy, "state/state.json");
  if (existsSync(state)) writeFileSync(state, readFileSync(state, "utf8").replaceAll(folder, copy));
  return copy;
}
