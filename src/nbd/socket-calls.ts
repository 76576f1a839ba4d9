/**
 * recv, send and dup on a socket's descriptor, without waiting and without a stream in between. A 4 KiB request costs
 * node's streams more than it costs everything else; they stay for waking up, for what does not fit, and where these calls
 * are not to be had.
 */
import { createRequire } from "node:module";
import { errnoName } from "../io/index.js";

export interface SocketCalls {
  /** @returns bytes received, 0 at the end, -1 when nothing is there now, -2 when the connection is broken */
  recv(fd: number, buffer: Uint8Array, length: number): number;
  /** @returns bytes taken, 0 when there is no room now, -2 when the connection is broken */
  send(fd: number, buffer: Uint8Array, length: number): number;
  /** @returns another descriptor of the same socket, -1 when there is none to be had */
  dup(fd: number): number;
  /** Asks for buffers of so many bytes; the kernel gives what it allows. */
  setBuffers(fd: number, bytes: number): void;
}

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const F_DUPFD_CLOEXEC = 1030;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
/** Where the numbers above hold. */
const ARCHITECTURES: readonly string[] = ["x64", "arm64", "riscv64", "ppc64", "loong64", "s390x"];

let bound: { readonly calls: SocketCalls | undefined } | undefined;

/** Undefined where they are not to be had. */
export function socketCalls(): SocketCalls | undefined {
  bound ??= { calls: bind() };
  return bound.calls;
}

function bind(): SocketCalls | undefined {
  if (process.platform !== "linux" || !ARCHITECTURES.includes(process.arch)) return undefined;
  try {
    const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
    const libc = koffi.load(null);
    const recv = libc.func("int64_t recv(int fd, void *buffer, size_t length, int flags)");
    const send = libc.func("int64_t send(int fd, void *buffer, size_t length, int flags)");
    const fcntl = libc.func("int fcntl(int fd, int command, ...)");
    const setsockopt = libc.func("int setsockopt(int fd, int level, int name, void *value, uint32_t length)");
    const { EAGAIN, EINTR } = koffi.os.errno as { readonly EAGAIN: number; readonly EINTR: number };
    return {
      recv(fd, buffer, length) {
        for (;;) {
          const count = recv(fd, buffer, length, MSG_DONTWAIT) as number;
          if (count >= 0) return count;
          const errno = koffi.errno();
          if (errno === EAGAIN) return -1;
          if (errno !== EINTR) return -2;
        }
      },
      send(fd, buffer, length) {
        for (;;) {
          const count = send(fd, buffer, length, MSG_DONTWAIT | MSG_NOSIGNAL) as number;
          if (count >= 0) return count;
          const errno = koffi.errno();
          if (errno === EAGAIN || errnoName(errno) === "ENOBUFS") return 0;
          if (errno !== EINTR) return -2;
        }
      },
      dup: (fd) => fcntl(fd, F_DUPFD_CLOEXEC, "int", 0) as number,
      setBuffers(fd, bytes) {
        const value = new Int32Array([bytes]);
        for (const name of [SO_SNDBUF, SO_RCVBUF]) setsockopt(fd, SOL_SOCKET, name, value, value.byteLength);
      },
    };
  } catch {
    return undefined;
  }
}
