/**
 * What stands on the block devices that this process serves. It must never touch that itself: the kernel would wait for an
 * answer of the very thread that waits for the kernel, for ever, and not even a kill helps then. So paths are looked at
 * before anything is opened, from the tables of mounts and loop devices alone, component by component.
 */
import { lstatSync, readlinkSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { StateError } from "../../errors/index.js";
import { mountPoints } from "../../io/index.js";
import { listKernelLoops } from "../../loop/index.js";
import { attachedName } from "./image-folder.js";

const MAX_LINKS = 40;
const LOOP_MAJOR = 7;

export class OwnDevices {
  readonly #folder: string;

  /** @param folder where the images of this process are mounted */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Whether a block device, by its number, is served by this process, or stands on a file system that is. */
  has(number: string): boolean {
    return this.#devices().has(number);
  }

  /** @throws StateError EBUSY when a path leads to a file system on a device that this process serves */
  check(path: string): void {
    const own = this.#devices();
    if (own.size === 0) return;
    const isOwn = mountTable(own);
    let links = 0;
    let rest = path.split("/").filter((word) => word !== "");
    for (let at = "/"; ; ) {
      const device = isOwn(at);
      if (device !== undefined) {
        throw new StateError("EBUSY", `${path} lies on a file system on '${device}', which the daemon serves itself`, {
          hint: "use another file system; export and import also take - for a stream: udm export NAME - > FILE",
        });
      }
      const [word, ...others] = rest;
      if (word === undefined) return;
      const next = resolve(at, word);
      rest = others;
      if (isOwn(next) === undefined) {
        const stat = lstatSync(next, { throwIfNoEntry: false });
        if (stat === undefined) return;
        if (stat.isSymbolicLink() && ++links <= MAX_LINKS) {
          const target = resolve(dirname(next), readlinkSync(next));
          rest = [...target.split("/").filter((each) => each !== ""), ...rest];
          at = "/";
          continue;
        }
      }
      at = next;
    }
  }

  /** Name of the attached device by the number of the block device on it. */
  #devices(): ReadonlyMap<string, string> {
    const loops = listKernelLoops();
    const found = new Map<string, string>();
    for (const { number, backingFile } of loops) {
      const name = attachedName(backingFile, this.#folder);
      if (name !== undefined) found.set(`${LOOP_MAJOR}:${number}`, name);
    }
    // Loop devices on files on these, and so on.
    for (let before = 0; found.size > before; ) {
      before = found.size;
      const isOwn = mountTable(found);
      for (const { number, backingFile } of loops) {
        const name = isOwn(backingFile);
        if (name !== undefined) found.set(`${LOOP_MAJOR}:${number}`, name);
      }
    }
    return found;
  }
}

/** Tells by a path, taken as text, the device that the file system there is on, when it is one of these. */
function mountTable(own: ReadonlyMap<string, string>): (path: string) => string | undefined {
  const points = new Map<string, string | undefined>();
  for (const [number, folders] of mountPoints()) {
    const name = own.get(number);
    // Of several at one place the one that matters here counts.
    for (const folder of folders) points.set(folder, points.get(folder) ?? name);
  }
  return (path) => {
    for (let at = path; ; at = dirname(at)) {
      if (points.has(at)) return points.get(at);
      if (at === "/") return undefined;
    }
  };
}
