/**
 * Who may write to a file or block device: one at a time, across processes and state dirs.
 *
 * A claim is a lock bound to an open descriptor, so it ends with the process however that ends:
 *
 * - a block device is opened with O_EXCL, which the kernel also refuses while it is mounted, swap, or under another device;
 * - a regular file gets an OFD lock over the claimed range, a write lock for writers and a read lock for readers, so that two
 *   loop devices on two parts of one file may have different holders. Beside it stands a shared flock on the whole file: it
 *   keeps out those who only have flock, and gives /proc/locks a pid to show;
 * - where OFD locks cannot be had (no koffi), a flock on the whole file, exclusive for writers.
 *
 * Files have no O_EXCL, so for them mounts, swap and the kernel's loop devices are looked up before.
 */
import { closeSync, constants, openSync } from "node:fs";
import { codeOf, StateError } from "../errors/index.js";
import { tryFlock } from "./advisory-lock.js";
import { errnoError, systemError } from "./errno.js";
import { describeHolders, type FileIdentity, findHolders, identityOf, isSameFile, kernelUse } from "./holders.js";
import { type Native, nativeCalls } from "./native.js";

export interface ClaimRequest {
  readonly path: string;
  /** What for, in the words of a message: `data of pool p`. */
  readonly role: string;
  /** Readers share with readers. */
  readonly readOnly?: boolean;
  /** First byte claimed; default 0. */
  readonly offsetBytes?: number;
  /** Bytes claimed; default 0: to the end, however far the file grows. */
  readonly lengthBytes?: number;
}

export interface Claim {
  readonly path: string;
  readonly role: string;
  readonly readOnly: boolean;
  /** May be called twice. */
  release(): void;
  [Symbol.dispose](): void;
}

interface Held {
  readonly request: Required<ClaimRequest>;
  readonly identity: FileIdentity;
}

/** A lock on the whole, shared by the claims of one process on its parts. */
interface Shared {
  readonly identity: FileIdentity;
  readonly fd: number;
  readOnly: boolean;
  users: number;
}

/** All claims of one host. Two of its own claims on the same bytes are refused as those of two processes are. */
export class Claims {
  readonly #native: Native | undefined;
  readonly #held = new Set<Held>();
  readonly #shared: Shared[] = [];

  constructor(options: { readonly native?: Native | "none" } = {}) {
    this.#native = options.native === "none" ? undefined : (options.native ?? nativeCalls());
  }

  /**
   * @throws StateError EBUSY with the holder's name; ENOENT, EACCES; IoError EROFS, or EOPNOTSUPP where the file system
   * has no locks
   */
  claim(request: ClaimRequest): Claim {
    const full = { readOnly: false, offsetBytes: 0, lengthBytes: 0, ...request };
    const identity = identify(full.path);
    const conflict = [...this.#held].find(
      (held) => isSameFile(held.identity, identity) && isInTheWay(held.request, full),
    );
    if (conflict !== undefined) throw ownConflict(full, conflict.request);
    const use = kernelUse(identity, { readOnly: full.readOnly });
    if (use !== undefined) throw busy(full.path, `is ${use}`, "take it out of use there first");
    const unlock = this.#lock(identity, full);
    const held: Held = { request: full, identity };
    this.#held.add(held);
    const release = () => {
      if (this.#held.delete(held)) unlock();
    };
    return { path: full.path, role: full.role, readOnly: full.readOnly, release, [Symbol.dispose]: release };
  }

  /** What a file or block device is claimed for by this host, in the order of claims. */
  rolesOf(path: string): readonly string[] {
    const identity = identify(path);
    return [...this.#held].filter((held) => isSameFile(held.identity, identity)).map((held) => held.request.role);
  }

  #lock(identity: FileIdentity, request: Required<ClaimRequest>): () => void {
    const native = this.#native;
    if (identity.kind === "file" && native !== undefined) return lockRange(identity, request, native);
    return this.#lockWhole(identity, request);
  }

  /** O_EXCL or flock know no ranges: the first claim of this host takes the whole, others join it. */
  #lockWhole(identity: FileIdentity, request: Required<ClaimRequest>): () => void {
    const known = this.#shared.find((each) => isSameFile(each.identity, identity));
    if (known !== undefined && (request.readOnly || !known.readOnly)) {
      known.users++;
      return () => this.#leave(known);
    }
    if (identity.kind === "block") {
      // O_EXCL excludes whoever reads too, so a reader's claim serves a writer as well.
      const shared = known ?? this.#add(identity, openFor(request, identity, constants.O_EXCL), false);
      shared.users++;
      return () => this.#leave(shared);
    }
    const fd = openFor(request, identity, 0);
    const isLocked = tryWhole(fd, request, this.#native);
    if (!isLocked) {
      closeSync(fd);
      throw heldByOthers(request.path, identity);
    }
    const shared = this.#add(identity, fd, request.readOnly);
    shared.users++;
    return () => this.#leave(shared);
  }

  #add(identity: FileIdentity, fd: number, readOnly: boolean): Shared {
    const shared: Shared = { identity, fd, readOnly, users: 0 };
    this.#shared.push(shared);
    return shared;
  }

  #leave(shared: Shared): void {
    shared.users--;
    if (shared.users > 0) return;
    this.#shared.splice(this.#shared.indexOf(shared), 1);
    closeSync(shared.fd);
  }
}

function lockRange(identity: FileIdentity, request: Required<ClaimRequest>, native: Native): () => void {
  const fd = openFor(request, identity, 0);
  const range = { offset: request.offsetBytes, length: request.lengthBytes };
  let isLocked = false;
  try {
    isLocked = markShared(fd, native) && native.lockRange(fd, request.readOnly ? "read" : "write", range);
  } catch (error) {
    throw lockFailure(error, request.path);
  } finally {
    if (!isLocked) closeSync(fd);
  }
  // Only now, so that our own try is not found among the holders.
  if (!isLocked) throw heldByOthers(request.path, identity);
  return () => closeSync(fd);
}

/** @returns false when somebody holds an exclusive flock. Some file systems have only one of the two kinds of lock. */
function markShared(fd: number, native: Native): boolean {
  try {
    return native.flock(fd, "shared");
  } catch (error) {
    if (codeOf(error) === "EOPNOTSUPP") return true;
    throw error;
  }
}

function tryWhole(fd: number, request: Required<ClaimRequest>, native: Native | undefined): boolean {
  try {
    return tryFlock(fd, request.readOnly ? "shared" : "exclusive", native);
  } catch (error) {
    closeSync(fd);
    throw lockFailure(error, request.path);
  }
}

function openFor(request: Required<ClaimRequest>, identity: FileIdentity, extraFlags: number): number {
  const access = request.readOnly ? constants.O_RDONLY : constants.O_RDWR;
  try {
    return openSync(request.path, access | constants.O_NONBLOCK | extraFlags);
  } catch (error) {
    if (codeOf(error) === "EBUSY") throw heldByOthers(request.path, identity, error);
    throw systemError(error, `${request.path}: cannot be claimed for the ${request.role}`);
  }
}

function identify(path: string): FileIdentity {
  try {
    return identityOf(path);
  } catch (error) {
    throw systemError(error, path);
  }
}

function isInTheWay(a: Required<ClaimRequest>, b: Required<ClaimRequest>): boolean {
  if (a.readOnly && b.readOnly) return false;
  const endOf = (each: Required<ClaimRequest>) =>
    each.lengthBytes === 0 ? Number.POSITIVE_INFINITY : each.offsetBytes + each.lengthBytes;
  return a.offsetBytes < endOf(b) && b.offsetBytes < endOf(a);
}

function ownConflict(request: ClaimRequest, present: ClaimRequest): StateError {
  const name = present.path === request.path ? "" : ` (as ${present.path})`;
  return busy(request.path, `is already the ${present.role}${name}`, "give each role a device of its own");
}

function heldByOthers(path: string, identity: FileIdentity, cause?: unknown): StateError {
  const use = kernelUse(identity);
  if (use !== undefined) return busy(path, `is ${use}`, "take it out of use there first", cause);
  const holders = describeHolders(findHolders(identity));
  return busy(path, `is held by ${holders ?? "another process"}`, "only one process at a time may use it", cause);
}

function lockFailure(error: unknown, path: string): Error {
  if (codeOf(error) !== "EOPNOTSUPP") return systemError(error, path);
  return errnoError("EOPNOTSUPP", `${path}: locking`, "its file system has no locks; move it to one that has", error);
}

function busy(path: string, why: string, hint: string, cause?: unknown): StateError {
  return new StateError("EBUSY", `${path}: ${why}`, { hint, ...(cause === undefined ? {} : { cause }) });
}
