/** The bytes of NBD as a client sends and reads them, written down a second time: nothing of src/nbd is used here. */
import type { NbdExport } from "../../src/nbd/export.js";
import { ServerHandshake } from "../../src/nbd/handshake.js";
import { DEFAULT_LIMITS, Transmission, type TransmissionLimits } from "../../src/nbd/transmission.js";

export function bytesOf(
  ...parts: readonly (string | Uint8Array | readonly [size: 1 | 2 | 4 | 8, value: number])[]
): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (typeof part === "string") return Buffer.from(part, "utf8");
      if (part instanceof Uint8Array) return Buffer.from(part);
      const [size, value] = part;
      const bytes = Buffer.alloc(size);
      if (size === 8) bytes.writeBigUInt64BE(BigInt(value));
      else bytes.writeUIntBE(value, 0, size);
      return bytes;
    }),
  );
}

export const CLIENT_FLAGS = bytesOf([4, 3]);

export function option(number: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  return bytesOf("IHAVEOPT", [4, number], [4, data.length], data);
}

export function goData(name: string, infos: readonly number[] = []): Buffer {
  return bytesOf([4, Buffer.byteLength(name)], name, [2, infos.length], ...infos.map((each) => [2, each] as const));
}

export function contextData(name: string, queries: readonly string[]): Buffer {
  const each = queries.flatMap((query) => [[4, Buffer.byteLength(query)] as const, query]);
  return bytesOf([4, Buffer.byteLength(name)], name, [4, queries.length], ...each);
}

export interface RequestFields {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: number;
  readonly offset?: number;
  readonly length?: number;
  readonly data?: Uint8Array;
}

export function request({ type, flags = 0, cookie = 1, offset = 0, length, data }: RequestFields): Buffer {
  return bytesOf(
    [4, 0x25609513],
    [2, flags],
    [2, type],
    [8, cookie],
    [8, offset],
    [4, length ?? data?.length ?? 0],
    data ?? Buffer.alloc(0),
  );
}

/** All that a client needs to come to requests. */
export function handshake(
  name: string,
  options: { readonly structured?: boolean; readonly contexts?: readonly string[] } = {},
) {
  const { structured = true, contexts = [] } = options;
  return Buffer.concat([
    CLIENT_FLAGS,
    ...(structured ? [option(8)] : []),
    ...(contexts.length > 0 ? [option(10, contextData(name, contexts))] : []),
    option(7, goData(name)),
  ]);
}

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

/** The replies to options at the front of a stream, and what is left. */
export function optionReplies(stream: Buffer): { readonly replies: readonly OptionReply[]; readonly rest: Buffer } {
  const replies: OptionReply[] = [];
  let rest = stream;
  while (rest.length >= 20 && rest.readBigUInt64BE(0) === 0x0003e889045565a9n) {
    const length = rest.readUInt32BE(16);
    if (rest.length < 20 + length) break;
    replies.push({ option: rest.readUInt32BE(8), type: rest.readUInt32BE(12), data: rest.subarray(20, 20 + length) });
    rest = rest.subarray(20 + length);
  }
  return { replies, rest };
}

/** What a request was answered with. */
export interface Answer {
  readonly cookie: number;
  readonly error: number;
  /** Data with their offsets. */
  readonly data: readonly { readonly offset: number; readonly bytes: Buffer }[];
  /** Extents by context. */
  readonly status: ReadonlyMap<number, readonly (readonly [length: number, state: number])[]>;
}

interface OpenAnswer {
  error: number;
  readonly data: { readonly offset: number; readonly bytes: Buffer }[];
  readonly status: Map<number, [number, number][]>;
}

function newAnswer(): OpenAnswer {
  return { error: 0, data: [], status: new Map() };
}

/** Chunks of a structured stream, put together. @throws when a chunk is not well formed */
export function structuredAnswers(stream: Buffer): readonly Answer[] {
  const open = new Map<number, OpenAnswer>();
  const answers: Answer[] = [];
  for (let rest = stream; rest.length > 0; ) {
    if (rest.readUInt32BE(0) !== 0x668e33ef) throw new Error(`no chunk: ${rest.subarray(0, 20).toString("hex")}`);
    const flags = rest.readUInt16BE(4);
    const type = rest.readUInt16BE(6);
    const cookie = Number(rest.readBigUInt64BE(8));
    const length = rest.readUInt32BE(16);
    const payload = rest.subarray(20, 20 + length);
    if (payload.length < length) throw new Error("a chunk is cut off");
    rest = rest.subarray(20 + length);
    const answer = open.get(cookie) ?? newAnswer();
    open.set(cookie, answer);
    if (type === 1) answer.data.push({ offset: Number(payload.readBigUInt64BE(0)), bytes: payload.subarray(8) });
    else if (type === 5) {
      const extents: [number, number][] = [];
      for (let at = 4; at < length; at += 8) extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
      answer.status.set(payload.readUInt32BE(0), extents);
    } else if (type === 32769) {
      answer.error = payload.readUInt32BE(0);
      if (payload.readUInt16BE(4) !== length - 6) throw new Error("a message of a wrong length");
    } else if (type !== 0 || length !== 0 || (flags & 1) === 0)
      throw new Error(`a chunk of type ${type}, ${length} bytes`);
    if ((flags & 1) === 0) continue;
    open.delete(cookie);
    answers.push({ cookie, ...answer });
  }
  if (open.size > 0) throw new Error(`${open.size} answers are not whole`);
  return answers;
}

/** A server without a socket: bytes in, bytes out. */
export class ServerInMemory {
  readonly #handshake: ServerHandshake;
  readonly #limits: TransmissionLimits;
  #out: Buffer[] = [ServerHandshake.greeting() as Buffer];
  transmission: Transmission | undefined;
  isOver = false;
  reason: string | undefined;
  #wantsRun = false;
  /** Most bytes that the client takes at a time. */
  window = Number.POSITIVE_INFINITY;

  constructor(
    exports: readonly NbdExport[],
    options: { readonly requiresTls?: boolean; readonly limits?: TransmissionLimits } = {},
  ) {
    this.#handshake = new ServerHandshake({ exports, requiresTls: options.requiresTls ?? false });
    this.#limits = options.limits ?? DEFAULT_LIMITS;
  }

  /** What was sent since the last time. */
  take(): Buffer {
    const all = Buffer.concat(this.#out);
    this.#out = [];
    return all;
  }

  push(bytes: Uint8Array): void {
    if (this.isOver) return;
    if (this.transmission === undefined) {
      for (const step of this.#handshake.push(bytes)) {
        if (step.kind === "send") this.#out.push(Buffer.from(step.bytes));
        if (step.kind === "close") this.#end(step.reason);
        if (step.kind !== "transmit") continue;
        this.transmission = new Transmission(
          step.agreement,
          {
            send: (from, start, end) => {
              const count = Math.min(end - start, this.window);
              this.#out.push(Buffer.from(from.subarray(start, start + count)));
              this.window -= count;
              return count;
            },
            ended: (reason) => this.#end(reason),
            yielded: () => {
              this.#wantsRun = true;
            },
            failed: (error) => {
              throw error;
            },
            completed: () => {
              this.#wantsRun = true;
            },
          },
          this.#limits,
        );
        this.push(step.rest);
      }
      return;
    }
    for (let at = 0; at < bytes.length && !this.isOver; ) {
      const took = this.transmission.receive(bytes.subarray(at));
      this.transmission.run();
      at += took;
      if (took === 0 && this.transmission.room === 0) return;
    }
  }

  /** Until nothing is under way any more. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet++) {
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#wantsRun || (this.transmission?.inFlight ?? 0) > 0) quiet = 0;
      this.#wantsRun = false;
      if (!this.isOver) this.transmission?.run();
    }
  }

  async finish(): Promise<void> {
    if (!this.isOver) this.transmission?.inputEnded();
    await this.settle();
  }

  #end(reason: string | undefined): void {
    this.isOver = true;
    this.reason = reason;
  }
}
