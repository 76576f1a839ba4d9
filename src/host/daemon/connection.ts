/**
 * One who is connected, on the daemon's side: greeting, requests, streams. Whatever comes that is not of the protocol ends
 * the connection and nothing else. When the other side goes away, its group is undone, what it waits for ends, and the
 * services it asked for stop.
 */
import type { Socket } from "node:net";
import { Readable, Writable } from "node:stream";
import { codeOf, messageOf, StateError } from "../../errors/index.js";
import type { DaemonInfo, Host, ServiceRequest } from "../host.js";
import { hostOver } from "../open-host.js";
import { bytesHead, type Frame, FrameReader, messageFrame } from "./frames.js";
import { methodOf } from "./methods.js";
import {
  errorToPlain,
  type Hello,
  MAX_REQUEST_BYTES,
  MAX_REQUESTS,
  PIECE_BYTES,
  PROTOCOL,
  parseToDaemon,
  placeholderOf,
  type ToClient,
  type ToDaemon,
  WINDOW_BYTES,
} from "./protocol.js";
import type { Client, ResidentCore } from "./resident-core.js";
import type { Services } from "./services.js";

export interface ConnectionOptions {
  readonly core: ResidentCore;
  readonly services: Services;
  readonly version: string;
  readonly log: (line: string) => void;
  info(): DaemonInfo;
  keep(): void;
  stop(): void;
  /** It has this long to say who it is. */
  readonly greetingMs: number;
  /** It has ended, and nothing of it goes on. */
  readonly onEnd: () => void;
}

/** Streams towards the daemon at a time in one connection. */
const MAX_STREAMS = 16;

export class Connection {
  readonly #socket: Socket;
  readonly #options: ConnectionOptions;
  readonly #reader = new FrameReader({ maxBytes: MAX_REQUEST_BYTES });
  readonly #inputs = new Map<number, Input>();
  readonly #outputs = new Map<number, Output>();
  readonly #requests = new Set<number>();
  #client: Client | undefined;
  #host: Host | undefined;
  readonly #greetingTimer: NodeJS.Timeout;
  #cwd = "/";
  #isOver = false;

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.on("data", (chunk: Buffer) => this.#onData(chunk));
    socket.on("error", () => undefined);
    this.#greetingTimer = setTimeout(() => socket.destroy(), options.greetingMs).unref();
    socket.on("close", () => void this.#onClose());
    this.#send({
      type: "greeting",
      udm: "daemon",
      protocol: PROTOCOL,
      version: options.version,
      pid: process.pid,
      stateDir: options.info().stateDir,
    });
  }

  /** Hangs up. */
  end(): void {
    this.#socket.destroy();
  }

  #onData(chunk: Buffer): void {
    if (this.#isOver) return;
    try {
      for (const frame of this.#reader.push(chunk)) this.#onFrame(frame);
    } catch (error) {
      this.#options.log(`hung up on a connection: ${messageOf(error)}`);
      this.#isOver = true;
      this.#socket.destroy();
    }
  }

  #onFrame(frame: Frame): void {
    if (frame.kind === "bytes") {
      // A stream that ended early: what was on its way is dropped.
      if (this.#client === undefined) throw new StateError("EINVAL", "bytes before the greeting");
      this.#inputs.get(frame.stream)?.accept(frame.bytes);
      return;
    }
    const message: ToDaemon = parseToDaemon(frame.value);
    if (message.type === "hello") return this.#onHello(message);
    const host = this.#host;
    if (host === undefined) throw new StateError("EINVAL", "a request before the greeting");
    if (message.type === "end") {
      this.#inputs.get(message.stream)?.finish(message.error);
      this.#outputs.get(message.stream)?.destroy(new StateError("EPIPE", "nobody reads this any more"));
      return;
    }
    const { id, method, args } = message;
    if (this.#requests.has(id) || this.#requests.size >= MAX_REQUESTS) {
      throw new StateError("EINVAL", `request ${id} is one too many, or there already`);
    }
    this.#requests.add(id);
    void this.#answer(host, id, method, args);
  }

  #onHello(hello: Hello): void {
    if (this.#client !== undefined) throw new StateError("EINVAL", "greeted twice");
    if (hello.protocol !== PROTOCOL) {
      const error = new StateError(
        "EINVAL",
        `the daemon speaks protocol ${PROTOCOL}, this program ${hello.protocol} (udm ${hello.version})`,
        { hint: "start the daemon anew: udm daemon stop" },
      );
      this.#send({ type: "refused", error: errorToPlain(error) });
      this.#isOver = true;
      this.#socket.end();
      return;
    }
    clearTimeout(this.#greetingTimer);
    this.#cwd = hello.cwd.startsWith("/") ? hello.cwd : "/";
    this.#client = this.#options.core.client({
      cwd: this.#cwd,
      ...(hello.lockTimeoutMs === undefined ? {} : { lockTimeoutMs: hello.lockTimeoutMs }),
      log: (line) => {
        if (hello.wantsLog) this.#send({ type: "log", line });
      },
    });
    this.#host = this.#hostFor(this.#client);
    this.#send({ type: "welcome" });
  }

  #hostFor(client: Client): Host {
    const { services, info, keep, stop } = this.#options;
    return {
      ...hostOver(client),
      startService: ({ kind, options, lasts }: ServiceRequest) =>
        services.start({ kind, options, cwd: this.#cwd, owner: lasts === "daemon" ? undefined : this }),
      stopService: (name) => services.stop(name),
      waitService: (name) => services.untilEnded(name),
      listServices: async () => services.list(),
      daemonInfo: async () => info(),
      keepDaemon: async () => keep(),
      stopDaemon: async () => stop(),
    };
  }

  async #answer(host: Host, id: number, method: string, args: readonly unknown[]): Promise<void> {
    const streams: (Input | Output)[] = [];
    try {
      const run = methodOf(host, method);
      if (run === undefined) {
        throw new StateError("EINVAL", `the daemon has no '${method}'`, {
          hint: "it may be older than this program: udm daemon stop, then try again",
        });
      }
      const given = args.map((each) => this.#argument(each, id, streams));
      const value = await run(...given);
      this.#send({ type: "result", id, ...(value === undefined ? {} : { value }) });
    } catch (error) {
      this.#send({ type: "failure", id, error: errorToPlain(error) });
      if (codeOf(error) === undefined || codeOf(error) === "EBUG") {
        this.#options.log(`${method}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      }
    } finally {
      this.#requests.delete(id);
      for (const stream of streams) {
        const known: Map<number, Input | Output> = stream instanceof Input ? this.#inputs : this.#outputs;
        known.delete(stream.number);
        stream.destroy();
      }
    }
  }

  /** Streams and callbacks stand in arguments, or in the options that are the last of them. */
  #argument(value: unknown, id: number, streams: (Input | Output)[]): unknown {
    const top = this.#stand(value, id, streams);
    if (top !== undefined) return top;
    if (value === null) return undefined;
    if (typeof value !== "object" || Array.isArray(value)) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => [key, this.#stand(each, id, streams) ?? each]),
    );
  }

  #stand(value: unknown, id: number, streams: (Input | Output)[]): unknown {
    const placeholder = placeholderOf(value);
    switch (placeholder?.$udm) {
      case undefined:
        return undefined;
      case "progress":
        return (done: number, total: number) => this.#send({ type: "progress", id, done, total });
      case "out": {
        const output = new Output(this.#socket, placeholder.stream);
        this.#outputs.set(output.number, output);
        streams.push(output);
        return output;
      }
      case "in": {
        const { stream, knownBytes } = placeholder;
        if (this.#inputs.size >= MAX_STREAMS || this.#inputs.has(stream)) {
          throw new StateError("EINVAL", `stream ${stream} is one too many, or there already`);
        }
        const pull = (bytes: number) => this.#send({ type: "pull", stream, bytes });
        const input = new Input(stream, knownBytes, pull);
        this.#inputs.set(stream, input);
        streams.push(input);
        return input;
      }
    }
  }

  #send(message: ToClient): void {
    if (!this.#socket.destroyed && !this.#socket.writableEnded) this.#socket.write(messageFrame(message));
  }

  async #onClose(): Promise<void> {
    this.#isOver = true;
    clearTimeout(this.#greetingTimer);
    const gone = new StateError("EINTR", "whoever asked for this has gone");
    for (const input of this.#inputs.values()) input.destroy(gone);
    for (const output of this.#outputs.values()) output.destroy(gone);
    try {
      await this.#options.services.leave(this);
      await this.#client?.close();
    } catch (error) {
      this.#options.log(`after a connection ended: ${messageOf(error)}`);
    } finally {
      this.#options.onEnd();
    }
  }
}

/** A stream from the client; more is asked for as it is read. */
class Input extends Readable {
  /** What is known of its length, for refusals before anything is written. */
  readonly knownBytes: number | undefined;
  #asked = 0;
  #isFinished = false;

  constructor(
    readonly number: number,
    knownBytes: number | undefined,
    readonly pull: (bytes: number) => void,
  ) {
    super({ highWaterMark: WINDOW_BYTES / 2 });
    this.knownBytes = knownBytes;
    this.on("error", () => undefined);
  }

  accept(bytes: Buffer): void {
    if (this.destroyed || this.#isFinished) return;
    this.#asked -= bytes.length;
    if (this.#asked < 0) throw new StateError("EINVAL", `stream ${this.number}: more bytes than were asked for`);
    this.push(bytes);
  }

  finish(error: string | undefined): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    if (error === undefined) this.push(null);
    else this.destroy(new StateError("EIO", error));
  }

  override _read(): void {
    const wanted = WINDOW_BYTES - this.#asked;
    if (wanted < PIECE_BYTES || this.#isFinished) return;
    this.#asked += wanted;
    this.pull(wanted);
  }
}

/** A stream to the client, in frames; waits while the socket is full. */
class Output extends Writable {
  constructor(
    readonly socket: Socket,
    readonly number: number,
  ) {
    super({ highWaterMark: PIECE_BYTES });
    this.on("error", () => undefined);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    let isFull = false;
    for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
      const piece = chunk.subarray(at, at + PIECE_BYTES);
      this.socket.write(bytesHead(this.number, piece.length));
      isFull = !this.socket.write(piece);
    }
    if (!isFull || this.socket.destroyed) done();
    else this.socket.once("drain", () => done());
  }
}
