/**
 * What client and daemon say to each other over the socket, in frames. The daemon greets first; the client answers with
 * who it is; then requests, in any number at a time. Bytes of streams flow in frames of their own: towards the client as
 * fast as it takes them, towards the daemon as it asks for them.
 *
 * A change that an older program would misunderstand raises PROTOCOL; both sides refuse another number.
 */
import {
  type Code,
  codeOf,
  DamageError,
  IoError,
  messageOf,
  SpaceError,
  StateError,
  ToolError,
  UdmError,
  UsageError,
} from "../../errors/index.js";

export const PROTOCOL = 1;

/** Requests are small; a table to be restored is the largest. */
export const MAX_REQUEST_BYTES = 16 * 2 ** 20;
/** The map of a large pool is an answer of some hundred megabytes. */
export const MAX_ANSWER_BYTES = 1 * 2 ** 30;
/** Bytes of a stream in one frame. */
export const PIECE_BYTES = 512 * 1024;
/** Bytes the client may send of a stream before the daemon asks for more. */
export const WINDOW_BYTES = 8 * 2 ** 20;
/** Requests of one connection at a time. */
export const MAX_REQUESTS = 64;
export const MAX_CONNECTIONS = 256;

export interface Greeting {
  readonly udm: "daemon";
  readonly protocol: number;
  readonly version: string;
  readonly pid: number;
  readonly stateDir: string;
}

export interface Hello {
  readonly protocol: number;
  readonly version: string;
  readonly cwd: string;
  readonly lockTimeoutMs: number | undefined;
  /** Wants to be told what is logged. */
  readonly wantsLog: boolean;
}

export interface Request {
  readonly id: number;
  /** A method of Host, `plan.METHOD` for a plan. */
  readonly method: string;
  readonly args: readonly unknown[];
}

export type ToDaemon =
  | ({ readonly type: "hello" } & Hello)
  | ({ readonly type: "request" } & Request)
  /** A stream towards the daemon ends, well or with an error. */
  | { readonly type: "end"; readonly stream: number; readonly error?: string };

export type ToClient =
  | ({ readonly type: "greeting" } & Greeting)
  | { readonly type: "refused"; readonly error: PlainError }
  | { readonly type: "welcome" }
  | { readonly type: "result"; readonly id: number; readonly value?: unknown }
  | { readonly type: "failure"; readonly id: number; readonly error: PlainError }
  | { readonly type: "progress"; readonly id: number; readonly done: number; readonly total: number }
  | { readonly type: "log"; readonly line: string }
  /** The client may send this many more bytes of a stream. */
  | { readonly type: "pull"; readonly stream: number; readonly bytes: number };

/** What stands for an argument that is not a plain value. */
export type Placeholder =
  | { readonly $udm: "in"; readonly stream: number; readonly knownBytes: number | undefined }
  | { readonly $udm: "out"; readonly stream: number }
  | { readonly $udm: "progress" };

export interface PlainError {
  readonly name: string;
  readonly code: string | undefined;
  readonly message: string;
  readonly hint: string | undefined;
}

export function errorToPlain(error: unknown): PlainError {
  if (error instanceof UdmError) {
    return { name: error.name, code: error.code, message: error.message, hint: error.hint };
  }
  return { name: "Error", code: codeOf(error), message: messageOf(error), hint: undefined };
}

const CLASSES = { UdmError, StateError, IoError, ToolError } as const;

/** The error as it would have been thrown here. */
export function errorFromPlain({ name, code, message, hint }: PlainError): Error {
  const extra = hint === undefined ? {} : { hint };
  switch (name) {
    case "UsageError":
      return new UsageError(message, extra);
    case "SpaceError":
      return new SpaceError(message, extra);
    case "DamageError":
      return new DamageError(message, extra, code as Code);
    case "UdmError":
    case "StateError":
    case "IoError":
    case "ToolError":
      return new CLASSES[name](code as Code, message, extra);
    case "InvariantError":
      return new UdmError("EBUG", message, extra);
    default:
      return code === undefined ? new Error(message) : Object.assign(new Error(message), { code });
  }
}

// What came over the wire is checked before it is trusted

/** @throws StateError EINVAL */
export function parseToDaemon(value: unknown): ToDaemon {
  const message = fields(value);
  switch (message.type) {
    case "hello": {
      const { protocol, version, cwd, lockTimeoutMs, wantsLog } = message;
      if (!isCount(protocol) || typeof version !== "string" || typeof cwd !== "string") throw malformed("hello");
      const isTime = lockTimeoutMs === undefined || (typeof lockTimeoutMs === "number" && lockTimeoutMs >= 0);
      if (!isTime) throw malformed("hello");
      return { type: "hello", protocol, version, cwd, lockTimeoutMs, wantsLog: wantsLog === true };
    }
    case "request": {
      const { id, method, args } = message;
      if (!isCount(id) || typeof method !== "string" || !Array.isArray(args)) throw malformed("request");
      return { type: "request", id, method, args };
    }
    case "end": {
      const { stream, error } = message;
      if (!isCount(stream) || (error !== undefined && typeof error !== "string")) throw malformed("end");
      return { type: "end", stream, ...(error === undefined ? {} : { error }) };
    }
    default:
      throw malformed(String(message.type).slice(0, 20));
  }
}

/** @throws StateError EINVAL */
export function parseToClient(value: unknown): ToClient {
  const message = fields(value);
  const known = ["greeting", "refused", "welcome", "result", "failure", "progress", "log", "pull"];
  if (typeof message.type !== "string" || !known.includes(message.type)) throw malformed(String(message.type));
  return message as unknown as ToClient;
}

export function placeholderOf(value: unknown): Placeholder | undefined {
  if (typeof value !== "object" || value === null || !("$udm" in value)) return undefined;
  const { $udm, stream, knownBytes } = value as Record<string, unknown>;
  if ($udm === "progress") return { $udm };
  if (($udm !== "in" && $udm !== "out") || !isCount(stream)) throw malformed("placeholder");
  if ($udm === "out") return { $udm, stream };
  if (knownBytes !== undefined && !isCount(knownBytes)) throw malformed("placeholder");
  return { $udm, stream, knownBytes };
}

function fields(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw malformed("message");
  return value as Record<string, unknown>;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function malformed(what: string): StateError {
  return new StateError("EINVAL", `not a ${what} of the daemon's protocol`);
}
