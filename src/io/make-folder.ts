/** Making folders and what is missing above them. */
import { mkdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { codeOf } from "../errors/index.js";

/**
 * Makes a folder, and what is missing above it. Node's own way never ends where a file system has no room for new names
 * and says that they are not there, as /proc does.
 * @throws what the system says
 */
export function makeFolder(path: string, mode = 0o777): void {
  const absolute = resolve(path);
  try {
    mkdirSync(absolute, { mode });
  } catch (error) {
    const parent = dirname(absolute);
    if (
      codeOf(error) === "ENOENT" &&
      statSync(parent, { throwIfNoEntry: false }) === undefined &&
      parent !== absolute
    ) {
      makeFolder(parent, mode);
      return makeFolder(absolute, mode);
    }
    // It is there: whatever the system found more worth telling, a read-only file system for one.
    if (statSync(absolute, { throwIfNoEntry: false })?.isDirectory() !== true) throw error;
  }
}
