/**
 * What has been learnt about a file's holes, so that it is not asked for again: stretches known to read as zeros, and
 * stretches known to hold data. Everything else is unknown. Stretches are disjoint and sorted; neighbours of one kind are
 * one stretch. The number of stretches has a bound; beyond it everything is forgotten, which costs a question, no truth.
 */
export type RegionKind = "zeros" | "data";

interface Region {
  start: number;
  end: number;
  kind: RegionKind;
}

const MAX_REGIONS = 1024;

export class KnownRegions {
  #regions: Region[] = [];

  /** The stretch that holds `offset`. */
  find(offset: number): { readonly end: number; readonly kind: RegionKind } | undefined {
    const index = this.#indexAfter(offset) - 1;
    const region = this.#regions[index];
    return region !== undefined && offset < region.end ? region : undefined;
  }

  /** [start, end) is of this kind from now on, whatever was known before. */
  note(start: number, end: number, kind: RegionKind): void {
    if (start >= end) return;
    const regions = this.#regions;
    // The first region that reaches `start`, and the first that begins behind `end`: all between are replaced.
    let from = this.#indexAfter(start);
    while (from > 0 && regions[from - 1]!.end >= start) from--;
    let to = from;
    const replacement: Region[] = [];
    const made: Region = { start, end, kind };
    for (; to < regions.length && regions[to]!.start <= end; to++) {
      const region = regions[to]!;
      if (region.kind === kind) {
        made.start = Math.min(made.start, region.start);
        made.end = Math.max(made.end, region.end);
        continue;
      }
      if (region.start < start) replacement.push({ start: region.start, end: start, kind: region.kind });
      if (region.end > end) replacement.push({ start: end, end: region.end, kind: region.kind });
    }
    replacement.push(made);
    replacement.sort((a, b) => a.start - b.start);
    regions.splice(from, to - from, ...replacement);
    if (regions.length > MAX_REGIONS) this.#regions = [made];
  }

  /** Something was written to [start, end): it is no longer known to read as zeros. */
  written(start: number, end: number): void {
    const regions = this.#regions;
    if (regions.length === 0 || start >= end) return;
    let index = this.#indexAfter(start);
    if (index > 0 && regions[index - 1]!.end > start) index--;
    for (; index < regions.length && regions[index]!.start < end; index++) {
      const region = regions[index]!;
      if (region.kind === "data") continue;
      if (region.start >= start && region.end <= end) regions.splice(index--, 1);
      else if (region.start >= start) region.start = end;
      else if (region.end <= end) region.end = start;
      else {
        regions.splice(index + 1, 0, { start: end, end: region.end, kind: "zeros" });
        region.end = start;
        if (regions.length > MAX_REGIONS) this.#regions = [];
        return;
      }
    }
  }

  forget(): void {
    this.#regions = [];
  }

  /** Index of the first stretch that begins after `offset`. */
  #indexAfter(offset: number): number {
    let low = 0;
    let high = this.#regions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#regions[middle]!.start <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
