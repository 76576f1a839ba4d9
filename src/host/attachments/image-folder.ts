/** Where the images of attached devices are, for those who only want to know. */
import { basename, join } from "node:path";
import { daemonPaths } from "../daemon/socket-path.js";

/** Where the images of a state dir are mounted; with a number behind it when that place is taken. */
export function imageFolder(options: { readonly stateDir: string; readonly runDir: string }): string {
  const key = basename(daemonPaths(options).socket, ".sock").replace(/^daemon-/, "");
  return join(options.runDir, `images-${key}`);
}

/** Name of the device whose image a file is, when it is one of this folder's. */
export function attachedName(file: string | undefined, folder: string): string | undefined {
  if (file?.startsWith(folder) !== true) return undefined;
  return /^(?:-\d+)?\/(.+)$/.exec(file.slice(folder.length))?.[1];
}
