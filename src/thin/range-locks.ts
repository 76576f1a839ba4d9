/**
 * Locks on ranges of virtual blocks of one device. Who needs a range waits until no earlier holder overlaps it; first
 * come, first served. When nobody holds anything, taking a lock is one comparison.
 */
interface Holder {
  readonly begin: number;
  readonly end: number;
  readonly released: Promise<void>;
}

export type Release = () => void;

export class RangeLocks {
  readonly #holders = new Set<Holder>();

  /** Nobody holds or awaits a range. */
  get isIdle(): boolean {
    return this.#holders.size === 0;
  }

  /** Waits for the holders that overlap [begin, end) now, without taking anything. */
  async untilFree(begin: number, end: number): Promise<void> {
    await Promise.all(this.#overlapping(begin, end));
  }

  /** Takes [begin, end) once all who asked before and overlap have released. */
  async take(begin: number, end: number): Promise<Release> {
    const earlier = this.#overlapping(begin, end);
    let free: () => void = () => {};
    const holder: Holder = { begin, end, released: new Promise((resolve) => (free = resolve)) };
    this.#holders.add(holder);
    await Promise.all(earlier);
    return () => {
      this.#holders.delete(holder);
      free();
    };
  }

  #overlapping(begin: number, end: number): Promise<void>[] {
    const found: Promise<void>[] = [];
    for (const holder of this.#holders) if (holder.begin < end && begin < holder.end) found.push(holder.released);
    return found;
  }
}
