/**
 * The daemon: the one process that has a state dir's devices in use. It holds the state's lock as long as it lives, listens
 * on a socket that only this user can open, and serves the host to commands. It ends when it is told to, by a signal or a
 * command; one that a command started ends when it has had nothing to do for a moment. Ending means: services flush and let
 * go, pools commit, the socket goes, the lock is given back.
 *
 * The lock is what tells a living daemon from a dead one: whoever has it may take a socket that was left behind.
 */
import { chmodSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { codeOf, messageOf, StateError } from "../../errors/index.js";
import { nativeCalls, systemError } from "../../io/index.js";
import type { DaemonInfo } from "../host.js";
import { releaseAllLeft } from "../metadata-snapshot.js";
import { Connection } from "./connection.js";
import { MAX_CONNECTIONS } from "./protocol.js";
import { ResidentCore } from "./resident-core.js";
import { isAnswered } from "./rpc-host.js";
import { type AnyServiceKind, Services } from "./services.js";
import { daemonPaths, descriptorOf, makeRunDir, socketAddress, socketIdentity } from "./socket-path.js";

export interface DaemonOptions {
  readonly stateDir: string;
  readonly runDir: string;
  readonly version: string;
  readonly lockTimeoutMs?: number;
  /** It was started by a command that needed it: it ends when nothing is served. */
  readonly endsWhenIdle?: boolean;
  readonly log?: (line: string) => void;
  readonly noSpaceTimeoutMs?: number;
  readonly cacheBlocks?: number;
  /** Default those of this program. */
  readonly kinds?: readonly AnyServiceKind[];
  readonly idleMs?: number;
  /** How often it looks after its socket. */
  readonly lookMs?: number;
}

/** How long a daemon that nobody needs waits for somebody who might. */
const IDLE_MS = 1000;
const LEAST_IDLE_MS = 20;
/** Whoever started it is on the way, on a slow machine for long. */
const FIRST_IDLE_MS = 60_000;
const LOOK_MS = 5000;
/** Longest time that operations under way have to end by themselves when the daemon ends. */
const GRACE_MS = 1000;
/** One who connects has this long to say who it is. */
const GREETING_MS = 10_000;

export class Daemon implements AsyncDisposable {
  readonly socketPath: string;
  readonly #options: DaemonOptions;
  readonly #log: (line: string) => void;
  readonly #core: ResidentCore;
  readonly #services: Services;
  readonly #connections = new Set<Connection>();
  #server: Server;
  readonly #sinceMs = Date.now();
  #endsWhenIdle: boolean;
  /** When it was last needed; looking at it is no need. */
  #neededMs = performance.now();
  #wasUsed = false;
  #idleTimer: NodeJS.Timeout | undefined;
  #fileTimer: NodeJS.Timeout | undefined;
  #stopping: Promise<void> | undefined;
  readonly #ended: Promise<void>;
  #markEnded: () => void = () => {};

  /**
   * Listens when it resolves.
   * @throws StateError EBUSY when another daemon, or a command, holds the state; EPERM (the run dir is not safe); DamageError
   */
  static async start(options: DaemonOptions): Promise<Daemon> {
    makeRunDir(options.runDir);
    const log = options.log ?? (() => {});
    const { socket } = daemonPaths(options);
    const before = socketIdentity(socket);
    if (await isAnswered(socket)) throw runsAlready(socket);
    let daemon: Daemon | undefined;
    const core = await ResidentCore.open({
      ...options,
      log,
      purpose: `daemon, socket ${socket}`,
      // Somebody else's daemon keeps the lock for good: there is nothing to wait for.
      onWait: () => {
        if (socketIdentity(socket) !== before) throw runsAlready(socket);
      },
    });
    try {
      const kinds = options.kinds ?? (await import("./service-kinds.js")).serviceKinds();
      // Before anybody can ask to read: from then on what is noted belongs to readers.
      await core.own.change("start", releaseAllLeft);
      daemon = new Daemon({ ...options, kinds }, core, socket);
      await daemon.#listen();
      // What an earlier process left half done is mended before anybody asks.
      await core.own.change("start", () => {});
      log(`listening on ${socket}`);
      daemon.#watchIdle();
      daemon.#watchFiles();
      return daemon;
    } catch (error) {
      if (daemon === undefined) await core.close();
      else await daemon.stop();
      throw error;
    }
  }

  private constructor(
    options: DaemonOptions & { readonly kinds: readonly AnyServiceKind[] },
    core: ResidentCore,
    socketPath: string,
  ) {
    this.#options = options;
    this.#endsWhenIdle = options.endsWhenIdle ?? false;
    this.#log = options.log ?? (() => {});
    this.#core = core;
    this.socketPath = socketPath;
    this.#services = new Services({
      core,
      kinds: options.kinds,
      runDir: options.runDir,
      log: this.#log,
      onChange: () => {
        this.#neededMs = performance.now();
        this.#watchIdle();
      },
    });
    this.#server = this.#makeServer();
    this.#ended = new Promise((resolve) => {
      this.#markEnded = resolve;
    });
  }

  get core(): ResidentCore {
    return this.#core;
  }

  get services(): Services {
    return this.#services;
  }

  /** Resolves when it has ended, for whatever reason. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  info(): DaemonInfo {
    return {
      pid: process.pid,
      version: this.#options.version,
      socket: this.socketPath,
      stateDir: this.#options.stateDir,
      sinceMs: this.#sinceMs,
      endsWhenIdle: this.#endsWhenIdle,
      connections: this.#connections.size,
      services: this.#services.list(),
      openPools: this.#core.openPools().map(({ record }) => record.name),
      memoryBytes: process.memoryUsage.rss(),
    };
  }

  /** Flushes, commits, lets go. May be called twice. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stopNow();
    return this.#stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #stopNow(): Promise<void> {
    clearTimeout(this.#idleTimer);
    clearInterval(this.#fileTimer);
    this.#log("ending");
    const failures: unknown[] = [];
    const tried = async (step: () => Promise<void>) => {
      await step().catch((error: unknown) => {
        this.#log(`while ending: ${codeOf(error) ?? ""} ${messageOf(error)}`);
        failures.push(error);
      });
    };
    // Nobody new; the socket's name goes first, so that who comes now waits for the lock instead.
    rmSync(this.socketPath, { force: true });
    // What is under way may end; what waits for somebody, or moves bytes for long, is cut off.
    const grace = setTimeout(() => {
      for (const connection of this.#connections) connection.end();
    }, GRACE_MS);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await tried(() => this.#core.windDown());
    await tried(() => this.#services.close());
    await tried(() => this.#core.close());
    clearTimeout(grace);
    for (const connection of this.#connections) connection.end();
    await closed;
    this.#log("ended");
    this.#markEnded();
    if (failures.length > 0) throw failures[0];
  }

  #makeServer(): Server {
    const server = createServer({ allowHalfOpen: false }, (socket) => this.#onConnection(socket));
    server.maxConnections = MAX_CONNECTIONS;
    return server;
  }

  /** A socket that somebody removed is made again; without its state dir a daemon has no purpose. */
  #watchFiles(): void {
    this.#fileTimer = setInterval(() => {
      if (this.#stopping !== undefined) return;
      try {
        if (socketIdentity(this.#options.stateDir) === undefined) {
          this.#log(`${this.#options.stateDir} is gone`);
          void this.stop().catch(() => undefined);
        } else if (socketIdentity(this.socketPath) === undefined) {
          this.#log("its socket was removed; made again");
          this.#server.close();
          this.#server = this.#makeServer();
          makeRunDir(this.#options.runDir);
          this.#listen().catch((error: unknown) => this.#log(messageOf(error)));
        }
      } catch (error) {
        this.#log(messageOf(error));
      }
    }, this.#options.lookMs ?? LOOK_MS).unref();
  }

  async #listen(): Promise<void> {
    rmSync(this.socketPath, { force: true });
    const { address, done } = socketAddress(this.socketPath);
    const before = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once("error", reject);
        this.#server.listen({ path: address }, () => {
          this.#server.off("error", reject);
          resolve();
        });
        process.umask(before);
      });
      chmodSync(this.socketPath, 0o600);
    } catch (error) {
      throw systemError(error, `${this.socketPath}: cannot listen`);
    } finally {
      process.umask(before);
      done();
    }
    this.#server.on("error", (error) => this.#log(`listening: ${messageOf(error)}`));
  }

  #onConnection(socket: Socket): void {
    const refusal = refusalOf(socket);
    if (refusal !== undefined || this.#stopping !== undefined) {
      if (refusal !== undefined) this.#log(refusal);
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, {
      core: this.#core,
      services: this.#services,
      version: this.#options.version,
      log: this.#log,
      info: () => this.info(),
      keep: () => {
        this.#endsWhenIdle = false;
      },
      stop: () => void setImmediate(() => void this.stop().catch(() => undefined)),
      greetingMs: GREETING_MS,
      onEnd: () => {
        this.#connections.delete(connection);
        this.#watchIdle();
      },
    });
    this.#connections.add(connection);
    this.#wasUsed = true;
    this.#watchIdle();
  }

  /** Ends after a moment without services and connections, when it was started for them only. */
  #watchIdle(): void {
    clearTimeout(this.#idleTimer);
    if (!this.#endsWhenIdle || this.#stopping !== undefined) return;
    if (this.#services.count > 0 || this.#connections.size > 0) return;
    const idleMs = this.#options.idleMs ?? (this.#wasUsed ? IDLE_MS : FIRST_IDLE_MS);
    this.#idleTimer = setTimeout(
      () => {
        this.#log("nothing is served any more");
        void this.stop().catch(() => undefined);
      },
      Math.max(LEAST_IDLE_MS, this.#neededMs + idleMs - performance.now()),
    );
  }
}

function runsAlready(socket: string): StateError {
  return new StateError("EEXIST", `a daemon runs already, at ${socket}`, { hint: "udm daemon status" });
}

/** Why a peer is sent away: the socket's permissions keep others out, and the kernel says who it is. */
function refusalOf(socket: Socket): string | undefined {
  const native = nativeCalls();
  const fd = descriptorOf(socket);
  if (native === undefined || fd === undefined) return undefined;
  try {
    const { uid, pid } = native.peerOf(fd);
    const own = process.geteuid?.();
    return uid === own || uid === 0 ? undefined : `sent process ${pid} of user ${uid} away`;
  } catch (error) {
    return `sent somebody away: ${messageOf(error)}`;
  }
}
