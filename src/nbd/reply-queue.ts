/**
 * Replies on their way out. What is answered at once is put behind one another into one buffer, data straight behind their
 * header; what had to wait comes as whole replies. Both leave in as few sends as there may be, each reply in one piece, until
 * the other side takes no more.
 */
import { CHUNK, CHUNK_DONE, CHUNK_TYPE, ERROR_CHUNK, SIMPLE_REPLY, viewOf } from "./protocol.js";
import { putChunk, putSimpleReply } from "./reply-bytes.js";

export interface Sender {
  /** Takes what it can of [from, to) without waiting. @returns how many bytes */
  send(bytes: Uint8Array, from: number, to: number): number;
}

const TX_BYTES = 640 * 1024;
/** Replies leave when so much has gathered, though more requests are at hand. */
const SEND_BYTES = 128 * 1024;

export class ReplyQueue {
  readonly bytes = new Uint8Array(new ArrayBuffer(TX_BYTES));
  readonly view = viewOf(this.bytes);
  /** Behind the last reply: where the next one is put. Who has put one moves it. */
  end = 0;
  #start = 0;
  /** Whole replies of what had to wait, and how much of the first is sent. */
  readonly #ready: Uint8Array[] = [];
  #readySent = 0;
  #isBlocked = false;
  readonly #isStructured: boolean;
  readonly #sender: Sender;

  constructor(isStructured: boolean, sender: Sender) {
    this.#isStructured = isStructured;
    this.#sender = sender;
  }

  /** The other side takes no more. */
  get isBlocked(): boolean {
    return this.#isBlocked;
  }
  /** It may take more again. */
  tryAgain(): void {
    this.#isBlocked = false;
  }

  get isEmpty(): boolean {
    return this.end === this.#start && this.#ready.length === 0;
  }
  /** Something is left from before. */
  get hasOlder(): boolean {
    return this.#start > 0 || this.#ready.length > 0;
  }
  /** So much has gathered that it should go. */
  get isMuch(): boolean {
    return this.end - this.#start >= SEND_BYTES;
  }

  /** Room for so many bytes of reply in one piece. @returns false when the other side must read first */
  makeRoom(bytes: number): boolean {
    if (this.isMuch || this.end + bytes > TX_BYTES) this.send();
    return !this.#isBlocked && this.end + bytes <= TX_BYTES;
  }

  /** A reply without data: an error, or 0 for none. */
  putError(cookieHigh: number, cookieLow: number, error: number): void {
    const size = this.#errorBytes(error);
    // There is always room: replies leave long before the buffer is full.
    if (this.end + size > TX_BYTES) {
      this.#ready.push(this.errorReply(cookieHigh, cookieLow, error));
      return;
    }
    this.#write(this.view, this.end, cookieHigh, cookieLow, error);
    this.end += size;
  }

  /** The same as a reply of its own. */
  errorReply(cookieHigh: number, cookieLow: number, error: number): Uint8Array {
    const bytes = new Uint8Array(this.#errorBytes(error));
    this.#write(viewOf(bytes), 0, cookieHigh, cookieLow, error);
    return bytes;
  }

  /** A whole reply. */
  push(reply: Uint8Array): void {
    this.#ready.push(reply);
  }

  /** Sends what there is, whole replies one behind the other. */
  send(): void {
    if (this.#readySent > 0 && !this.#sendReady()) return;
    if (this.end > this.#start && !this.#sendBuffer()) return;
    // Small replies of what had to wait go out together.
    while (this.#ready.length > 0) {
      const reply = this.#ready[0]!;
      if (reply.length <= SEND_BYTES && this.end + reply.length <= TX_BYTES) {
        this.bytes.set(reply, this.end);
        this.end += reply.length;
        this.#ready.shift();
        if (this.#ready.length > 0 && this.end < SEND_BYTES) continue;
      }
      if (this.end > 0 ? !this.#sendBuffer() : !this.#sendReady()) return;
    }
  }

  /** Nobody is there any more. */
  clear(): void {
    this.#ready.length = 0;
    this.#readySent = 0;
    this.#start = this.end = 0;
    this.#isBlocked = false;
  }

  /** @returns whether all of it went */
  #sendBuffer(): boolean {
    this.#start += this.#sender.send(this.bytes, this.#start, this.end);
    if (this.#start < this.end) {
      this.#isBlocked = true;
      return false;
    }
    this.#start = this.end = 0;
    return true;
  }

  /** The first of the replies that wait. @returns whether all of it went */
  #sendReady(): boolean {
    const reply = this.#ready[0]!;
    this.#readySent += this.#sender.send(reply, this.#readySent, reply.length);
    if (this.#readySent < reply.length) {
      this.#isBlocked = true;
      return false;
    }
    this.#ready.shift();
    this.#readySent = 0;
    return true;
  }

  #errorBytes(error: number): number {
    if (!this.#isStructured) return SIMPLE_REPLY.size;
    return error === 0 ? CHUNK.size : ERROR_CHUNK.size;
  }

  #write(view: DataView, at: number, cookieHigh: number, cookieLow: number, error: number): void {
    if (!this.#isStructured) return putSimpleReply(view, at, error, cookieHigh, cookieLow);
    if (error === 0) return putChunk(view, at, CHUNK_DONE, CHUNK_TYPE.none, cookieHigh, cookieLow, 0);
    putChunk(view, at, CHUNK_DONE, CHUNK_TYPE.error, cookieHigh, cookieLow, ERROR_CHUNK.size - CHUNK.size);
    view.setUint32(at + ERROR_CHUNK.at.error, error);
    view.setUint16(at + ERROR_CHUNK.at.length, 0);
  }
}
