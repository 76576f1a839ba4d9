/**
 * One connection after the handshake: requests in, replies out. It holds no socket: whoever owns it puts bytes where
 * `room` points, and takes replies through a sink that says how much it took.
 *
 * What can be answered without waiting is answered at once, in the order it came, into one buffer that goes out when all
 * requests at hand are served: a request costs the device's own system call and its share of one receive and one send. Data
 * are read straight behind their header, and written from where they were received. What has to wait (blocks to be
 * provisioned or copied, flushes, a device far away) goes on beside the rest and is answered when it is done.
 *
 * Bounds: a client that does not read its replies is not read from; what is under way is limited in number and bytes; a
 * long request is served in pieces; after TURN_REQUESTS requests or TURN_BYTES bytes others have their turn.
 */
import type { NbdExport } from "./export.js";
import type { Agreement } from "./handshake.js";
import {
  ALLOWED_FLAGS,
  CHUNK,
  CHUNK_DONE,
  CHUNK_TYPE,
  CMD,
  CMD_FLAG,
  DATA_CHUNK,
  MAX_PAYLOAD_BYTES,
  NBD_ERROR,
  nbdErrorOf,
  REQUEST,
  REQUEST_MAGIC,
  readU64,
  SIMPLE_REPLY,
  viewOf,
} from "./protocol.js";
import { ReceiveBuffer } from "./receive-buffer.js";
import { putChunk, putDataChunk, putSimpleReply } from "./reply-bytes.js";
import { ReplyQueue, type Sender } from "./reply-queue.js";
import { statusReplies } from "./status-list.js";

/** Where replies go, and who is told how it goes on. */
export interface Sink extends Sender {
  /** The session is over: nothing will be sent any more. Called once. */
  ended(reason: string | undefined): void;
  /** `run` is to be called again soon, after others had their turn. */
  yielded(): void;
  /** Some of what waited is done: `run` is to be called when this turn of the event loop has no more to do. */
  completed(): void;
  /** Something went wrong that should not: what was answered and what not is unknown. */
  failed(error: unknown): void;
}

export interface TransmissionLimits {
  /** Bytes of requests that wait for a device. */
  readonly maxInFlightBytes: number;
  readonly maxInFlight: number;
}

export const DEFAULT_LIMITS: TransmissionLimits = { maxInFlightBytes: 64 * 2 ** 20, maxInFlight: 1024 };

/** A write longer than this is handed on as it comes in. */
const STREAM_BYTES = 192 * 1024;
/** Pieces in which long requests are served; small enough to stay in a processor's cache. */
const PIECE_BYTES = 256 * 1024;
const TURN_REQUESTS = 256;
const TURN_BYTES = 4 * 2 ** 20;

/** A read that goes out in pieces. */
interface LongRead {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  at: number;
  readonly end: number;
}

/** A write whose data are still coming in. */
interface LongWrite {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly isFua: boolean;
  at: number;
  /** Bytes still to come. */
  left: number;
  /** The answer, when it is known already: the rest is read away. */
  error: number;
  /** What could not be written at once gathers here. */
  rest: Uint8Array | undefined;
  filled: number;
}

export class Transmission {
  readonly #export: NbdExport;
  readonly #isStructured: boolean;
  readonly #contexts: Agreement["contexts"];
  readonly #sink: Sink;
  readonly #limits: TransmissionLimits;

  readonly #rx = new ReceiveBuffer();
  readonly #replies: ReplyQueue;

  #longRead: LongRead | undefined;
  #longWrite: LongWrite | undefined;
  #inFlight = 0;
  #inFlightBytes = 0;
  /** No more requests are taken: the client said goodbye, hung up or was refused. */
  #isClosing = false;
  /** Nothing more will come; what is here is still served. */
  #isInputOver = false;
  #reason: string | undefined;
  #isOver = false;

  constructor(agreement: Agreement, sink: Sink, limits: TransmissionLimits = DEFAULT_LIMITS) {
    this.#export = agreement.export;
    this.#isStructured = agreement.isStructured;
    this.#contexts = agreement.contexts;
    this.#sink = sink;
    this.#replies = new ReplyQueue(agreement.isStructured, sink);
    this.#limits = limits;
  }

  // Input

  /** Where received bytes are to be put. */
  get roomBuffer(): Uint8Array {
    return this.#longWrite?.rest ?? this.#rx.bytes;
  }
  get roomStart(): number {
    const write = this.#longWrite;
    return write?.rest === undefined ? this.#rx.end : write.filled;
  }
  /** How many; 0 while nothing is to be received. */
  get room(): number {
    if (this.#isClosing || this.#replies.isBlocked) return 0;
    const write = this.#longWrite;
    if (write?.rest !== undefined) return write.left;
    return this.#rx.makeRoom();
  }

  /** So many bytes were put there; `run` serves them. */
  received(count: number): void {
    const write = this.#longWrite;
    if (write?.rest === undefined) this.#rx.end += count;
    else {
      write.filled += count;
      write.left -= count;
    }
  }

  /** Takes bytes that were received elsewhere, as many as there is room for. @returns how many */
  receive(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, this.room);
    if (count > 0) this.roomBuffer.set(count === bytes.length ? bytes : bytes.subarray(0, count), this.roomStart);
    this.received(count);
    return count;
  }

  /** The client will send no more. What is under way is finished. */
  inputEnded(): void {
    this.#isInputOver = true;
    this.run();
  }

  /** No more requests are taken, what is under way is answered; then it is over. */
  close(): void {
    this.#stop(undefined);
    this.run();
  }

  /** The connection is gone: what is under way goes on, nobody is told. */
  abort(): void {
    this.#isClosing = true;
    this.#longRead = undefined;
    this.#longWrite = undefined;
    this.#replies.clear();
    this.#endWhenDone();
  }

  get isBlocked(): boolean {
    return this.#replies.isBlocked;
  }
  /** Requests that wait for a device. */
  get inFlight(): number {
    return this.#inFlight;
  }
  get isOver(): boolean {
    return this.#isOver;
  }

  // Serving

  /**
   * Serves what was received and can be served now, and sends the answers. Called again when the sink has room.
   * @param holdsBack more is looked for before the answers go, unless there are many; a run without follows
   */
  run(holdsBack = false): void {
    if (this.#isOver) return;
    this.#replies.tryAgain();
    if (!holdsBack && this.#replies.hasOlder) this.#replies.send();
    let requests = 0;
    let bytes = 0;
    while (!this.#replies.isBlocked) {
      if (this.#longRead !== undefined) bytes += this.#continueRead(this.#longRead);
      else if (this.#longWrite !== undefined) {
        const took = this.#continueWrite(this.#longWrite);
        if (took < 0) {
          this.#noMore();
          break;
        }
        bytes += took;
      } else {
        if (this.#isClosing || this.#isFull) break;
        const took = this.#rx.size < REQUEST.size ? -1 : this.#takeRequest();
        if (took < 0) {
          this.#noMore();
          break;
        }
        bytes += took;
        requests++;
      }
      if (requests >= TURN_REQUESTS || bytes >= TURN_BYTES) {
        this.#sink.yielded();
        break;
      }
    }
    if (holdsBack && !this.#replies.isMuch) return;
    this.#replies.send();
    this.#endWhenDone();
  }

  /** A request is not whole: when nothing more comes it never will be. */
  #noMore(): void {
    if (this.#isInputOver && !this.#replies.isBlocked) this.#stop(undefined);
  }

  get #isFull(): boolean {
    return this.#inFlight >= this.#limits.maxInFlight || this.#inFlightBytes >= this.#limits.maxInFlightBytes;
  }

  /** @returns bytes it was about, -1 when it cannot be taken yet */
  #takeRequest(): number {
    const view = this.#rx.view;
    const at = this.#rx.start;
    if (view.getUint32(at) !== REQUEST_MAGIC) {
      this.#stop("a request without its magic number");
      return -1;
    }
    const flags = view.getUint16(at + REQUEST.at.flags);
    const type = view.getUint16(at + REQUEST.at.type);
    const cookieHigh = view.getUint32(at + REQUEST.at.cookie);
    const cookieLow = view.getUint32(at + REQUEST.at.cookie + 4);
    const offset = readU64(view, at + REQUEST.at.offset);
    const length = view.getUint32(at + REQUEST.at.length);
    const allowed = ALLOWED_FLAGS[type];
    const isKnown = allowed !== undefined && (flags & ~allowed) === 0;
    if (type === CMD.read && isKnown) return this.#read(flags, cookieHigh, cookieLow, offset, length);
    if (type === CMD.write) return this.#write(flags, cookieHigh, cookieLow, offset, length, isKnown);
    this.#rx.start += REQUEST.size;
    if (!isKnown) {
      this.#replies.putError(cookieHigh, cookieLow, NBD_ERROR.EINVAL);
      return 0;
    }
    this.#command(type, flags, cookieHigh, cookieLow, offset, length);
    return 0;
  }

  #isInside(offset: number, length: number): boolean {
    // An offset beyond what is exact is NaN, which compares as false.
    return offset + length <= this.#export.sizeBytes;
  }

  // Reading

  #read(flags: number, cookieHigh: number, cookieLow: number, offset: number, length: number): number {
    const isInside = this.#isInside(offset, length);
    if (!isInside || length === 0 || length > MAX_PAYLOAD_BYTES) {
      this.#rx.start += REQUEST.size;
      const isEmpty = isInside && length === 0;
      this.#replies.putError(cookieHigh, cookieLow, isEmpty ? 0 : NBD_ERROR.EINVAL);
      return 0;
    }
    const isDf = (flags & CMD_FLAG.df) !== 0;
    if (length > PIECE_BYTES) {
      this.#rx.start += REQUEST.size;
      if (this.#isStructured && !isDf) {
        this.#longRead = { cookieHigh, cookieLow, at: offset, end: offset + length };
        return 0;
      }
      this.#readWhole(cookieHigh, cookieLow, offset, length);
      return length;
    }
    const header = this.#isStructured ? DATA_CHUNK.size : SIMPLE_REPLY.size;
    if (!this.#replies.makeRoom(header + length)) return -1;
    this.#rx.start += REQUEST.size;
    const { end: at } = this.#replies;
    const data = this.#replies.bytes.subarray(at + header, at + header + length);
    let done: number;
    try {
      done = this.#export.tryRead(offset, data);
    } catch (error) {
      this.#replies.putError(cookieHigh, cookieLow, nbdErrorOf(error));
      return 0;
    }
    if (done === length) {
      if (this.#isStructured) {
        putDataChunk(this.#replies.view, at, CHUNK_DONE, cookieHigh, cookieLow, offset, length);
      } else putSimpleReply(this.#replies.view, at, 0, cookieHigh, cookieLow);
      this.#replies.end = at + header + length;
    } else {
      const reply = new Uint8Array(header + length);
      if (done > 0) reply.set(data.subarray(0, done), header);
      this.#detach(this.#readLater(reply, header, done, cookieHigh, cookieLow, offset));
    }
    return length;
  }

  /** One message however long it is: a simple reply, or one that must not be divided. */
  #readWhole(cookieHigh: number, cookieLow: number, offset: number, length: number): void {
    const header = this.#isStructured ? DATA_CHUNK.size : SIMPLE_REPLY.size;
    const reply = new Uint8Array(header + length);
    this.#detach(this.#readLater(reply, header, 0, cookieHigh, cookieLow, offset));
  }

  async #readLater(
    reply: Uint8Array,
    header: number,
    done: number,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
  ): Promise<void> {
    const length = reply.length - header;
    this.#begin(length);
    try {
      await this.#export.read(offset + done, reply.subarray(header + done));
      const view = viewOf(reply);
      if (this.#isStructured) putDataChunk(view, 0, CHUNK_DONE, cookieHigh, cookieLow, offset, length);
      else putSimpleReply(view, 0, 0, cookieHigh, cookieLow);
      this.#finish(length, reply);
    } catch (error) {
      this.#finish(length, this.#replies.errorReply(cookieHigh, cookieLow, nbdErrorOf(error)));
    }
  }

  /** The next piece of a long read. @returns bytes read */
  #continueRead(read: LongRead): number {
    const length = Math.min(PIECE_BYTES, read.end - read.at);
    if (!this.#replies.makeRoom(DATA_CHUNK.size + length)) return 0;
    const { end: at } = this.#replies;
    const first = at + DATA_CHUNK.size;
    let done: number;
    try {
      done = this.#export.tryRead(read.at, this.#replies.bytes.subarray(first, first + length));
    } catch (error) {
      this.#longRead = undefined;
      this.#replies.putError(read.cookieHigh, read.cookieLow, nbdErrorOf(error));
      return 0;
    }
    if (done < length) {
      // The rest goes on beside other requests.
      this.#longRead = undefined;
      this.#detach(this.#readPieces(read));
      return 0;
    }
    const isLast = read.at + length === read.end;
    putDataChunk(this.#replies.view, at, isLast ? CHUNK_DONE : 0, read.cookieHigh, read.cookieLow, read.at, length);
    this.#replies.end = first + length;
    read.at += length;
    if (isLast) this.#longRead = undefined;
    return length;
  }

  async #readPieces({ cookieHigh, cookieLow, at: from, end }: LongRead): Promise<void> {
    const total = end - from;
    this.#begin(total);
    let last: Uint8Array;
    try {
      let at = from;
      for (;;) {
        const length = Math.min(4 * PIECE_BYTES, end - at);
        const reply = new Uint8Array(DATA_CHUNK.size + length);
        await this.#export.read(at, reply.subarray(DATA_CHUNK.size));
        const isLast = at + length === end;
        putDataChunk(viewOf(reply), 0, isLast ? CHUNK_DONE : 0, cookieHigh, cookieLow, at, length);
        at += length;
        if (isLast) {
          last = reply;
          break;
        }
        this.#push(reply);
      }
    } catch (error) {
      last = this.#replies.errorReply(cookieHigh, cookieLow, nbdErrorOf(error));
    }
    this.#finish(total, last);
  }

  // Writing

  #write(
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    length: number,
    isKnown: boolean,
  ): number {
    let error = 0;
    if (!isKnown || length > MAX_PAYLOAD_BYTES || Number.isNaN(offset)) error = NBD_ERROR.EINVAL;
    else if (this.#export.isReadOnly) error = NBD_ERROR.EPERM;
    else if (!this.#isInside(offset, length)) error = NBD_ERROR.ENOSPC;
    const isFua = (flags & CMD_FLAG.fua) !== 0;
    const size = REQUEST.size + length;
    if (error !== 0 || length > STREAM_BYTES) {
      this.#rx.start += REQUEST.size;
      this.#longWrite = { cookieHigh, cookieLow, isFua, at: offset, left: length, error, rest: undefined, filled: 0 };
      return 0;
    }
    if (this.#rx.size < size) {
      this.#rx.makeWhole(size);
      return -1;
    }
    const first = this.#rx.start + REQUEST.size;
    this.#rx.start += size;
    const data = this.#rx.bytes.subarray(first, first + length);
    let done: number;
    try {
      done = length === 0 ? 0 : this.#export.tryWrite(offset, data);
    } catch (failure) {
      this.#replies.putError(cookieHigh, cookieLow, nbdErrorOf(failure));
      return length;
    }
    if (done < length) this.#writeLater(offset + done, data.slice(done), cookieHigh, cookieLow, isFua);
    else this.#wrote(cookieHigh, cookieLow, isFua);
    return length;
  }

  #writeLater(offset: number, data: Uint8Array, cookieHigh: number, cookieLow: number, isFua: boolean): void {
    this.#later(data.length, cookieHigh, cookieLow, async () => {
      await this.#export.write(offset, data);
      if (isFua) await this.#export.flush();
      return 0;
    });
  }

  #wrote(cookieHigh: number, cookieLow: number, isFua: boolean): void {
    if (isFua) this.#flush(cookieHigh, cookieLow);
    else this.#replies.putError(cookieHigh, cookieLow, 0);
  }

  /** Hands on data as they come in. @returns bytes taken, -1 when more must be received first */
  #continueWrite(write: LongWrite): number {
    if (write.rest !== undefined) {
      if (write.left > 0) return -1;
      this.#longWrite = undefined;
      this.#writeLater(write.at, write.rest, write.cookieHigh, write.cookieLow, write.isFua);
      return write.rest.length;
    }
    const here = Math.min(write.left, this.#rx.size);
    if (write.error !== 0) {
      this.#rx.start += here;
      write.left -= here;
      if (write.left > 0) return -1;
      this.#longWrite = undefined;
      this.#replies.putError(write.cookieHigh, write.cookieLow, write.error);
      return here;
    }
    if (write.left === 0) {
      this.#longWrite = undefined;
      this.#wrote(write.cookieHigh, write.cookieLow, write.isFua);
      return 0;
    }
    // Pieces end on round offsets, so that the blocks of a thin device are not cut in two.
    const border = (Math.floor(write.at / PIECE_BYTES) + 1) * PIECE_BYTES - write.at;
    const wanted = Math.min(write.left, border);
    if (here < wanted) {
      this.#rx.makeWhole(wanted);
      return -1;
    }
    const data = this.#rx.bytes.subarray(this.#rx.start, this.#rx.start + wanted);
    let done: number;
    try {
      done = this.#export.tryWrite(write.at, data);
    } catch (failure) {
      write.error = nbdErrorOf(failure);
      return 0;
    }
    this.#rx.start += done;
    write.left -= done;
    write.at += done;
    if (done === wanted) return done;
    // The rest is gathered and written in one piece, beside other requests.
    const gathered = Math.min(write.left, this.#rx.size);
    write.rest = new Uint8Array(write.left);
    write.rest.set(this.#rx.bytes.subarray(this.#rx.start, this.#rx.start + gathered));
    write.filled = gathered;
    write.left -= gathered;
    this.#rx.start += gathered;
    return done;
  }

  // Everything else

  #command(type: number, flags: number, cookieHigh: number, cookieLow: number, offset: number, length: number): void {
    if (type === CMD.disconnect) return this.#stop(undefined);
    if (type === CMD.flush) {
      if (offset === 0 && length === 0) return this.#flush(cookieHigh, cookieLow);
      return this.#replies.putError(cookieHigh, cookieLow, NBD_ERROR.EINVAL);
    }
    const changes = type === CMD.trim || type === CMD.writeZeroes;
    if (changes && this.#export.isReadOnly) return this.#replies.putError(cookieHigh, cookieLow, NBD_ERROR.EPERM);
    if (!this.#isInside(offset, length)) {
      const error = type === CMD.writeZeroes && !Number.isNaN(offset) ? NBD_ERROR.ENOSPC : NBD_ERROR.EINVAL;
      return this.#replies.putError(cookieHigh, cookieLow, error);
    }
    const isFua = (flags & CMD_FLAG.fua) !== 0;
    switch (type) {
      case CMD.cache:
        return this.#replies.putError(cookieHigh, cookieLow, 0);
      case CMD.trim:
        return this.#later(0, cookieHigh, cookieLow, async () => {
          await this.#export.trim(offset, length);
          if (isFua) await this.#export.flush();
          return 0;
        });
      case CMD.writeZeroes: {
        const how = { noHole: (flags & CMD_FLAG.noHole) !== 0, isFast: (flags & CMD_FLAG.fastZero) !== 0 };
        return this.#later(0, cookieHigh, cookieLow, async () => {
          if (!(await this.#export.writeZeroes(offset, length, how))) return NBD_ERROR.ENOTSUP;
          if (isFua) await this.#export.flush();
          return 0;
        });
      }
      default:
        if (length === 0 || !(this.#contexts.allocation || this.#contexts.sharing)) {
          return this.#replies.putError(cookieHigh, cookieLow, NBD_ERROR.EINVAL);
        }
        this.#detach(this.#status(cookieHigh, cookieLow, offset, length, (flags & CMD_FLAG.reqOne) !== 0));
    }
  }

  #flush(cookieHigh: number, cookieLow: number): void {
    this.#later(0, cookieHigh, cookieLow, async () => {
      await this.#export.flush();
      return 0;
    });
  }

  async #status(cookieHigh: number, cookieLow: number, offset: number, length: number, isOne: boolean): Promise<void> {
    this.#begin(0);
    try {
      const replies = await statusReplies(this.#export, this.#contexts, offset, length, isOne);
      replies.forEach((reply, index) => {
        const flags = index === replies.length - 1 ? CHUNK_DONE : 0;
        putChunk(viewOf(reply), 0, flags, CHUNK_TYPE.blockStatus, cookieHigh, cookieLow, reply.length - CHUNK.size);
      });
      this.#finish(0, ...replies);
    } catch (error) {
      this.#finish(0, this.#replies.errorReply(cookieHigh, cookieLow, nbdErrorOf(error)));
    }
  }

  /** Runs what has to wait; its result is the error of the reply. */
  #later(bytes: number, cookieHigh: number, cookieLow: number, work: () => Promise<number>): void {
    this.#begin(bytes);
    this.#detach(
      work()
        .catch(nbdErrorOf)
        .then((error) => this.#finish(bytes, this.#replies.errorReply(cookieHigh, cookieLow, error))),
    );
  }

  /** Goes on by itself and answers whatever happens; when it cannot, that is a mistake. */
  #detach(work: Promise<void>): void {
    work.catch((error: unknown) => this.#sink.failed(error));
  }

  #begin(bytes: number): void {
    this.#inFlight++;
    this.#inFlightBytes += bytes;
  }

  #finish(bytes: number, ...replies: readonly Uint8Array[]): void {
    this.#inFlight--;
    this.#inFlightBytes -= bytes;
    if (this.#isOver) return;
    for (const reply of replies) this.#replies.push(reply);
    this.#sink.completed();
  }

  #push(reply: Uint8Array): void {
    if (this.#isOver) return;
    this.#replies.push(reply);
    this.#sink.completed();
  }

  #stop(reason: string | undefined): void {
    this.#isClosing = true;
    this.#reason ??= reason;
    this.#rx.clear();
    // Data that did not come are not written.
    this.#longWrite = undefined;
  }

  #endWhenDone(): void {
    if (!this.#isClosing || this.#isOver || this.#inFlight > 0 || this.#longRead !== undefined) return;
    if (!this.#replies.isEmpty) return;
    this.#isOver = true;
    this.#sink.ended(this.#reason);
  }
}
