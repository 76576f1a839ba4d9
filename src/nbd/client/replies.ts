/**
 * What a server answers, taken apart: bytes in, completed requests out. Data go straight into the buffer of the request
 * that asked for them. Whatever was not asked for ends the connection.
 */
import { ProtocolError } from "../../errors/index.js";
import {
  CHUNK,
  CHUNK_DONE,
  CHUNK_MAGIC,
  CHUNK_TYPE,
  CMD,
  readU64,
  SIMPLE_REPLY,
  SIMPLE_REPLY_MAGIC,
  STATE_ZERO,
  viewOf,
} from "../protocol.js";

export interface StatusExtent {
  readonly length: number;
  readonly isZero: boolean;
}

/** A request, and what came of it so far. */
export interface Asked {
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  /** READ: where the data go. */
  readonly buffer: Uint8Array | undefined;
  /** Bytes of data that came. */
  got: number;
  error: number;
  extents: StatusExtent[] | undefined;
}

export interface RepliesOptions {
  readonly server: string;
  readonly isStructured: boolean;
  readonly contextId: number | undefined;
  find(cookie: number): Asked | undefined;
  /** All of the answer is here. */
  done(cookie: number, asked: Asked): void;
}

const MAX_PAYLOAD_BYTES = 16 * 2 ** 20;

export class Replies {
  readonly #options: RepliesOptions;
  /** A header, or a payload that is looked at as a whole. */
  #small = new Uint8Array(64);
  #have = 0;
  #need = 4;
  #state: "magic" | "simple" | "chunk" | "payload" | "data" = "magic";
  #cookie = 0;
  #asked: Asked | undefined;
  #isLast = false;
  #type = 0;
  #target: Uint8Array | undefined;
  #targetAt = 0;

  constructor(options: RepliesOptions) {
    this.#options = options;
  }

  /** @throws ProtocolError */
  push(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const count = Math.min(bytes.length - at, this.#need - this.#have);
      const part = bytes.subarray(at, at + count);
      if (this.#state === "data") this.#target!.set(part, this.#targetAt + this.#have);
      else this.#small.set(part, this.#have);
      this.#have += count;
      at += count;
      // A state that needs nothing more follows at once.
      while (this.#have === this.#need) this.#next();
    }
  }

  #next(): void {
    const view = viewOf(this.#small);
    switch (this.#state) {
      case "magic": {
        const magic = view.getUint32(0);
        if (magic === SIMPLE_REPLY_MAGIC) return this.#expect("simple", SIMPLE_REPLY.size, 4);
        if (magic === CHUNK_MAGIC && this.#options.isStructured) return this.#expect("chunk", CHUNK.size, 4);
        throw this.#failed("an answer without its magic number");
      }
      case "simple": {
        const asked = this.#find(view, SIMPLE_REPLY.at.cookie);
        asked.error = view.getUint32(SIMPLE_REPLY.at.error);
        this.#isLast = true;
        if (asked.command !== CMD.read || asked.error !== 0) return this.#finish();
        if (this.#options.isStructured) throw this.#failed("a simple answer to a read");
        return this.#expectData(asked, asked.offset, asked.length);
      }
      case "chunk":
        return this.#takeChunk(view);
      case "payload":
        this.#takePayload(view);
        return;
      case "data":
        return this.#finish();
    }
  }

  #takeChunk(view: DataView): void {
    const asked = this.#find(view, CHUNK.at.cookie);
    this.#isLast = (view.getUint16(CHUNK.at.flags) & CHUNK_DONE) !== 0;
    this.#type = view.getUint16(CHUNK.at.type);
    const length = view.getUint32(CHUNK.at.length);
    if (this.#type === CHUNK_TYPE.none) {
      if (length !== 0 || !this.#isLast) throw this.#failed("an empty chunk that is not empty");
      return this.#finish();
    }
    if (this.#type === CHUNK_TYPE.offsetData) {
      if (asked.command !== CMD.read || length < 9 || length - 8 > asked.length) {
        throw this.#failed(`a chunk of ${length} bytes of data that nobody asked for`);
      }
      // First the offset, then the data.
      this.#dataLength = length - 8;
      return this.#expect("payload", 8, 0);
    }
    if (length > MAX_PAYLOAD_BYTES) throw this.#failed(`a chunk of ${length} bytes`);
    if (length === 0) throw this.#failed(`a chunk of type ${this.#type} without anything`);
    if (this.#small.length < length) this.#small = new Uint8Array(length);
    this.#dataLength = length;
    this.#expect("payload", length, 0);
  }

  #dataLength = 0;

  #takePayload(view: DataView): void {
    const asked = this.#asked!;
    const length = this.#dataLength;
    switch (this.#type) {
      case CHUNK_TYPE.offsetData:
        return this.#expectData(asked, readU64(view, 0), length);
      case CHUNK_TYPE.offsetHole: {
        if (length !== 12) throw this.#failed("a hole of no size");
        const offset = readU64(view, 0);
        const size = view.getUint32(8);
        this.#checkInside(asked, offset, size);
        asked.buffer!.fill(0, offset - asked.offset, offset - asked.offset + size);
        asked.got += size;
        return this.#finish();
      }
      case CHUNK_TYPE.blockStatus: {
        if (asked.command !== CMD.blockStatus || length < 12 || length % 8 !== 4) {
          throw this.#failed("a status that nobody asked for");
        }
        if (view.getUint32(0) === this.#options.contextId) {
          asked.extents = [];
          for (let at = 4; at < length; at += 8) {
            const size = view.getUint32(at);
            if (size === 0) throw this.#failed("an extent of no length");
            asked.extents.push({ length: size, isZero: (view.getUint32(at + 4) & STATE_ZERO) !== 0 });
          }
        }
        return this.#finish();
      }
      default: {
        const isError = this.#type >= 32768;
        if (!isError || length < 6) throw this.#failed(`a chunk of type ${this.#type}, which is unknown`);
        asked.error = asked.error === 0 ? view.getUint32(0) || 5 : asked.error;
        return this.#finish();
      }
    }
  }

  #expectData(asked: Asked, offset: number, length: number): void {
    this.#checkInside(asked, offset, length);
    asked.got += length;
    this.#target = asked.buffer;
    this.#targetAt = offset - asked.offset;
    this.#expect("data", length, 0);
  }

  #checkInside(asked: Asked, offset: number, length: number): void {
    const isInside = offset >= asked.offset && offset + length <= asked.offset + asked.length;
    if (asked.command !== CMD.read || !isInside || asked.got + length > asked.length) {
      throw this.#failed(`${length} bytes of data at ${offset} that nobody asked for`);
    }
  }

  /** A message is over; with the last one the request is. */
  #finish(): void {
    const asked = this.#asked!;
    const cookie = this.#cookie;
    this.#asked = undefined;
    this.#target = undefined;
    this.#expect("magic", 4, 0);
    if (!this.#isLast) return;
    if (asked.command === CMD.read && asked.error === 0 && asked.got !== asked.length) {
      throw this.#failed(`${asked.got} bytes of data, wanted ${asked.length}`);
    }
    this.#options.done(cookie, asked);
  }

  #find(view: DataView, at: number): Asked {
    this.#cookie = readU64(view, at);
    const asked = this.#options.find(this.#cookie);
    if (asked === undefined) throw this.#failed("an answer to nothing that was asked");
    this.#asked = asked;
    return asked;
  }

  #expect(state: "magic" | "simple" | "chunk" | "payload" | "data", need: number, have: number): void {
    this.#state = state;
    this.#need = need;
    this.#have = have;
  }

  #failed(what: string): ProtocolError {
    return new ProtocolError(`${this.#options.server}: it sent ${what}`);
  }
}
