/** A host over a temporary folder, and small ways to fill and look at its devices. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { PassThrough, Readable } from "node:stream";
import { openHost } from "../../src/host/index.js";
import type { Host, HostOptions } from "../../src/index.js";
import { temporaryFolder } from "../support/make-folder.js";

export const MIB = 2 ** 20;

export interface TestHost extends Host {
  readonly folder: string;
  readonly logged: string[];
  path(name: string): string;
}

export async function makeHost(options: Partial<HostOptions> & { readonly folder?: string } = {}): Promise<TestHost> {
  const folder = options.folder ?? temporaryFolder();
  const logged: string[] = [];
  const host = await openHost({
    stateDir: join(folder, "state"),
    runDir: join(folder, "run"),
    log: (line) => logged.push(line),
    ...options,
  });
  return { ...host, folder, logged, path: (name) => join(folder, name) };
}

/** A pool of 8 MiB metadata and 64 MiB data on two new files. */
export async function makePool(host: TestHost, name = "pool"): Promise<void> {
  await host.createPool({
    name,
    source: {
      kind: "devices",
      data: host.path(`${name}-data.img`),
      metadata: host.path(`${name}-meta.img`),
      dataSizeBytes: 64 * MIB,
      metadataSizeBytes: 8 * MIB,
    },
  });
}

/** Bytes that differ from block to block and from seed to seed. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 4) bytes.writeUInt32LE((at * 2654435761 + seed * 40503) >>> 0, at);
  return bytes;
}

export function write(host: Host, name: string, bytes: Buffer, offsetBytes = 0): Promise<number> {
  return host.writeDevice(name, Readable.from([bytes]), { offsetBytes });
}

export async function read(host: Host, name: string, offsetBytes = 0, lengthBytes?: number): Promise<Buffer> {
  const out = new PassThrough();
  const parts: Buffer[] = [];
  out.on("data", (part: Buffer) => parts.push(part));
  await host.readDevice(name, out, { offsetBytes, ...(lengthBytes === undefined ? {} : { lengthBytes }) });
  out.end();
  return Buffer.concat(parts);
}

export async function digest(host: Host, name: string): Promise<string> {
  return createHash("sha256")
    .update(await read(host, name))
    .digest("hex");
}
