/**
 * The open /dev/fuse: one request a read, one reply a write, neither of which waits. Through koffi where it loads, because
 * an empty queue is then a number and no exception; else through node's fs.
 */
import { readSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { codeOf } from "../errors/index.js";
import { errnoError, errnoName } from "../io/index.js";

export interface Channel {
  /** @returns bytes of a request; 0 when none waits; -1 when the mount is gone */
  receive(buffer: Uint8Array): number;
  /** Sends the first `length` bytes as one reply. What nobody waits for any more is dropped. */
  send(buffer: Uint8Array, length: number): void;
}

/** Withdrawn while it was copied; a signal came. */
const AGAIN: readonly string[] = ["ENOENT", "EINTR"];
/** Unmounted; aborted. */
const GONE: readonly string[] = ["ENODEV", "ECONNABORTED", "EBADF"];

/** Of a descriptor that does not wait (O_NONBLOCK). */
export function openChannel(fd: number): Channel {
  return koffiChannel(fd) ?? plainChannel(fd);
}

function koffiChannel(fd: number): Channel | undefined {
  let koffi: typeof import("koffi");
  try {
    koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
  } catch {
    return undefined;
  }
  const libc = koffi.load(null);
  const read = libc.func("int64_t read(int fd, void *buffer, size_t length)") as (
    fd: number,
    buffer: Uint8Array,
    length: number,
  ) => number;
  const write = libc.func("int64_t write(int fd, void *buffer, size_t length)") as typeof read;
  return {
    receive(buffer) {
      for (;;) {
        const got = read(fd, buffer, buffer.length);
        if (got >= 0) return got === 0 ? -1 : got;
        const name = errnoName(koffi.errno());
        if (name === "EAGAIN") return 0;
        if (GONE.includes(name)) return -1;
        if (!AGAIN.includes(name)) throw errnoError(name, "reading /dev/fuse");
      }
    },
    send(buffer, length) {
      while (write(fd, buffer, length) < 0) {
        const name = errnoName(koffi.errno());
        if (name === "EINTR") continue;
        if (name === "ENOENT" || GONE.includes(name)) return;
        throw errnoError(name, "writing /dev/fuse");
      }
    },
  };
}

function plainChannel(fd: number): Channel {
  return {
    receive(buffer) {
      for (;;) {
        try {
          return readSync(fd, buffer, 0, buffer.length, null) || -1;
        } catch (error) {
          const name = codeOf(error) ?? "EIO";
          if (name === "EAGAIN") return 0;
          if (GONE.includes(name)) return -1;
          if (!AGAIN.includes(name)) throw errnoError(name, "reading /dev/fuse", undefined, error);
        }
      }
    },
    send(buffer, length) {
      for (;;) {
        try {
          writeSync(fd, buffer, 0, length);
          return;
        } catch (error) {
          const name = codeOf(error) ?? "EIO";
          if (name === "EINTR") continue;
          if (name === "ENOENT" || GONE.includes(name)) return;
          throw errnoError(name, "writing /dev/fuse", undefined, error);
        }
      }
    },
  };
}
