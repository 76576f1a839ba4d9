/**
 * Every failure udm reports. A class says who must act, a code says what the kernel would have answered, the hint is
 * the next safe step. Nothing here prints.
 */

/** errno names, as the kernel and section 1 of the command line's specification use them. */
export type Code =
  | "ENOENT"
  | "EBUSY"
  | "EEXIST"
  | "EINVAL"
  | "ENOSPC"
  | "EIO"
  | "EROFS"
  | "ENODEV"
  | "ENXIO"
  | "EPERM"
  | "EACCES"
  | "EUCLEAN"
  | "EILSEQ"
  | "ENOTBLK"
  | "ENODATA"
  | "EOPNOTSUPP"
  | "ENOMEM"
  | "EFBIG"
  | "ETIMEDOUT"
  | "EAGAIN"
  | "EPIPE"
  | "EINTR"
  | "EUSAGE"
  | "EBUG";

/** Exit status of the program by code; everything not named is 1. Source: udm-cli, section 1. */
const EXIT_STATUS: Partial<Record<Code, number>> = { EUSAGE: 2, EBUG: 70, EINTR: 130 };

export interface ErrorExtra {
  /** The next safe step, shown on a line of its own. */
  readonly hint?: string;
  readonly cause?: unknown;
}

/** Base of all failures udm knows. `code` is the errno the kernel would return for it. */
export class UdmError extends Error {
  override readonly name: string = "UdmError";
  readonly hint: string | undefined;

  constructor(
    readonly code: Code,
    message: string,
    extra: ErrorExtra = {},
  ) {
    super(message, extra.cause === undefined ? undefined : { cause: extra.cause });
    this.hint = extra.hint;
  }

  get exitStatus(): number {
    return EXIT_STATUS[this.code] ?? 1;
  }
}

/** The command line is wrong: an unknown option, a number that does not parse. */
export class UsageError extends UdmError {
  override readonly name = "UsageError";
  constructor(message: string, extra: ErrorExtra = {}) {
    super("EUSAGE", message, extra);
  }
}

/** The thing asked for does not fit the state of things: busy, exists, missing, suspended, refused. */
export class StateError extends UdmError {
  override readonly name = "StateError";
}

/** Room ran out: data blocks, metadata blocks, the file system below. */
export class SpaceError extends UdmError {
  override readonly name = "SpaceError";
  constructor(message: string, extra: ErrorExtra = {}) {
    super("ENOSPC", message, extra);
  }
}

/**
 * What was read is not what may stand there. The engine throws it and changes nothing.
 * @param code EUCLEAN unless the kernel has a finer answer (EILSEQ for content, ENOTBLK for a wrong block number).
 */
export class DamageError extends UdmError {
  override readonly name = "DamageError";
  constructor(message: string, extra: ErrorExtra = {}, code: Code = "EUCLEAN") {
    super(code, message, extra);
  }
}

/** A device or file answered with an error. */
export class IoError extends UdmError {
  override readonly name = "IoError";
}

/** The other side does not keep to the protocol. */
export class ProtocolError extends UdmError {
  override readonly name = "ProtocolError";
  constructor(message: string, extra: ErrorExtra = {}) {
    super("EIO", message, extra);
  }
}

/** A program we ran failed, is missing or took too long. */
export class ToolError extends UdmError {
  override readonly name = "ToolError";
}

/** Our own mistake. Says so, exits 70. */
export class InvariantError extends UdmError {
  override readonly name = "InvariantError";
  constructor(message: string, extra: ErrorExtra = {}) {
    super("EBUG", `internal error: ${message}`, {
      hint: "this is a bug in udm; nothing was committed. Please report it with the command you ran",
      ...extra,
    });
  }
}

/** Asserts what must hold; stays on in production. */
export function invariant(condition: boolean, message: string): asserts condition {
  if (!condition) throw new InvariantError(message);
}

/** Code of a thrown value, if it carries one: our own errors and node's system errors. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** Message of any thrown value, on one line. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replaceAll(/\s*\n\s*/g, " ");
}

/** What a log is told of an exception that nobody expected: with the place it comes from, on lines of its own. */
export function mistakeText(error: unknown): string {
  return `internal error, please report it: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
