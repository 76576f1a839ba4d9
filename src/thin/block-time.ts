/** Mapping values: the data block in the high 40 bits, the time it was mapped in the low 24. Split on the halves. */
import type { ReadView } from "../bytes/index.js";

export const BLOCK_TIME_BYTES = 8;
/** Clock values from here on would run into the block number. */
export const TIME_LIMIT = 2 ** 24;
/** Data block numbers have 40 bits. */
export const DATA_BLOCK_LIMIT = 2 ** 40;

export function blockOf(view: ReadView, offset: number): number {
  return view.getUint32(offset + 4, true) * 256 + (view.getUint32(offset, true) >>> 24);
}

export function timeOf(view: ReadView, offset: number): number {
  return view.getUint32(offset, true) & 0xffffff;
}

export function setBlockTime(view: DataView, offset: number, block: number, time: number): void {
  view.setUint32(offset, (((block % 256) << 24) | time) >>> 0, true);
  view.setUint32(offset + 4, Math.floor(block / 256), true);
}

/** Calls `visit` with the runs of consecutive data blocks among packed values. */
export function eachBlockRun(
  view: ReadView,
  offset: number,
  count: number,
  visit: (begin: number, end: number) => void,
): void {
  if (count === 0) return;
  let begin = blockOf(view, offset);
  let end = begin + 1;
  for (let index = 1; index < count; index++) {
    const block = blockOf(view, offset + index * BLOCK_TIME_BYTES);
    if (block === end) {
      end++;
      continue;
    }
    visit(begin, end);
    begin = block;
    end = block + 1;
  }
  visit(begin, end);
}
