/** Heads of replies, written where they are to be sent from. Cookies go as two halves: no number holds them. */
import { CHUNK, CHUNK_MAGIC, CHUNK_TYPE, DATA_CHUNK, SIMPLE_REPLY, SIMPLE_REPLY_MAGIC, writeU64 } from "./protocol.js";

export function putSimpleReply(view: DataView, at: number, error: number, cookieHigh: number, cookieLow: number): void {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + SIMPLE_REPLY.at.error, error);
  view.setUint32(at + SIMPLE_REPLY.at.cookie, cookieHigh);
  view.setUint32(at + SIMPLE_REPLY.at.cookie + 4, cookieLow);
}

export function putChunk(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  length: number,
): void {
  view.setUint32(at, CHUNK_MAGIC);
  view.setUint16(at + CHUNK.at.flags, flags);
  view.setUint16(at + CHUNK.at.type, type);
  view.setUint32(at + CHUNK.at.cookie, cookieHigh);
  view.setUint32(at + CHUNK.at.cookie + 4, cookieLow);
  view.setUint32(at + CHUNK.at.length, length);
}

export function putDataChunk(
  view: DataView,
  at: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  putChunk(view, at, flags, CHUNK_TYPE.offsetData, cookieHigh, cookieLow, 8 + length);
  writeU64(view, at + DATA_CHUNK.at.offset, offset);
}
