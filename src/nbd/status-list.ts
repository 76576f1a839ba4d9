/** Block status: what a server tells of stretches, in the two contexts it has. */
import type { Extent } from "../io/index.js";
import type { NbdExport, SharedExtent } from "./export.js";
import { type Agreement, CONTEXT_ID } from "./handshake.js";
import { SHARED_HOLE, SHARED_SHARED, STATE_HOLE, STATE_ZERO, STATUS_CHUNK, viewOf } from "./protocol.js";

const MAX_STATUS_EXTENTS = 2 ** 16;
/** Status is looked up in stretches of this size. */
const STATUS_WINDOW_BYTES = 256 * 2 ** 20;

function allocationState(kind: Extent["kind"]): number {
  return kind === "zeros" ? STATE_HOLE | STATE_ZERO : 0;
}

function sharingState(kind: SharedExtent["kind"]): number {
  return kind === "hole" ? SHARED_HOLE : kind === "shared" ? SHARED_SHARED : 0;
}

/** Extents of a status reply, from the request's offset on. */
class StatusList {
  readonly #lengths: number[] = [];
  readonly #states: number[] = [];
  #isFull = false;

  constructor(
    readonly context: number,
    readonly isOne: boolean,
  ) {}

  get isFull(): boolean {
    return this.#isFull;
  }

  /** @param at end of what was added @returns the new end */
  add(at: number, extent: { readonly offset: number; readonly length: number }, state: number): number {
    const end = extent.offset + extent.length;
    if (this.#isFull || end <= at) return Math.max(at, end);
    const last = this.#lengths.length - 1;
    if (last >= 0 && this.#states[last] === state) this.#lengths[last]! += end - at;
    else if (last >= 0 && (this.isOne || last + 1 === MAX_STATUS_EXTENTS)) this.#isFull = true;
    else {
      this.#lengths.push(end - at);
      this.#states.push(state);
    }
    return end;
  }

  /** The chunk but for its header. Nothing is told of what lies beyond `length`; of what is unknown it says data. */
  chunk(length: number): Uint8Array {
    if (this.#lengths.length === 0) {
      this.#lengths.push(length);
      this.#states.push(0);
    }
    const bytes = new Uint8Array(STATUS_CHUNK.size + 8 * this.#lengths.length);
    const view = viewOf(bytes);
    view.setUint32(STATUS_CHUNK.at.context, this.context);
    let left = length;
    for (let index = 0; index < this.#lengths.length; index++) {
      const told = Math.min(left, this.#lengths[index]!);
      view.setUint32(STATUS_CHUNK.size + 8 * index, told);
      view.setUint32(STATUS_CHUNK.size + 8 * index + 4, this.#states[index]!);
      left -= told;
    }
    return bytes;
  }
}

/**
 * What block status is answered with, one chunk for each context asked for, its head still to be written.
 * @throws what asking the device throws
 */
export async function statusReplies(
  source: NbdExport,
  contexts: Agreement["contexts"],
  offset: number,
  length: number,
  isOne: boolean,
): Promise<readonly Uint8Array[]> {
  const replies: Uint8Array[] = [];
  if (contexts.allocation) {
    const list = new StatusList(CONTEXT_ID.allocation, isOne);
    for (let at = offset; at < offset + length && !list.isFull; ) {
      const found = await source.extents(at, Math.min(STATUS_WINDOW_BYTES, offset + length - at));
      for (const each of found) at = list.add(at, each, allocationState(each.kind));
      if (found.length === 0) break;
    }
    replies.push(list.chunk(length));
  }
  if (contexts.sharing) {
    const list = new StatusList(CONTEXT_ID.sharing, isOne);
    for (let at = offset; at < offset + length && !list.isFull; ) {
      const found = await source.sharing!(at, Math.min(STATUS_WINDOW_BYTES, offset + length - at));
      for (const each of found) at = list.add(at, each, sharingState(each.kind));
      if (found.length === 0) break;
    }
    replies.push(list.chunk(length));
  }
  return replies;
}
