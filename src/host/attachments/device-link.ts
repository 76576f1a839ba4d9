/**
 * The name of an attached device: a symbolic link in a folder such as /dev/mapper. A link is made and renamed in one step,
 * and one that leads anywhere else than to a loop or NBD device that nobody needs is never touched.
 */
import { lstatSync, readlinkSync, realpathSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { codeOf, StateError } from "../../errors/index.js";
import { makeFolder, systemError } from "../../io/index.js";
import { listKernelLoops } from "../../loop/index.js";
import { isNbdInUse, nbdNumber } from "./nbd-node.js";

/** What stands at a path: nothing, a link nobody needs any more, or something that is not ours. */
type Found =
  | { readonly kind: "nothing" | "leftover" }
  | { readonly kind: "other"; readonly what: string; readonly hint?: string };

/** @param folder where images of ours are mounted: a loop device on one of these, which nobody serves, is a leftover */
function lookAt(path: string, folder: string): Found {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return { kind: "nothing" };
  if (!stat.isSymbolicLink()) return { kind: "other", what: stat.isBlockDevice() ? "a block device" : "a file" };
  const target = resolve(dirname(path), readlinkSync(path));
  const nbd = nbdNumber(target);
  if (nbd !== undefined && !isNbdInUse(nbd)) return { kind: "leftover" };
  if (nbd !== undefined) {
    const what = `a link to ${target}, which is still in use`;
    return { kind: "other", what, hint: "udm doctor tells how to take it away" };
  }
  const number = /^\/dev\/loop(\d+)$/.exec(target)?.[1];
  if (number === undefined) return { kind: "other", what: `a link to ${target}` };
  const loop = listKernelLoops().find((each) => each.number === Number(number));
  if (loop === undefined) return { kind: "leftover" };
  if (loop.backingFile.startsWith(`${folder}/`)) {
    // Of this daemon, or of one that was killed while it was mounted.
    const what = `a link to ${target}, which is still in use`;
    return { kind: "other", what, hint: "udm doctor tells how to take it away" };
  }
  return { kind: "other", what: `a link to ${target}, which stands on ${loop.backingFile}` };
}

/** @throws StateError EEXIST when something else has the name */
export function checkLink(path: string, folder: string): void {
  const found = lookAt(path, folder);
  if (found.kind !== "other") return;
  throw new StateError("EEXIST", `${path} is there already: ${found.what}`, {
    hint: found.hint ?? "remove what has this name, or choose another folder with UDM_DEV_DIR",
  });
}

/** @throws StateError EEXIST, EACCES, EPERM, ENOENT; IoError */
export function makeLink(path: string, target: string, folder: string): void {
  checkLink(path, folder);
  try {
    makeFolder(dirname(path));
    try {
      symlinkSync(target, path);
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
      // A leftover is replaced in one step; whoever was faster than us meanwhile is refused.
      checkLink(path, folder);
      const beside = join(dirname(path), `.udm-${process.pid}-${target.replaceAll("/", "")}`);
      symlinkSync(target, beside);
      renameSync(beside, path);
    }
  } catch (error) {
    throw systemError(error, `${path}: the link cannot be made`);
  }
}

/** Removes a link that leads to `target`; any other stays. */
export function removeLink(path: string, target: string): void {
  try {
    if (readlinkSync(path) === target) rmSync(path);
  } catch (error) {
    // Gone, or not a link any more: not ours.
    if (codeOf(error) !== "ENOENT" && codeOf(error) !== "EINVAL") throw systemError(error, path);
  }
}

/** The path a link's name leads to, or the path itself. */
export function realPathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}
