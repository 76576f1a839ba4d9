/**
 * Who may touch the bytes of an export. Requests in whole sectors go side by side; one that covers a part of a sector reads
 * it, changes it and writes it back, and while it does that nobody else writes: what others write into the rest of that
 * sector would be undone.
 */
export class AccessGate {
  #shared = 0;
  #isExclusive = false;
  #waiting: { readonly isExclusive: boolean; readonly go: () => void }[] = [];

  /** Writes that complete at once may go ahead. */
  get isOpen(): boolean {
    return !this.#isExclusive && this.#waiting.length === 0;
  }

  /** A part of a sector may be changed at once. */
  get isIdle(): boolean {
    return this.#shared === 0 && this.isOpen;
  }

  async shared<T>(run: () => Promise<T>): Promise<T> {
    if (this.isOpen) this.#shared++;
    else await this.#wait(false);
    try {
      return await run();
    } finally {
      this.#shared--;
      this.#next();
    }
  }

  async exclusive<T>(run: () => Promise<T>): Promise<T> {
    if (this.isIdle) this.#isExclusive = true;
    else await this.#wait(true);
    try {
      return await run();
    } finally {
      this.#isExclusive = false;
      this.#next();
    }
  }

  #wait(isExclusive: boolean): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ isExclusive, go: resolve }));
  }

  #next(): void {
    for (;;) {
      const [first] = this.#waiting;
      if (first === undefined || this.#isExclusive || (first.isExclusive && this.#shared > 0)) return;
      this.#waiting.shift();
      if (first.isExclusive) this.#isExclusive = true;
      else this.#shared++;
      first.go();
    }
  }
}
