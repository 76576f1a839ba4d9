/** How a plan names a mapped device. */
import type { Host } from "../../host/index.js";
import { quoted } from "../change.js";

/** @returns its path for a shell @throws StateError when there is no such device */
export async function shellDevice(host: Host, name: string): Promise<string> {
  const { name: found } = await host.deviceInfo(name);
  return quoted(`/dev/mapper/${found}`);
}
