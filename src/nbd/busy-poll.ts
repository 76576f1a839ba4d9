/**
 * Looking for more requests for a moment before going to sleep. A client on the same machine answers within some ten
 * microseconds, and waking up costs more than that, on both sides. Where nothing comes in time, it is tried less and less
 * often, so that a client that thinks for longer costs no processor time.
 *
 * The event loop is never kept waiting for longer than TURN_MS; while something waits for a device, or is to be done by
 * promises, it has its turn after every look.
 */

export interface Polled {
  /** Takes and serves what is there. @returns whether there was anything */
  poll(): boolean;
  /** Something has been begun that only the event loop can end. */
  readonly isWaiting: boolean;
}

export interface BusyPollOptions {
  /** How long to look after the last request; 0 never. */
  readonly spinMs: number;
}

const TURN_MS = 1;
/** So many looks in vain, and it is tried every second time, every fourth, and so on up to every MAX_PAUSE-th. */
const PATIENCE = 4;
const MAX_PAUSE = 128;
/** With more connections than this each look costs more than it saves. */
const MAX_POLLED = 8;

export class BusyPoll {
  readonly #spinMs: number;
  readonly #active = new Set<Polled>();
  #isScheduled = false;
  #lastHit = 0;
  #missed = 0;
  #pause = 0;
  #untilNext = 0;

  constructor({ spinMs }: BusyPollOptions) {
    this.#spinMs = spinMs;
  }

  /** Woken by the event loop, it has served something. */
  touch(polled: Polled): void {
    if (this.#spinMs === 0) return;
    this.#active.add(polled);
    if (this.#isScheduled) return;
    if (this.#untilNext > 0) {
      this.#untilNext--;
      this.#active.clear();
      return;
    }
    this.#lastHit = performance.now();
    this.#isScheduled = true;
    this.#spin();
  }

  remove(polled: Polled): void {
    this.#active.delete(polled);
  }

  readonly #spin = (): void => {
    const begin = performance.now();
    for (;;) {
      let isHit = false;
      let mustYield = this.#active.size > MAX_POLLED;
      for (const each of this.#active) {
        if (each.poll()) isHit = true;
        if (each.isWaiting) mustYield = true;
      }
      const now = performance.now();
      if (isHit) {
        this.#lastHit = now;
        this.#missed = 0;
        this.#pause = 0;
      } else if (now - this.#lastHit > this.#spinMs || this.#active.size === 0) return this.#rest();
      if (mustYield || now - begin > TURN_MS) {
        setImmediate(this.#spin);
        return;
      }
    }
  };

  #rest(): void {
    this.#isScheduled = false;
    this.#active.clear();
    this.#missed++;
    if (this.#missed < PATIENCE) return;
    this.#pause = Math.min(MAX_PAUSE, Math.max(1, this.#pause * 2));
    this.#untilNext = this.#pause;
  }
}
