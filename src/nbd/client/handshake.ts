/**
 * The client's side of the handshake: fixed newstyle, TLS where it is wanted, structured replies and block status where
 * the server has them, GO. Bytes in, steps out; no socket.
 */
import { ProtocolError } from "../../errors/index.js";
import { concat, hasMagic, putMagic } from "../handshake.js";
import {
  BASE_ALLOCATION,
  GREETING,
  HANDSHAKE_FLAG,
  INFO,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  MAX_PAYLOAD_BYTES,
  NBD_MAGIC,
  OPT,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  REP,
  readU64,
  viewOf,
} from "../protocol.js";

/** What a server said of an export. */
export interface Negotiated {
  readonly sizeBytes: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly isStructured: boolean;
  /** Of base:allocation, where it was agreed. */
  readonly contextId: number | undefined;
  readonly minimumBlockBytes: number;
  readonly maximumPayloadBytes: number;
}

export type ClientStep =
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  | { readonly kind: "tls" }
  | { readonly kind: "ready"; readonly negotiated: Negotiated; readonly rest: Uint8Array };

const MAX_REPLY_BYTES = 64 * 1024;
const MAX_REPLIES = 1000;
const ERROR_BIT = 0x80000000;
const REFUSALS: ReadonlyMap<number, string> = new Map([
  [REP.errUnsupported, "it does not know what was asked"],
  [REP.errPolicy, "its policy forbids it"],
  [REP.errInvalid, "it finds the request malformed"],
  [REP.errPlatform, "it is not possible there"],
  [REP.errTlsRequired, "it wants TLS: use an nbds:// URI"],
  [REP.errUnknown, "it has no export of that name"],
  [REP.errShutdown, "it is shutting down"],
  [REP.errBlockSizeRequired, "it wants block sizes to be kept to"],
]);

export class ClientHandshake {
  readonly #exportName: string;
  readonly #usesTls: boolean;
  readonly #server: string;
  #buffered: Uint8Array = new Uint8Array(0);
  #steps: ClientStep[] = [];
  #isGreeted = false;
  /** The option that is being answered. */
  #asked = 0;
  #replies = 0;
  #isOver = false;
  #isStructured = false;
  #contextId: number | undefined;
  #size: number | undefined;
  #flags = 0;
  #minimum = 1;
  #maximum = MAX_PAYLOAD_BYTES;

  /** @param options.server for messages */
  constructor(options: { readonly exportName: string; readonly usesTls: boolean; readonly server: string }) {
    this.#exportName = options.exportName;
    this.#usesTls = options.usesTls;
    this.#server = options.server;
  }

  /** @throws ProtocolError */
  push(bytes: Uint8Array): readonly ClientStep[] {
    this.#buffered = concat([this.#buffered, bytes]);
    this.#steps = [];
    while (!this.#isOver && this.#takeNext());
    return this.#steps;
  }

  /** The connection is encrypted now. */
  encrypted(): readonly ClientStep[] {
    this.#buffered = new Uint8Array(0);
    this.#steps = [];
    this.#isOver = false;
    this.#ask(OPT.structuredReply);
    return this.#steps;
  }

  #takeNext(): boolean {
    const view = viewOf(this.#buffered);
    if (!this.#isGreeted) {
      if (view.byteLength < GREETING.size) return false;
      if (!hasMagic(view, GREETING.at.magic, NBD_MAGIC)) throw this.#failed("it is no NBD server");
      const flags = view.getUint16(GREETING.at.flags);
      const isNew = hasMagic(view, GREETING.at.optionMagic, OPTION_MAGIC);
      if (!isNew || (flags & HANDSHAKE_FLAG.fixedNewstyle) === 0)
        throw this.#failed("it does not speak fixed newstyle");
      this.#skip(GREETING.size);
      this.#isGreeted = true;
      const answer = new Uint8Array(4);
      viewOf(answer).setUint32(0, flags & (HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes));
      this.#steps.push({ kind: "send", bytes: answer });
      this.#ask(this.#usesTls ? OPT.startTls : OPT.structuredReply);
      return true;
    }
    if (view.byteLength < OPTION_REPLY.size) return false;
    if (!hasMagic(view, OPTION_REPLY.at.magic, OPTION_REPLY_MAGIC))
      throw this.#failed("a reply without its magic number");
    const option = view.getUint32(OPTION_REPLY.at.option);
    const type = view.getUint32(OPTION_REPLY.at.type);
    const length = view.getUint32(OPTION_REPLY.at.length);
    if (option !== this.#asked) throw this.#failed(`a reply to option ${option}, wanted one to ${this.#asked}`);
    if (length > MAX_REPLY_BYTES) throw this.#failed(`a reply of ${length} bytes to option ${option}`);
    if (view.byteLength < OPTION_REPLY.size + length) return false;
    if (++this.#replies > MAX_REPLIES) throw this.#failed("it answers without end");
    const data = this.#buffered.subarray(OPTION_REPLY.size, OPTION_REPLY.size + length);
    this.#skip(OPTION_REPLY.size + length);
    this.#take(option, type, data);
    return true;
  }

  #take(option: number, type: number, data: Uint8Array): void {
    const isError = type >= ERROR_BIT;
    switch (option) {
      case OPT.startTls:
        if (type !== REP.ack) throw this.#refused(type, data, "no TLS");
        this.#steps.push({ kind: "tls" });
        this.#isOver = true;
        return;
      case OPT.structuredReply:
        if (type === REP.errTlsRequired) throw this.#refused(type, data, "refused");
        this.#isStructured = type === REP.ack;
        return this.#isStructured ? this.#ask(OPT.setMetaContext, this.#contextQuery()) : this.#go();
      case OPT.setMetaContext:
        if (type === REP.metaContext && data.length > 4) {
          const name = Buffer.from(data.subarray(4)).toString("utf8");
          if (name === BASE_ALLOCATION) this.#contextId = viewOf(data).getUint32(0);
          return;
        }
        // Without it everything counts as data.
        if (isError) this.#contextId = undefined;
        return this.#go();
      default:
        if (isError) throw this.#refused(type, data, `export '${this.#exportName}'`);
        if (type === REP.info) return this.#takeInfo(data);
        if (type === REP.ack) return this.#ready();
    }
  }

  #takeInfo(data: Uint8Array): void {
    const view = viewOf(data);
    if (view.byteLength < 2) throw this.#failed("an information without a type");
    const type = view.getUint16(0);
    if (type === INFO.export && view.byteLength >= INFO_EXPORT.size) {
      this.#size = readU64(view, INFO_EXPORT.at.size);
      this.#flags = view.getUint16(INFO_EXPORT.at.flags);
    }
    if (type === INFO.blockSize && view.byteLength >= INFO_BLOCK_SIZE.size) {
      this.#minimum = view.getUint32(INFO_BLOCK_SIZE.at.minimum);
      this.#maximum = Math.min(MAX_PAYLOAD_BYTES, view.getUint32(INFO_BLOCK_SIZE.at.maximum));
      const isPower = this.#minimum > 0 && (this.#minimum & (this.#minimum - 1)) === 0;
      if (!isPower || this.#minimum > 65536 || this.#maximum < this.#minimum) {
        throw this.#failed(`block sizes of ${this.#minimum} to ${this.#maximum} bytes`);
      }
    }
  }

  #ready(): void {
    if (this.#size === undefined || Number.isNaN(this.#size))
      throw this.#failed("it does not say how large the export is");
    this.#isOver = true;
    this.#steps.push({
      kind: "ready",
      negotiated: {
        sizeBytes: this.#size,
        flags: this.#flags,
        isStructured: this.#isStructured,
        contextId: this.#contextId,
        minimumBlockBytes: this.#minimum,
        maximumPayloadBytes: this.#maximum,
      },
      rest: this.#buffered,
    });
  }

  #go(): void {
    const name = Buffer.from(this.#exportName);
    const data = new Uint8Array(4 + name.length + 2 + 2);
    const view = viewOf(data);
    view.setUint32(0, name.length);
    data.set(name, 4);
    view.setUint16(4 + name.length, 1);
    view.setUint16(4 + name.length + 2, INFO.blockSize);
    this.#ask(OPT.go, data);
  }

  #contextQuery(): Uint8Array {
    const name = Buffer.from(this.#exportName);
    const context = Buffer.from(BASE_ALLOCATION);
    const head = new Uint8Array(4);
    viewOf(head).setUint32(0, name.length);
    const tail = new Uint8Array(8);
    viewOf(tail).setUint32(0, 1);
    viewOf(tail).setUint32(4, context.length);
    return concat([head, name, tail, context]);
  }

  #ask(option: number, data: Uint8Array = new Uint8Array(0)): void {
    this.#asked = option;
    const head = new Uint8Array(OPTION.size);
    const view = viewOf(head);
    putMagic(view, OPTION.at.magic, OPTION_MAGIC);
    view.setUint32(OPTION.at.option, option);
    view.setUint32(OPTION.at.length, data.length);
    this.#steps.push({ kind: "send", bytes: concat([head, data]) });
  }

  #skip(count: number): void {
    this.#buffered = this.#buffered.subarray(count);
  }

  #refused(type: number, data: Uint8Array, what: string): ProtocolError {
    const text = Buffer.from(data)
      .toString("utf8")
      .replaceAll(/[^\x20-\x7e]+/g, " ")
      .slice(0, 200);
    return this.#failed(
      `${what}: ${REFUSALS.get(type) ?? `error ${type - ERROR_BIT}`}${text === "" ? "" : ` (${text})`}`,
    );
  }

  #failed(reason: string): ProtocolError {
    return new ProtocolError(`${this.#server}: ${reason}`);
  }
}
