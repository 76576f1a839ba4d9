/**
 * Frames on a stream: length (4 bytes, little endian, of what follows), kind (1 byte), content. A message is JSON; bytes of
 * a stream carry its number (4 bytes) in front. The reader knows no socket: bytes in, frames out, however they were cut.
 */
import { StateError } from "../../errors/index.js";

export const MESSAGE = 1;
export const BYTES = 2;
const LENGTH_BYTES = 4;
const HEAD_BYTES = LENGTH_BYTES + 1;

export type Frame =
  | { readonly kind: "message"; readonly value: unknown }
  | { readonly kind: "bytes"; readonly stream: number; readonly bytes: Buffer };

export function messageFrame(value: unknown): Buffer {
  const text = JSON.stringify(value);
  const length = Buffer.byteLength(text);
  const frame = Buffer.allocUnsafe(HEAD_BYTES + length);
  frame.writeUInt32LE(1 + length, 0);
  frame[LENGTH_BYTES] = MESSAGE;
  frame.write(text, HEAD_BYTES);
  return frame;
}

/** Head of a frame of bytes; the bytes follow it as they are. */
export function bytesHead(stream: number, length: number): Buffer {
  const head = Buffer.allocUnsafe(HEAD_BYTES + 4);
  head.writeUInt32LE(1 + 4 + length, 0);
  head[LENGTH_BYTES] = BYTES;
  head.writeUInt32LE(stream, HEAD_BYTES);
  return head;
}

/** @throws StateError EINVAL: the other side does not speak this protocol, hang up */
export class FrameReader {
  readonly #maxBytes: number;
  #parts: Buffer[] = [];
  #held = 0;

  constructor(options: { readonly maxBytes: number }) {
    this.#maxBytes = options.maxBytes;
  }

  /** Frames that are whole now. A length above the limit is refused before anything of it is kept. */
  *push(chunk: Buffer): Generator<Frame> {
    this.#parts.push(chunk);
    this.#held += chunk.length;
    for (;;) {
      if (this.#held < HEAD_BYTES) return;
      const head = this.#peek(HEAD_BYTES);
      const length = head.readUInt32LE(0);
      if (length < 1 || length > this.#maxBytes) {
        throw new StateError("EINVAL", `a frame of ${length} bytes, wanted 1 to ${this.#maxBytes}`);
      }
      const kind = head[LENGTH_BYTES];
      if (kind !== MESSAGE && kind !== BYTES) throw new StateError("EINVAL", `a frame of kind ${kind}`);
      if (this.#held < LENGTH_BYTES + length) return;
      const content = this.#take(LENGTH_BYTES + length).subarray(HEAD_BYTES);
      if (kind === MESSAGE) yield { kind: "message", value: parse(content) };
      else if (content.length < 4) throw new StateError("EINVAL", "a frame of bytes without the stream's number");
      else yield { kind: "bytes", stream: content.readUInt32LE(0), bytes: content.subarray(4) };
    }
  }

  #peek(count: number): Buffer {
    if (this.#parts[0]!.length < count) this.#parts = [Buffer.concat(this.#parts)];
    return this.#parts[0]!;
  }

  #take(count: number): Buffer {
    const [first] = this.#parts;
    const all = first!.length >= count ? first! : Buffer.concat(this.#parts);
    const rest = all.subarray(count);
    const others = all === first ? this.#parts.slice(1) : [];
    this.#parts = rest.length === 0 ? others : [rest, ...others];
    this.#held -= count;
    return all.subarray(0, count);
  }
}

function parse(content: Buffer): unknown {
  try {
    return JSON.parse(content.toString("utf8"));
  } catch (error) {
    throw new StateError("EINVAL", "a message that is not JSON", { cause: error });
  }
}
