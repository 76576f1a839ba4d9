/**
 * Subtrees of mappings that lost a parent, for the holes that damage left. A damaged inner node loses its children, not
 * their contents; the space map counts more owners for them than point at them, which tells them from old versions.
 * Nothing is adopted on a guess: an orphan must fit one hole only, must not overlap another one, and the device must not
 * get more mappings than its details say.
 */
import type { Adoption } from "./candidate.js";
import type { Forest, Hole } from "./forest.js";
import { TreeKind } from "./survey.js";

/** A device with holes. */
export interface Sufferer {
  readonly id: number;
  readonly holes: readonly Hole[];
  readonly held: number;
  readonly expected: number | undefined;
}

/** In place of an owner count that cannot be read. */
export const UNKNOWN_COUNT = 0xffffffff;

/** All that lie in one damaged block: whoever shares it lost the same. */
interface Claim {
  readonly block: number;
  readonly height: number;
  low: number;
  high: number;
  readonly devices: { readonly sufferer: Sufferer; readonly hole: Hole }[];
  readonly orphans: number[];
}

/**
 * @param roots of all trees of the candidate, each as often as it is pointed at
 * @param counts owners of each metadata block, as the candidate's space map has them
 * @returns by device
 */
export function adoptOrphans(
  forest: Forest,
  sufferers: readonly Sufferer[],
  roots: readonly number[],
  counts: Uint32Array,
): Map<number, Adoption[]> {
  const claims = claimsOf(sufferers);
  const isReached = new Uint8Array(forest.survey.nrBlocks);
  for (const root of roots) forest.mark(root, isReached);
  for (const orphan of topOrphans(forest, isReached, counts, roots)) {
    const fitting = claims.filter((claim) => fits(forest, orphan, claim));
    if (fitting.length === 1) fitting[0]!.orphans.push(orphan);
  }
  const { survey } = forest;
  const adoptions = new Map<number, Adoption[]>();
  for (const claim of claims) {
    claim.orphans.sort((left, right) => survey.first[left]! - survey.first[right]!);
    // A root that had children had two at least.
    const isLone = claim.height === Number.POSITIVE_INFINITY && claim.orphans.length === 1;
    if (isLone || overlap(forest, claim.orphans)) claim.orphans.length = 0;
  }
  // A device takes all that fits its holes, or nothing: whichever of them were wrong could not be told.
  for (const sufferer of sufferers) {
    const own = claims.filter(({ devices }) => devices.some((each) => each.sufferer === sufferer));
    const found = own.flatMap(({ orphans }) => orphans);
    const sum = found.reduce((total, blocknr) => total + survey.total[blocknr]!, sufferer.held);
    const isSure = found.every((blocknr) => isSurelyUsed(counts, blocknr));
    // What is no child of the node that was lost has to be the very thing that is missing.
    const isBelow = own.every(({ height, orphans }) => orphans.every((each) => forest.height[each]! < height));
    const isExact = sum === sufferer.expected;
    const isRight = isExact || (isSure && isBelow && sum <= (sufferer.expected ?? Number.POSITIVE_INFINITY));
    if (found.length === 0 || !isRight) continue;
    adoptions.set(
      sufferer.id,
      own.filter(({ orphans }) => orphans.length > 0).map(({ block, orphans }) => ({ hole: block, blocks: orphans })),
    );
  }
  return adoptions;
}

function claimsOf(sufferers: readonly Sufferer[]): Claim[] {
  const claims = new Map<number, Claim>();
  for (const sufferer of sufferers) {
    for (const hole of sufferer.holes) {
      const { blocknr: block, height } = hole;
      const claim = claims.get(block) ?? {
        block,
        height,
        low: 0,
        high: Number.POSITIVE_INFINITY,
        devices: [],
        orphans: [],
      };
      claims.set(block, claim);
      claim.low = Math.max(claim.low, hole.low);
      claim.high = Math.min(claim.high, hole.high);
      claim.devices.push({ sufferer, hole });
    }
  }
  return [...claims.values()];
}

function fits({ survey }: Forest, orphan: number, claim: Claim): boolean {
  return survey.first[orphan]! >= claim.low && survey.last[orphan]! < claim.high;
}

/** Those that lack an owner: all that point at them, from the candidate or from another orphan, are counted. */
function topOrphans(forest: Forest, isReached: Uint8Array, counts: Uint32Array, roots: readonly number[]): number[] {
  const { survey } = forest;
  const mayBe = (blocknr: number): boolean =>
    counts[blocknr] !== 0 &&
    survey.total[blocknr]! > 0 &&
    forest.isWhole[blocknr] === 1 &&
    forest.isTree(blocknr, TreeKind.Mappings) &&
    (survey.kinds[blocknr]! & TreeKind.Devices) === 0;
  const owners = new Uint32Array(survey.nrBlocks);
  for (const root of roots) owners[root]!++;
  for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
    if (isReached[blocknr] === 0 && !mayBe(blocknr)) continue;
    forest.eachChild(blocknr, (child) => {
      owners[child]!++;
    });
  }
  const tops: number[] = [];
  for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
    const wanted = isSurelyUsed(counts, blocknr) ? counts[blocknr]! : 1 - isReached[blocknr]!;
    if (owners[blocknr]! < wanted && mayBe(blocknr)) tops.push(blocknr);
  }
  return tops;
}

function overlap({ survey }: Forest, sorted: readonly number[]): boolean {
  return sorted.some((blocknr, index) => index > 0 && survey.first[blocknr]! <= survey.last[sorted[index - 1]!]!);
}

function isSurelyUsed(counts: Uint32Array, blocknr: number): boolean {
  return counts[blocknr] !== 0 && counts[blocknr] !== UNKNOWN_COUNT;
}
