/**
 * How operations run: views read the state as it is, changes have it to themselves. Every change begins by mending what
 * an earlier one left half done, and ends by following up: removals that waited for their last user, loop devices that
 * go with theirs, names of thin devices that the pools no longer have.
 */
import { StateFile } from "../device-registry/index.js";
import { followUp } from "./follow-up.js";
import { mend } from "./mend.js";
import { Session } from "./session.js";

export interface CoreOptions {
  readonly stateDir: string;
  readonly runDir: string;
  readonly lockTimeoutMs?: number;
  readonly log?: (line: string) => void;
  readonly noSpaceTimeoutMs?: number;
  readonly cacheBlocks?: number;
  readonly onStep?: (step: string) => void;
}

export class Core {
  readonly runDir: string;
  readonly file: StateFile;
  readonly #options: CoreOptions;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(options: CoreOptions) {
    this.#options = options;
    this.runDir = options.runDir;
    this.file = new StateFile(options.stateDir);
  }

  log(line: string): void {
    this.#options.log?.(line);
  }

  /** Reads records only; opens nothing, waits for nobody. */
  async view<T>(run: (session: Session) => Promise<T> | T): Promise<T> {
    const state = this.file.read();
    if (state.intents.length > 0) return this.change("mend", run);
    return run(this.#session(state));
  }

  /** Runs alone: under the lock, with everything mended before and written afterwards. */
  change<T>(purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
    const turn = this.#queue.then(
      () => this.#alone(purpose, run),
      () => this.#alone(purpose, run),
    );
    this.#queue = turn.catch(() => {});
    return turn;
  }

  /** Waits for the operation under way, if there is one. */
  async close(): Promise<void> {
    await this.#queue;
  }

  async #alone<T>(purpose: string, run: (session: Session) => Promise<T> | T): Promise<T> {
    const { lockTimeoutMs } = this.#options;
    using _lock = await this.file.lock({
      purpose,
      ...(lockTimeoutMs === undefined ? {} : { timeoutMs: lockTimeoutMs }),
    });
    const session = this.#session(this.file.read());
    try {
      if (session.intents.length > 0) await mend(session);
      const result = await run(session);
      await followUp(session);
      await session.close();
      session.save();
      return result;
    } catch (error) {
      await this.#giveUp(session, error);
      throw error;
    }
  }

  /** The operation failed: what it had not finished is undone, what its pools went through is kept. */
  async #giveUp(session: Session, error: unknown): Promise<void> {
    try {
      const closing = await session.forget();
      if (closing !== undefined && closing !== error) this.log(`closing after a failure: ${String(closing)}`);
      if (session.intents.length > 0) await mend(session);
      await session.close();
      session.save();
    } catch (undo) {
      this.log(`undoing after a failure: ${String(undo)}`);
    }
  }

  #session(state: ReturnType<StateFile["read"]>): Session {
    return new Session(this.file, state, {
      log: (line) => this.log(line),
      noSpaceTimeoutMs: this.#options.noSpaceTimeoutMs,
      cacheBlocks: this.#options.cacheBlocks,
      onStep: this.#options.onStep ?? (() => {}),
    });
  }
}
