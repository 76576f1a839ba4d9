/**
 * Finds what a repair may start from: the superblock's trees, those of each copy of it, and trees that nothing points at
 * but that belong together. For each it is worked out what would be kept and what lost; the most trustworthy comes first.
 */
import { DATA_BLOCK_LIMIT, TIME_LIMIT } from "../../block-time.js";
import { THIN_MAGIC } from "../../superblock.js";
import type { Pace } from "../pace.js";
import { BlockBuffer, type BlockStore } from "../reader/block-store.js";
import { DETAILS_BYTES, type DetailsValues, detailsAt } from "../reader/devices.js";
import { entriesOf, keyOf, numberAt, valuesAt } from "../reader/node.js";
import { Problem } from "../reader/problems.js";
import { ENTRIES_PER_BITMAP, eachBitmap, readMetadataIndex } from "../reader/space-map.js";
import { readSuperblock, type SuperblockValues } from "../reader/superblock.js";
import { TreeCursor } from "../reader/tree-cursor.js";
import type {
  Candidate,
  CandidateDevice,
  CandidateHead,
  CandidateSource,
  HeadOverrides,
  LostDevice,
} from "./candidate.js";
import { Forest, type Hole, type KeyRange } from "./forest.js";
import { adoptOrphans, type Sufferer, UNKNOWN_COUNT } from "./orphans.js";
import { Role, Survey, TreeKind } from "./survey.js";

/** Roots without a superblock that are looked at; each tree of devices with each of details. */
const MAX_FOUND = 64;
/** Candidates that are told. */
const MAX_CANDIDATES = 32;
/** Ranges that are listed for one device. */
const MAX_LOST = 100;

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
  options.pace.total = store.nrBlocks;
  const survey = await Survey.take(store, options.pace);
  options.pace.base = store.nrBlocks;
  const forest = new Forest(survey);
  const finder = new Finder(forest, options.overrides ?? {}, options.pace);
  return { forest, candidates: await finder.find() };
}

interface Start {
  readonly source: CandidateSource;
  readonly block: number;
  readonly values: SuperblockValues | undefined;
  readonly mappingRoot: number;
  readonly detailsRoot: number;
}

class Finder {
  readonly #forest: Forest;
  readonly #survey: Survey;
  readonly #store: BlockStore;
  readonly #overrides: HeadOverrides;
  readonly #pace: Pace;
  readonly #buffer = new BlockBuffer(1);
  /** Superblock, sound or not, and its copies: what may tell the sizes. */
  readonly #superblocks: SuperblockValues[] = [];
  #rootsById: Map<number, Set<number>> | undefined;

  constructor(forest: Forest, overrides: HeadOverrides, pace: Pace) {
    this.#forest = forest;
    this.#survey = forest.survey;
    this.#store = forest.survey.store;
    this.#overrides = overrides;
    this.#pace = pace;
  }

  async find(): Promise<Candidate[]> {
    const starts = [...this.#fromSuperblocks(), ...this.#fromFoundRoots()];
    const candidates: Candidate[] = [];
    for (const found of starts) {
      const start = found.source === "superblock" ? await this.#withRootsFound(found) : found;
      candidates.push(await this.#candidate(start));
      this.#pace.check();
    }
    return rank(candidates).slice(0, MAX_CANDIDATES);
  }

  // --- where to start ---

  #fromSuperblocks(): Start[] {
    const starts: Start[] = [];
    const present = readSuperblock(this.#store);
    if (present.problem === Problem.None) {
      this.#superblocks.push(present.values!);
      starts.push(startOf("superblock", 0, present.values!));
    }
    for (const blocknr of this.#survey.superblocks) {
      if (blocknr === 0) continue;
      const { values, problem } = readSuperblock(this.#store, blocknr);
      if (problem !== Problem.None || values === undefined) continue;
      this.#superblocks.push(values);
      starts.push(startOf("metadata-snapshot", blocknr, values));
    }
    const { values } = present;
    if (present.problem !== Problem.None && values !== undefined && this.#isPlausible(values, present.bytes)) {
      this.#superblocks.push(values);
      starts.unshift(startOf("damaged-superblock", 0, values));
    }
    return starts;
  }

  /** It has the magic, or both its roots lead to trees. */
  #isPlausible({ mappingRoot, detailsRoot, dataBlockSectors }: SuperblockValues, bytes: Uint8Array): boolean {
    const magic = new DataView(bytes.buffer, bytes.byteOffset).getUint32(MAGIC_OFFSET, true) === THIN_MAGIC;
    const isTree =
      this.#forest.isTree(mappingRoot, TreeKind.Devices) && this.#forest.isTree(detailsRoot, TreeKind.Details);
    return isTree && (magic || dataBlockSectors % 128 === 0);
  }

  /** Trees of devices beside trees of details, where they name the same ids. */
  #fromFoundRoots(): Start[] {
    const devices = this.#tops(TreeKind.Devices).map((root) => ({ root, ...this.#readRoots(root) }));
    const details = this.#tops(TreeKind.Details).map((root) => ({ root, ...this.#readDetails(root) }));
    const starts: Start[] = [];
    for (const { root: mappingRoot, roots } of devices) {
      if (roots.size === 0) continue;
      let best: { readonly root: number; readonly score: number } | undefined;
      for (const { root, details: known } of details) {
        const score = this.#agreement(roots, known);
        if (score > 0 && (best === undefined || score > best.score)) best = { root, score };
      }
      if (best !== undefined) {
        starts.push({
          source: "found-roots",
          block: mappingRoot,
          values: undefined,
          mappingRoot,
          detailsRoot: best.root,
        });
      }
    }
    return starts;
  }

  /**
   * A root in the superblock that leads to no such tree, replaced by the one that must be meant: a tree that nothing points
   * at, that the space map counts as used, and whose devices are those of the other tree. Leftovers of earlier
   * transactions are counted as free; the trees of a metadata snapshot are its own.
   */
  async #withRootsFound(start: Start): Promise<Start> {
    const isDevices = this.#forest.isTree(start.mappingRoot, TreeKind.Devices);
    const isDetails = this.#forest.isTree(start.detailsRoot, TreeKind.Details);
    if (isDevices && isDetails) return start;
    const counts = await this.#countsOf(start.values);
    const copies = this.#superblocks.filter((each) => each !== start.values);
    const others = new Set(copies.flatMap(({ mappingRoot, detailsRoot }) => [mappingRoot, detailsRoot]));
    const isUsed = (root: number) => counts[root] === 1 && !others.has(root);
    const devices = isDevices ? [start.mappingRoot] : this.#tops(TreeKind.Devices).filter(isUsed);
    const details = isDetails ? [start.detailsRoot] : this.#tops(TreeKind.Details).filter(isUsed);
    const pairs = devices.flatMap((mappingRoot) => {
      const { roots, holes } = this.#readRoots(mappingRoot);
      if (holes.length > 0) return [];
      return details
        .map((detailsRoot) => ({ detailsRoot, known: this.#readDetails(detailsRoot) }))
        .filter(({ known }) => known.holes.length === 0 && isSameDevices(roots, known.details))
        .map(({ detailsRoot }) => ({ mappingRoot, detailsRoot }));
    });
    const [pair] = pairs;
    return pair === undefined || pairs.length > 1 ? start : { ...start, ...pair };
  }

  #tops(kind: number): number[] {
    const { survey } = this.#forest;
    const tops: number[] = [];
    for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
      const isTop = this.#forest.hasParent[blocknr] === 0 && survey.total[blocknr]! > 0;
      if (isTop && this.#forest.isTree(blocknr, kind)) tops.push(blocknr);
    }
    return tops.sort((left, right) => survey.total[right]! - survey.total[left]!).slice(0, MAX_FOUND);
  }

  /** Devices whose number of mappings is what the details say, less those that only one of the two knows. */
  #agreement(roots: ReadonlyMap<number, number>, details: ReadonlyMap<number, DetailsValues>): number {
    let score = 0;
    for (const [id, root] of roots) {
      const known = details.get(id);
      if (known === undefined) {
        score--;
        continue;
      }
      const isTree = this.#forest.isTree(root, TreeKind.Mappings);
      if (isTree && this.#survey.total[root] === known.mappedBlocks) score += 2;
    }
    for (const id of details.keys()) if (!roots.has(id)) score--;
    return score;
  }

  // --- the two trees ---

  #readRoots(root: number): { readonly roots: Map<number, number>; readonly holes: readonly Hole[] } {
    const roots = new Map<number, number>();
    const holes = this.#eachEntry(
      root,
      TreeKind.Devices,
      (id, words, value) => roots.set(id, numberAt(words, value)),
      2,
    );
    return { roots, holes };
  }

  #readDetails(root: number): { readonly details: Map<number, DetailsValues>; readonly holes: readonly Hole[] } {
    const details = new Map<number, DetailsValues>();
    const take = (id: number, words: Uint32Array, value: number) => details.set(id, detailsAt(words, value));
    return { details, holes: this.#eachEntry(root, TreeKind.Details, take, DETAILS_BYTES / 4) };
  }

  #eachEntry(
    root: number,
    kind: number,
    take: (key: number, words: Uint32Array, value: number) => void,
    valueWords: number,
  ): Hole[] {
    if (!this.#forest.isTree(root, kind)) return [WHOLE_TREE(root)];
    const holes: Hole[] = [];
    this.#forest.walk(
      root,
      Number.POSITIVE_INFINITY,
      (leaf) => {
        this.#store.loadOne(leaf, this.#buffer);
        const { words } = this.#buffer;
        const values = valuesAt(words, 0);
        for (let index = 0; index < entriesOf(words, 0); index++) {
          take(keyOf(words, 0, index), words, values + index * valueWords);
        }
      },
      (hole) => holes.push(hole),
    );
    return holes;
  }

  // --- what a start holds ---

  async #candidate(start: Start): Promise<Candidate> {
    const { roots, holes } = this.#readRoots(start.mappingRoot);
    const { details, holes: detailsHoles } = this.#readDetails(start.detailsRoot);
    const counts = await this.#countsOf(start.values);
    const lostDevices: LostDevice[] = [];
    const ids = [...new Set([...roots.keys(), ...details.keys()])];
    const found = this.#findRoots(ids, roots, details, counts);
    const drafts: Draft[] = [];
    for (const id of ids) {
      const draft = this.#draft(id, roots.get(id), details.get(id), found.get(id));
      if (draft === undefined) lostDevices.push({ id, mappings: details.get(id)?.mappedBlocks });
      else drafts.push(draft);
    }
    this.#adopt(start, drafts, counts);
    const head = this.#head(start, drafts);
    const kept = drafts.filter((draft) => {
      if (draft.root !== 0 || draft.adoptions.length > 0 || draft.holes.length === 0) return true;
      lostDevices.push({ id: draft.id, mappings: draft.details?.mappedBlocks });
      return false;
    });
    const devices = kept.map((draft) => this.#device(draft, head)).sort((left, right) => left.id - right.id);
    // Ids that neither tree can tell: a hole in one of them is filled by the other.
    const lostIds = holes.length > 0 && detailsHoles.length > 0 ? intersect(holes, detailsHoles) : [];
    const lostMappings =
      devices.reduce((sum, each) => sum + each.lostMappings, 0) +
      lostDevices.reduce((sum, each) => sum + (each.mappings ?? 0), 0);
    return {
      source: start.source,
      block: start.block,
      mappingRoot: start.mappingRoot,
      detailsRoot: start.detailsRoot,
      head,
      devices,
      lostDevices: lostDevices.sort((left, right) => left.id - right.id),
      lostIds,
      mappings: devices.reduce((sum, each) => sum + each.mappings, 0),
      lostMappings,
      isWhole:
        lostDevices.length === 0 &&
        lostIds.length === 0 &&
        devices.every(
          ({ lostMappings: lost, lost: ranges, outsideMappings }) => lost + ranges.length + outsideMappings === 0,
        ),
    };
  }

  #draft(
    id: number,
    root: number | undefined,
    details: DetailsValues | undefined,
    found: number | undefined,
  ): Draft | undefined {
    const forest = this.#forest;
    if (root !== undefined && forest.isTree(root, TreeKind.Mappings)) {
      const holes: Hole[] = [];
      const isWhole = forest.isWhole[root] === 1;
      let held = 0;
      if (isWhole) held = this.#survey.total[root]!;
      else {
        const take = (leaf: number) => {
          held += this.#survey.total[leaf]!;
        };
        forest.walk(root, Number.POSITIVE_INFINITY, take, (hole) => holes.push(hole));
      }
      return { id, root, isFoundRoot: false, details, holes, held, adoptions: [] };
    }
    if (details === undefined) return undefined;
    if (details.mappedBlocks === 0) {
      return { id, root: 0, isFoundRoot: root === undefined, details, holes: [], held: 0, adoptions: [] };
    }
    if (found !== undefined) {
      return { id, root: found, isFoundRoot: true, details, holes: [], held: details.mappedBlocks, adoptions: [] };
    }
    // Its root is damaged: what it pointed at may still be there.
    return root === undefined
      ? undefined
      : { id, root: 0, isFoundRoot: false, details, holes: [WHOLE_TREE(root)], held: 0, adoptions: [] };
  }

  /**
   * Roots for devices that have details and lost their place in the tree of devices: whole trees with the right number of
   * mappings that another version of that tree names, or that nothing points at. A root is taken by as many devices as the
   * space map counts for it, and only where no other choice is left: two snapshots whose roots could be exchanged are not
   * told apart.
   */
  #findRoots(
    ids: readonly number[],
    roots: ReadonlyMap<number, number>,
    details: ReadonlyMap<number, DetailsValues>,
    counts: Uint32Array,
  ): Map<number, number> {
    const forest = this.#forest;
    const found = new Map<number, number>();
    const isHomeless = (id: number) => !forest.isTree(roots.get(id) ?? 0, TreeKind.Mappings);
    const homeless = ids.filter((id) => isHomeless(id) && (details.get(id)?.mappedBlocks ?? 0) > 0);
    if (homeless.length === 0) return found;
    const room = this.#vacancies(
      ids.map((id) => roots.get(id) ?? 0),
      counts,
    );
    const choices = new Map(
      homeless.map((id) => {
        const mapped = details.get(id)!.mappedBlocks;
        return [id, [...room.keys()].filter((root) => this.#survey.total[root] === mapped)] as const;
      }),
    );
    for (const [id, fitting] of choices) {
      const [root] = fitting;
      if (root === undefined || fitting.length > 1) continue;
      const rivals = [...choices.values()].filter((each) => each.includes(root)).length;
      if (rivals <= room.get(root)!) found.set(id, root);
    }
    return found;
  }

  /** Whole mapping trees that may be somebody's, with the number of owners that are missing. */
  #vacancies(taken: readonly number[], counts: Uint32Array): Map<number, number> {
    const forest = this.#forest;
    const survey = this.#survey;
    const owners = new Uint32Array(survey.nrBlocks);
    const isReached = new Uint8Array(survey.nrBlocks);
    for (const root of taken) owners[root]!++;
    for (const root of new Set(taken)) forest.mark(root, isReached);
    const haveHoles = taken.some((root) => forest.isWhole[root] === 0);
    for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
      if (isReached[blocknr] === 1) forest.eachChild(blocknr, (child) => owners[child]!++);
    }
    const named = new Set([...this.#allRoots().values()].flatMap((each) => [...each]));
    const room = new Map<number, number>();
    for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
      if (survey.total[blocknr] === 0 || forest.isWhole[blocknr] === 0) continue;
      if (!forest.isTree(blocknr, TreeKind.Mappings) || counts[blocknr] === 0) continue;
      const isKnown = counts[blocknr] !== UNKNOWN_COUNT;
      // What has never been a root may be one's child that lost its parent.
      const mayBeChild = forest.hasParent[blocknr] === 1 || haveHoles || !isKnown;
      if (mayBeChild && !named.has(blocknr)) continue;
      const missing = isKnown ? counts[blocknr]! - owners[blocknr]! : 1;
      if (missing > 0) room.set(blocknr, missing);
    }
    return room;
  }

  /** Roots that any leaf of any tree of devices names, by id. */
  #allRoots(): Map<number, Set<number>> {
    if (this.#rootsById !== undefined) return this.#rootsById;
    const survey = this.#survey;
    const byId = new Map<number, Set<number>>();
    for (let blocknr = 1; blocknr < survey.nrBlocks; blocknr++) {
      if (survey.role[blocknr] !== Role.Leaf || (survey.kinds[blocknr]! & TreeKind.Devices) === 0) continue;
      for (const [id, root] of this.#readRoots(blocknr).roots) {
        const known = byId.get(id) ?? new Set();
        byId.set(id, known);
        known.add(root);
      }
    }
    this.#rootsById = byId;
    return byId;
  }

  #adopt(start: Start, drafts: Draft[], counts: Uint32Array): void {
    const sufferers: Sufferer[] = drafts
      .filter(({ holes }) => holes.length > 0)
      .map(({ id, holes, held, details }) => ({ id, holes, held, expected: details?.mappedBlocks }));
    if (sufferers.length === 0) return;
    const isReached = new Uint8Array(this.#survey.nrBlocks);
    for (const root of [start.mappingRoot, start.detailsRoot, ...drafts.map((draft) => draft.root)]) {
      if (this.#survey.isNode(root)) this.#forest.mark(root, isReached);
    }
    const adoptions = adoptOrphans(this.#forest, sufferers, isReached, counts);
    for (const draft of drafts) draft.adoptions = adoptions.get(draft.id) ?? [];
  }

  /** Owners by metadata block, from the space map that belongs to a superblock; unknown where it cannot be read. */
  async #countsOf(values: SuperblockValues | undefined): Promise<Uint32Array> {
    const all = new Uint32Array(this.#survey.nrBlocks).fill(UNKNOWN_COUNT);
    if (values === undefined) return all;
    const index = readMetadataIndex(this.#store, values.metadataMap, () => {});
    const options = { onBitmapDamage: () => {}, onOverflowDamage: () => {}, pace: this.#pace };
    await eachBitmap(this.#store, index, options, ({ first, nr, counts }) => {
      all.set(counts.subarray(0, Math.min(nr, all.length - first)), first);
    });
    return all;
  }

  // --- the head ---

  #head(start: Start, drafts: readonly Draft[]): CandidateHead {
    const overrides = this.#overrides;
    const { values } = start;
    const sizes = values ?? this.#superblocks[0];
    const times = this.#times(drafts);
    const clock = values?.time ?? times;
    const isOver = clock >= TIME_LIMIT;
    const time = isOver ? RESTARTED_TIME : clock;
    const transactions = drafts.reduce((most, { details }) => Math.max(most, details?.transactionId ?? 0), 0);
    const known =
      overrides.transactionId ?? finite(values?.transactionId) ?? finite(this.#superblocks[0]?.transactionId);
    const dataBlockSectors =
      overrides.dataBlockSectors ?? [sizes, ...this.#superblocks].find(isSized)?.dataBlockSectors;
    return {
      time,
      transactionId: known ?? (Number.isFinite(transactions) ? transactions : 0),
      dataBlockSectors,
      ...this.#nrDataBlocks(start, drafts),
      timeLimit: isOver ? 1 : time + 1,
    };
  }

  /** Latest time that anything names and that is possible. */
  #times(drafts: readonly Draft[]): number {
    let latest = 0;
    for (const { root, details } of drafts) {
      for (const time of [details?.creationTime ?? 0, details?.snapshottedTime ?? 0, this.#survey.maxTime[root] ?? 0]) {
        if (time < TIME_LIMIT && time > latest) latest = time;
      }
    }
    return latest;
  }

  /**
   * The size in the superblock; larger when mappings lead behind it to where the data space map still governs blocks; and
   * where no superblock tells it, what the mappings need.
   */
  #nrDataBlocks(start: Start, drafts: readonly Draft[]): Pick<CandidateHead, "nrDataBlocks" | "isInferredSize"> {
    const given = this.#overrides.nrDataBlocks;
    if (given !== undefined) return { nrDataBlocks: given, isInferredSize: false };
    const isMapped = (each: SuperblockValues | undefined) => each !== undefined && each.dataMap.nrBlocks > 0;
    const values = [start.values, ...this.#superblocks].find(isMapped);
    const told = values?.dataMap.nrBlocks;
    const governed = values === undefined ? DATA_BLOCK_LIMIT : this.#governedBlocks(values, told!);
    const isTold = told !== undefined && told <= governed + ENTRIES_PER_BITMAP;
    let needed = isTold ? told : 0;
    const behind = Math.max(governed, needed);
    for (const draft of drafts) {
      for (const root of rootsOf(draft)) {
        if (this.#survey.maxData[root]! < needed) continue;
        this.#forest.walk(
          root,
          Number.POSITIVE_INFINITY,
          (leaf) => {
            if (this.#survey.maxData[leaf]! < needed) return;
            this.#eachData(leaf, (data) => {
              if (data >= needed && data < behind) needed = data + 1;
            });
          },
          () => {},
        );
      }
    }
    return { nrDataBlocks: needed, isInferredSize: !isTold || needed !== told };
  }

  /** Blocks for which the index of the data space map has bitmaps. */
  #governedBlocks(values: SuperblockValues, told: number): number {
    let isDamaged = false;
    let nr = 0;
    const cursor = new TreeCursor(this.#store, values.dataMap.bitmapRoot, INDEX_BYTES, () => {
      isDamaged = true;
    });
    while (cursor.next()) nr = Math.max(nr, keyOf(cursor.words, cursor.at, cursor.nr - 1) + 1);
    return isDamaged ? told : nr * ENTRIES_PER_BITMAP;
  }

  #eachData(leaf: number, visit: (data: number) => void): void {
    this.#store.loadOne(leaf, this.#buffer);
    const { words } = this.#buffer;
    const values = valuesAt(words, 0);
    const nr = entriesOf(words, 0);
    for (let index = 0; index < nr; index++) {
      visit(words[values + index * 2 + 1]! * 256 + (words[values + index * 2]! >>> 24));
    }
  }

  // --- devices ---

  #device(draft: Draft, head: CandidateHead): CandidateDevice {
    const { id, root, details, holes, adoptions, held } = draft;
    const adoptedMappings = adoptions
      .flatMap(({ blocks }) => blocks)
      .reduce((sum, blocknr) => sum + this.#survey.total[blocknr]!, 0);
    const outsideMappings = this.#outside(draft, head.nrDataBlocks);
    const mappings = held + adoptedMappings - outsideMappings;
    const expected = details?.mappedBlocks;
    const isFilled = holes.length > 0 && expected === held + adoptedMappings;
    const lost = isFilled ? [] : holes.map(({ low, high }) => ({ low, high }));
    return {
      id,
      root,
      isFoundRoot: draft.isFoundRoot,
      details: keptDetails(details, head, mappings),
      isMadeDetails: details === undefined,
      expected,
      mappings,
      adoptedMappings,
      lost: lost.slice(0, MAX_LOST),
      moreLost: Math.max(lost.length - MAX_LOST, 0),
      lostMappings: (lost.length === 0 ? 0 : Math.max((expected ?? 0) - held - adoptedMappings, 0)) + outsideMappings,
      outsideMappings,
      adoptions,
    };
  }

  #outside(draft: Draft, nrDataBlocks: number): number {
    let count = 0;
    for (const root of rootsOf(draft)) {
      if (this.#survey.maxData[root]! < nrDataBlocks || this.#survey.total[root] === 0) continue;
      this.#forest.walk(
        root,
        Number.POSITIVE_INFINITY,
        (leaf) => {
          if (this.#survey.maxData[leaf]! < nrDataBlocks) return;
          this.#eachData(leaf, (data) => {
            if (data >= nrDataBlocks) count++;
          });
        },
        () => {},
      );
    }
    return count;
  }
}

const INDEX_BYTES = 16;
const MAGIC_OFFSET = 32;
/** The clock begins anew when it ran over. */
const RESTARTED_TIME = 1;

interface Draft {
  readonly id: number;
  readonly root: number;
  readonly isFoundRoot: boolean;
  readonly details: DetailsValues | undefined;
  readonly holes: readonly Hole[];
  readonly held: number;
  adoptions: CandidateDevice["adoptions"];
}

function WHOLE_TREE(root: number): Hole {
  return { blocknr: root, low: 0, high: Number.POSITIVE_INFINITY, height: Number.POSITIVE_INFINITY };
}

function rootsOf({ root, adoptions }: Pick<Draft, "root" | "adoptions">): number[] {
  const adopted = adoptions.flatMap(({ blocks }) => blocks);
  return root === 0 ? adopted : [root, ...adopted];
}

function startOf(source: CandidateSource, block: number, values: SuperblockValues): Start {
  return { source, block, values, mappingRoot: values.mappingRoot, detailsRoot: values.detailsRoot };
}

function finite(value: number | undefined): number | undefined {
  return value !== undefined && Number.isFinite(value) ? value : undefined;
}

function isSized(values: SuperblockValues | undefined): boolean {
  const sectors = values?.dataBlockSectors ?? 0;
  return sectors >= 128 && sectors <= 2097152 && sectors % 128 === 0;
}

/** What was lost is made so that nothing shared is taken for unshared. */
function keptDetails(details: DetailsValues | undefined, head: CandidateHead, mappings: number): DetailsValues {
  const { time, transactionId } = head;
  if (details === undefined) {
    return { mappedBlocks: mappings, transactionId, creationTime: time, snapshottedTime: time };
  }
  const isRestarted = head.timeLimit === 1 && time === RESTARTED_TIME;
  return {
    mappedBlocks: mappings,
    transactionId: finite(details.transactionId) ?? transactionId,
    creationTime: isRestarted ? 0 : Math.min(details.creationTime, time),
    snapshottedTime: isRestarted ? time : Math.min(details.snapshottedTime, time),
  };
}

function intersect(left: readonly KeyRange[], right: readonly KeyRange[]): KeyRange[] {
  const both: KeyRange[] = [];
  for (const one of left) {
    for (const other of right) {
      const low = Math.max(one.low, other.low);
      const high = Math.min(one.high, other.high);
      if (low < high) both.push({ low, high });
    }
  }
  return both;
}

function isSameDevices(roots: ReadonlyMap<number, number>, details: ReadonlyMap<number, DetailsValues>): boolean {
  return roots.size === details.size && [...roots.keys()].every((id) => details.has(id));
}

function isPresent({ source }: Candidate): boolean {
  return source === "superblock" || source === "damaged-superblock";
}

/** A start that holds something before one that does not; the present one; the whole one; the newest; the fullest. */
function rank(candidates: readonly Candidate[]): Candidate[] {
  const keys = (each: Candidate) => [
    each.mappings > 0 || (each.isWhole && isPresent(each)) ? 0 : 1,
    isPresent(each) ? 0 : 1,
    each.isWhole ? 0 : 1,
    -each.head.time,
    -each.devices.reduce((most, { details }) => Math.max(most, details.transactionId), 0),
    -each.mappings,
    each.block,
  ];
  return candidates
    .map((candidate) => ({ candidate, key: keys(candidate) }))
    .sort((left, right) => {
      const place = left.key.findIndex((value, index) => value !== right.key[index]);
      return place < 0 ? 0 : left.key[place]! - right.key[place]!;
    })
    .map(({ candidate }) => candidate);
}
