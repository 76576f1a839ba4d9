/** Text as bytes, put together in one buffer without making strings of it. ASCII only. */

const DIGIT_0 = 48;
const BILLION = 1_000_000_000;
const TWO_32 = 4294967296;
const BUFFER_BYTES = 256 * 1024;
/** Most that is put between two looks at `isFull`. */
const SLACK_BYTES = 64 * 1024;

export function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

export class ByteWriter {
  #bytes = new Uint8Array(BUFFER_BYTES + SLACK_BYTES);
  #at = 0;

  get isFull(): boolean {
    return this.#at >= BUFFER_BYTES;
  }

  /** What was put since the last call; the caller owns it. */
  take(): Uint8Array {
    const taken = this.#bytes.subarray(0, this.#at);
    this.#bytes = new Uint8Array(BUFFER_BYTES + SLACK_BYTES);
    this.#at = 0;
    return taken;
  }

  /** Hands out what was put since the last call; valid until the next byte is put. */
  peek(): Uint8Array {
    const bytes = this.#bytes.subarray(0, this.#at);
    this.#at = 0;
    return bytes;
  }

  put(text: Uint8Array): void {
    const bytes = this.#bytes;
    let at = this.#at;
    for (let index = 0; index < text.length; index++) bytes[at++] = text[index]!;
    this.#at = at;
  }

  text(text: string): void {
    this.put(ascii(text));
  }

  /** A whole number from 0 to 2^53. */
  number(value: number): void {
    this.#at = putNumber(this.#bytes, this.#at, value);
  }
}

function putNumber(bytes: Uint8Array, at: number, value: number): number {
  if (value >= TWO_32) {
    const high = Math.floor(value / BILLION);
    const low = value - high * BILLION;
    const middle = putNumber(bytes, at, high);
    putDigits(bytes, middle, low, 9);
    return middle + 9;
  }
  const length = digitsOf(value);
  putDigits(bytes, at, value, length);
  return at + length;
}

function putDigits(bytes: Uint8Array, at: number, value: number, length: number): void {
  let rest = value;
  for (let place = at + length - 1; place >= at; place--) {
    const next = (rest / 10) >>> 0;
    bytes[place] = DIGIT_0 + (rest - next * 10);
    rest = next;
  }
}

function digitsOf(value: number): number {
  if (value < 100_000) {
    if (value < 100) return value < 10 ? 1 : 2;
    if (value < 10_000) return value < 1000 ? 3 : 4;
    return 5;
  }
  if (value < 10_000_000) return value < 1_000_000 ? 6 : 7;
  if (value < BILLION) return value < 100_000_000 ? 8 : 9;
  return 10;
}
