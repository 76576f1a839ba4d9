/**
 * How operations run: views read the state as it is, changes have it to themselves. Every change begins by mending what
 * an earlier one left half done, and ends by following up: removals that waited for their last user, loop devices that
 * go with theirs, names of thin devices that the pools no longer have.
 */
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type DeviceRecord, type MappedDevice, type State, StateFile } from "../device-registry/index.js";
import { InvariantError, SpaceError } from "../errors/index.js";
import type { BlockDevice, FileLock } from "../io/index.js";
import { Extender } from "./autoextend.js";
import { EventLog, eventOf } from "./event-log.js";
import { followUp, followUpHeld } from "./follow-up.js";
import type { GroupOptions, PoolEvent } from "./host.js";
import { mend } from "./mend.js";
import { mayHaveLeft, releaseAllLeft } from "./metadata-snapshot.js";
import { Session } from "./session.js";

export interface CoreOptions {
  readonly stateDir: string;
  readonly runDir: string;
  readonly lockTimeoutMs?: number;
  readonly log?: (line: string) => void;
  readonly noSpaceTimeoutMs?: number;
  readonly cacheBlocks?: number;
  readonly onStep?: (step: string) => void;
  /** Called while a change waits for the state's lock; what it throws ends the wait, and the change with it. */
  readonly onWait?: () => void;
}

/** How long pools stay open after a group, for the next one, unless somebody else waits; how often that is looked at. */
const REST_MS = 2000;
const REST_LOOK_MS = 20;
/** Others get their turn after this long, and this much time to take it: longer than they pause between two tries. */
const LONGEST_HOLD_MS = 2000;
const TURN_MS = 60;

/** What operations run in: a command's own process, or a daemon that many commands share. */
export interface Core {
  readonly runDir: string;
  readonly file: StateFile;
  /** Nobody uses the pools of an operation but that operation. */
  readonly isAlone: boolean;
  /** What happened to pools. */
  readonly events: EventLog;
  /** Pools that grow by themselves. */
  readonly extender: Extender;
  log(line: string): void;
  /** Reads records only; opens nothing, waits for nobody. */
  view<T>(run: (session: Session) => Promise<T> | T): Promise<T>;
  /** Runs alone: with everything mended before and written afterwards. */
  change<T>(purpose: string, run: (session: Session) => Promise<T> | T): Promise<T>;
  /**
   * Opens a mapped device as `open` does and works on its bytes, for as long as it takes. Where others can use the state
   * meanwhile, they may: `run` changes nothing but bytes.
   */
  use<T>(
    purpose: string,
    open: (session: Session) => Promise<MappedDevice>,
    run: (device: BlockDevice) => Promise<T>,
  ): Promise<T>;
  /**
   * Writes that page caches above a device keep back arrive: of the block device that it is attached as, and of the file
   * system mounted from that. Not inside an operation: what arrives may need a pool to grow; in a group as its options say.
   * @param find the device; what it throws is for the operation that follows to say
   * @throws ToolError, IoError EIO, StateError EBUSY
   */
  writeBack(find: (session: Session) => DeviceRecord | undefined): Promise<void>;
  /** A path as the one who asks means it. */
  resolvePath(path: string): string;
  /**
   * What follows is one change, up to `commit` or `undo`: operations see what those before them did, and nothing is
   * written. For operations on state and metadata; the pools must not be taken away, and no data is written.
   */
  begin(purpose: string, options?: GroupOptions): Promise<void>;
  /** Makes the group true, all of it or, when it throws, nothing. The pools stay open for a moment. */
  commit(): Promise<void>;
  /** As if the group had never begun; nothing when it has ended. */
  undo(): Promise<void>;
  /** Waits for the operation under way, if there is one. A group that was not committed never was. */
  close(): Promise<void>;
}

/** Operations that take place together, under one lock; the pools stay open between groups. */
interface Group {
  readonly lock: FileLock;
  readonly session: Session;
  readonly sinceMs: number;
}

/** The core of a command's own process: every operation locks, opens, does, and leaves. */
export class CommandCore implements Core {
  readonly runDir: string;
  readonly file: StateFile;
  readonly isAlone = true;
  readonly events: EventLog;
  readonly extender: Extender;
  readonly #options: CoreOptions;
  #queue: Promise<unknown> = Promise.resolve();
  /** In use, or resting when no operation belongs to it. */
  #group: Group | undefined;
  #isInGroup = false;
  /** An operation of the group failed half-way: it can only be undone. */
  #isBroken = false;
  #restTimer: NodeJS.Timeout | undefined;

  constructor(options: CoreOptions) {
    this.#options = options;
    this.runDir = options.runDir;
    this.file = new StateFile(options.stateDir);
    this.events = new EventLog(options.stateDir);
    this.extender = new Extender((event) => this.#tell(event));
  }

  #tell(event: PoolEvent): void {
    this.events.append(event, (reason) => this.log(reason));
  }

  log(line: string): void {
    this.#options.log?.(line);
  }

  async view<T>(run: (session: Session) => Promise<T> | T): Promise<T> {
    if (this.#isInGroup) return this.change("view", run);
    const state = this.file.read();
    if (isLeftUndone(state)) return this.change("mend", run);
    return run(this.#session(state));
  }

  change<T>(purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
    return this.#inTurn(() => (this.#isInGroup ? this.#held(run) : this.#alone(purpose, run)));
  }

  use<T>(
    purpose: string,
    open: (session: Session) => Promise<MappedDevice>,
    run: (device: BlockDevice) => Promise<T>,
  ): Promise<T> {
    return this.change(purpose, async (session) => {
      const device = await open(session);
      // Nothing else of the operation uses tables while bytes are moved, so the pool may grow under it.
      let growing = Promise.resolve();
      const arm = () =>
        this.extender.arm(session, () => {
          growing = growing.then(() => this.extender.extendOpen(session)).then(arm);
        });
      if (!this.#isInGroup) arm();
      try {
        return await run(device);
      } finally {
        await growing;
      }
    });
  }

  /** A command attaches nothing itself. */
  async writeBack(): Promise<void> {}

  resolvePath(path: string): string {
    return resolve(path);
  }

  begin(purpose: string): Promise<void> {
    return this.#inTurn(async () => {
      clearTimeout(this.#restTimer);
      this.#group ??= await this.#openGroup(purpose);
      this.#isInGroup = true;
      this.#isBroken = false;
    });
  }

  commit(): Promise<void> {
    return this.#inTurn(async () => {
      const group = this.#ownGroup();
      try {
        if (this.#isBroken) throw new InvariantError("a group with a failed operation cannot be committed");
        await followUp(group.session);
        await group.session.commitHeld();
      } catch (error) {
        await this.#drop(group);
        throw error;
      }
      this.#isInGroup = false;
      if (performance.now() - group.sinceMs > LONGEST_HOLD_MS) {
        await this.#endRest();
        await sleep(TURN_MS);
      } else this.#rest(group, performance.now() + REST_MS);
    });
  }

  undo(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#isInGroup) await this.#drop(this.#ownGroup());
    });
  }

  async close(): Promise<void> {
    if (this.#isInGroup) await this.undo();
    await this.#inTurn(() => this.#endRest());
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(run, run);
    this.#queue = turn.catch(() => {});
    return turn;
  }

  #ownGroup(): Group {
    if (this.#group === undefined || !this.#isInGroup) throw new InvariantError("no group has begun");
    return this.#group;
  }

  async #openGroup(purpose: string): Promise<Group> {
    const lock = await this.#lock(purpose);
    try {
      const state = this.file.read();
      if (isLeftUndone(state)) await mendAll(this.#session(state));
      return { lock, session: this.#session(this.file.read(), true), sinceMs: performance.now() };
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  async #held<T>(run: (session: Session) => Promise<T> | T): Promise<T> {
    const { session } = this.#ownGroup();
    try {
      return await runHeld(session, run);
    } catch (error) {
      this.#isBroken = true;
      throw error;
    }
  }

  async #drop(group: Group): Promise<void> {
    this.#isInGroup = false;
    this.#group = undefined;
    try {
      await group.session.abandon();
    } finally {
      group.lock.release();
    }
  }

  /** Nothing is asked of the core: the pools stay open until the next group, or until somebody else wants their turn. */
  #rest(group: Group, untilMs: number): void {
    this.#restTimer = setTimeout(() => {
      if (!group.lock.isWanted() && performance.now() < untilMs) return this.#rest(group, untilMs);
      void this.#inTurn(() => this.#endRest()).catch(() => {});
    }, REST_LOOK_MS);
  }

  /** Lets go of what was kept open after a group. */
  async #endRest(): Promise<void> {
    clearTimeout(this.#restTimer);
    const group = this.#group;
    if (group === undefined || this.#isInGroup) return;
    this.#group = undefined;
    try {
      await group.session.close();
    } finally {
      group.lock.release();
    }
  }

  #lock(purpose: string): Promise<FileLock> {
    const { lockTimeoutMs, onWait } = this.#options;
    return this.file.lock({
      purpose,
      ...(lockTimeoutMs === undefined ? {} : { timeoutMs: lockTimeoutMs }),
      ...(onWait === undefined ? {} : { onPause: onWait }),
    });
  }

  async #alone<T>(purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
    await this.#endRest();
    using _lock = await this.#lock(purpose);
    const state = this.file.read();
    const session = this.#session(state);
    try {
      if (isLeftUndone(state)) await mendAll(session);
      const result = await run(session);
      await settle(session, this.extender);
      return result;
    } catch (error) {
      await giveUp(session, error);
      throw error;
    }
  }

  #session(state: ReturnType<StateFile["read"]>, isHeld = false): Session {
    return new Session(this.file, state, {
      log: (line) => this.log(line),
      noSpaceTimeoutMs: this.#options.noSpaceTimeoutMs,
      cacheBlocks: this.#options.cacheBlocks,
      onStep: this.#options.onStep ?? (() => {}),
      onNote: (record, note) => this.#tell(eventOf(record.name, note)),
      isHeld,
    });
  }
}

/** An earlier process left something to be done. Only where no daemon runs: what that holds for readers is in the state. */
function isLeftUndone({ intents, devices }: State): boolean {
  return intents.length > 0 || mayHaveLeft(devices);
}

async function mendAll(session: Session): Promise<void> {
  await releaseAllLeft(session);
  await mend(session);
}

/** What follows from an operation, and the end of it: all that is open and not held is closed, the state written. */
export async function settle(session: Session, extender: Extender): Promise<void> {
  await extender.extendOpen(session);
  await followUp(session);
  await session.close();
  await session.save();
}

/** The operation failed: what it had not finished is undone, what its pools went through is kept. */
export async function giveUp(session: Session, error: unknown): Promise<void> {
  try {
    const closing = await session.forget();
    if (closing !== undefined && closing !== error) session.log(`closing after a failure: ${String(closing)}`);
    if (session.intents.length > 0) await mend(session);
    await session.close();
    await session.save();
  } catch (undo) {
    session.log(`undoing after a failure: ${String(undo)}`);
  }
}

/** An operation inside a group. @throws SpaceError when the pool cannot take more in one commit */
export async function runHeld<T>(session: Session, run: (session: Session) => Promise<T> | T): Promise<T> {
  for (const { record, pool } of session.registry.openPools()) {
    // What a transaction frees can be used again only after its commit.
    const isScarce = pool.metadata.freeMetadataBlocks < 2 * pool.statusNow().metadataLowWaterBlocks;
    if (isScarce && pool.hasHeldChanges) {
      throw new SpaceError(`pool '${record.name}' has too little free metadata for one commit of all this`, {
        hint: `udm pool resize ${record.name} --metadata-size, or do it in several steps`,
      });
    }
  }
  const result = await run(session);
  await followUpHeld(session);
  return result;
}
