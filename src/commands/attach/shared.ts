/** What attach, detach, mount and umount share. */
import { Option } from "commander";
import { StateError } from "../../errors/index.js";
import type { AttachmentFolders, AttachRequest, Via } from "../../host/index.js";
import { defined } from "../change.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";

export interface AttachOptions {
  readonly readOnly?: boolean;
  readonly sectorSize?: number;
  readonly via?: Via;
}

export const readOnlyOption = () => new Option("-r, --read-only", "refuse writes");

export const sectorSizeOption = () =>
  new Option("-b, --sector-size <bytes>", "logical sector size: 512 or 4096").argParser(
    countOf("sector size", { min: 512, max: 4096 }),
  );

export const viaOption = () =>
  new Option("--via <way>", "how: fuse, with a loop device, or nbd, with nbd-client").choices(["fuse", "nbd"]);

/** The command of the classic tools. */
export function detachLine({ node }: { readonly node: string }): string {
  return node.startsWith("/dev/nbd") ? `nbd-client -d ${node}` : `losetup --detach ${node}`;
}

export function attachRequest(context: Context, device: string, options: AttachOptions): AttachRequest {
  return defined({
    device,
    devFolder: context.devFolder,
    readOnly: options.readOnly,
    sectorBytes: options.sectorSize,
    via: options.via,
  });
}

export function foldersOf(context: Context): AttachmentFolders {
  return { ...context.directories, devFolder: context.devFolder };
}

/** A plan needs nothing. @throws StateError EPERM */
export function needRoot(context: Context, what: string): void {
  if (context.isRoot || context.globals.dryRun) return;
  throw new StateError("EPERM", `${what} needs root`, {
    hint: "udm serve exports devices over NBD without root",
  });
}
