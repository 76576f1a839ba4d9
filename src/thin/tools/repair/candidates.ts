/**
 * Finds what a repair may start from: the superblock's trees, those of each copy of it, and trees that nothing points at
 * but that belong together. For each it is worked out what would be kept and what lost; the most trustworthy comes first.
 */
import { THIN_MAGIC } from "../../superblock.js";
import type { Pace } from "../pace.js";
import type { BlockStore } from "../reader/block-store.js";
import type { DetailsValues } from "../reader/devices.js";
import { Problem } from "../reader/problems.js";
import { eachBitmap, readMetadataIndex } from "../reader/space-map.js";
import { readSuperblock, type SuperblockReading, type SuperblockValues } from "../reader/superblock.js";
import type {
  Candidate,
  CandidateDevice,
  CandidateHead,
  CandidateSource,
  HeadOverrides,
  LostDevice,
} from "./candidate.js";
import { DeviceTrees, holeOfTree } from "./device-trees.js";
import { type Draft, treesOf } from "./draft.js";
import { Forest, type Hole, type KeyRange } from "./forest.js";
import { HeadFinder } from "./head-finder.js";
import { adoptOrphans, type Sufferer, UNKNOWN_COUNT } from "./orphans.js";
import { findRoots } from "./root-finder.js";
import { Survey, TreeKind } from "./survey.js";

/** Candidates that are told. */
const MAX_CANDIDATES = 32;
/** Ranges that are listed for one device. */
const MAX_LOST = 100;
const MAGIC_OFFSET = 32;

export interface FoundCandidates {
  readonly forest: Forest;
  /** The first is what a repair takes unless told otherwise. */
  readonly candidates: readonly Candidate[];
}

/** Reads the whole device. Nothing is thrown for what stands on it. */
export async function findCandidates(
  store: BlockStore,
  options: { readonly overrides?: HeadOverrides; readonly pace: Pace },
): Promise<FoundCandidates> {
  const { overrides = {}, pace } = options;
  pace.total = store.nrBlocks;
  const forest = new Forest(await Survey.take(store, pace));
  pace.base = store.nrBlocks;
  const candidates = await new Finder(forest, overrides, pace).find();
  pace.base = 0;
  return { forest, candidates };
}

/** Two roots, and where they were found. */
interface Start {
  readonly source: CandidateSource;
  readonly block: number;
  readonly values: SuperblockValues | undefined;
  readonly mappingRoot: number;
  readonly detailsRoot: number;
}

class Finder {
  readonly #forest: Forest;
  readonly #trees: DeviceTrees;
  readonly #store: BlockStore;
  readonly #heads: HeadFinder;
  readonly #pace: Pace;
  readonly #starts: readonly Start[];
  readonly #unknown: Uint32Array;

  constructor(forest: Forest, overrides: HeadOverrides, pace: Pace) {
    this.#forest = forest;
    this.#trees = new DeviceTrees(forest);
    this.#store = forest.survey.store;
    this.#pace = pace;
    this.#starts = this.#fromSuperblocks();
    const superblocks = this.#starts.map(({ values }) => values!);
    this.#heads = new HeadFinder(forest, overrides, superblocks);
    this.#unknown = new Uint32Array(forest.survey.nrBlocks).fill(UNKNOWN_COUNT);
  }

  async find(): Promise<Candidate[]> {
    const [present] = this.#starts;
    const presentCounts = present === undefined ? this.#unknown : await this.#countsOf(present.values!);
    const candidates: Candidate[] = [];
    const isKnown = ({ mappingRoot, detailsRoot }: Start) =>
      this.#starts.some((each) => each.mappingRoot === mappingRoot && each.detailsRoot === detailsRoot);
    for (const start of [...this.#starts, ...this.#fromTops().filter((start) => !isKnown(start))]) {
      candidates.push(this.#candidate(start, presentCounts, isPresent(start)));
      this.#pace.check();
      await this.#pace.rest(0);
    }
    return rank(candidates).slice(0, MAX_CANDIDATES);
  }

  // --- where to start ---

  #fromSuperblocks(): Start[] {
    const starts: Start[] = [];
    const reading = readSuperblock(this.#store);
    if (reading.problem === Problem.None) starts.push(startOf("superblock", 0, reading.values!));
    else if (this.#isPlausible(reading)) starts.push(startOf("damaged-superblock", 0, reading.values!));
    for (const blocknr of this.#forest.survey.superblocks) {
      if (blocknr === 0) continue;
      const { values, problem } = readSuperblock(this.#store, blocknr);
      if (problem === Problem.None) starts.push(startOf("metadata-snapshot", blocknr, values!));
    }
    return starts;
  }

  /** Both its roots lead to trees, and it has the magic or a size that can be. */
  #isPlausible({ values, bytes }: SuperblockReading): boolean {
    if (values === undefined) return false;
    const hasMagic = new DataView(bytes.buffer, bytes.byteOffset).getUint32(MAGIC_OFFSET, true) === THIN_MAGIC;
    const hasTrees =
      this.#forest.isTree(values.mappingRoot, TreeKind.Devices) &&
      this.#forest.isTree(values.detailsRoot, TreeKind.Details);
    return hasTrees && (hasMagic || values.dataBlockSectors % 128 === 0);
  }

  /** Each tree of devices, beside the tree of details that it agrees with best. */
  #fromTops(): Start[] {
    const trees = this.#trees;
    const details = trees.tops(TreeKind.Details).map((root) => ({ root, ...trees.readDetails(root) }));
    const starts: Start[] = [];
    for (const mappingRoot of trees.tops(TreeKind.Devices)) {
      const { roots } = trees.readRoots(mappingRoot);
      let best = { root: 0, score: -roots.size };
      for (const { root, details: known } of details) {
        const score = trees.agreement(roots, known);
        if (score > best.score) best = { root, score };
      }
      if (roots.size > 0 && best.root !== 0) {
        const block = mappingRoot;
        starts.push({ source: "found-roots", block, values: undefined, mappingRoot, detailsRoot: best.root });
      }
    }
    return starts;
  }

  /** A superblock's root that leads to no tree of its kind is replaced, where one tree alone fits the other root. */
  #withRoots(start: Start, counts: Uint32Array): Start {
    if (start.values === undefined) return start;
    const trees = this.#trees;
    // A metadata snapshot's trees are in use too, and are not the present ones.
    const held = new Set(this.#starts.slice(1).flatMap(({ mappingRoot, detailsRoot }) => [mappingRoot, detailsRoot]));
    const choose = (root: number, kind: number) =>
      this.#forest.isTree(root, kind) ? [root] : trees.tops(kind).filter((top) => counts[top] !== 0 && !held.has(top));
    const pairs: Pick<Start, "mappingRoot" | "detailsRoot">[] = [];
    for (const mappingRoot of choose(start.mappingRoot, TreeKind.Devices)) {
      const { roots } = trees.readRoots(mappingRoot);
      for (const detailsRoot of choose(start.detailsRoot, TreeKind.Details)) {
        const isSame = mappingRoot === start.mappingRoot && detailsRoot === start.detailsRoot;
        const isAgreed = () => trees.agreement(roots, trees.readDetails(detailsRoot).details) === roots.size * 2;
        if (isSame || (roots.size > 0 && isAgreed())) pairs.push({ mappingRoot, detailsRoot });
      }
    }
    return pairs.length === 1 ? { ...start, ...pairs[0]! } : start;
  }

  /** Owners by metadata block, from the space map that belongs to a superblock; unknown where it cannot be read. */
  async #countsOf(values: SuperblockValues): Promise<Uint32Array> {
    const all = this.#unknown.slice();
    const index = readMetadataIndex(this.#store, values.metadataMap, () => {});
    const options = { onBitmapDamage: () => {}, onOverflowDamage: () => {}, pace: this.#pace };
    await eachBitmap(this.#store, index, options, ({ first, nr, counts }) => {
      // A damaged root may give the map more blocks than the device has.
      if (first < all.length) all.set(counts.subarray(0, Math.min(nr, all.length - first)), first);
    });
    return all;
  }

  // --- what a start holds ---

  /** @param counts owners of metadata blocks, of the present state whatever the candidate's */
  #candidate(asFound: Start, counts: Uint32Array, isNow: boolean): Candidate {
    const start = isNow ? this.#withRoots(asFound, counts) : asFound;
    const { roots, holes } = this.#trees.readRoots(start.mappingRoot);
    const { details, holes: detailsHoles } = isNow
      ? this.#presentDetails(start, counts)
      : this.#trees.readDetails(start.detailsRoot);
    const ids = [...new Set([...roots.keys(), ...details.keys()])].sort((left, right) => left - right);
    const others = this.#rootsOfOthers(asFound, counts);
    const search = { ids, roots, details, counts, isOlder: !isNow, others };
    const found = this.#isSnapshotLost() ? new Map<number, number>() : findRoots(this.#trees, search);
    const isGiven = givenAway(found, counts);
    const lostDevices: LostDevice[] = [];
    const drafts: Draft[] = [];
    for (const id of ids) {
      const own = roots.get(id);
      // What stood under a wrong id has been found under the right one.
      if (isGiven(own) && !details.has(id)) continue;
      drafts.push(this.#draft(id, found.get(id) ?? (isGiven(own) ? undefined : own), details.get(id), found.has(id)));
    }
    if (!this.#isSnapshotLost()) this.#adopt(start, drafts, counts, others);
    const kept = drafts.filter(({ id, root, holes: lost, adoptions, details: known }) => {
      const isLost = root === 0 && lost.length > 0 && adoptions.length === 0;
      if (isLost) lostDevices.push({ id, mappings: known?.mappedBlocks });
      return !isLost;
    });
    if (start.source === "found-roots") lostDevices.push(...this.#presentBeside(details));
    const head = this.#heads.head(start.values, kept);
    const devices = kept.map((draft) => this.#device(draft, head));
    // An id that one of the two trees cannot tell, the other can.
    const lostIds = intersect(holes, detailsHoles);
    return {
      source: start.source,
      block: start.block,
      mappingRoot: start.mappingRoot,
      detailsRoot: start.detailsRoot,
      head,
      devices,
      lostDevices,
      lostIds,
      mappings: devices.reduce((sum, each) => sum + each.mappings, 0),
      timeSum: kept.flatMap(treesOf).reduce((sum, root) => sum + this.#forest.survey.timeSum[root]!, 0),
      lostMappings:
        devices.reduce((sum, each) => sum + each.lostMappings, 0) +
        lostDevices.reduce((sum, each) => sum + (each.mappings ?? 0), 0),
      isWhole:
        lostDevices.length + lostIds.length === 0 &&
        devices.every((each) => each.lostMappings + each.lost.length === 0),
    };
  }

  /** There is a metadata snapshot that cannot be read: what it owns could be taken for what a device has lost. */
  #isSnapshotLost(): boolean {
    const heldRoot = this.#starts[0]?.values?.heldRoot ?? 0;
    return heldRoot !== 0 && !this.#starts.some(({ block }) => block === heldRoot);
  }

  /** Where the top of the details tree is lost, its leaves that are in use and do not overlap. */
  #presentDetails(start: Start, counts: Uint32Array): ReturnType<DeviceTrees["readDetails"]> {
    const read = this.#trees.readDetails(start.detailsRoot);
    if (this.#forest.isTree(start.detailsRoot, TreeKind.Details)) return read;
    const { survey } = this.#forest;
    const held = new Set(this.#starts.slice(1).map(({ detailsRoot }) => detailsRoot));
    const leaves = this.#trees
      .tops(TreeKind.Details)
      .filter((top) => counts[top] === 1 && !held.has(top))
      .sort((left, right) => survey.first[left]! - survey.first[right]!);
    const doOverlap = leaves.some(
      (leaf, index) => index > 0 && survey.first[leaf]! <= survey.last[leaves[index - 1]!]!,
    );
    if (doOverlap) return read;
    return {
      details: new Map(leaves.flatMap((leaf) => [...this.#trees.readDetails(leaf).details])),
      holes: read.holes,
    };
  }

  #draft(id: number, root: number | undefined, details: DetailsValues | undefined, isFoundRoot: boolean): Draft {
    const forest = this.#forest;
    const draft = { id, root: 0, isFoundRoot, details, holes: [], held: 0, adoptions: [] };
    if (!this.#trees.isMappings(root)) {
      if (details?.mappedBlocks === 0) return draft;
      // Its root is damaged: what it pointed at may still be there.
      return { ...draft, holes: [holeOfTree(root ?? 0)] };
    }
    if (forest.isWhole[root] === 1) return { ...draft, root, held: forest.survey.total[root]! };
    const holes: Hole[] = [];
    let held = 0;
    const take = (leaf: number): void => {
      held += forest.survey.total[leaf]!;
    };
    forest.walk(root, Number.POSITIVE_INFINITY, take, (hole) => holes.push(hole));
    return { ...draft, root, holes, held };
  }

  /** Devices that the superblock's own tree of details has, and these do not. */
  #presentBeside(details: ReadonlyMap<number, DetailsValues>): LostDevice[] {
    const present = this.#starts.find(isPresent);
    if (present === undefined) return [];
    return [...this.#trees.readDetails(present.detailsRoot).details]
      .filter(([id]) => !details.has(id))
      .map(([id, { mappedBlocks }]) => ({ id, mappings: mappedBlocks }));
  }

  /** Roots of mapping trees that the other superblocks lead to, if these are in use: they are owners too. */
  #rootsOfOthers(start: Start, counts: Uint32Array): number[] {
    // What was found leads where these lead.
    if (start.source === "found-roots") return [];
    return this.#starts
      .filter(({ block }) => block !== start.block && counts[block] !== 0)
      .flatMap(({ mappingRoot }) => [...this.#trees.readRoots(mappingRoot).roots.values()])
      .filter((root) => this.#trees.isMappings(root));
  }

  #adopt(start: Start, drafts: readonly Draft[], counts: Uint32Array, others: readonly number[]): void {
    const sufferers: Sufferer[] = drafts
      .filter(({ holes }) => holes.length > 0)
      .map(({ id, holes, held, details }) => ({ id, holes, held, expected: details?.mappedBlocks }));
    if (sufferers.length === 0) return;
    const roots = [start.mappingRoot, start.detailsRoot, ...drafts.map((draft) => draft.root), ...others];
    const sound = roots.filter((root) => this.#forest.survey.isNode(root));
    const adoptions = adoptOrphans(this.#forest, sufferers, sound, counts);
    for (const draft of drafts) draft.adoptions = adoptions.get(draft.id) ?? [];
  }

  #device(draft: Draft, head: CandidateHead): CandidateDevice {
    const { id, root, details, holes, adoptions, held } = draft;
    const { total } = this.#forest.survey;
    const adopted = adoptions.flatMap(({ blocks }) => blocks).reduce((sum, blocknr) => sum + total[blocknr]!, 0);
    const outsideMappings = this.#heads.outside(draft, head.nrDataBlocks);
    const expected = details?.mappedBlocks;
    const isFilled = adopted > 0 && expected === held + adopted;
    const lost = isFilled ? [] : holes.map(({ low, high }) => ({ low, high }));
    const missing = lost.length === 0 ? 0 : Math.max((expected ?? 0) - held - adopted, 0);
    const mappings = held + adopted - outsideMappings;
    return {
      id,
      root,
      isFoundRoot: draft.isFoundRoot,
      details: keptDetails(details, head, mappings),
      isMadeDetails: details === undefined,
      expected,
      mappings,
      adoptedMappings: adopted,
      lost: lost.slice(0, MAX_LOST),
      moreLost: Math.max(lost.length - MAX_LOST, 0),
      lostMappings: missing + outsideMappings,
      outsideMappings,
      adoptions,
    };
  }
}

function startOf(source: CandidateSource, block: number, values: SuperblockValues): Start {
  return { source, block, values, mappingRoot: values.mappingRoot, detailsRoot: values.detailsRoot };
}

/** Whether a root was found to belong to others, as many as own it. */
function givenAway(found: ReadonlyMap<number, number>, counts: Uint32Array): (root: number | undefined) => boolean {
  const given = new Map<number, number>();
  for (const root of found.values()) given.set(root, (given.get(root) ?? 0) + 1);
  return (root) => root !== undefined && (given.get(root) ?? 0) >= Math.max(counts[root] ?? 0, 1);
}

/** What was lost is made so that nothing shared is taken for unshared. */
function keptDetails(details: DetailsValues | undefined, head: CandidateHead, mappings: number): DetailsValues {
  const { time, transactionId } = head;
  if (details === undefined) {
    return { mappedBlocks: mappings, transactionId, creationTime: time, snapshottedTime: time };
  }
  return {
    mappedBlocks: mappings,
    transactionId: Number.isFinite(details.transactionId) ? details.transactionId : transactionId,
    creationTime: Math.min(details.creationTime, time),
    snapshottedTime: Math.min(details.snapshottedTime, time),
  };
}

function intersect(left: readonly KeyRange[], right: readonly KeyRange[]): KeyRange[] {
  return left.flatMap((one) =>
    right
      .map((other) => ({ low: Math.max(one.low, other.low), high: Math.min(one.high, other.high) }))
      .filter(({ low, high }) => low < high),
  );
}

function isPresent({ source }: Pick<Candidate, "source">): boolean {
  return source === "superblock" || source === "damaged-superblock";
}

/** A start that holds something before one that does not; the present one; the whole one; the newest; the fullest. */
function rank(candidates: readonly Candidate[]): Candidate[] {
  const keysOf = (each: Candidate) => [
    each.mappings > 0 || (each.isWhole && isPresent(each)) ? 0 : 1,
    isPresent(each) ? 0 : 1,
    each.isWhole ? 0 : 1,
    -each.head.time,
    -Math.max(0, ...each.devices.map(({ details }) => details.transactionId)),
    -each.mappings,
    -each.timeSum,
    each.block,
  ];
  return candidates
    .map((candidate) => ({ candidate, keys: keysOf(candidate) }))
    .sort((left, right) => {
      const place = left.keys.findIndex((value, index) => value !== right.keys[index]);
      return place < 0 ? 0 : left.keys[place]! - right.keys[place]!;
    })
    .map(({ candidate }) => candidate);
}
