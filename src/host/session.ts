/**
 * One operation: the state as it was read, what it opened, what it changes. A change is written by `save`; when an
 * operation fails, everything since the last `save` is forgotten, except what the pools themselves went through
 * meanwhile (modes, events), which is true whatever became of the request.
 */
import {
  type DeviceRecord,
  formatState,
  type Intent,
  type LoopRecord,
  parseState,
  Registry,
  type State,
  type StateFile,
} from "../device-registry/index.js";
import { LowDevices } from "./below.js";

export interface SessionOptions {
  readonly log: (line: string) => void;
  readonly noSpaceTimeoutMs: number | undefined;
  readonly cacheBlocks: number | undefined;
  /** Called between the steps of operations that touch several things, with the step's name. For tests. */
  readonly onStep: (step: string) => void;
}

export class Session {
  readonly #file: StateFile;
  readonly #options: SessionOptions;
  #saved: State;
  #loops: readonly LoopRecord[];
  #intents: readonly Intent[];
  #registry: Registry;
  #low: LowDevices;

  constructor(file: StateFile, state: State, options: SessionOptions) {
    this.#file = file;
    this.#options = options;
    this.#saved = state;
    this.#loops = state.loops;
    this.#intents = state.intents;
    this.#low = new LowDevices({ loops: () => this.#loops });
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

  setLoops(loops: readonly LoopRecord[]): void {
    this.#loops = [...loops].sort((left, right) => left.number - right.number);
  }

  /** Written at once: what is about to be done, so that it can be ended or undone if this process does not. */
  announce(intent: Intent): Intent {
    this.#intents = [...this.#intents, intent];
    this.save();
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

  /** Writes the state when it differs from the file. */
  save(): void {
    const state: State = {
      serial: this.#saved.serial,
      loops: this.#loops,
      devices: this.#registry.records(),
      intents: this.#intents,
    };
    // What is written is what a reader will find, in the same order of fields.
    const next = parseState(formatState(state));
    if (JSON.stringify(next) === JSON.stringify(this.#saved)) return;
    this.#saved = { ...next, serial: state.serial + 1 };
    this.#file.write(this.#saved);
  }

  /** Closes all that is open; pools commit and tell what they know. */
  async close(): Promise<void> {
    try {
      await this.#registry.close();
    } finally {
      await this.#low.close();
    }
  }

  /** Back to the last save, but for what pools went through. */
  async forget(): Promise<unknown> {
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

  #makeRegistry(devices: readonly DeviceRecord[]): Registry {
    return new Registry({
      devices,
      below: this.#low,
      log: this.#options.log,
      ...(this.#options.noSpaceTimeoutMs === undefined ? {} : { noSpaceTimeoutMs: this.#options.noSpaceTimeoutMs }),
      ...(this.#options.cacheBlocks === undefined ? {} : { cacheBlocks: this.#options.cacheBlocks }),
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
