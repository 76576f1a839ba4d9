/**
 * The server's side of the handshake: fixed newstyle, options, up to the moment where requests begin. Bytes in, steps out;
 * no socket. A client that says what no client says is sent away.
 *
 * With TLS configured nothing but STARTTLS is answered before it. What a client sent in clear behind STARTTLS is never
 * looked at: somebody on the way may have put it there.
 */

import type { NbdExport } from "./export.js";
import {
  BASE_ALLOCATION,
  EXPORT_NAME_REPLY,
  GREETING,
  HANDSHAKE_FLAG,
  INFO,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  MAX_NAME_BYTES,
  MAX_OPTION_BYTES,
  MAX_PAYLOAD_BYTES,
  NBD_MAGIC,
  OPT,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  REP,
  TRANSMISSION_FLAG,
  UDM_SHARED,
  viewOf,
  writeU64,
} from "./protocol.js";

export interface HandshakeOptions {
  readonly exports: readonly NbdExport[];
  /** STARTTLS is offered, and nothing else before it. */
  readonly requiresTls: boolean;
}

/** Status contexts that were agreed, with the number the server gave each. */
export interface Contexts {
  readonly allocation: boolean;
  readonly sharing: boolean;
}

export interface Agreement {
  readonly export: NbdExport;
  readonly isStructured: boolean;
  readonly contexts: Contexts;
}

export type HandshakeStep =
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  | { readonly kind: "tls" }
  /** `rest`: what came behind the handshake already. */
  | { readonly kind: "transmit"; readonly agreement: Agreement; readonly rest: Uint8Array }
  | { readonly kind: "close"; readonly reason: string };

export const CONTEXT_ID = { allocation: 1, sharing: 2 } as const;
const NO_CONTEXTS: Contexts = { allocation: false, sharing: false };
const CLIENT_FLAGS_BYTES = 4;
const MAX_OPTIONS = 1000;
const ZERO_PADDING_BYTES = 124;

export class ServerHandshake {
  readonly #options: HandshakeOptions;
  #buffered: Uint8Array = new Uint8Array(0);
  #phase: "flags" | "options" | "over" = "flags";
  #hasNoZeroes = false;
  #isEncrypted = false;
  #isStructured = false;
  /** Contexts, and the name of the export they were agreed for. */
  #contexts: { readonly name: string; readonly chosen: Contexts } | undefined;
  #optionCount = 0;
  #steps: HandshakeStep[] = [];

  constructor(options: HandshakeOptions) {
    this.#options = options;
  }

  /** What the server says before the client says anything. */
  static greeting(): Uint8Array {
    const bytes = new Uint8Array(GREETING.size);
    const view = viewOf(bytes);
    putMagic(view, GREETING.at.magic, NBD_MAGIC);
    putMagic(view, GREETING.at.optionMagic, OPTION_MAGIC);
    view.setUint16(GREETING.at.flags, HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes);
    return bytes;
  }

  /** Takes what came; nothing after the last step is looked at. */
  push(bytes: Uint8Array): readonly HandshakeStep[] {
    this.#buffered = this.#buffered.length === 0 ? bytes : concat([this.#buffered, bytes]);
    this.#steps = [];
    while (this.#phase !== "over" && this.#takeNext());
    // The bytes are the caller's: what is kept is copied.
    this.#buffered = this.#buffered.slice();
    return this.#steps;
  }

  /** The connection is encrypted now; everything agreed before is void. */
  encrypted(): void {
    this.#isEncrypted = true;
    this.#isStructured = false;
    this.#contexts = undefined;
    this.#buffered = new Uint8Array(0);
    this.#phase = "options";
  }

  /** @returns false when more bytes are needed */
  #takeNext(): boolean {
    const view = viewOf(this.#buffered);
    if (this.#phase === "flags") {
      if (view.byteLength < CLIENT_FLAGS_BYTES) return false;
      const flags = view.getUint32(0);
      this.#skip(CLIENT_FLAGS_BYTES);
      if ((flags & ~(HANDSHAKE_FLAG.fixedNewstyle | HANDSHAKE_FLAG.noZeroes)) !== 0) {
        return this.#close(`unknown handshake flags 0x${flags.toString(16)}`);
      }
      if ((flags & HANDSHAKE_FLAG.fixedNewstyle) === 0) return this.#close("the client does not speak fixed newstyle");
      this.#hasNoZeroes = (flags & HANDSHAKE_FLAG.noZeroes) !== 0;
      this.#phase = "options";
      return true;
    }
    if (view.byteLength < OPTION.size) return false;
    if (!hasMagic(view, OPTION.at.magic, OPTION_MAGIC)) return this.#close("an option without its magic number");
    const option = view.getUint32(OPTION.at.option);
    const length = view.getUint32(OPTION.at.length);
    if (length > MAX_OPTION_BYTES) return this.#close(`option ${option} with ${length} bytes`);
    if (view.byteLength < OPTION.size + length) return false;
    if (++this.#optionCount > MAX_OPTIONS) return this.#close(`more than ${MAX_OPTIONS} options`);
    const data = this.#buffered.subarray(OPTION.size, OPTION.size + length);
    this.#skip(OPTION.size + length);
    this.#answer(option, data);
    return true;
  }

  #answer(option: number, data: Uint8Array): void {
    if (this.#options.requiresTls && !this.#isEncrypted) {
      if (option === OPT.startTls) return this.#startTls(data);
      if (option === OPT.exportName) return void this.#close("asked for an export without TLS");
      if (option !== OPT.abort) return this.#refuse(option, REP.errTlsRequired, "use TLS");
    }
    switch (option) {
      case OPT.exportName:
        return this.#exportName(data);
      case OPT.abort:
        this.#reply(option, REP.ack);
        return void this.#close("the client ended the handshake");
      case OPT.list:
        return this.#list(data);
      case OPT.startTls:
        return this.#refuse(option, this.#isEncrypted ? REP.errInvalid : REP.errUnsupported, "no TLS here");
      case OPT.info:
      case OPT.go:
        return this.#info(option, data);
      case OPT.structuredReply:
        if (data.length > 0) return this.#refuse(option, REP.errInvalid, "no data wanted");
        this.#isStructured = true;
        return this.#reply(option, REP.ack);
      case OPT.listMetaContext:
      case OPT.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#refuse(option, REP.errUnsupported, "unknown option");
    }
  }

  #startTls(data: Uint8Array): void {
    if (data.length > 0) return this.#refuse(OPT.startTls, REP.errInvalid, "no data wanted");
    this.#reply(OPT.startTls, REP.ack);
    this.#steps.push({ kind: "tls" });
    this.#phase = "over";
    this.#buffered = new Uint8Array(0);
  }

  #exportName(data: Uint8Array): void {
    const found = this.#find(textOf(data));
    if (found === undefined) return void this.#close("no such export");
    const bytes = new Uint8Array(EXPORT_NAME_REPLY.size + (this.#hasNoZeroes ? 0 : ZERO_PADDING_BYTES));
    const view = viewOf(bytes);
    writeU64(view, EXPORT_NAME_REPLY.at.size, found.sizeBytes);
    view.setUint16(EXPORT_NAME_REPLY.at.flags, transmissionFlags(found, this.#isStructured));
    this.#steps.push({ kind: "send", bytes });
    this.#transmit(found, textOf(data));
  }

  #list(data: Uint8Array): void {
    if (data.length > 0) return this.#refuse(OPT.list, REP.errInvalid, "no data wanted");
    for (const each of this.#options.exports) {
      const name = Buffer.from(each.name);
      const head = new Uint8Array(4);
      viewOf(head).setUint32(0, name.length);
      this.#reply(OPT.list, REP.server, concat([head, name, Buffer.from(each.description ?? "")]));
    }
    this.#reply(OPT.list, REP.ack);
  }

  #info(option: number, data: Uint8Array): void {
    const request = parseInfo(data);
    if (request === undefined) return this.#refuse(option, REP.errInvalid, "malformed");
    if (request.name.length > MAX_NAME_BYTES) return this.#refuse(option, REP.errTooBig, "the name is too long");
    const name = textOf(request.name);
    const found = this.#find(name);
    if (found === undefined) return this.#refuse(option, REP.errUnknown, "no such export");
    const info = new Uint8Array(INFO_EXPORT.size);
    const view = viewOf(info);
    view.setUint16(INFO_EXPORT.at.type, INFO.export);
    writeU64(view, INFO_EXPORT.at.size, found.sizeBytes);
    view.setUint16(INFO_EXPORT.at.flags, transmissionFlags(found, this.#isStructured));
    this.#reply(option, REP.info, info);
    this.#reply(option, REP.info, blockSizeInfo(found));
    if (request.wanted.has(INFO.name)) this.#reply(option, REP.info, textInfo(INFO.name, found.name));
    if (request.wanted.has(INFO.description) && found.description !== undefined) {
      this.#reply(option, REP.info, textInfo(INFO.description, found.description));
    }
    this.#reply(option, REP.ack);
    if (option === OPT.go) this.#transmit(found, name);
  }

  #metaContext(option: number, data: Uint8Array): void {
    const isSetting = option === OPT.setMetaContext;
    if (isSetting) this.#contexts = undefined;
    if (!this.#isStructured) return this.#refuse(option, REP.errInvalid, "structured replies come first");
    const request = parseQueries(data);
    if (request === undefined) return this.#refuse(option, REP.errInvalid, "malformed");
    if (request.name.length > MAX_NAME_BYTES) return this.#refuse(option, REP.errTooBig, "the name is too long");
    const name = textOf(request.name);
    const found = this.#find(name);
    if (found === undefined) return this.#refuse(option, REP.errUnknown, "no such export");
    const queries = new Set(request.queries.map(textOf));
    const listsAll = !isSetting && queries.size === 0;
    const isAsked = (context: string) => {
      const namespace = context.slice(0, context.indexOf(":") + 1);
      return listsAll || queries.has(context) || (!isSetting && queries.has(namespace));
    };
    const chosen = {
      allocation: isAsked(BASE_ALLOCATION),
      sharing: found.sharing !== undefined && isAsked(UDM_SHARED),
    };
    if (chosen.allocation) this.#reply(option, REP.metaContext, contextInfo(CONTEXT_ID.allocation, BASE_ALLOCATION));
    if (chosen.sharing) this.#reply(option, REP.metaContext, contextInfo(CONTEXT_ID.sharing, UDM_SHARED));
    if (isSetting) this.#contexts = { name, chosen };
    this.#reply(option, REP.ack);
  }

  /** The empty name is the default export: the first. */
  #find(name: string): NbdExport | undefined {
    if (name === "") return this.#options.exports[0];
    return this.#options.exports.find((each) => each.name === name);
  }

  #transmit(found: NbdExport, name: string): void {
    const contexts = this.#contexts?.name === name ? this.#contexts.chosen : NO_CONTEXTS;
    const agreement = { export: found, isStructured: this.#isStructured, contexts };
    this.#steps.push({ kind: "transmit", agreement, rest: this.#buffered });
    this.#phase = "over";
  }

  #refuse(option: number, type: number, text: string): void {
    this.#reply(option, type, Buffer.from(text));
  }

  #reply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): void {
    const bytes = new Uint8Array(OPTION_REPLY.size + data.length);
    const view = viewOf(bytes);
    putMagic(view, OPTION_REPLY.at.magic, OPTION_REPLY_MAGIC);
    view.setUint32(OPTION_REPLY.at.option, option);
    view.setUint32(OPTION_REPLY.at.type, type);
    view.setUint32(OPTION_REPLY.at.length, data.length);
    bytes.set(data, OPTION_REPLY.size);
    this.#steps.push({ kind: "send", bytes });
  }

  #close(reason: string): false {
    this.#steps.push({ kind: "close", reason });
    this.#phase = "over";
    this.#buffered = new Uint8Array(0);
    return false;
  }

  #skip(count: number): void {
    this.#buffered = this.#buffered.subarray(count);
  }
}

export function transmissionFlags(from: NbdExport, isStructured: boolean): number {
  const flag = TRANSMISSION_FLAG;
  let flags = flag.hasFlags | flag.sendFlush | flag.sendFua | flag.sendCache;
  if (from.isReadOnly) flags |= flag.readOnly;
  else flags |= flag.sendWriteZeroes;
  if (from.canTrim) flags |= flag.sendTrim;
  if (from.canFastZero) flags |= flag.sendFastZero;
  if (from.canMultiConn) flags |= flag.canMultiConn;
  if (isStructured) flags |= flag.sendDf;
  return flags;
}

function blockSizeInfo(from: NbdExport): Uint8Array {
  const bytes = new Uint8Array(INFO_BLOCK_SIZE.size);
  const view = viewOf(bytes);
  view.setUint16(INFO_BLOCK_SIZE.at.type, INFO.blockSize);
  view.setUint32(INFO_BLOCK_SIZE.at.minimum, from.minimumBlockBytes);
  view.setUint32(INFO_BLOCK_SIZE.at.preferred, from.preferredBlockBytes);
  view.setUint32(INFO_BLOCK_SIZE.at.maximum, MAX_PAYLOAD_BYTES);
  return bytes;
}

function textInfo(type: number, text: string): Uint8Array {
  const head = new Uint8Array(2);
  viewOf(head).setUint16(0, type);
  return concat([head, Buffer.from(text)]);
}

function contextInfo(id: number, name: string): Uint8Array {
  const head = new Uint8Array(4);
  viewOf(head).setUint32(0, id);
  return concat([head, Buffer.from(name)]);
}

/** Name length u32, name, count u16, that many info types. */
function parseInfo(data: Uint8Array): { readonly name: Uint8Array; readonly wanted: ReadonlySet<number> } | undefined {
  const view = viewOf(data);
  if (view.byteLength < 6) return undefined;
  const nameLength = view.getUint32(0);
  if (nameLength > view.byteLength - 6) return undefined;
  const count = view.getUint16(4 + nameLength);
  const first = 6 + nameLength;
  if (view.byteLength !== first + 2 * count) return undefined;
  const wanted = new Set<number>();
  for (let index = 0; index < count; index++) wanted.add(view.getUint16(first + 2 * index));
  return { name: data.subarray(4, 4 + nameLength), wanted };
}

/** Name length u32, name, queries u32, each a length u32 and text. */
function parseQueries(
  data: Uint8Array,
): { readonly name: Uint8Array; readonly queries: readonly Uint8Array[] } | undefined {
  const view = viewOf(data);
  if (view.byteLength < 8) return undefined;
  const nameLength = view.getUint32(0);
  if (nameLength > view.byteLength - 8) return undefined;
  const count = view.getUint32(4 + nameLength);
  // Each takes at least its length field: what promises more than there is ends here.
  if (count > (view.byteLength - 8 - nameLength) / 4) return undefined;
  const queries: Uint8Array[] = [];
  let at = 8 + nameLength;
  for (let index = 0; index < count; index++) {
    if (at + 4 > view.byteLength) return undefined;
    const length = view.getUint32(at);
    at += 4;
    if (length > view.byteLength - at) return undefined;
    queries.push(data.subarray(at, at + length));
    at += length;
  }
  return at === view.byteLength ? { name: data.subarray(4, 4 + nameLength), queries } : undefined;
}

export function putMagic(view: DataView, at: number, [high, low]: readonly [number, number]): void {
  view.setUint32(at, high);
  view.setUint32(at + 4, low);
}

export function hasMagic(view: DataView, at: number, [high, low]: readonly [number, number]): boolean {
  return view.getUint32(at) === high && view.getUint32(at + 4) === low;
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}
