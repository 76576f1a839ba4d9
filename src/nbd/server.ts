/**
 * An NBD server: listens on a unix socket or a TCP port, and serves exports by name to whoever connects, in this thread.
 *
 * A unix socket is made with mode 0600. A socket file that somebody left is taken away only when nobody answers on it.
 */
import { chmodSync, existsSync, lstatSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { codeOf, IoError, messageOf, StateError } from "../errors/index.js";
import { systemError } from "../io/index.js";
import { BusyPoll } from "./busy-poll.js";
import { Connection } from "./connection.js";
import type { NbdExport } from "./export.js";
import { MAX_NAME_BYTES } from "./protocol.js";
import { socketCalls } from "./socket-calls.js";
import type { ServerTls } from "./tls.js";
import { DEFAULT_LIMITS, type TransmissionLimits } from "./transmission.js";
import { formatNbdUri, type NbdAddress } from "./uri.js";

export interface ServerOptions {
  readonly address: NbdAddress;
  /** The first is what clients get that name none. */
  readonly exports: readonly NbdExport[];
  readonly tls?: ServerTls;
  readonly maxConnections?: number;
  readonly limits?: TransmissionLimits;
  /** How long to look for more requests before going to sleep; 0 never. Default 0.05. */
  readonly spinMs?: number;
  readonly handshakeMs?: number;
  /** Node's streams only. */
  readonly streamsOnly?: boolean;
  readonly log?: (line: string) => void;
  /** A client came or went. */
  readonly onChange?: () => void;
  /** It cannot listen any more. */
  readonly onFailure?: (error: Error) => void;
}

const MAX_CONNECTIONS = 128;
const SPIN_MS = 0.05;
const HANDSHAKE_MS = 30_000;
/** Requests under way have so long to end when the server closes. */
const CLOSE_MS = 20_000;
const BACKLOG = 128;
/** Of a unix socket on Linux. */
const MAX_PATH_BYTES = 107;

export class NbdServer implements AsyncDisposable {
  readonly #options: ServerOptions;
  readonly #server: Server;
  readonly #connections = new Set<Connection>();
  readonly #poll: BusyPoll;
  #address: NbdAddress;
  #closing: Promise<void> | undefined;
  #whenEmpty: (() => void) | undefined;

  /**
   * Listens when it resolves.
   * @throws StateError EBUSY (somebody listens there), EEXIST (a file that is no socket), EINVAL, EACCES; IoError
   */
  static async listen(options: ServerOptions): Promise<NbdServer> {
    checkExports(options.exports);
    const server = new NbdServer(options);
    await server.#listen();
    return server;
  }

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.#address = options.address;
    this.#poll = new BusyPoll({ spinMs: options.spinMs ?? SPIN_MS });
    this.#server = createServer({ pauseOnConnect: true, noDelay: true, keepAlive: true }, (socket) =>
      this.#accept(socket),
    );
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Where it listens; the port is the real one. */
  get address(): NbdAddress {
    return this.#address;
  }

  /** How a client names an export here. */
  uri(exportName: string): string {
    return formatNbdUri({ address: this.#address, exportName, isEncrypted: this.#options.tls !== undefined });
  }

  /** Nobody new, no new requests; what is under way is answered. Flushing is the caller's. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#closeNow();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #listen(): Promise<void> {
    const { address } = this.#options;
    if (address.kind === "unix") {
      checkSocketPath(address.path);
      await removeStaleSocket(address.path);
    }
    const before = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once("error", reject);
        const done = () => {
          this.#server.off("error", reject);
          resolve();
        };
        if (address.kind === "unix") this.#server.listen({ path: address.path, backlog: BACKLOG }, done);
        else this.#server.listen({ host: address.host, port: address.port, backlog: BACKLOG }, done);
        process.umask(before);
      });
      if (address.kind === "unix") chmodSync(address.path, 0o600);
    } catch (error) {
      // What listens nevertheless would keep its process alive.
      this.#server.close();
      throw listenFailure(address, error);
    } finally {
      process.umask(before);
    }
    const bound = this.#server.address();
    if (address.kind === "tcp" && typeof bound === "object" && bound !== null) {
      this.#address = { ...address, port: bound.port };
    }
    this.#server.on("error", (error) => {
      this.#log(`listening: ${messageOf(error)}`);
      this.#options.onFailure?.(error);
    });
  }

  #accept(socket: Socket): void {
    socket.on("error", () => {});
    const most = this.#options.maxConnections ?? MAX_CONNECTIONS;
    if (this.#closing !== undefined || this.#connections.size >= most) {
      if (this.#closing === undefined) this.#log(`more than ${most} connections: sent one away`);
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, {
      exports: this.#options.exports,
      tls: this.#options.tls,
      limits: this.#options.limits ?? DEFAULT_LIMITS,
      handshakeMs: this.#options.handshakeMs ?? HANDSHAKE_MS,
      poll: this.#poll,
      calls: this.#options.streamsOnly === true ? undefined : socketCalls(),
      log: (line) => this.#log(line),
      onEnd: () => {
        this.#connections.delete(connection);
        this.#options.onChange?.();
        if (this.#connections.size === 0) this.#whenEmpty?.();
      },
    });
    this.#connections.add(connection);
    this.#options.onChange?.();
  }

  async #closeNow(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const connection of [...this.#connections]) connection.close();
    if (this.#connections.size > 0) {
      const timer = setTimeout(() => {
        for (const connection of [...this.#connections]) connection.destroy();
      }, CLOSE_MS);
      await new Promise<void>((resolve) => {
        this.#whenEmpty = resolve;
      });
      clearTimeout(timer);
    }
    await closed;
  }

  #log(line: string): void {
    this.#options.log?.(`nbd: ${line}`);
  }
}

function checkExports(exports: readonly NbdExport[]): void {
  if (exports.length === 0) throw new StateError("EINVAL", "nothing to export");
  const names = new Set<string>();
  for (const { name } of exports) {
    if (Buffer.byteLength(name) > MAX_NAME_BYTES) {
      throw new StateError("EINVAL", `the name of an export has more than ${MAX_NAME_BYTES} bytes`);
    }
    if (names.has(name)) throw new StateError("EINVAL", `two exports are called '${name}'`);
    names.add(name);
  }
}

/** A socket on which nobody answers is removed; anything else in the way is an error. */
async function removeStaleSocket(path: string): Promise<void> {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new StateError("EEXIST", `${path}: exists and is no socket`, { hint: "choose another path for the socket" });
  }
  const answer = await new Promise<string | undefined>((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once("error", (error) => resolve(codeOf(error) ?? "EIO"));
  });
  if (answer === undefined) {
    throw new StateError("EBUSY", `${path}: somebody listens there`, { hint: "choose another path for the socket" });
  }
  if (answer === "ECONNREFUSED") rmSync(path, { force: true });
}

function listenFailure(address: NbdAddress, error: unknown): Error {
  const where = address.kind === "unix" ? address.path : `${address.host}:${address.port}`;
  if (codeOf(error) === "EADDRINUSE") {
    return new StateError("EBUSY", `${where}: somebody listens there`, {
      hint: "choose another address",
      cause: error,
    });
  }
  if (codeOf(error) === "EADDRNOTAVAIL" || codeOf(error) === "ENOTFOUND") {
    return new StateError("EINVAL", `${where}: is no address of this machine`, { cause: error });
  }
  // The kernel's ENOENT comes as EACCES.
  if (address.kind === "unix" && !existsSync(dirname(address.path))) {
    return new IoError("ENOENT", `${where}: the folder does not exist`, {
      hint: "make it first: mkdir -p",
      cause: error,
    });
  }
  return systemError(error, `${where}: cannot listen`);
}

/** A longer path would be cut off, and lead elsewhere. */
function checkSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= MAX_PATH_BYTES) return;
  throw new StateError("EINVAL", `${path}: a socket's path has at most ${MAX_PATH_BYTES} bytes`, {
    hint: "choose a shorter one",
  });
}
