/** Takes the measures of a row in turns and holds them against what is promised. */
import type { Comparison, Floor, Row, Samples, Side, Unit } from "./bench.js";

const ROUNDS = 5;

export async function compare(bench: string, comparison: Comparison): Promise<Row> {
  const { title, unit, ours, peer, before, floors = [], rounds = ROUNDS, warmUps = 1 } = comparison;
  const sides = peer === undefined ? [ours] : [ours, peer];
  const taken = new Map<Side, number[]>(sides.map((side) => [side, []]));
  for (let round = -warmUps; round < rounds; round++) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      await before?.();
      const value = await side.measure();
      if (round >= 0) taken.get(side)!.push(value);
    }
  }
  const mine = summarize(ours.label, taken.get(ours)!);
  const theirs = peer === undefined ? undefined : summarize(peer.label, taken.get(peer)!);
  const ratio = theirs === undefined ? undefined : ratioOf(unit, mine.median, theirs.median);
  const verdicts = floors.map((floor) => isMet(floor, mine, theirs, ratio));
  return {
    bench,
    title,
    unit,
    ours: mine,
    peer: theirs,
    ratio,
    floor: floors.map((floor) => describe(floor, unit)).join(", "),
    isMet: verdicts.length === 0 ? undefined : verdicts.every((verdict) => verdict),
  };
}

function summarize(label: string, values: readonly number[]): Samples {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { label, median, least: sorted[0]!, most: sorted.at(-1)! };
}

function ratioOf(unit: Unit, ours: number, peers: number): number {
  return unit === "per second" ? peers / ours : ours / peers;
}

function isMet(floor: Floor, ours: Samples, peer: Samples | undefined, ratio: number | undefined): boolean {
  switch (floor.kind) {
    case "ratio":
      return ratio !== undefined && ratio <= floor.atMost;
    case "value":
      return ours.median <= (floor.atMost ?? Infinity) && ours.median >= (floor.atLeast ?? -Infinity);
    case "above peer":
      return peer !== undefined && ours.median - peer.median <= floor.atMost;
  }
}

function describe(floor: Floor, unit: Unit): string {
  switch (floor.kind) {
    case "ratio":
      return `ratio <= ${floor.atMost}`;
    case "value":
      return floor.atLeast === undefined ? `<= ${floor.atMost} ${unit}` : `>= ${floor.atLeast} ${unit}`;
    case "above peer":
      return `<= peer + ${floor.atMost} ${unit}`;
  }
}
