/**
 * The host of a daemon, as a command has it: every method is a request over the socket, with the results and errors the
 * daemon's host gives. Streams stay with the command: what a method writes comes over the socket to the stream that was
 * given, what it reads is sent as the daemon asks for it.
 */
import { connect, type Socket } from "node:net";
import { codeOf, IoError, messageOf, StateError } from "../../errors/index.js";
import { nativeCalls } from "../../io/index.js";
import type { Host, HostPlans } from "../host.js";
import { lengthOf } from "../transfer.js";
import { bytesHead, type Frame, FrameReader, messageFrame } from "./frames.js";
import { METHOD_NAMES, PLAN_NAMES } from "./methods.js";
import {
  errorFromPlain,
  type Greeting,
  MAX_ANSWER_BYTES,
  PIECE_BYTES,
  type Placeholder,
  PROTOCOL,
  parseToClient,
  type ToClient,
  type ToDaemon,
} from "./protocol.js";
import { daemonPaths, descriptorOf, socketAddress, socketIdentity } from "./socket-path.js";

export interface ConnectOptions {
  readonly stateDir: string;
  readonly runDir: string;
  readonly version: string;
  /** Where relative paths begin. */
  readonly cwd: string;
  readonly lockTimeoutMs?: number;
  readonly log?: (line: string) => void;
  /** Wants to be told what is logged. */
  readonly wantsLog?: boolean;
  /** How long a daemon that is there may take to answer. Default 10 seconds. */
  readonly answerMs?: number;
}

const ANSWER_MS = 10_000;
/** Methods that take a stream as their second argument; others have it in their options, as `input` or `output`. */
const STREAM_ARGUMENT: Readonly<Record<string, string>> = { readDevice: "output", writeDevice: "input" };
const ENDINGS = ["drain", "error", "close"] as const;

/**
 * The host of the daemon that has this state dir; undefined when none answers: there is no socket, nobody listens on it
 * any more, or the daemon is just ending.
 * @throws StateError EACCES (not our socket), EINVAL (another protocol); IoError ETIMEDOUT (it hangs)
 */
export async function connectHost(options: ConnectOptions): Promise<Host | undefined> {
  const { socket: path } = daemonPaths(options);
  if (socketIdentity(path) === undefined) return undefined;
  const socket = await dial(path);
  if (socket === undefined) return undefined;
  const link = new Link(socket, options);
  const greeting = await link.welcome(path, options.answerMs ?? ANSWER_MS);
  return greeting === undefined ? undefined : hostOf(link);
}

/** Somebody listens on the socket. @throws StateError EACCES */
export async function isAnswered(path: string): Promise<boolean> {
  if (socketIdentity(path) === undefined) return false;
  const socket = await dial(path);
  socket?.destroy();
  return socket !== undefined;
}

async function dial(path: string): Promise<Socket | undefined> {
  const { address, done } = socketAddress(path);
  try {
    return await new Promise<Socket>((resolve, reject) => {
      const socket = connect({ path: address });
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(socket);
      });
      socket.once("error", reject);
    });
  } catch (error) {
    const code = codeOf(error);
    // Left behind by a daemon that was killed, or gone between two looks.
    if (code === "ECONNREFUSED" || code === "ENOENT" || code === "ECONNRESET") return undefined;
    if (code === "EACCES" || code === "EPERM") {
      throw new StateError("EACCES", `${path}: the daemon belongs to another user`, {
        hint: "run this as the user who started it, or set UDM_STATE_DIR and UDM_RUN_DIR",
        cause: error,
      });
    }
    if (code === "EAGAIN") {
      throw new StateError("EBUSY", `${path}: the daemon has too many connections`, {
        hint: "try again",
        cause: error,
      });
    }
    throw new IoError("EIO", `${path}: ${messageOf(error)}`, { hint: "udm daemon status", cause: error });
  } finally {
    done();
  }
}

/** The connection had ended before a request was made: nothing of it was done. */
export class DaemonGone extends IoError {
  constructor(method: string) {
    super("EIO", `the daemon has ended, '${method}' was not begun`, { hint: "try again" });
  }
}

/** It is there, and says nothing: it is stopped, or stuck. */
export class DaemonSilent extends IoError {
  constructor(
    path: string,
    readonly pid: number | undefined,
  ) {
    const who = pid === undefined ? "" : ` (process ${pid})`;
    super("ETIMEDOUT", `${path}: the daemon${who} does not answer`, {
      hint: "udm doctor tells what waits for it; one that hangs may be killed, nothing that was flushed is lost",
    });
  }
}

/** The process behind a connection, where the kernel tells it. */
function peerPid(socket: Socket): number | undefined {
  const fd = descriptorOf(socket);
  try {
    return fd === undefined ? undefined : nativeCalls()?.peerOf(fd).pid;
  } catch {
    return undefined;
  }
}

interface Pending {
  readonly method: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  readonly progress: ((done: number, total: number) => void) | undefined;
  readonly streams: readonly number[];
}

/** Bytes on their way to the daemon. */
interface Outgoing {
  readonly input: NodeJS.ReadableStream;
  credit: number;
  wake: (() => void) | undefined;
  isStarted: boolean;
  isOver: boolean;
}

class Link {
  readonly #socket: Socket;
  readonly #options: ConnectOptions;
  readonly #reader = new FrameReader({ maxBytes: MAX_ANSWER_BYTES });
  readonly #pending = new Map<number, Pending>();
  readonly #outgoing = new Map<number, Outgoing>();
  readonly #incoming = new Map<number, NodeJS.WritableStream>();
  #next = 1;
  #greeting: Greeting | undefined;
  #onWelcome: ((result: Greeting | undefined | Error) => void) | undefined;
  #failure: Error | undefined;
  #isClosing = false;
  readonly #closed: Promise<void>;

  constructor(socket: Socket, options: ConnectOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#closed = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("data", (chunk: Buffer) => this.#onData(chunk));
    socket.on("error", () => undefined);
    socket.on("close", () => this.#onClose());
    // Only a request keeps the program running.
    socket.unref();
  }

  /** Undefined when it hangs up first: it is ending. */
  async welcome(path: string, answerMs: number): Promise<Greeting | undefined> {
    this.#socket.ref();
    let timer: NodeJS.Timeout | undefined;
    const result = await new Promise<Greeting | undefined | Error>((resolve) => {
      this.#onWelcome = resolve;
      timer = setTimeout(() => {
        resolve(new DaemonSilent(path, peerPid(this.#socket)));
      }, answerMs);
      if (this.#socket.destroyed) resolve(undefined);
    });
    clearTimeout(timer);
    this.#onWelcome = undefined;
    this.#socket.unref();
    if (result instanceof Error) {
      this.#socket.destroy();
      throw result;
    }
    return result;
  }

  request(method: string, args: readonly unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined || this.#isClosing) return reject(new DaemonGone(method));
      const id = this.#next++;
      const streams: number[] = [];
      let progress: Pending["progress"];
      const stand = (value: unknown, role: string | undefined): unknown => {
        if (typeof value === "function") progress = value as Pending["progress"];
        return this.#placeholder(value, role, streams) ?? value;
      };
      const given = args.map((each, index) => {
        if (!isPlainObject(each)) return stand(each, index === 1 ? STREAM_ARGUMENT[method] : undefined);
        return Object.fromEntries(Object.entries(each).map(([key, value]) => [key, stand(value, key)]));
      });
      while (given.length > 0 && given.at(-1) === undefined) given.pop();
      this.#pending.set(id, { method, resolve, reject, progress, streams });
      this.#socket.ref();
      this.#send({ type: "request", id, method, args: given });
    });
  }

  /** Waits for what is under way, as the host of this process does, and hangs up. */
  async close(): Promise<void> {
    if (this.#isClosing) return this.#closed;
    this.#isClosing = true;
    await Promise.allSettled([...this.#pending.values()].map((each) => new Promise<void>((r) => onSettled(each, r))));
    this.#socket.ref();
    this.#socket.end();
    await this.#closed;
  }

  #placeholder(value: unknown, role: string | undefined, streams: number[]): Placeholder | undefined {
    if (typeof value === "function") return { $udm: "progress" };
    if (typeof value !== "object" || value === null || (role !== "input" && role !== "output")) return undefined;
    const stream = this.#next++;
    streams.push(stream);
    if (role === "input") {
      const input = value as NodeJS.ReadableStream;
      this.#outgoing.set(stream, { input, credit: 0, wake: undefined, isStarted: false, isOver: false });
      return { $udm: "in", stream, knownBytes: lengthOf(input) };
    }
    const out = value as NodeJS.WritableStream;
    this.#incoming.set(stream, out);
    // Nobody reads it any more: the daemon need not go on.
    out.once("error", () => {
      if (this.#incoming.delete(stream)) this.#send({ type: "end", stream });
    });
    return { $udm: "out", stream };
  }

  #send(message: ToDaemon): void {
    this.#socket.write(messageFrame(message));
  }

  #onData(chunk: Buffer): void {
    try {
      for (const frame of this.#reader.push(chunk)) this.#onFrame(frame);
    } catch (error) {
      this.#failure ??= new IoError("EIO", `the daemon's answer cannot be read: ${messageOf(error)}`, {
        hint: "is another program listening on its socket? udm daemon status",
        cause: error,
      });
      this.#socket.destroy();
    }
  }

  #onFrame(frame: Frame): void {
    if (frame.kind === "bytes") {
      const out = this.#incoming.get(frame.stream);
      if (out === undefined || out.write(frame.bytes)) return;
      // Whoever reads us is slow: so are we.
      this.#socket.pause();
      const goOn = () => {
        for (const event of ENDINGS) out.off(event, goOn);
        this.#socket.resume();
      };
      for (const event of ENDINGS) out.once(event, goOn);
      return;
    }
    const message = parseToClient(frame.value);
    switch (message.type) {
      case "greeting":
        return this.#onGreeting(message);
      case "welcome":
        return this.#onWelcome?.(this.#greeting);
      case "refused":
        return this.#onWelcome?.(errorFromPlain(message.error));
      case "result":
        return this.#settle(message.id, ({ resolve }) => resolve(message.value));
      case "failure":
        return this.#settle(message.id, ({ reject }) => reject(errorFromPlain(message.error)));
      case "progress":
        this.#pending.get(message.id)?.progress?.(message.done, message.total);
        return;
      case "log":
        this.#options.log?.(message.line);
        return;
      case "pull":
        return this.#onPull(message);
    }
  }

  #onGreeting(greeting: ToClient & { readonly type: "greeting" }): void {
    this.#greeting = greeting;
    const { cwd, lockTimeoutMs, wantsLog, version } = this.#options;
    this.#send({ type: "hello", protocol: PROTOCOL, version, cwd, lockTimeoutMs, wantsLog: wantsLog === true });
  }

  #settle(id: number, how: (pending: Pending) => void): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#pending.delete(id);
    for (const stream of pending.streams) {
      this.#incoming.delete(stream);
      const outgoing = this.#outgoing.get(stream);
      this.#outgoing.delete(stream);
      if (outgoing !== undefined) endOutgoing(outgoing);
    }
    if (this.#pending.size === 0) this.#socket.unref();
    how(pending);
  }

  #onPull({ stream, bytes }: { readonly stream: number; readonly bytes: number }): void {
    const outgoing = this.#outgoing.get(stream);
    if (outgoing === undefined) return;
    outgoing.credit += bytes;
    outgoing.wake?.();
    if (outgoing.isStarted) return;
    outgoing.isStarted = true;
    void this.#pump(stream, outgoing);
  }

  /** Sends a stream, no more than was asked for. */
  async #pump(stream: number, outgoing: Outgoing): Promise<void> {
    let failure: string | undefined;
    try {
      for await (const chunk of outgoing.input) {
        const bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
        for (let at = 0; at < bytes.length && !outgoing.isOver; ) {
          if (outgoing.credit === 0) {
            await new Promise<void>((resolve) => {
              outgoing.wake = resolve;
            });
            continue;
          }
          const piece = bytes.subarray(at, at + Math.min(PIECE_BYTES, outgoing.credit));
          outgoing.credit -= piece.length;
          at += piece.length;
          this.#socket.write(bytesHead(stream, piece.length));
          this.#socket.write(piece);
        }
        if (outgoing.isOver) return;
      }
    } catch (error) {
      failure = messageOf(error);
    }
    if (!outgoing.isOver) this.#send({ type: "end", stream, ...(failure === undefined ? {} : { error: failure }) });
  }

  #onClose(): void {
    this.#onWelcome?.(this.#failure);
    for (const id of [...this.#pending.keys()]) {
      this.#settle(id, ({ method, reject }) => reject(this.#failure ?? goneAway(method)));
    }
    this.#failure ??= goneAway("that");
  }
}

function goneAway(method: string): IoError {
  return new IoError("EIO", `the daemon ended before '${method}' was done`, {
    hint: "what it had flushed or reported is there; udm doctor looks for the rest, then try again",
  });
}

/** What nobody reads any more is closed, as it is by a loop that is left early. */
function endOutgoing(outgoing: Outgoing): void {
  outgoing.isOver = true;
  outgoing.wake?.();
  const { input } = outgoing;
  if (outgoing.isStarted && "destroy" in input && typeof input.destroy === "function") input.destroy();
}

function onSettled(pending: Pending, done: () => void): void {
  const { resolve, reject } = pending;
  Object.assign(pending, {
    resolve: (value: unknown) => {
      resolve(value);
      done();
    },
    reject: (error: unknown) => {
      reject(error);
      done();
    },
  });
}

function isPlainObject(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function hostOf(link: Link): Host {
  const table = <Name extends string>(names: readonly Name[], prefix: string) =>
    Object.fromEntries(names.map((name) => [name, (...args: unknown[]) => link.request(`${prefix}${name}`, args)]));
  const plan = table(PLAN_NAMES, "plan.") as unknown as HostPlans;
  const methods = table(METHOD_NAMES, "") as unknown as Omit<Host, "plan" | "close">;
  return { ...methods, plan, close: () => link.close() };
}
