/**
 * Writes that the server has answered and not flushed, in the order of the answers. They are written again when the server
 * goes away and comes back.
 */
import { CMD_FLAG } from "../protocol.js";

export interface Kept {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | undefined;
}

export class KeptWrites {
  #kept: Kept[] = [];
  #bytes = 0;

  get count(): number {
    return this.#kept.length;
  }
  get bytes(): number {
    return this.#bytes;
  }
  all(): readonly Kept[] {
    return [...this.#kept];
  }

  keep({ command, flags, offset, length, data }: Kept): void {
    // Durable at once; but what is kept from before must not come to lie over it.
    if ((flags & CMD_FLAG.fua) !== 0 && this.#kept.length === 0) return;
    this.#kept.push({ command, flags, offset, length, data: data?.slice() });
    this.#bytes += data?.length ?? 0;
  }

  /** The first `count` are durable. */
  forget(count: number): void {
    for (const each of this.#kept.splice(0, count)) this.#bytes -= each.data?.length ?? 0;
  }

  /** What was trimmed as a whole need not be written again; nobody relies on what it held. */
  drop(trimmed: { readonly offset: number; readonly length: number }): void {
    const end = trimmed.offset + trimmed.length;
    const isInside = (each: Kept) => each.offset >= trimmed.offset && each.offset + each.length <= end;
    if (!this.#kept.some(isInside)) return;
    this.#kept = this.#kept.filter((each) => !isInside(each));
    this.#bytes = this.#kept.reduce((sum, each) => sum + (each.data?.length ?? 0), 0);
  }
}
