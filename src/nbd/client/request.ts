/** A request to a server, from when it is asked until it is answered. */
import { IoError, SpaceError, type UdmError } from "../../errors/index.js";
import { NBD_ERROR, REQUEST, REQUEST_MAGIC, viewOf, writeU64 } from "../protocol.js";
import type { Asked } from "./replies.js";

export interface Request extends Asked {
  readonly flags: number;
  readonly data: Uint8Array | undefined;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** FLUSH: how many of the kept writes it covers. */
  covers: number;
  /** A kept write, written again. */
  readonly isRepeat: boolean;
}

const COMMAND_NAMES = ["read", "write", "disconnect", "flush", "trim", "cache", "zeroing", "status"];

export function requestBytes({ command, flags, offset, length }: Request, cookie: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(REQUEST.size);
  const view = viewOf(bytes);
  view.setUint32(0, REQUEST_MAGIC);
  view.setUint16(REQUEST.at.flags, flags);
  view.setUint16(REQUEST.at.type, command);
  writeU64(view, REQUEST.at.cookie, cookie);
  writeU64(view, REQUEST.at.offset, offset);
  view.setUint32(REQUEST.at.length, length);
  return bytes;
}

/** What an error in its answer means. */
export function failureOf(name: string, { command, offset, length, error }: Request): UdmError {
  const what = `${name}: ${COMMAND_NAMES[command]} of ${length} bytes at ${offset}`;
  switch (error) {
    case NBD_ERROR.ENOSPC:
      return new SpaceError(`${what}: the server has no space`, {
        hint: "make room where the server keeps its data",
      });
    case NBD_ERROR.EPERM:
      return new IoError("EROFS", `${what}: the server refuses writes`, { hint: "use it read-only" });
    case NBD_ERROR.EINVAL:
      return new IoError("EINVAL", `${what}: the server refuses it as invalid`);
    case NBD_ERROR.ENOMEM:
      return new IoError("ENOMEM", `${what}: the server has no memory`);
    case NBD_ERROR.ENOTSUP:
      return new IoError("EOPNOTSUPP", `${what}: the server cannot do that`);
    default:
      return new IoError("EIO", `${what}: the server answers with error ${error}`, { hint: "its log may tell more" });
  }
}

/** Resolves when it is answered or has failed. */
export function whenDone(request: Request): Promise<void> {
  return new Promise((resolve) => {
    const { resolve: done, reject } = request;
    Object.assign(request, {
      resolve: () => {
        done();
        resolve();
      },
      reject: (error: unknown) => {
        reject(error);
        resolve();
      },
    });
  });
}
