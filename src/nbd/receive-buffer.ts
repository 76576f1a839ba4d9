/** Received bytes: requests, and the data of writes that are not too long, lie here until they are served. */
import { viewOf } from "./protocol.js";

const RX_BYTES = 512 * 1024;

export class ReceiveBuffer {
  readonly bytes = new Uint8Array(new ArrayBuffer(RX_BYTES));
  readonly view = viewOf(this.bytes);
  /** What is to be served lies from `start` to `end`; who serves it moves the one, who receives the other. */
  start = 0;
  end = 0;

  get size(): number {
    return this.end - this.start;
  }

  /** @returns bytes that can be received from `end` on */
  makeRoom(): number {
    if (this.start === this.end) this.clear();
    else if (this.end === RX_BYTES && this.start > 0) this.#compact();
    return RX_BYTES - this.end;
  }

  /** So many bytes from `start` on will lie in one piece. */
  makeWhole(bytes: number): void {
    if (this.start + bytes > RX_BYTES) this.#compact();
  }

  clear(): void {
    this.start = this.end = 0;
  }

  #compact(): void {
    if (this.start === 0) return;
    this.bytes.copyWithin(0, this.start, this.end);
    this.end -= this.start;
    this.start = 0;
  }
}
