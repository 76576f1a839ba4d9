/**
 * The state on disk: `state.json`, replaced in one step under the lock, with the copy before it kept. Reading needs no
 * lock, since a reader meets the old file or the new one.
 */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { codeOf, DamageError, messageOf, StateError } from "../errors/index.js";
import { type FileLock, lockFile, makeFolder, replaceFileInPool, systemError } from "../io/index.js";
import { Damage, EMPTY_STATE, formatState, parseState, type State } from "./state.js";

export class StateFile {
  readonly path: string;
  readonly previousPath: string;
  readonly #lockPath: string;
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
    this.path = join(folder, "state.json");
    this.previousPath = join(folder, "state.json.previous");
    this.#lockPath = join(folder, "lock");
  }

  /** @throws StateError EBUSY with the holder's name when the time is up */
  async lock(options: {
    readonly timeoutMs?: number;
    readonly purpose?: string;
    readonly onPause?: () => void;
  }): Promise<FileLock> {
    try {
      makeFolder(this.#folder, 0o700);
    } catch (error) {
      throw systemError(error, `state folder ${this.#folder}: cannot be made`);
    }
    return lockFile(this.#lockPath, options);
  }

  /** @throws DamageError EUCLEAN; StateError EINVAL from a newer version */
  read(): State {
    let text: string;
    try {
      text = readFileSync(this.path, "utf8");
    } catch (error) {
      if (codeOf(error) === "ENOENT") return this.#missing();
      throw systemError(error, this.path);
    }
    try {
      return parseState(text);
    } catch (error) {
      if (error instanceof StateError) {
        throw new StateError(error.code, `${this.path}: ${error.message}`, {
          ...(error.hint === undefined ? {} : { hint: error.hint }),
          cause: error,
        });
      }
      if (!(error instanceof Damage)) throw error;
      throw new DamageError(`state file ${this.path} is damaged: it ${error.message}`, {
        hint: this.#previousHint(),
        cause: error,
      });
    }
  }

  /** Durable when it resolves; others are served meanwhile. The caller holds the lock, and waits for one before the next. */
  write(state: State): Promise<void> {
    return replaceFileInPool(this.path, formatState(state), { previousPath: this.previousPath });
  }

  /** A state that was never written, or one that was lost: the copy kept beside it tells. */
  #missing(): State {
    if (statSync(this.previousPath, { throwIfNoEntry: false }) === undefined) return EMPTY_STATE;
    throw new DamageError(`state file ${this.path} is missing`, { hint: this.#previousHint() });
  }

  #previousHint(): string {
    try {
      const { serial } = parseState(readFileSync(this.previousPath, "utf8"));
      return `the copy before it (change ${serial}) is good: cp ${this.previousPath} ${this.path}`;
    } catch (error) {
      return `the copy before it is no help either (${messageOf(error)}); move the file away to start anew`;
    }
  }
}
