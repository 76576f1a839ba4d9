/**
 * Roots for devices that have details and lost their place in the tree of devices. In question are whole mapping trees
 * that the space map counts more owners for than were found, or, where it cannot be read, that some version of the tree
 * of devices names. A device takes one with as many mappings as its details say
 *
 * - where there is only one left, and no more devices want it than it has owners missing;
 * - or where all versions that know the same devices name it for this one, in the number that is missing.
 *
 * Without the space map a tree of the same size may as well be an old one, or another device's. Then it must be the only one
 * that any version names for this device, and the device's own root must not be known to lie in a block that was destroyed.
 *
 * What is left could be exchanged without anybody noticing, and is not told apart.
 */
import type { Details, DeviceTrees, Roots } from "./device-trees.js";
import { UNKNOWN_COUNT } from "./orphans.js";

export interface RootSearch {
  readonly ids: readonly number[];
  readonly roots: Roots;
  readonly details: Details;
  /** Owners of each metadata block, as the space map has them. */
  readonly counts: Uint32Array;
  /** The trees are of another time than the space map: what it has as free is not the device's any more. */
  readonly isOlder: boolean;
  /** Roots that others own, a metadata snapshot for one: each as often as it is pointed at. */
  readonly others: readonly number[];
}

/** @returns roots by device, for those that need one and can be told */
export function findRoots(trees: DeviceTrees, search: RootSearch): Map<number, number> {
  const { ids, roots, details, counts, others } = search;
  const { total } = trees.forest.survey;
  const found = new Map<number, number>();
  const hasHome = (id: number) => isHome(trees, search, id);
  const homeless = new Set(ids.filter((id) => !hasHome(id) && (details.get(id)?.mappedBlocks ?? 0) > 0));
  if (homeless.size === 0) return found;
  // Who has no details may stand under a wrong id: its root is to be had.
  const settled = ids.filter((id) => hasHome(id) && details.has(id)).map((id) => roots.get(id)!);
  const room = vacancies(trees, { settled, others, counts });
  const isLikely = (id: number, root: number) => counts[root] !== UNKNOWN_COUNT || isNamedFor(trees, roots, id, root);
  const choices = (id: number) =>
    [...room.keys()].filter(
      (root) => room.get(root)! > 0 && total[root] === details.get(id)!.mappedBlocks && isLikely(id, root),
    );
  const take = (id: number, root: number): void => {
    found.set(id, root);
    homeless.delete(id);
    room.set(root, room.get(root)! - 1);
  };
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const [id, root] of onlyChoices(homeless, choices, room)) take(id, root);
    if (before !== found.size) continue;
    for (const [id, root] of namedChoices(trees, details, room)) {
      if (!homeless.has(id)) continue;
      const among = choices(id);
      const isTold = counts[root] !== UNKNOWN_COUNT || among.length === 1;
      if (among.includes(root) && isTold) take(id, root);
    }
  }
  return found;
}

/** There is a tree, and if all of it can be read it has what the details say. */
function isHome(trees: DeviceTrees, { roots, details, counts, isOlder }: RootSearch, id: number): boolean {
  const root = roots.get(id);
  if (!trees.isMappings(root)) return false;
  if (isOlder && counts[root] === 0) return false;
  const expected = details.get(id)?.mappedBlocks;
  return trees.forest.isWhole[root] === 0 || expected === undefined || trees.forest.survey.total[root] === expected;
}

/** A version names the root for the device, whose own one may still be there. */
function isNamedFor(trees: DeviceTrees, roots: Roots, id: number, root: number): boolean {
  const { survey } = trees.forest;
  const own = roots.get(id);
  const isDestroyed = own !== undefined && own > 0 && survey.store.isInside(own) && !survey.isNode(own);
  return !isDestroyed && trees.isNamed(id, root);
}

function onlyChoices(
  homeless: ReadonlySet<number>,
  choices: (id: number) => readonly number[],
  room: ReadonlyMap<number, number>,
): [id: number, root: number][] {
  const wanted = new Map([...homeless].map((id) => [id, choices(id)] as const));
  const rivals = new Map<number, number>();
  for (const root of [...wanted.values()].flat()) rivals.set(root, (rivals.get(root) ?? 0) + 1);
  const only: [number, number][] = [];
  for (const [id, [root, another]] of wanted) {
    if (root !== undefined && another === undefined && rivals.get(root)! <= room.get(root)!) only.push([id, root]);
  }
  return only;
}

/** By versions that know all devices there are; where they name a root as often as owners are missing, and alike. */
function namedChoices(
  trees: DeviceTrees,
  details: Details,
  room: ReadonlyMap<number, number>,
): [id: number, root: number][] {
  const complete = trees.versions().filter((version) => [...details.keys()].every((id) => version.has(id)));
  const named: [number, number][] = [];
  for (const [root, missing] of room) {
    const sets = new Map<string, readonly number[]>();
    for (const version of complete) {
      const ids = [...version].filter(([, each]) => each === root).map(([id]) => id);
      if (ids.length === missing) sets.set(ids.join(), ids);
    }
    const [only, another] = [...sets.values()];
    if (only !== undefined && another === undefined) for (const id of only) named.push([id, root]);
  }
  return named;
}

/** Whole mapping trees that may be somebody's, with the number of owners that are missing. */
function vacancies(
  trees: DeviceTrees,
  known: { readonly settled: readonly number[]; readonly others: readonly number[]; readonly counts: Uint32Array },
): Map<number, number> {
  const { settled, others, counts } = known;
  const { forest } = trees;
  const { nrBlocks, total } = forest.survey;
  const owners = new Uint32Array(nrBlocks);
  const isReached = new Uint8Array(nrBlocks);
  for (const root of [...settled, ...others]) {
    owners[root]!++;
    forest.mark(root, isReached);
  }
  for (let blocknr = 1; blocknr < nrBlocks; blocknr++) {
    if (isReached[blocknr] === 1) {
      forest.eachChild(blocknr, (child) => {
        owners[child]!++;
      });
    }
  }
  const haveHoles = settled.some((root) => forest.isWhole[root] === 0);
  const named = new Set(trees.versions().flatMap((version) => [...version.values()]));
  const room = new Map<number, number>();
  for (let blocknr = 1; blocknr < nrBlocks; blocknr++) {
    if (total[blocknr] === 0 || counts[blocknr] === 0) continue;
    if (!trees.isMappings(blocknr) || forest.isWhole[blocknr] === 0) continue;
    const isKnown = counts[blocknr] !== UNKNOWN_COUNT;
    // What has never been a root may be one's child that lost its parent.
    const mayBeChild = forest.hasParent[blocknr] === 1 || haveHoles || !isKnown;
    if (mayBeChild && !named.has(blocknr)) continue;
    const missing = isKnown ? counts[blocknr]! - owners[blocknr]! : 1;
    if (missing > 0) room.set(blocknr, missing);
  }
  return room;
}
