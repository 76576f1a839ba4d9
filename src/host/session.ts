/**
 * One operation: the state as it was read, what it opened, what it changes. A change is written by `save`; when an
 * operation fails, everything since the last `save` is forgotten, except what the pools themselves went through
 * meanwhile (modes, events), which is true whatever became of the request.
 *
 * A held session does several operations as one: they see what those before them did, and `commitHeld` makes all of it
 * true at once. What decides is the commit of the pool's metadata, so only one pool may be changed.
 */
import { resolve } from "node:path";
import {
  type DeviceRecord,
  formatState,
  type Holder,
  type Intent,
  type LoopRecord,
  parseState,
  Registry,
  type State,
  type StateFile,
} from "../device-registry/index.js";
import { StateError } from "../errors/index.js";
import type { PoolNote } from "../thin/index.js";
import type { OwnDevices } from "./attachments/own-devices.js";
import { LowDevices } from "./below.js";
import { digestOf } from "./thin-records.js";

export interface SessionOptions {
  readonly log: (line: string) => void;
  readonly noSpaceTimeoutMs: number | undefined;
  readonly cacheBlocks: number | undefined;
  /** Called between the steps of operations that touch several things, with the step's name. For tests. */
  readonly onStep: (step: string) => void;
  /** Nothing is written before `commitHeld`: neither the state nor the pools' metadata. */
  readonly isHeld?: boolean;
  /** Stays while services hold devices: what they hold remains open when the rest is closed. */
  readonly isResident?: boolean;
  /** What this process serves, and must not touch. */
  readonly ownDevices?: OwnDevices;
  readonly holdersOf?: (minor: number) => readonly Holder[];
  readonly onEvent?: (record: DeviceRecord) => void;
  readonly onNote?: (record: DeviceRecord, note: PoolNote) => void;
}

export class Session {
  readonly #file: StateFile;
  readonly #options: SessionOptions;
  /** Where relative paths of the present request begin; undefined: in this process's working directory. */
  cwd: string | undefined;
  #isHeld: boolean;
  #saved: State;
  #loops: readonly LoopRecord[];
  #intents: readonly Intent[];
  #registry: Registry;
  #low: LowDevices;

  constructor(file: StateFile, state: State, options: SessionOptions) {
    this.#file = file;
    this.#options = options;
    this.#isHeld = options.isHeld ?? false;
    this.#saved = state;
    this.#loops = state.loops;
    this.#intents = state.intents;
    this.#low = new LowDevices({
      loops: () => this.#loops,
      cwd: () => this.cwd ?? ".",
      log: options.log,
      isServing: options.isResident === true,
      ...(options.ownDevices === undefined ? {} : { ownDevices: options.ownDevices }),
    });
    this.#registry = this.#makeRegistry(state.devices);
  }

  get registry(): Registry {
    return this.#registry;
  }
  get low(): LowDevices {
    return this.#low;
  }
  get loops(): readonly LoopRecord[] {
    return this.#loops;
  }
  get intents(): readonly Intent[] {
    return this.#intents;
  }

  /** A path as the one who asks means it. */
  resolvePath(path: string): string {
    const absolute = resolve(this.cwd ?? ".", path);
    this.#options.ownDevices?.check(absolute);
    return absolute;
  }

  setLoops(loops: readonly LoopRecord[]): void {
    this.#loops = [...loops].sort((left, right) => left.number - right.number);
  }

  /** Written down before it is done, so that it can be ended or undone if this process does not. */
  async announce(intent: Intent): Promise<Intent> {
    this.#intents = [...this.#intents, intent];
    await this.save();
    return intent;
  }

  /** Forgets an intent; `save` makes that true. */
  fulfilled(intent: Intent): void {
    this.#intents = this.#intents.filter((each) => each !== intent);
  }

  step(name: string): void {
    this.#options.onStep(name);
  }

  log(line: string): void {
    this.#options.log(line);
  }

  /** Writes the state when it differs from the file. What changes meanwhile is for the next time. */
  async save(): Promise<void> {
    if (this.#isHeld) return;
    // What is written is what a reader will find, in the same order of fields.
    const next = parseState(formatState(this.#present()));
    if (JSON.stringify(next) === JSON.stringify(this.#saved)) return;
    await this.#write(next);
  }

  #present(): State {
    const { serial } = this.#saved;
    return { serial, loops: this.#loops, devices: this.#registry.records(), intents: this.#intents };
  }

  async #write(state: State): Promise<void> {
    const written = { ...state, serial: this.#saved.serial + 1 };
    await this.#file.write(written);
    this.#saved = written;
  }

  /**
   * What was held back becomes true, all of it or, when it throws or is cut off, nothing.
   * @throws StateError EINVAL when it changes more than one pool; IoError EIO
   */
  async commitHeld(): Promise<void> {
    const changed = this.#registry.openPools().filter(({ pool }) => pool.hasHeldChanges);
    const [only] = changed;
    if (changed.length > 1) {
      throw new StateError(
        "EINVAL",
        `more than one pool changes: ${changed.map(({ record }) => record.name).join(" ")}`,
        {
          hint: "one commit is of one pool; divide the batch by pools",
        },
      );
    }
    this.#registry.keepRuntimes();
    if (only === undefined) {
      const next = this.#present();
      if (JSON.stringify(next) !== JSON.stringify(this.#saved)) await this.#write(next);
      return;
    }
    const { record, pool } = only;
    const before = this.#saved;
    const line = (record.live ?? record.inactive!.lines)[0]!;
    const intent: Intent = {
      kind: "batch",
      pool: record.name,
      metadata: line.args[0]!,
      superblock: digestOf(pool.committedSuperblock()),
      next: this.#present(),
    };
    await this.#write({ ...before, intents: [...before.intents, intent] });
    try {
      this.step("announced");
      await pool.commitHeld();
    } catch (error) {
      await this.#write(before);
      throw error;
    }
    this.step("committed");
    this.#registry.keepRuntimes();
    await this.#write(this.#present());
  }

  /** Lets go of everything without a commit. */
  async abandon(): Promise<void> {
    this.#registry.abandon();
    await this.#low.close();
  }

  /** Another state takes the place of this one: a batch turns out to have taken place. */
  async adopt(state: State): Promise<void> {
    await this.close();
    this.#loops = state.loops;
    this.#intents = state.intents;
    this.#registry = this.#makeRegistry(state.devices);
  }

  /** Closes all that is open and that nobody holds; pools commit and tell what they know. */
  async close(): Promise<void> {
    if (this.#options.isResident !== true) return this.end();
    try {
      await this.#registry.closeUnused();
    } finally {
      this.#registry.keepRuntimes();
      await this.#low.releaseExcept(this.#registry.numbersBelow());
    }
  }

  /** Closes all that is open. */
  async end(): Promise<void> {
    try {
      await this.#registry.close();
    } finally {
      await this.#low.close();
    }
  }

  /** From here on a group: nothing is written before `commitHeld`. Held devices wait until `endGroup` or `undoGroup`. */
  async beginGroup(): Promise<void> {
    await this.#registry.holdBack();
    this.#isHeld = true;
  }

  /** After `commitHeld`. */
  endGroup(): void {
    this.#isHeld = false;
    this.#registry.letGo();
  }

  /** Back to what it was at the beginning of the group. */
  async undoGroup(): Promise<void> {
    this.#isHeld = false;
    this.#loops = this.#saved.loops;
    this.#intents = this.#saved.intents;
    await this.#registry.revert(this.#saved.devices, { abandon: true });
    await this.close();
  }

  /** Back to the last save, but for what pools went through. */
  async forget(): Promise<unknown> {
    if (this.#options.isResident === true) return this.#revert();
    const failure = await this.close().then(
      () => undefined,
      (error: unknown) => error,
    );
    const known = new Map(this.#registry.records().map((record) => [record.minor, record]));
    this.#loops = this.#saved.loops;
    this.#intents = this.#saved.intents;
    this.#registry = this.#makeRegistry(
      this.#saved.devices.map((record) => withExperience(record, known.get(record.minor))),
    );
    return failure;
  }

  /** Devices that are held stay open unless the operation had changed them. */
  async #revert(): Promise<unknown> {
    this.#registry.keepRuntimes();
    const known = new Map(this.#registry.records().map((record) => [record.minor, record]));
    const before = this.#saved.devices.map((record) => withExperience(record, known.get(record.minor)));
    const isSame = JSON.stringify(before) === JSON.stringify(this.#registry.records());
    this.#loops = this.#saved.loops;
    this.#intents = this.#saved.intents;
    return isSame ? undefined : this.#registry.revert(before, { abandon: false });
  }

  #makeRegistry(devices: readonly DeviceRecord[]): Registry {
    return new Registry({
      devices,
      below: this.#low,
      log: this.#options.log,
      ...(this.#options.noSpaceTimeoutMs === undefined ? {} : { noSpaceTimeoutMs: this.#options.noSpaceTimeoutMs }),
      ...(this.#options.cacheBlocks === undefined ? {} : { cacheBlocks: this.#options.cacheBlocks }),
      ...(this.#options.isHeld === true ? { holdsCommits: true } : {}),
      ...(this.#options.holdersOf === undefined ? {} : { holdersOf: this.#options.holdersOf }),
      ...(this.#options.onEvent === undefined ? {} : { onEvent: this.#options.onEvent }),
      ...(this.#options.onNote === undefined ? {} : { onNote: this.#options.onNote }),
    });
  }
}

function withExperience(record: DeviceRecord, last: DeviceRecord | undefined): DeviceRecord {
  const runtime = last?.pool?.runtime;
  if (last === undefined || (runtime === undefined && last.eventNr === record.eventNr)) return record;
  return {
    ...record,
    eventNr: last.eventNr,
    ...(runtime === undefined ? {} : { pool: { thins: [], ...record.pool, runtime } }),
  };
}
