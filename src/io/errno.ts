/** System errors, from node's fs or from our own calls, as errors of ours: which code, which class, which hint. */
import { constants } from "node:os";
import { type Code, codeOf, IoError, messageOf, SpaceError, StateError, UdmError } from "../errors/index.js";

/** Codes that have a meaning of their own above; what is not here is an input/output error. */
const KNOWN: Readonly<Record<string, Code>> = {
  ENOENT: "ENOENT",
  ENOTDIR: "ENOENT",
  EBUSY: "EBUSY",
  ETXTBSY: "EBUSY",
  EEXIST: "EEXIST",
  EINVAL: "EINVAL",
  EISDIR: "EINVAL",
  ELOOP: "EINVAL",
  ENAMETOOLONG: "EINVAL",
  ENOSPC: "ENOSPC",
  EDQUOT: "ENOSPC",
  EROFS: "EROFS",
  ENODEV: "ENODEV",
  ENXIO: "ENXIO",
  EPERM: "EPERM",
  EACCES: "EACCES",
  ENOTBLK: "ENOTBLK",
  EOPNOTSUPP: "EOPNOTSUPP",
  ENOTSUP: "EOPNOTSUPP",
  ENOSYS: "EOPNOTSUPP",
  ENOTTY: "EOPNOTSUPP",
  ENOLCK: "EOPNOTSUPP",
  ENOMEM: "ENOMEM",
  EFBIG: "EFBIG",
  ETIMEDOUT: "ETIMEDOUT",
  EAGAIN: "EAGAIN",
  EPIPE: "EPIPE",
  EINTR: "EINTR",
};

/** What the system calls an errno, without node's prefix and suffix: `no space left on device`. */
const REASON: Readonly<Record<string, string>> = {
  ENOENT: "no such file or directory",
  EBUSY: "device or resource busy",
  EEXIST: "file exists",
  EINVAL: "invalid argument",
  EISDIR: "is a directory",
  ENOTDIR: "not a directory",
  ENOSPC: "no space left on device",
  EDQUOT: "disk quota exceeded",
  EROFS: "read-only file system",
  ENODEV: "no such device",
  ENXIO: "no such device or address",
  EPERM: "operation not permitted",
  EACCES: "permission denied",
  EOPNOTSUPP: "operation not supported",
  ENOTSUP: "operation not supported",
  ENOTTY: "operation not supported by this device",
  ENOMEM: "out of memory",
  EFBIG: "file too large",
  EIO: "input/output error",
  EBADF: "it is closed",
  EMFILE: "too many open files",
  ENFILE: "too many open files in the system",
};

/** Some numbers have two names; the older one comes later in this reversed list and stays. */
const nameByNumber: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, number]) => [number, name]),
);

/** Name of an errno number: 28 is `ENOSPC`. */
export function errnoName(number: number): string {
  return nameByNumber.get(number) ?? `errno ${number}`;
}

/** Our code for the name of an errno; EIO for what has no meaning of its own. */
export function codeForErrno(name: string): Code {
  return KNOWN[name] ?? "EIO";
}

/** `operation not permitted` for EPERM; the name itself where we have no words. */
export function reasonForErrno(name: string): string {
  return REASON[name] ?? name;
}

/**
 * Wraps what a system call threw. `context` is what and where (`disk.img: write of 4096 bytes at 8192`).
 * @returns SpaceError for a full disk or quota, StateError for what is missing, busy or forbidden, else IoError; an
 * UdmError comes back as it is.
 */
export function systemError(error: unknown, context: string, hint?: string): UdmError {
  if (error instanceof UdmError) return error;
  const name = codeOf(error);
  if (name === undefined) return new IoError("EIO", `${context}: ${messageOf(error)}`, withHint(error, hint));
  return errnoError(name, context, hint, error);
}

/** As systemError, from an errno's name. */
export function errnoError(name: string, context: string, hint?: string, cause?: unknown): UdmError {
  const code = codeForErrno(name);
  const message = `${context}: ${reasonForErrno(name)}`;
  switch (code) {
    case "ENOSPC":
      return new SpaceError(message, withHint(cause, hint ?? "make room on the file system and try again"));
    case "ENOENT":
    case "EEXIST":
    case "EBUSY":
    case "EACCES":
    case "EPERM":
      return new StateError(code, message, withHint(cause, hint));
    default:
      return new IoError(code, message, withHint(cause, hint));
  }
}

function withHint(cause: unknown, hint: string | undefined): { cause?: unknown; hint?: string } {
  return { ...(cause === undefined ? {} : { cause }), ...(hint === undefined ? {} : { hint }) };
}
