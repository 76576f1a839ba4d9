/**
 * Where requests come from, without a thread of their own: the event loop watches the descriptor, hands over the request
 * that woke it, and then whatever waits is read at once, until nothing does. Then the thread sleeps: measured on two cores,
 * waiting for the next request in a spin of 5 to 50 us took the processor from those who were to send it.
 *
 * Node has no way to watch a character device but one: its handle for pipes takes any descriptor that can be polled. Where
 * that handle cannot be had, a few reads wait in the thread pool instead, two thread hand-overs a request.
 */
import { closeSync, read as readFile } from "node:fs";
import { type ConnectOpts, Socket, type SocketConstructorOpts } from "node:net";
import { type Channel, openChannel } from "./channel.js";

/** What the source hands requests to. */
export interface RequestHandler {
  /**
   * Answers one request, now or later. The buffer may be kept when `isOurs`: then the next one is asked for.
   * @returns whether it was kept
   */
  handle(buffer: Uint8Array, bytes: number, isOurs: boolean): boolean;
  /** A buffer for the next request. */
  nextBuffer(): Uint8Array;
  /** The mount is gone, or the device cannot be read any more. */
  ended(error?: unknown): void;
}

export interface RequestSource {
  readonly channel: Channel;
  start(handler: RequestHandler): void;
  /** Closes the descriptor. */
  close(): void;
}

/** After this long everybody else gets a turn. */
const SLICE_MS = 1;
/** The clock is looked at once in so many requests. */
const REQUESTS_A_LOOK = 16;
/** Reads in the thread pool at a time, of four threads. */
const POOL_READS = 2;

/** @param bytes of the largest request */
export function openRequestSource(fd: number, bytes: number): RequestSource {
  const Pipe = pipeHandle();
  return Pipe === undefined ? new PoolSource(fd, bytes) : new LoopSource(fd, bytes, Pipe);
}

/** What is used of node's pipe handle. */
interface PipeHandle {
  /** @returns 0, or a negative errno */
  open(fd: number): number;
}
type PipeConstructor = new (type: number) => PipeHandle;
const PIPE_SOCKET = 0;

function pipeHandle(): PipeConstructor | undefined {
  const { binding } = process as unknown as { binding?: (name: string) => { Pipe?: PipeConstructor } };
  try {
    return binding?.("pipe_wrap").Pipe;
  } catch {
    return undefined;
  }
}

class LoopSource implements RequestSource {
  readonly channel: Channel;
  readonly #socketBuffer: Uint8Array;
  readonly #handle: PipeHandle;
  #socket: Socket | undefined;
  #handler: RequestHandler | undefined;

  constructor(fd: number, bytes: number, Pipe: PipeConstructor) {
    this.#handle = new Pipe(PIPE_SOCKET);
    // Sets O_NONBLOCK too.
    const failure = this.#handle.open(fd);
    if (failure !== 0) throw new Error(`the event loop does not take the descriptor: errno ${-failure}`);
    this.#socketBuffer = new Uint8Array(bytes);
    this.channel = openChannel(fd);
  }

  start(handler: RequestHandler): void {
    this.#handler = handler;
    // `handle` is not among the documented options, nor is the pipe handle itself.
    const options: SocketConstructorOpts & ConnectOpts & { readonly handle: PipeHandle } = {
      handle: this.#handle,
      onread: {
        buffer: this.#socketBuffer,
        callback: (bytes: number) => {
          this.#wake(bytes);
          return true;
        },
      },
    };
    const socket = new Socket(options);
    this.#socket = socket;
    socket.once("error", (error) => this.#end(isGone(error) ? undefined : error));
    socket.once("close", () => this.#end(undefined));
  }

  close(): void {
    this.#handler = undefined;
    this.#socket?.destroy();
  }

  #end(error: unknown): void {
    const handler = this.#handler;
    this.#handler = undefined;
    this.#socket?.destroy();
    handler?.ended(error);
  }

  #wake(bytes: number): void {
    try {
      this.#handler?.handle(this.#socketBuffer, bytes, false);
      this.#drain();
    } catch (error) {
      this.#end(error);
    }
  }

  #drain(): void {
    const since = performance.now();
    for (let served = 1; ; served++) {
      const handler = this.#handler;
      if (handler === undefined) return;
      const buffer = handler.nextBuffer();
      const bytes = this.channel.receive(buffer);
      // Gone: the event loop finds out by itself.
      if (bytes <= 0) return;
      handler.handle(buffer, bytes, true);
      if (served % REQUESTS_A_LOOK === 0 && performance.now() - since > SLICE_MS) return;
    }
  }
}

function isGone(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return code === "ENODEV" || code === "ECONNABORTED" || code === "EBADF";
}

/** Reads that wait in the thread pool. */
class PoolSource implements RequestSource {
  readonly channel: Channel;
  readonly #bytes: number;
  readonly #fd: number;
  #handler: RequestHandler | undefined;
  #underWay = 0;
  #isClosed = false;

  constructor(fd: number, bytes: number) {
    this.#fd = fd;
    this.#bytes = bytes;
    this.channel = openChannel(fd);
  }

  start(handler: RequestHandler): void {
    this.#handler = handler;
    for (let index = 0; index < POOL_READS; index++) this.#read(new Uint8Array(this.#bytes));
  }

  /** The reads end with the mount; the descriptor is theirs until then. */
  close(): void {
    this.#handler = undefined;
    this.#isClosed = true;
    this.#closeUnused();
  }

  #closeUnused(): void {
    if (!this.#isClosed || this.#underWay > 0) return;
    this.#underWay = Number.POSITIVE_INFINITY;
    closeSync(this.#fd);
  }

  #read(buffer: Uint8Array): void {
    this.#underWay++;
    readFile(this.#fd, buffer, 0, buffer.length, null, (error, bytes) => {
      this.#underWay--;
      const handler = this.#handler;
      if (handler === undefined) return this.#closeUnused();
      try {
        if (error === null) handler.handle(buffer, bytes, false);
        else if (!isPassing(error)) throw error;
        this.#read(buffer);
      } catch (failure) {
        this.#handler = undefined;
        handler.ended(isGone(failure) ? undefined : failure);
      }
    });
  }
}

/** The request was withdrawn while it was copied; a signal came. */
function isPassing({ code }: NodeJS.ErrnoException): boolean {
  return code === "ENOENT" || code === "EINTR" || code === "EAGAIN";
}
