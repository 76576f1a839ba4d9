/**
 * Long work gives way: after a slice of time it tells how far it is and lets other things happen, an interrupt among
 * them. Loops ask `isDue` as often as they like and await `rest` when it is.
 */
import { UdmError } from "../../errors/index.js";

const SLICE_MS = 40;
const ASK_EVERY = 16;

export interface PaceOptions {
  /** Called a few times a second with what is done, and what there is in all as far as it is known. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class Pace {
  /** In the units of the work at hand; may be corrected while it runs. */
  total = 0;
  /** Added to what `rest` is told, for work of several steps. */
  base = 0;
  readonly #options: PaceOptions;
  #since = performance.now();
  #asked = 0;

  constructor(options: PaceOptions = {}) {
    this.#options = options;
  }

  get isDue(): boolean {
    if (++this.#asked < ASK_EVERY) return false;
    this.#asked = 0;
    return performance.now() - this.#since > SLICE_MS;
  }

  /** The signal came; for work that ends in its own way. */
  get isInterrupted(): boolean {
    return this.#options.signal?.aborted === true;
  }

  /** Tells `done` and lets others run, when a slice of time is over. @throws UdmError EINTR once the signal came */
  async rest(done: number): Promise<void> {
    if (await this.breathe(done)) this.check();
  }

  /** The same for work that must not be ended here. @returns whether it was time */
  async breathe(done: number): Promise<boolean> {
    if (performance.now() - this.#since <= SLICE_MS) return false;
    this.#options.onProgress?.(
      this.total === 0 ? this.base + done : Math.min(this.base + done, this.total),
      this.total,
    );
    await new Promise((resolve) => setImmediate(resolve));
    this.#since = performance.now();
    return true;
  }

  /** @throws UdmError EINTR once the signal came */
  check(): void {
    if (this.isInterrupted) {
      throw new UdmError("EINTR", "interrupted", { hint: "nothing was left half-written" });
    }
  }
}
