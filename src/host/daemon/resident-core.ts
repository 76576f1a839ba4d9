/**
 * The core of a daemon: one state, locked for as long as the daemon lives, shared by everybody who is connected and by the
 * services. What services hold stays open between operations; all else is opened and closed as a command's own core does
 * it, so that an operation answers the same in both.
 *
 * Changes run one at a time, in the order they came. A group belongs to the client that began it; others wait for its
 * end. A client that goes away takes its group along.
 */
import { dirname, resolve } from "node:path";
import {
  type DeviceRecord,
  type Hold,
  type Holder,
  MAPPED_MAJOR,
  type MappedDevice,
  type State,
  StateFile,
} from "../../device-registry/index.js";
import { InvariantError, messageOf, StateError } from "../../errors/index.js";
import type { BlockDevice, FileLock } from "../../io/index.js";
import { imageFolder } from "../attachments/image-folder.js";
import { OwnDevices } from "../attachments/own-devices.js";
import { Extender } from "../autoextend.js";
import { type Core, type CoreOptions, giveUp, runHeld, settle } from "../core.js";
import { EventLog, eventOf } from "../event-log.js";
import { followUp } from "../follow-up.js";
import type { GroupOptions, PoolEvent } from "../host.js";
import { mend } from "../mend.js";
import { Session } from "../session.js";
import { Leash } from "./leash.js";

export interface ResidentOptions extends CoreOptions {
  readonly log: (line: string) => void;
  /** What those who wait for the state's lock are told: `daemon, socket /run/udm/...`. */
  readonly purpose: string;
  readonly onEvent?: (device: { readonly name: string; readonly eventNr: number }) => void;
}

export interface ClientOptions {
  /** Where its relative paths begin; default the daemon's working directory. */
  readonly cwd?: string;
  /** How long a change waits for its turn; default 30 seconds. */
  readonly lockTimeoutMs?: number;
  /** Told what its operations log. */
  readonly log?: (line: string) => void;
}

const DEFAULT_LOCK_TIMEOUT_MS = 30_000;
/** Events that come together are written down together. */
const EVENT_PAUSE_MS = 10;
/** As LVM looks at its pools. */
const RETRY_MS = 10_000;

interface Turn {
  readonly client: Client;
  readonly purpose: string;
  readonly run: () => Promise<void>;
  readonly refuse: (error: unknown) => void;
  timer: NodeJS.Timeout | undefined;
}

interface Group {
  readonly client: Client;
  readonly purpose: string;
  readonly session: Session;
  /** The session of the daemon itself, because something is held. */
  readonly isShared: boolean;
  /** What those are told who want caches written back: nothing arrives before the end of the group. */
  readonly unwritten: (minor: number) => unknown;
  isBroken: boolean;
}

export class ResidentCore {
  readonly runDir: string;
  /** What this process serves, and must not touch. */
  readonly ownDevices: OwnDevices;
  readonly file: StateFile;
  readonly events: EventLog;
  readonly extender: Extender;
  readonly #options: ResidentOptions;
  readonly #lock: FileLock;
  readonly #waiting: Turn[] = [];
  readonly #movers = new Set<Client>();
  /** What makes the writes arrive that caches above devices keep back, by minor. */
  readonly #caches = new Map<number, () => Promise<void>>();
  #session: Session;
  #running: Turn | undefined;
  #group: Group | undefined;
  #eventTimer: NodeJS.Timeout | undefined;
  #retryTimer: NodeJS.Timeout | undefined;
  #isWindingDown = false;
  #isClosed = false;
  readonly #own: Client;

  /** Locks the state. @throws StateError EBUSY with the holder's name when the time is up; DamageError EUCLEAN */
  static async open(options: ResidentOptions): Promise<ResidentCore> {
    const file = new StateFile(options.stateDir);
    const { purpose, lockTimeoutMs, onWait } = options;
    const lock = await file.lock({
      purpose,
      ...(lockTimeoutMs === undefined ? {} : { timeoutMs: lockTimeoutMs }),
      ...(onWait === undefined ? {} : { onPause: onWait }),
    });
    try {
      return new ResidentCore(options, file, lock);
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  private constructor(options: ResidentOptions, file: StateFile, lock: FileLock) {
    this.ownDevices = new OwnDevices(imageFolder({ stateDir: dirname(file.path), runDir: options.runDir }));
    this.#options = options;
    this.runDir = options.runDir;
    this.file = file;
    this.#lock = lock;
    this.events = new EventLog(options.stateDir);
    this.extender = new Extender((event) => this.#tell(event));
    this.#session = this.#makeSession(file.read());
    this.#own = new Client(this, {});
  }

  /** The core as one who is connected sees it. */
  client(options: ClientOptions = {}): Client {
    return new Client(this, options);
  }

  get isWindingDown(): boolean {
    return this.#isWindingDown;
  }

  /** The core for the daemon's own doings. */
  get own(): Core {
    return this.#own;
  }

  log(line: string): void {
    const told = this.#running?.client.options.log;
    if (told !== undefined) return told(line);
    // Between operations: of a service, or of bytes that somebody moves.
    for (const { options } of this.#movers) options.log?.(line);
    this.#options.log(line);
  }

  /** Who moves bytes is told what happens to pools meanwhile. */
  moves(client: Client): () => void {
    this.#movers.add(client);
    return () => this.#movers.delete(client);
  }

  /**
   * Opens a mapped device and keeps it open. The device is the same object through suspends, new tables and new names; it
   * may be read and written at any time, by `tryRead`, `tryWrite` or the promises.
   * @throws StateError ENXIO (no such device, no live table), EBUSY, and what opening throws
   */
  async hold(name: string, holder: Holder): Promise<Hold> {
    const hold = await this.#own.change(`open ${name}`, (session) => session.registry.hold(name, holder));
    let released: Promise<void> | undefined;
    // What was open only for it is closed, and what waited for its last user is done.
    const release = () => {
      if (released === undefined) hold.release();
      released ??= this.#own
        .change("close", () => {})
        .catch((error: unknown) => this.#options.log(`closing: ${messageOf(error)}`));
      return released;
    };
    return {
      device: hold.device,
      minor: hold.minor,
      get name() {
        return hold.name;
      },
      release: () => void release(),
      [Symbol.asyncDispose]: release,
    };
  }

  /** A page cache stands above a device from now on; `writeBack` makes what it keeps back arrive. @returns ends it */
  cached(minor: number, writeBack: () => Promise<void>): () => void {
    this.#caches.set(minor, writeBack);
    return () => {
      if (this.#caches.get(minor) === writeBack) this.#caches.delete(minor);
    };
  }

  /** Pools that are open because something holds them, by name. */
  openPools(): ReturnType<Session["registry"]["openPools"]> {
    return this.#session.registry.openPools();
  }

  /** Clients begin nothing more: what waits is refused, a group is undone. The daemon's own doings go on. */
  async windDown(): Promise<void> {
    this.#isWindingDown = true;
    for (const turn of this.#waiting.filter(({ client }) => client !== this.#own)) {
      this.#waiting.splice(this.#waiting.indexOf(turn), 1);
      clearTimeout(turn.timer);
      turn.refuse(goingAway());
    }
    if (this.#group !== undefined) await this.undo(this.#group.client);
  }

  /** Everything is committed and closed, the lock given back. Nothing is held any more. May be called twice. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#eventTimer);
    clearTimeout(this.#retryTimer);
    for (const turn of this.#waiting.splice(0)) turn.refuse(goingAway());
    await this.#idle();
    try {
      if (this.#group !== undefined) await this.#drop(this.#group);
      await this.#session.end();
      await this.#session.save();
    } finally {
      this.#lock.release();
    }
  }

  // For clients

  async view<T>(client: Client, run: (session: Session) => Promise<T> | T): Promise<T> {
    if (this.#group?.client === client) return this.change(client, "view", run);
    const state = this.file.read();
    if (state.intents.length > 0) return this.change(client, "mend", run);
    const session = this.#makeSession(state, { isView: true });
    session.cwd = client.options.cwd;
    return run(session);
  }

  change<T>(client: Client, purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
    if (this.#isWindingDown && client !== this.#own) return Promise.reject(goingAway());
    return this.#inTurn(client, purpose, () =>
      this.#group === undefined ? this.#alone(client, run) : this.#held(this.#group, run),
    );
  }

  async begin(client: Client, purpose: string, { caches = "written" }: GroupOptions = {}): Promise<void> {
    if (this.#isWindingDown) throw goingAway();
    const failures = caches === "written" ? await this.#writeBackAll(client, purpose) : undefined;
    // That may have taken its time.
    client.refuseGone();
    if (this.#isWindingDown) throw goingAway();
    const unwritten = (minor: number) => {
      if (caches === "refused" && this.#caches.has(minor)) return notInGroup();
      return failures?.get(minor);
    };
    return this.#inTurn(client, purpose, async () => {
      if (this.#group !== undefined) throw new InvariantError("a group has begun already");
      const shared = this.#fresh(client);
      if (shared.intents.length > 0) await mend(shared);
      const isShared = shared.registry.hasHolds;
      if (!isShared) await settle(shared, this.extender);
      const session = isShared ? shared : this.#makeSession(this.file.read(), { isHeld: true });
      session.cwd = client.options.cwd;
      if (isShared) await shared.beginGroup();
      this.#group = { client, purpose, session, isShared, unwritten, isBroken: false };
    });
  }

  commit(client: Client): Promise<void> {
    return this.#inTurn(client, "commit", async () => {
      const group = this.#groupOf(client);
      try {
        if (group.isBroken) throw new InvariantError("a group with a failed operation cannot be committed");
        await followUp(group.session);
        await group.session.commitHeld();
      } catch (error) {
        await this.#drop(group);
        throw error;
      }
      this.#group = undefined;
      if (group.isShared) group.session.endGroup();
      await group.session.close();
      if (group.isShared) await group.session.save();
      this.#arm();
    });
  }

  undo(client: Client): Promise<void> {
    return this.#inTurn(client, "undo", async () => {
      if (this.#group?.client === client) await this.#drop(this.#group);
    });
  }

  async writeBack(client: Client, find: (session: Session) => DeviceRecord | undefined): Promise<void> {
    if (this.#caches.size === 0) return;
    const device = await this.view(client, (session) => {
      try {
        return find(session);
      } catch {
        return undefined;
      }
    });
    if (device === undefined) return;
    if (this.#group?.client !== client) {
      await this.#untilNoGroup(client, "write back");
      return this.#writeBackOne(device.minor);
    }
    const error = this.#group.unwritten(device.minor);
    if (error !== undefined) throw error;
  }

  /** In a group of somebody else nothing arrives; how long that is waited for, the client says. */
  async #untilNoGroup(client: Client, purpose: string): Promise<void> {
    if (this.#group !== undefined) await this.#inTurn(client, purpose, async () => {});
  }

  async #writeBackOne(minor: number): Promise<void> {
    const { registry } = this.#session;
    const device = registry.find(`${MAPPED_MAJOR}:${minor}`);
    // What is suspended takes no writes.
    if (device !== undefined && !registry.isHeldBack(device)) await this.#caches.get(minor)?.();
  }

  /** @returns what failed, by minor */
  async #writeBackAll(client: Client, purpose: string): Promise<ReadonlyMap<number, unknown>> {
    if (this.#caches.size > 0) await this.#untilNoGroup(client, purpose);
    const failures = new Map<number, unknown>();
    const writeBack = (minor: number) =>
      this.#writeBackOne(minor).catch((error: unknown) => {
        failures.set(minor, error);
      });
    await Promise.all([...this.#caches.keys()].map(writeBack));
    return failures;
  }

  /** It has gone: what it had not begun is not done, its group is undone. */
  async leave(client: Client): Promise<void> {
    for (const turn of this.#waiting.filter((each) => each.client === client)) {
      this.#waiting.splice(this.#waiting.indexOf(turn), 1);
      clearTimeout(turn.timer);
      turn.refuse(new StateError("EINTR", "nobody waits for this any more"));
    }
    if (this.#group?.client === client || this.#running?.client === client) await this.undo(client);
  }

  // Inside

  #groupOf(client: Client): Group {
    if (this.#group?.client !== client) throw new InvariantError("no group has begun");
    return this.#group;
  }

  /** Waits for the turn, at most as long as the client likes to. */
  #inTurn<T>(client: Client, purpose: string, run: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#isClosed) return reject(goingAway());
      const turn: Turn = {
        client,
        purpose,
        run: () => run().then(resolve, reject),
        refuse: reject,
        timer: undefined,
      };
      this.#waiting.push(turn);
      const timeoutMs = client.options.lockTimeoutMs ?? DEFAULT_LOCK_TIMEOUT_MS;
      if (client !== this.#own && Number.isFinite(timeoutMs)) {
        turn.timer = setTimeout(() => this.#timeUp(turn, timeoutMs), timeoutMs);
      }
      this.#next();
    });
  }

  #timeUp(turn: Turn, timeoutMs: number): void {
    const index = this.#waiting.indexOf(turn);
    if (index < 0) return;
    this.#waiting.splice(index, 1);
    const busy = this.#group?.purpose ?? this.#running?.purpose ?? "another command";
    const waited = timeoutMs === 0 ? "" : ` for ${timeoutMs / 1000} s`;
    turn.refuse(
      new StateError("EBUSY", `${this.file.path}: locked by process ${process.pid} (daemon: ${busy})${waited}`, {
        hint: "wait for it to end, or allow more time with --lock-timeout",
      }),
    );
  }

  #next(): void {
    if (this.#running !== undefined) return;
    const index = this.#waiting.findIndex((turn) => this.#group === undefined || turn.client === this.#group.client);
    if (index < 0) return;
    const [turn] = this.#waiting.splice(index, 1) as [Turn];
    clearTimeout(turn.timer);
    this.#running = turn;
    void turn.run().finally(() => {
      this.#running = undefined;
      this.#next();
      if (this.#running === undefined) for (const wake of this.#idlers.splice(0)) wake();
    });
  }

  #idlers: (() => void)[] = [];

  async #idle(): Promise<void> {
    if (this.#running !== undefined) await new Promise<void>((resolve) => this.#idlers.push(resolve));
  }

  async #alone<T>(client: Client, run: (session: Session) => Promise<T> | T): Promise<T> {
    const session = this.#fresh(client);
    try {
      if (session.intents.length > 0) await mend(session);
      // What waits for room may be in the way of the operation.
      const isFull = session.registry.openPools().some(({ pool }) => pool.waitingWrites > 0);
      if (isFull) await this.extender.extendOpen(session);
      const result = await run(session);
      await settle(session, this.extender);
      return result;
    } catch (error) {
      await giveUp(session, error);
      throw error;
    } finally {
      this.#arm();
    }
  }

  async #held<T>(group: Group, run: (session: Session) => Promise<T> | T): Promise<T> {
    try {
      return await runHeld(group.session, run);
    } catch (error) {
      group.isBroken = true;
      throw error;
    }
  }

  async #drop(group: Group): Promise<void> {
    this.#group = undefined;
    if (group.isShared) await group.session.undoGroup();
    else await group.session.abandon();
    this.#arm();
  }

  /** Pools that are in use grow when they pass their threshold; one that could not is tried again after a while. */
  #arm(): void {
    if (this.#isClosed) return;
    clearTimeout(this.#retryTimer);
    const extend = () => {
      if (this.#isClosed) return;
      this.#own
        .change("autoextend", () => {})
        .catch((error: unknown) => this.#options.log(`autoextend: ${messageOf(error)}`));
    };
    this.extender.arm(this.#session, extend);
    if (this.extender.hasFailures && this.#session.registry.hasOpen)
      this.#retryTimer = setTimeout(extend, RETRY_MS).unref();
  }

  #tell(event: PoolEvent): void {
    this.events.append(event, (reason) => this.#options.log(reason));
  }

  /** While nothing is held the state is read anew each time, as a command does. */
  #fresh(client: Client): Session {
    const { registry } = this.#session;
    // What was held until now is closed by the operation that begins.
    if (!registry.hasHolds && !registry.hasOpen) this.#session = this.#makeSession(this.file.read());
    this.#session.cwd = client.options.cwd;
    return this.#session;
  }

  #makeSession(state: State, kind: { readonly isView?: boolean; readonly isHeld?: boolean } = {}): Session {
    const { noSpaceTimeoutMs, cacheBlocks, onStep } = this.#options;
    const isOwn = kind.isView !== true && kind.isHeld !== true;
    return new Session(this.file, state, {
      log: (line) => this.log(line),
      noSpaceTimeoutMs,
      cacheBlocks,
      onStep: onStep ?? (() => {}),
      onNote: (record, note) => this.#tell(eventOf(record.name, note)),
      isHeld: kind.isHeld === true,
      isResident: isOwn,
      ownDevices: this.ownDevices,
      ...(isOwn ? { onEvent: (record: DeviceRecord) => this.#onEvent(record) } : { holdersOf: this.#holdersOf }),
    });
  }

  readonly #holdersOf = (minor: number): readonly Holder[] => {
    const record = this.#session.registry.find(`${MAPPED_MAJOR}:${minor}`);
    return record === undefined ? [] : this.#session.registry.holdersOf(record);
  };

  /** Events come between operations too; who waits for them reads the state. */
  #onEvent({ name, eventNr }: DeviceRecord): void {
    this.#options.onEvent?.({ name, eventNr });
    this.#eventTimer ??= setTimeout(() => {
      this.#eventTimer = undefined;
      if (this.#isClosed) return;
      this.#own.change("event", () => {}).catch((error: unknown) => this.#options.log(`event: ${messageOf(error)}`));
    }, EVENT_PAUSE_MS);
  }
}

function notInGroup(): StateError {
  return new StateError("EBUSY", "what a file system keeps in memory cannot be written inside a group", {
    hint: "do this by itself",
  });
}

function goingAway(): StateError {
  return new StateError("EAGAIN", "the daemon is ending", { hint: "try again" });
}

/** One who is connected. */
export class Client implements Core {
  readonly isAlone = false;
  #isGone = false;

  constructor(
    readonly resident: ResidentCore,
    readonly options: ClientOptions,
  ) {}

  get runDir(): string {
    return this.resident.runDir;
  }
  get file(): StateFile {
    return this.resident.file;
  }
  get events(): EventLog {
    return this.resident.events;
  }
  get extender(): Extender {
    return this.resident.extender;
  }
  log(line: string): void {
    this.options.log?.(line);
  }
  async view<T>(run: (session: Session) => Promise<T> | T): Promise<T> {
    this.refuseGone();
    return this.resident.view(this, run);
  }
  async change<T>(purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
    this.refuseGone();
    return this.resident.change(this, purpose, run);
  }
  /** Held while its bytes are moved, so that others have their turn; it ends when this client goes away. */
  async use<T>(
    purpose: string,
    open: (session: Session) => Promise<MappedDevice>,
    run: (device: BlockDevice) => Promise<T>,
  ): Promise<T> {
    const hold = await this.change(purpose, async (session) => {
      const { name } = await open(session);
      return session.registry.hold(name, { what: purpose, hint: "wait for it to end" });
    });
    const ended = this.resident.moves(this);
    try {
      const result = await run(new Leash(hold.device, () => this.#isGone || this.resident.isWindingDown));
      hold.release();
      await this.resident.own.change("close", () => {});
      return result;
    } catch (error) {
      hold.release();
      // What is open only for it is closed; that this fails too is told, what failed first is the answer.
      await this.resident.own
        .change("close", () => {})
        .catch((other: unknown) => this.resident.log(`closing after a failure: ${messageOf(other)}`));
      throw error;
    } finally {
      ended();
    }
  }
  async writeBack(find: (session: Session) => DeviceRecord | undefined): Promise<void> {
    this.refuseGone();
    return this.resident.writeBack(this, find);
  }
  resolvePath(path: string): string {
    const absolute = resolve(this.options.cwd ?? ".", path);
    this.resident.ownDevices.check(absolute);
    return absolute;
  }
  async begin(purpose: string, options?: GroupOptions): Promise<void> {
    this.refuseGone();
    return this.resident.begin(this, purpose, options);
  }
  commit(): Promise<void> {
    return this.resident.commit(this);
  }
  undo(): Promise<void> {
    return this.resident.undo(this);
  }
  async close(): Promise<void> {
    if (this.#isGone) return;
    this.#isGone = true;
    await this.resident.leave(this);
  }

  /** What waits for something ends when nobody is there to be told. */
  refuseGone(): void {
    if (this.#isGone) throw new StateError("EINTR", "nobody waits for this any more");
  }
}
