/** Who owns blocks and how often: the contract of the two space maps. Block ranges are half-open. */
export interface SpaceMap {
  /** Blocks governed. */
  readonly nrBlocks: number;
  /** Blocks that can be given out, by the kernel's accounting: growth and frees count after the next commit. */
  readonly nrFree: number;
  count(block: number): number;
  /** May err on the side of true. */
  isMoreThanOne(block: number): boolean;
  inc(begin: number, end: number): void;
  /** @throws DamageError when a count is 0 already */
  dec(begin: number, end: number): void;
  /** Takes a block that is free now and was free at the last commit; undefined when there is none. */
  allocate(): number | undefined;
}
