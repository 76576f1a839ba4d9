/**
 * A client's connection: handshake, TLS if it comes to that, then requests.
 *
 * Requests and replies go by system calls on the socket's own descriptor where they are to be had (socket-calls.ts): node
 * wakes us up and sends what does not fit at once. Through TLS, or without those calls, they go through node's streams.
 */
import { Socket } from "node:net";
import { messageOf, mistakeText } from "../errors/index.js";
import type { BusyPoll, Polled } from "./busy-poll.js";
import type { NbdExport } from "./export.js";
import { type Agreement, type HandshakeStep, ServerHandshake } from "./handshake.js";
import type { SocketCalls } from "./socket-calls.js";
import type { ServerTls } from "./tls.js";
import { type Sink, Transmission, type TransmissionLimits } from "./transmission.js";

export interface ConnectionOptions {
  readonly exports: readonly NbdExport[];
  readonly tls: ServerTls | undefined;
  readonly limits: TransmissionLimits;
  readonly handshakeMs: number;
  readonly poll: BusyPoll;
  /** System calls on sockets; undefined: streams only. */
  readonly calls: SocketCalls | undefined;
  log(line: string): void;
  /** Called once, when nothing of it is left. */
  onEnd(): void;
}

/** Asked of the kernel for each direction. */
const SOCKET_BUFFER_BYTES = 2 ** 20;
/** What wakes us up is read into this; the rest goes to its place at once. Larger than a few requests, smaller than data. */
const LANDING_BYTES = 4096;
/** Looks for more requests before the answers to those at hand are sent. */
const MAX_LOOKS = 16;
/** A client that does not read is left alone when so much waits for it in node's streams. */
const MAX_STREAM_BYTES = 2 ** 20;

export class Connection implements Polled {
  readonly #options: ConnectionOptions;
  #socket: Socket;
  readonly #handshake: ServerHandshake;
  #handshakeTimer: NodeJS.Timeout | undefined;
  #transmission: Transmission | undefined;
  /** Descriptor for system calls; -1 where streams are used. */
  #fd = -1;
  #isEncrypted = false;
  /** The last look found a request that had come before the answer to the one before. */
  #isAhead = false;
  #isPaused = false;
  #isRunScheduled = false;
  #isDone = false;
  /** Bytes that a stream delivered when there was no room for them. */
  #surplus: Uint8Array[] = [];
  #hasEnded = false;
  exportName: string | undefined;

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#options = options;
    this.#socket = socket;
    this.#handshake = new ServerHandshake({ exports: options.exports, requiresTls: options.tls !== undefined });
    this.#handshakeTimer = setTimeout(() => this.#hangUp("the handshake took too long"), options.handshakeMs);
    this.#watch(socket);
    socket.on("data", this.#onHandshakeData);
    socket.write(ServerHandshake.greeting());
    socket.resume();
  }

  /** No more requests are taken; it ends when those under way are answered. */
  close(): void {
    if (this.#transmission === undefined) this.#hangUp(undefined);
    else this.#transmission.close();
  }

  /** At once. */
  destroy(): void {
    this.#hangUp(undefined);
  }

  get inFlight(): number {
    return this.#transmission?.inFlight ?? 0;
  }

  // Handshake

  readonly #onHandshakeData = (bytes: Buffer): void => {
    try {
      for (const step of this.#handshake.push(bytes)) this.#carryOut(step);
    } catch (error) {
      this.#onMistake(error);
    }
  };

  #carryOut(step: HandshakeStep): void {
    if (this.#isDone) return;
    switch (step.kind) {
      case "send":
        this.#socket.write(step.bytes);
        // Somebody who asks and asks without reading.
        if (this.#socket.writableLength > MAX_STREAM_BYTES) this.#hangUp("does not read its answers");
        return;
      case "tls":
        return this.#startTls();
      case "transmit":
        return this.#transmit(step.agreement, step.rest);
      case "close":
        this.#options.log(step.reason);
        this.#socket.end();
        return this.#done();
    }
  }

  #startTls(): void {
    const plain = this.#socket;
    this.#isEncrypted = true;
    plain.off("data", this.#onHandshakeData);
    plain.removeAllListeners("end");
    this.#options.tls!.accept(
      plain,
      (socket) => {
        if (this.#isDone) return void socket.destroy();
        this.#socket = socket;
        this.#watch(socket);
        this.#handshake.encrypted();
        socket.on("data", this.#onHandshakeData);
      },
      (error) => this.#hangUp(messageOf(error)),
    );
  }

  #watch(socket: Socket): void {
    socket.on("error", (error) => this.#hangUp(messageOf(error)));
    socket.on("end", () => this.#onEnd());
    socket.on("close", () => this.#gone());
  }

  // Transmission

  #transmit(agreement: Agreement, rest: Uint8Array): void {
    clearTimeout(this.#handshakeTimer);
    this.exportName = agreement.export.name;
    this.#socket.off("data", this.#onHandshakeData);
    this.#socket.setTimeout(0);
    const sink: Sink = {
      send: (bytes, from, to) => (this.#fd < 0 ? this.#sendStream(bytes, from, to) : this.#sendNow(bytes, from, to)),
      ended: (reason) => this.#onTransmissionEnd(reason),
      yielded: () => this.#runSoon(),
      completed: () => this.#runAfterThis(),
      failed: (error) => this.#onMistake(error),
    };
    this.#transmission = new Transmission(agreement, sink, this.#options.limits);
    if (rest.length > 0) this.#surplus.push(rest);
    if (!this.#takeDescriptor()) {
      this.#socket.on("data", (bytes: Buffer) => {
        this.#surplus.push(bytes);
        this.#serve();
      });
    }
    this.#serve();
  }

  /**
   * Takes the socket from node's stream and gives its descriptor to another, which only tells when there is something to
   * read. Nothing can be lost between: what was received was handed on before, the rest is still in the kernel.
   */
  #takeDescriptor(): boolean {
    const { calls } = this.#options;
    if (calls === undefined || this.#isEncrypted || this.#socket.writableLength > 0) return false;
    const fd = descriptorOf(this.#socket);
    const own = fd === undefined ? -1 : calls.dup(fd);
    if (own < 0) return false;
    const before = this.#socket;
    before.removeAllListeners();
    before.on("error", () => {});
    before.destroy();
    const landing = Buffer.allocUnsafeSlow(LANDING_BYTES);
    const socket = new Socket({
      fd: own,
      readable: true,
      writable: true,
      allowHalfOpen: true,
      onread: {
        buffer: landing,
        callback: (count: number) => {
          this.#onReadable(landing, count);
          return true;
        },
      },
    } as ConstructorParameters<typeof Socket>[0]);
    calls.setBuffers(own, SOCKET_BUFFER_BYTES);
    this.#socket = socket;
    this.#fd = own;
    this.#watch(socket);
    socket.resume();
    return true;
  }

  #onReadable(landing: Uint8Array, count: number): void {
    if (this.#isDone) return;
    this.#surplus.push(landing.slice(0, count));
    this.#serve();
    if (!this.#isDone) this.#options.poll.touch(this);
  }

  #serve(): void {
    try {
      this.#serveNow();
    } catch (error) {
      this.#onMistake(error);
    }
  }

  /** Receives what there is and serves it, as long as there is room. */
  #serveNow(): void {
    const transmission = this.#transmission;
    if (transmission === undefined) return;
    for (;;) {
      while (this.#surplus.length > 0) {
        const [first] = this.#surplus as [Uint8Array];
        const took = transmission.receive(first);
        if (took < first.length) {
          this.#surplus[0] = first.subarray(took);
          break;
        }
        this.#surplus.shift();
      }
      // Large data: what else is there goes to its place before anything is served.
      if (this.#fd >= 0 && this.#surplus.length === 0) this.#receiveNow(transmission);
      transmission.run();
      if (this.#isDone || this.#surplus.length === 0 || transmission.room === 0) break;
    }
    if (this.#isDone) return;
    this.#setPaused(transmission.room === 0);
    if (this.#hasEnded && this.#surplus.length === 0) transmission.inputEnded();
  }

  /** Looks for requests without being woken. */
  poll(): boolean {
    try {
      return this.#pollNow();
    } catch (error) {
      this.#onMistake(error);
      return false;
    }
  }

  #pollNow(): boolean {
    const transmission = this.#transmission;
    if (transmission === undefined || this.#isDone || this.#fd < 0) return false;
    if (this.#surplus.length > 0) return false;
    if (transmission.isBlocked) return false;
    if (this.#receiveNow(transmission) <= 0) {
      this.#isAhead = false;
      return false;
    }
    // A client that has sent more by the time it gets an answer keeps several under way: its answers go out together.
    for (let looks = this.#isAhead ? MAX_LOOKS : 0; looks > 0; looks--) {
      transmission.run(true);
      if (this.#isDone || this.#receiveNow(transmission) <= 0) break;
    }
    this.#isAhead = true;
    if (!this.#isDone) transmission.run();
    if (!this.#isDone) this.#setPaused(transmission.room === 0);
    return true;
  }

  get isWaiting(): boolean {
    return (this.#transmission?.inFlight ?? 0) > 0 || this.#isPaused || this.#isDone;
  }

  #receiveNow(transmission: Transmission): number {
    const room = transmission.room;
    if (room === 0) return 0;
    const start = transmission.roomStart;
    const buffer = transmission.roomBuffer;
    const count = this.#options.calls!.recv(this.#fd, start === 0 ? buffer : buffer.subarray(start), room);
    // Its end and its failures come by way of the socket.
    if (count > 0) transmission.received(count);
    return count;
  }

  #sendNow(bytes: Uint8Array, from: number, to: number): number {
    if (this.#isDone || this.#socket.writableLength > 0) return 0;
    const count = this.#options.calls!.send(this.#fd, from === 0 ? bytes : bytes.subarray(from, to), to - from);
    if (count === to - from) return count;
    if (count < 0) {
      queueMicrotask(() => this.#hangUp("the client is gone"));
      return to - from;
    }
    // The rest waits in the stream, which tells when it went.
    this.#sendLater(bytes, from + count, to);
    return to - from;
  }

  #sendStream(bytes: Uint8Array, from: number, to: number): number {
    if (this.#isDone) return to - from;
    if (this.#socket.writableLength > MAX_STREAM_BYTES) return 0;
    this.#sendLater(bytes, from, to);
    return to - from;
  }

  #sendLater(bytes: Uint8Array, from: number, to: number): void {
    this.#socket.write(bytes.slice(from, to), () => {
      if (!this.#isDone && this.#socket.writableLength === 0) this.#serve();
    });
  }

  #setPaused(isPaused: boolean): void {
    if (isPaused === this.#isPaused) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#socket.pause();
    else this.#socket.resume();
  }

  #runSoon(): void {
    if (this.#isRunScheduled) return;
    this.#isRunScheduled = true;
    setImmediate(() => {
      this.#isRunScheduled = false;
      if (!this.#isDone) this.#serve();
    });
  }

  /** When the promises that are due have run: what they completed goes out together. */
  #runAfterThis(): void {
    if (this.#isRunScheduled) return;
    this.#isRunScheduled = true;
    process.nextTick(() => {
      this.#isRunScheduled = false;
      if (!this.#isDone) this.#serve();
    });
  }

  // The end

  #onEnd(): void {
    this.#hasEnded = true;
    if (this.#transmission === undefined) return this.#hangUp(undefined);
    if (this.#surplus.length === 0) this.#transmission.inputEnded();
  }

  #onTransmissionEnd(reason: string | undefined): void {
    if (reason !== undefined) this.#options.log(reason);
    if (this.#isDone) return;
    this.#socket.end();
    this.#done();
    // The other side may keep its end open; nobody listens to it.
    this.#socket.destroySoon();
  }

  /** Of our own, somewhere in between: what this client was told and what not is unknown. Others go on. */
  #onMistake(error: unknown): void {
    this.#hangUp(mistakeText(error));
  }

  #hangUp(reason: string | undefined): void {
    if (this.#isDone) return;
    if (reason !== undefined) this.#options.log(reason);
    this.#socket.destroy();
    this.#gone();
  }

  #gone(): void {
    this.#transmission?.abort();
    this.#done();
  }

  #done(): void {
    if (this.#isDone) return;
    this.#isDone = true;
    clearTimeout(this.#handshakeTimer);
    this.#options.poll.remove(this);
    this.#options.onEnd();
  }
}

/** Descriptor of a socket, where node tells it. */
function descriptorOf(socket: Socket): number | undefined {
  const handle: unknown = "_handle" in socket ? socket._handle : undefined;
  const fd = typeof handle === "object" && handle !== null && "fd" in handle ? handle.fd : undefined;
  return typeof fd === "number" && fd >= 0 ? fd : undefined;
}
