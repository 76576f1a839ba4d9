/**
 * Subtrees of mappings that nothing in a candidate points at any more, for the holes that damage left. A damaged inner
 * node loses its children, not their contents; the space map still counts them as used, which tells them from old
 * versions. Nothing is adopted on a guess: an orphan must fit one hole only, must not overlap another one, and the
 * device must not get more mappings than its details say.
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
 * @param isReached blocks of the candidate's own trees
 * @param counts owners of each metadata block, as the candidate's space map has them
 * @returns by device
 */
export function adoptOrphans(
  forest: Forest,
  sufferers: readonly Sufferer[],
  isReached: Uint8Array,
  counts: Uint32Array,
): Map<number, Adoption[]> {
  const claims = claimsOf(sufferers);
  for (const orphan of topOrphans(forest, isReached, counts)) {
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
    const isRight =
      sufferer.expected === undefined ? isSure : isSure ? sum <= sufferer.expected : sum === sufferer.expected;
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

function fits({ survey, height }: Forest, orphan: number, claim: Claim): boolean {
  const isInside = survey.first[orphan]! >= claim.low && survey.last[orphan]! < claim.high;
  return isInside && height[orphan]! < claim.height;
}

/** Those that no other orphan points at. */
function topOrphans(forest: Forest, isReached: Uint8Array, counts: Uint32Array): number[] {
  const { survey } = forest;
  const isOrphan = (blocknr: number): boolean =>
    isReached[blocknr] === 0 &&
    counts[blocknr] !== 0 &&
    survey.total[blocknr]! > 0 &&
    forest.isTree(blocknr, TreeKind.Mappings) &&
    (survey.kinds[blocknr]! & TreeKind.Devices) === 0 &&
    forest.isWhole[blocknr] === 1;
  const tops: number[] = [];
  const hasOrphanParent = new Uint8Array(survey.nrBlocks);
  for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
    if (isOrphan(blocknr)) forest.eachChild(blocknr, (child) => (hasOrphanParent[child] = 1));
  }
  for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
    if (hasOrphanParent[blocknr] === 0 && isOrphan(blocknr)) tops.push(blocknr);
  }
  return tops;
}

function overlap({ survey }: Forest, sorted: readonly number[]): boolean {
  return sorted.some((blocknr, index) => index > 0 && survey.first[blocknr]! <= survey.last[sorted[index - 1]!]!);
}

function isSurelyUsed(counts: Uint32Array, blocknr: number): boolean {
  return counts[blocknr] !== 0 && counts[blocknr] !== UNKNOWN_COUNT;
}
