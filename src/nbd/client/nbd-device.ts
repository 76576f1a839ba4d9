/**
 * A device on an NBD server. Requests go out as they come and are answered in any order.
 *
 * When the connection breaks it is made again, and requests wait. What the server had answered but not yet flushed may be
 * gone with it: such writes are kept here until a flush covers them, and written again first, in the order in which they were
 * answered. So a flush that succeeds covers everything before it, whatever happened to the server meanwhile. What is kept is
 * bounded: at KEEP_BYTES a flush is made without being asked for.
 *
 * After `reconnectMs` without a server the requests that wait fail; the next one begins to try again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { IoError, messageOf, StateError } from "../../errors/index.js";
import { type BlockDevice, checkRange, type Extent, refuseReadOnly } from "../../io/index.js";
import { AccessGate } from "../access-gate.js";
import { CMD, CMD_FLAG, TRANSMISSION_FLAG } from "../protocol.js";
import { formatNbdUri, type NbdUri, parseNbdUri } from "../uri.js";
import type { Negotiated } from "./handshake.js";
import { KeptWrites } from "./kept-writes.js";
import { type Link, openLink, sayGoodbye } from "./link.js";
import { Replies } from "./replies.js";
import { failureOf, type Request, requestBytes, whenDone } from "./request.js";

export interface NbdDeviceOptions {
  readonly readOnly?: boolean;
  /** How long requests wait for a server that is away; default 60 seconds. */
  readonly reconnectMs?: number;
  /** How long connecting and the handshake may take; default 30 seconds. */
  readonly connectMs?: number;
  readonly log?: (line: string) => void;
}

const RECONNECT_MS = 60_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;
const MAX_OUTSTANDING = 128;
/** Data of requests at a time. */
const PIECE_BYTES = 4 * 2 ** 20;
/** Length of requests without data. */
const STRETCH_BYTES = 2 ** 30;
const KEEP_BYTES = 32 * 2 ** 20;
const ZEROS = new Uint8Array(2 ** 20);
const SMALLEST_UNIT_BYTES = 4096;

export class NbdDevice implements BlockDevice {
  readonly name: string;
  readonly sync = undefined;
  readonly #uri: NbdUri;
  readonly #options: NbdDeviceOptions;
  #negotiated: Negotiated;
  #link: Link | undefined;
  readonly #outstanding = new Map<number, Request>();
  readonly #queue: Request[] = [];
  readonly #kept = new KeptWrites();
  #flushingKept: Promise<void> | undefined;
  #nextCookie = 1;
  #reconnecting: Promise<void> | undefined;
  #isClosed = false;
  #isCorked = false;
  /** Parts of the server's blocks are changed by one at a time. */
  readonly #gate = new AccessGate();

  /** @throws StateError EINVAL, ENOENT, EACCES; IoError ECONNREFUSED and the like as EIO; ProtocolError */
  static async connect(uri: string, options: NbdDeviceOptions = {}): Promise<NbdDevice> {
    const parsed = parseNbdUri(uri);
    const { link, rest } = await openLink(parsed, options);
    return new NbdDevice(parsed, options, link, rest);
  }

  private constructor(uri: NbdUri, options: NbdDeviceOptions, link: Link, rest: Uint8Array) {
    this.#uri = uri;
    this.name = formatNbdUri(uri);
    this.#options = options;
    this.#negotiated = link.negotiated;
    this.#use(link, rest);
  }

  get sizeBytes(): number {
    return Math.floor(this.#negotiated.sizeBytes / 512) * 512;
  }
  get isReadOnly(): boolean {
    return this.#options.readOnly === true || this.#can(TRANSMISSION_FLAG.readOnly);
  }
  get logicalBlockBytes(): number {
    return this.#negotiated.minimumBlockBytes > 512 ? 4096 : 512;
  }
  get discardGranularityBytes(): number {
    if (this.isReadOnly || !this.#can(TRANSMISSION_FLAG.sendTrim)) return 0;
    return Math.max(SMALLEST_UNIT_BYTES, this.#negotiated.minimumBlockBytes);
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    checkRange(this.name, this.sizeBytes, offset, buffer.length);
    const unit = this.#negotiated.minimumBlockBytes;
    if (!isAligned(offset, buffer.length, unit)) {
      const { from, bytes } = this.#whole(offset, buffer.length);
      await this.#readAligned(from, bytes);
      buffer.set(bytes.subarray(offset - from, offset - from + buffer.length));
      return;
    }
    await this.#readAligned(offset, buffer);
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    checkRange(this.name, this.sizeBytes, offset, buffer.length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    const isFua = options?.fua === true;
    if (isAligned(offset, buffer.length, this.#negotiated.minimumBlockBytes)) {
      await this.#gate.shared(() => this.#writeAligned(offset, buffer, isFua));
      return;
    }
    await this.#gate.exclusive(async () => {
      const { from, bytes } = this.#whole(offset, buffer.length);
      await this.#readAligned(from, bytes);
      bytes.set(buffer, offset - from);
      await this.#writeAligned(from, bytes, isFua);
    });
  }

  async flush(): Promise<void> {
    if (this.#isClosed) throw this.#closed();
    if (this.#can(TRANSMISSION_FLAG.sendFlush)) await this.#ask({ command: CMD.flush, offset: 0, length: 0 });
  }

  async discard(offset: number, length: number): Promise<void> {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    if (this.discardGranularityBytes === 0) return;
    const unit = this.#negotiated.minimumBlockBytes;
    const from = Math.ceil(offset / unit) * unit;
    const to = Math.floor((offset + length) / unit) * unit;
    for (let at = from; at < to; at += STRETCH_BYTES) {
      const part = Math.min(STRETCH_BYTES, to - at);
      // A trim repeated later could drop what was written since: it is never kept, only bytes are.
      await this.#gate.shared(() => this.#ask({ command: CMD.trim, offset: at, length: part }));
    }
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    checkRange(this.name, this.sizeBytes, offset, length);
    if (this.isReadOnly) refuseReadOnly(this.name);
    const unit = this.#negotiated.minimumBlockBytes;
    const isPossible = this.#can(TRANSMISSION_FLAG.sendWriteZeroes) && isAligned(offset, length, unit);
    const end = offset + length;
    if (!isPossible) {
      for (let at = offset; at < end; at += ZEROS.length) {
        await this.write(at, ZEROS.subarray(0, Math.min(ZEROS.length, end - at)));
      }
      return;
    }
    for (let at = offset; at < end; at += STRETCH_BYTES) {
      const part = Math.min(STRETCH_BYTES, end - at);
      await this.#gate.shared(() => this.#ask({ command: CMD.writeZeroes, offset: at, length: part }));
    }
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    checkRange(this.name, this.sizeBytes, offset, length);
    const found: Extent[] = [];
    const end = offset + length;
    const unit = this.#negotiated.minimumBlockBytes;
    for (let at = offset; at < end; ) {
      const from = Math.floor(at / unit) * unit;
      const to = Math.min(this.sizeBytes, Math.ceil(end / unit) * unit, from + STRETCH_BYTES);
      let next = at;
      for (const each of await this.#status(from, to - from)) {
        const stop = Math.min(end, each.end);
        if (stop <= next) continue;
        const kind = each.isZero ? "zeros" : "data";
        const last = found.at(-1);
        if (last?.kind === kind) found[found.length - 1] = { ...last, length: last.length + stop - next };
        else found.push({ offset: next, length: stop - next, kind });
        next = stop;
      }
      at = next;
    }
    return found;
  }

  /** A server tells its size when one connects. */
  async refreshSize(): Promise<void> {
    const { link, rest } = await openLink(this.#uri, this.#options);
    void rest;
    this.#negotiated = { ...this.#negotiated, sizeBytes: link.negotiated.sizeBytes };
    sayGoodbye(link.socket);
  }

  /** Requests under way end first. What was not flushed may be lost, as with any device. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const request of this.#queue.splice(0)) request.reject(this.#closed());
    await Promise.allSettled([...this.#outstanding.values()].map(whenDone));
    const link = this.#link;
    this.#link = undefined;
    if (link !== undefined) sayGoodbye(link.socket);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // Requests

  #can(flag: number): boolean {
    return (this.#negotiated.flags & flag) !== 0;
  }

  #whole(offset: number, length: number): { readonly from: number; readonly bytes: Uint8Array } {
    const unit = this.#negotiated.minimumBlockBytes;
    const from = Math.floor(offset / unit) * unit;
    return { from, bytes: new Uint8Array(Math.ceil((offset + length) / unit) * unit - from) };
  }

  async #readAligned(offset: number, buffer: Uint8Array): Promise<void> {
    const most = this.#pieceBytes();
    if (buffer.length <= most) {
      if (buffer.length > 0) await this.#ask({ command: CMD.read, offset, length: buffer.length, buffer });
      return;
    }
    const parts: Promise<unknown>[] = [];
    for (let at = 0; at < buffer.length; at += most) {
      const part = buffer.subarray(at, Math.min(buffer.length, at + most));
      parts.push(this.#ask({ command: CMD.read, offset: offset + at, length: part.length, buffer: part }));
    }
    await allOf(parts);
  }

  async #writeAligned(offset: number, buffer: Uint8Array, isFua: boolean): Promise<void> {
    const passesFua = isFua && this.#can(TRANSMISSION_FLAG.sendFua);
    const flags = passesFua ? CMD_FLAG.fua : 0;
    const most = this.#pieceBytes();
    const parts: Promise<unknown>[] = [];
    for (let at = 0; at < buffer.length; at += most) {
      const data = buffer.length <= most ? buffer : buffer.subarray(at, Math.min(buffer.length, at + most));
      parts.push(this.#ask({ command: CMD.write, flags, offset: offset + at, length: data.length, data }));
    }
    await allOf(parts);
    if (isFua && !passesFua) await this.flush();
    if (this.#kept.bytes > KEEP_BYTES) await this.#flushKept();
  }

  #pieceBytes(): number {
    return Math.min(PIECE_BYTES, this.#negotiated.maximumPayloadBytes);
  }

  /** Several who find too much kept share a flush. */
  #flushKept(): Promise<void> {
    this.#flushingKept ??= this.#ask({ command: CMD.flush, offset: 0, length: 0 }).then(
      () => {
        this.#flushingKept = undefined;
      },
      (error: unknown) => {
        this.#flushingKept = undefined;
        throw error;
      },
    );
    return this.#flushingKept;
  }

  async #status(from: number, length: number): Promise<readonly { readonly end: number; readonly isZero: boolean }[]> {
    if (this.#negotiated.contextId === undefined) return [{ end: from + length, isZero: false }];
    const request = await this.#ask({ command: CMD.blockStatus, offset: from, length });
    let at = from;
    const found = (request.extents ?? []).map((each) => {
      at += each.length;
      return { end: at, isZero: each.isZero };
    });
    return found.length === 0 ? [{ end: from + length, isZero: false }] : found;
  }

  #ask(what: {
    readonly command: number;
    readonly flags?: number;
    readonly offset: number;
    readonly length: number;
    readonly buffer?: Uint8Array;
    readonly data?: Uint8Array;
  }): Promise<Request> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return reject(this.#closed());
      const request: Request = {
        command: what.command,
        flags: what.flags ?? 0,
        offset: what.offset,
        length: what.length,
        buffer: what.buffer,
        data: what.data,
        got: 0,
        error: 0,
        extents: undefined,
        covers: 0,
        isRepeat: false,
        resolve: () => resolve(request),
        reject,
      };
      this.#queue.push(request);
      this.#sendQueued();
    });
  }

  #sendQueued(): void {
    if (this.#queue.length === 0 || this.#reconnecting !== undefined) return;
    const link = this.#link;
    if (link === undefined) {
      this.#reconnecting = this.#reconnect().finally(() => {
        this.#reconnecting = undefined;
        this.#sendQueued();
      });
      return;
    }
    while (this.#queue.length > 0 && this.#outstanding.size < MAX_OUTSTANDING) this.#send(link, this.#queue.shift()!);
  }

  #send({ socket }: Link, request: Request): void {
    const cookie = this.#nextCookie++;
    this.#outstanding.set(cookie, request);
    request.got = 0;
    request.error = 0;
    if (request.command === CMD.flush) request.covers = this.#kept.count;
    if (!this.#isCorked) {
      // What is asked in one turn goes out together.
      this.#isCorked = true;
      socket.cork();
      process.nextTick(() => {
        this.#isCorked = false;
        socket.uncork();
      });
    }
    socket.write(requestBytes(request, cookie));
    if (request.data !== undefined) socket.write(request.data);
  }

  #done(cookie: number, request: Request): void {
    this.#outstanding.delete(cookie);
    if (request.error !== 0) request.reject(failureOf(this.name, request));
    else {
      this.#settle(request);
      request.resolve();
    }
    this.#sendQueued();
  }

  /** What it means for the writes that are kept. */
  #settle(request: Request): void {
    const outstanding = this.#outstanding;
    switch (request.command) {
      case CMD.flush:
        this.#kept.forget(request.covers);
        // Other flushes that are under way cover those that are left of theirs.
        for (const each of outstanding.values()) each.covers = Math.max(0, each.covers - request.covers);
        return;
      case CMD.write:
      case CMD.writeZeroes:
        // What was written again is kept already.
        if (!request.isRepeat && this.#can(TRANSMISSION_FLAG.sendFlush)) this.#kept.keep(request);
        return;
      case CMD.trim:
        // Flushes under way count what they cover: they must not cover others in their place.
        if (![...outstanding.values()].some(({ command }) => command === CMD.flush)) this.#kept.drop(request);
    }
  }

  #closed(): StateError {
    return new StateError("ENODEV", `${this.name}: the device is closed`);
  }

  // Connections

  #use(link: Link, rest: Uint8Array): void {
    const { socket, negotiated } = link;
    this.#link = link;
    this.#negotiated = negotiated;
    const replies = new Replies({
      server: this.name,
      isStructured: negotiated.isStructured,
      contextId: negotiated.contextId,
      find: (cookie) => this.#outstanding.get(cookie),
      done: (cookie, asked) => this.#done(cookie, asked as Request),
    });
    const take = (bytes: Uint8Array) => {
      if (this.#link !== link) return;
      try {
        replies.push(bytes);
      } catch (error) {
        this.#lost(link, messageOf(error));
      }
    };
    socket.on("data", take);
    socket.on("error", (error) => this.#lost(link, messageOf(error)));
    socket.on("close", () => this.#lost(link, "the server closed the connection"));
    if (rest.length > 0) take(rest);
  }

  /** Whatever was not answered is asked again, before what came later. */
  #lost(link: Link, reason: string): void {
    if (this.#link !== link) return;
    this.#link = undefined;
    link.socket.destroy();
    if (this.#isClosed) {
      for (const request of this.#outstanding.values()) request.reject(this.#closed());
      this.#outstanding.clear();
      return;
    }
    this.#options.log?.(`${this.name}: ${reason}; connecting again`);
    const all = [...this.#outstanding.values()];
    this.#outstanding.clear();
    this.#queue.unshift(...all.filter((each) => !each.isRepeat));
    const broke = new IoError("EIO", "the connection broke again");
    for (const each of all) if (each.isRepeat) each.reject(broke);
    this.#sendQueued();
  }

  async #reconnect(): Promise<void> {
    const until = performance.now() + (this.#options.reconnectMs ?? RECONNECT_MS);
    let failure: unknown;
    for (let pause = FIRST_PAUSE_MS; !this.#isClosed; pause = Math.min(LONGEST_PAUSE_MS, pause * 2)) {
      try {
        const { link, rest } = await openLink(this.#uri, this.#options);
        const refusal = this.#refusalOf(link.negotiated);
        if (refusal === undefined) {
          this.#use(link, rest);
          await this.#writeAgain(link);
          this.#options.log?.(`${this.name}: connected again`);
          return;
        }
        sayGoodbye(link.socket);
        failure = refusal;
      } catch (error) {
        failure = error;
      }
      if (performance.now() + pause > until) break;
      await sleep(pause, undefined, { ref: !this.#isClosed });
    }
    const error = new IoError("EIO", `${this.name}: no connection to the server: ${messageOf(failure)}`, {
      hint: "start the server again; requests are tried anew when there are any",
      cause: failure,
    });
    for (const request of this.#queue.splice(0)) request.reject(error);
  }

  /** Another export stands there now, which must not be written to. */
  #refusalOf(found: Negotiated): IoError | undefined {
    const known = this.#negotiated;
    const isReadOnly = (found.flags & TRANSMISSION_FLAG.readOnly) !== 0;
    if (found.sizeBytes >= known.sizeBytes && (!isReadOnly || this.isReadOnly)) return undefined;
    const what = isReadOnly ? "is read-only now" : `has ${found.sizeBytes} bytes now, had ${known.sizeBytes}`;
    return new IoError("EIO", `the export ${what}`);
  }

  /** One after the other: the last of two writes of the same bytes is the one that counts. */
  async #writeAgain(link: Link): Promise<void> {
    for (const each of this.#kept.all()) {
      if (this.#link !== link) throw new IoError("EIO", "the connection broke again");
      await new Promise<void>((resolve, reject) => {
        this.#send(link, {
          ...each,
          buffer: undefined,
          got: 0,
          error: 0,
          extents: undefined,
          covers: 0,
          isRepeat: true,
          resolve,
          reject,
        });
      });
    }
  }
}

function isAligned(offset: number, length: number, unit: number): boolean {
  return offset % unit === 0 && length % unit === 0;
}

/** Waits for all, also when one fails: their buffers are the caller's again then. */
async function allOf(parts: readonly Promise<unknown>[]): Promise<void> {
  if (parts.length === 1) return void (await parts[0]);
  for (const each of await Promise.allSettled(parts)) if (each.status === "rejected") throw each.reason;
}
