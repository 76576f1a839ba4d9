/** Chance that a seed decides (splitmix32): the same seed does the same damage, on every machine. */
export class Chance {
  #state: number;

  /** @param seed a whole number; its low 32 bits count */
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number in [0, 2^32). */
  word(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** A whole number in [from, to), from where there is nothing between. */
  between(from: number, to: number): number {
    const width = Math.max(1, to - from);
    return from + Math.floor((this.word() / 4294967296) * width);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.between(0, items.length)]!;
  }

  /** The items in another order. */
  shuffled<T>(items: readonly T[]): T[] {
    const list = [...items];
    for (let index = list.length - 1; index > 0; index--) {
      const other = this.between(0, index + 1);
      [list[index], list[other]] = [list[other]!, list[index]!];
    }
    return list;
  }

  fill(bytes: Uint8Array): void {
    for (let index = 0; index < bytes.length; index++) bytes[index] = this.word() >>> 24;
  }
}
