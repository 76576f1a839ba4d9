/**
 * Checks a pool's metadata: everything that is reached is read once and judged, then counted again and held against the
 * space maps. Nothing is changed, nothing is thrown for what is found.
 *
 * Order: superblock and metadata snapshot; the small trees (devices, details) of both; all mapping trees as one graph,
 * node by node in the order of the device; totals of devices; both space maps. Memory is a few bytes for each metadata
 * block, and two for each data block, of which a window is counted at a time.
 */
import { TIME_LIMIT } from "../block-time.js";
import { FLAG_NEEDS_CHECK } from "../superblock.js";
import { type CountTotals, checkSpaceMap, countIndex, tellAllocated } from "./check-counts.js";
import { type Affected, type Finding, FindingList } from "./findings.js";
import { ForestTotals } from "./forest-totals.js";
import { MAX_DATA_BLOCK_SECTORS_ON_DISK, MIN_DATA_BLOCK_SECTORS_ON_DISK } from "./limits.js";
import type { Pace } from "./pace.js";
import { numberText, problemText } from "./problem-text.js";
import type { BlockStore } from "./reader/block-store.js";
import { DETAILS_BYTES, type DetailsValues, eachDeviceDetails, eachDeviceRoot, ROOT_BYTES } from "./reader/devices.js";
import { numberAt } from "./reader/node.js";
import { NodeSweep } from "./reader/node-sweep.js";
import { Kind, Problem, problemName } from "./reader/problems.js";
import { MAPPING_BYTES } from "./reader/run-cursor.js";
import { ENTRIES_PER_BITMAP } from "./reader/space-map.js";
import { isBlankReading, readSuperblock, type SuperblockValues } from "./reader/superblock.js";
import type { TreeDamage } from "./reader/tree-cursor.js";

export interface CheckOptions {
  readonly pace: Pace;
  /** Stop behind the superblock. */
  readonly superblockOnly?: boolean;
  /** Devices and details, no mappings and no counts. */
  readonly skipMappings?: boolean;
  /** Block of the metadata snapshot to check alone, without space maps. */
  readonly snapshot?: number;
  /** Root of the tree of devices to take in place of the superblock's. */
  readonly mappingRoot?: number;
}

export interface CheckReport {
  readonly findings: readonly Finding[];
  /** Kinds of findings of which not all are listed. */
  readonly omitted: readonly { readonly id: Finding["id"]; readonly count: number }[];
  readonly verdict: "clean" | "harmless" | "damaged";
  readonly superblock: SuperblockValues | undefined;
  /** Of the live pool; undefined where it was not looked at. */
  readonly devices: number | undefined;
  readonly mappings: number | undefined;
  readonly leaves: number | undefined;
  readonly metadataBlocks: number;
  /** Stored counts, with what is free; undefined where they were not looked at. */
  readonly metadataCounts: CountTotals | undefined;
  readonly dataCounts: CountTotals | undefined;
  /** Blocks that are counted and not used, as runs; what `--auto-repair` frees. */
  readonly leaks: { readonly metadata: readonly Run[]; readonly data: readonly Run[] };
}

export interface Run {
  readonly begin: number;
  readonly end: number;
}

/** Two bytes for each data block: 256 MiB. Larger pools are counted window by window, in whole bitmaps. */
const WINDOW_BITMAPS = 8224;
const WINDOW_BLOCKS = WINDOW_BITMAPS * ENTRIES_PER_BITMAP;
const MAX_COUNTED = 65535;
/** High halves of mappings below it belong to data blocks below 2^31. */
const HIGH_OF_INTEGERS = 0x800000;
const METADATA_BLOCK_SECTORS = 8;
/** Ways that are listed for one device. */
const MAX_WAYS = 100;

/** A superblock, or the metadata snapshot: what its trees hold. */
interface Version {
  readonly held: boolean;
  readonly values: SuperblockValues;
  readonly roots: Map<number, number>;
  readonly details: Map<number, DetailsValues>;
  isWhole: boolean;
}

export async function checkMetadata(store: BlockStore, options: CheckOptions): Promise<CheckReport> {
  return new Checker(store, options).run();
}

class Checker {
  readonly #store: BlockStore;
  readonly #options: CheckOptions;
  readonly #findings = new FindingList();
  /** Pointers to each metadata block. */
  readonly #references: Uint32Array;
  readonly #affected = new Map<number, { problem: Problem; list: Affected[]; more: number }>();
  #isWhole = true;
  #superblock: SuperblockValues | undefined;
  #devices: number | undefined;
  #mappings: number | undefined;
  #leaves: number | undefined;
  #metadataCounts: CountTotals | undefined;
  #dataCounts: CountTotals | undefined;
  #metadataLeaks: readonly Run[] = [];
  #dataLeaks: readonly Run[] = [];

  constructor(store: BlockStore, options: CheckOptions) {
    this.#store = store;
    this.#options = options;
    this.#references = new Uint32Array(store.nrBlocks);
  }

  async run(): Promise<CheckReport> {
    const { snapshot = 0, superblockOnly, skipMappings, mappingRoot } = this.#options;
    const stored = this.#readSuperblock(snapshot, snapshot !== 0);
    const values = stored === undefined || mappingRoot === undefined ? stored : { ...stored, mappingRoot };
    this.#superblock = values;
    if (values === undefined || superblockOnly === true) return this.#report();
    const versions = [this.#version(values, snapshot !== 0)];
    if (snapshot === 0 && values.heldRoot !== 0) {
      const held = this.#readSuperblock(values.heldRoot, true);
      if (held !== undefined) versions.push(this.#version(held, true));
      else this.#isWhole = false;
    }
    for (const version of versions) this.#checkDevices(version);
    this.#devices = versions[0]!.roots.size;
    if (skipMappings === true) return this.#report();
    await this.#checkTrees(versions, values, snapshot !== 0);
    return this.#report();
  }

  #report(): CheckReport {
    const findings = this.#findings;
    const verdict = findings.has("damage") ? "damaged" : findings.has("harmless") ? "harmless" : "clean";
    return {
      findings: findings.list,
      omitted: findings.omitted,
      verdict,
      superblock: this.#superblock,
      devices: this.#devices,
      mappings: this.#mappings,
      leaves: this.#leaves,
      metadataBlocks: this.#store.nrBlocks,
      metadataCounts: this.#metadataCounts,
      dataCounts: this.#dataCounts,
      leaks: { metadata: this.#metadataLeaks, data: this.#dataLeaks },
    };
  }

  // --- the superblock ---

  #readSuperblock(blocknr: number, held: boolean): SuperblockValues | undefined {
    const reading = readSuperblock(this.#store, blocknr);
    const { values, problem } = reading;
    const name = held ? "metadata snapshot" : "superblock";
    if (!held && isBlankReading(reading)) {
      this.#findings.add("superblock-blank", "superblock: all zeros", { block: 0 });
      return undefined;
    }
    if (problem !== Problem.None) {
      const text =
        problem === "magic"
          ? `metadata block ${blocknr} (superblock): no magic of a thin pool`
          : problemText(this.#store, blocknr, problem, Kind.Superblock);
      const path = held ? [0, blocknr] : [0];
      this.#findings.add("superblock-damaged", held ? `metadata snapshot: ${text}` : text, {
        block: blocknr,
        path,
        problem: problem === "magic" ? "Kind" : problemName(problem),
        kind: "Superblock",
      });
      return undefined;
    }
    this.#judgeSuperblock(values!, name, held);
    return values;
  }

  #judgeSuperblock(values: SuperblockValues, name: string, held: boolean): void {
    const { version, incompatFlags, dataBlockSectors, time } = values;
    if (version !== 2) this.#findings.add("superblock-version", `${name}: format version ${version}, wanted 2`);
    if (incompatFlags !== 0) {
      this.#findings.add("superblock-features", `${name}: incompat flags 0x${incompatFlags.toString(16)}, wanted 0`);
    }
    if (values.compatRoFlags !== 0) {
      this.#findings.add(
        "superblock-read-only",
        `${name}: compat_ro flags 0x${values.compatRoFlags.toString(16)}, wanted 0`,
      );
    }
    const unusual = unusualFields(values);
    if (unusual.length > 0) this.#findings.add("superblock-unusual", `${name}: ${unusual.join(", ")}`);
    if (values.needsCheck && !held) this.#findings.add("needs-check", `${name}: the needs_check flag is set`);
    const isPossible =
      dataBlockSectors >= MIN_DATA_BLOCK_SECTORS_ON_DISK &&
      dataBlockSectors <= MAX_DATA_BLOCK_SECTORS_ON_DISK &&
      dataBlockSectors % MIN_DATA_BLOCK_SECTORS_ON_DISK === 0;
    if (!isPossible) {
      this.#findings.add(
        "superblock-geometry",
        `${name}: data blocks of ${dataBlockSectors} sectors, wanted a multiple of 128 up to 2097152`,
      );
    }
    if (time >= TIME_LIMIT) {
      this.#findings.add("clock-overflow", `${name}: time ${time}, wanted below ${TIME_LIMIT}`);
    }
    const large = Object.entries({ "transaction id": values.transactionId, "held root": values.heldRoot }).find(
      ([, value]) => value === Number.POSITIVE_INFINITY,
    );
    if (large !== undefined) this.#findings.add("superblock-geometry", `${name}: ${large[0]} above 2^53`);
    if (!held && values.metadataMap.nrBlocks > this.#store.nrBlocks) {
      this.#findings.add(
        "map-too-large",
        `${name}: the metadata space map governs ${numberText(values.metadataMap.nrBlocks)} blocks, the device has ${this.#store.nrBlocks}`,
      );
    }
  }

  // --- devices ---

  #version(values: SuperblockValues, held: boolean): Version {
    return { held, values, roots: new Map(), details: new Map(), isWhole: true };
  }

  #checkDevices(version: Version): void {
    const { values, roots, details, held } = version;
    const onDamage = (tree: string) => (damage: TreeDamage) => {
      version.isWhole = false;
      this.#treeDamage(`${held ? "metadata snapshot, " : ""}${tree}`, damage);
    };
    eachDeviceRoot(this.#store, values.mappingRoot, (id, root) => roots.set(id, root), onDamage("tree of devices"));
    eachDeviceDetails(this.#store, values.detailsRoot, (id, each) => details.set(id, each), onDamage("details tree"));
    this.#tellFuture(version);
    if (!version.isWhole) return;
    const where = held ? " of the metadata snapshot" : "";
    for (const id of roots.keys()) {
      if (!details.has(id)) {
        this.#findings.add("device-without-details", `device ${id}${where}: it has mappings and no details`);
      }
    }
    for (const id of details.keys()) {
      if (!roots.has(id)) {
        this.#findings.add("device-without-mappings", `device ${id}${where}: it has details and no mapping tree`);
      }
    }
  }

  /** Devices that were made, or took part in a snapshot, when the pool had not come so far. */
  #tellFuture({ values, details, held }: Version): void {
    const where = held ? " of the metadata snapshot" : "";
    for (const [id, { transactionId, creationTime, snapshottedTime }] of details) {
      const last = Math.max(creationTime, snapshottedTime);
      if (transactionId > values.transactionId) {
        const found = numberText(transactionId);
        this.#findings.add(
          "device-future",
          `device ${id}${where}: made in transaction ${found}, the pool is at ${numberText(values.transactionId)}`,
        );
      }
      if (last > values.time) {
        this.#findings.add(
          "device-future",
          `device ${id}${where}: of time ${last}, the pool's clock says ${values.time}`,
        );
      }
    }
  }

  #treeDamage(tree: string, damage: TreeDamage): void {
    this.#isWhole = false;
    const { blocknr, problem, path, low, high } = damage;
    const full = [0, ...path];
    const keys = high === Number.POSITIVE_INFINITY ? `from ${low} on` : `${low} to ${high - 1}`;
    this.#findings.add(
      "tree-damaged",
      `${problemText(this.#store, blocknr, problem, Kind.Node, full)}: ${tree}, devices ${keys} are lost`,
      {
        block: blocknr,
        path: full,
        problem: problemName(problem),
        kind: "Node",
        lostDevices: { tree, low, high: high === Number.POSITIVE_INFINITY ? undefined : high },
      },
    );
  }

  // --- all trees, as a graph ---

  async #checkTrees(versions: readonly Version[], live: SuperblockValues, isSnapshotOnly: boolean): Promise<void> {
    const { pace } = this.#options;
    const store = this.#store;
    const references = this.#references;
    const quiet = () => {
      this.#isWhole = false;
    };
    const upper = new NodeSweep(store, { valueSize: ROOT_BYTES, references, onDamage: quiet, pace });
    const details = new NodeSweep(store, { valueSize: DETAILS_BYTES, references, onDamage: quiet, pace });
    const problems = new Map<number, Problem>();
    const mappings = new NodeSweep(store, {
      valueSize: MAPPING_BYTES,
      references,
      pace,
      onDamage: (blocknr, problem) => {
        this.#isWhole = false;
        problems.set(blocknr, problem);
      },
      onUnderfull: (blocknr) => this.#underfull(blocknr),
    });
    for (const { values } of versions) {
      upper.addRoot(values.mappingRoot);
      details.addRoot(values.detailsRoot);
    }
    await upper.run((_blocknr, words, _at, nr, at) => {
      for (let index = 0; index < nr; index++) mappings.addRoot(numberAt(words, at + index * 2));
    });
    await details.run(() => {});
    // Without a root nobody knows how large the data device is.
    const isSizeKnown = !isSnapshotOnly && live.dataMap.bitmapRoot !== 0;
    const nrDataBlocks = isSizeKnown ? live.dataMap.nrBlocks : Number.POSITIVE_INFINITY;
    const countable = Math.min(WINDOW_BLOCKS, nrDataBlocks, store.nrBlocks * ENTRIES_PER_BITMAP);
    const window = new DataWindow(isSizeKnown ? countable : 0);
    const entries = new Uint16Array(store.nrBlocks);
    const outside = new OutsideMappings(nrDataBlocks, live.time);
    pace.total = isSnapshotOnly ? store.nrBlocks : Math.min(live.metadataMap.nrAllocated, store.nrBlocks);
    await mappings.run((blocknr, words, _at, nr, at) => {
      entries[blocknr] = nr;
      const isInside = window.count(words, at, nr);
      if (!isInside || window.newest > live.time) outside.look(blocknr, words, at, nr);
    });
    pace.base = mappings.nrLeaves + mappings.nrInternals;
    this.#leaves = mappings.nrLeaves;
    this.#tellOutside(outside);
    const totals = new ForestTotals(store, mappings, entries, (blocknr) => problems.get(blocknr) ?? Problem.None);
    let all = 0;
    for (const version of versions) {
      const sum = this.#checkTotals(version, totals);
      if (version === versions[0]) all = sum;
    }
    this.#mappings = all;
    this.#tellDamage(problems);
    if (isSnapshotOnly) return;
    await this.#checkCounts(live, versions.length > 1 ? live.heldRoot : 0, window, mappings);
  }

  #underfull(blocknr: number): void {
    this.#findings.add("node-underfull", `metadata block ${blocknr} (btree node): less than a third full`, {
      block: blocknr,
    });
  }

  #tellOutside(outside: OutsideMappings): void {
    for (const { blocknr, count, first } of outside.leaves) {
      this.#findings.add(
        "mapping-outside-data",
        `metadata block ${blocknr} (btree node): ${count} mappings lead behind the data device of ${outside.nrDataBlocks} blocks, the first to data block ${first}`,
        { block: blocknr },
      );
    }
    if (outside.early > 0) {
      this.#findings.add(
        "mapping-time",
        `${outside.early} mappings are of time ${outside.latest} or before, the pool's clock says ${outside.time}`,
      );
    }
  }

  /** @returns mappings of all devices */
  #checkTotals(version: Version, totals: ForestTotals): number {
    const { roots, details, held } = version;
    const where = held ? " of the metadata snapshot" : "";
    let sum = 0;
    for (const [id, root] of roots) {
      const { mappings, isWhole, isEven } = totals.of(root);
      sum += mappings;
      if (!isEven) {
        this.#findings.add("depth-uneven", `device ${id}${where}: leaves lie at different depths`, { block: root });
      }
      const claimed = details.get(id)?.mappedBlocks;
      if (isWhole && claimed !== undefined && claimed !== mappings) {
        this.#findings.add(
          "device-mapped-count",
          `device ${id}${where}: its details say ${numberText(claimed)} mappings, its tree has ${mappings}`,
          { affected: [{ device: id, held, begin: 0, end: 0, path: [root] }] },
        );
      }
      if (isWhole) continue;
      totals.damageBelow(root, MAX_WAYS, ({ blocknr, problem, path, low, high }) => {
        const known = this.#affected.get(blocknr) ?? { problem, list: [], more: 0 };
        this.#affected.set(blocknr, known);
        const end = high === Number.POSITIVE_INFINITY ? undefined : high;
        if (known.list.length < MAX_WAYS) known.list.push({ device: id, held, begin: low, end, path });
        else known.more++;
      });
    }
    return sum;
  }

  #tellDamage(problems: ReadonlyMap<number, Problem>): void {
    const blocks = new Set([...this.#affected.keys(), ...problems.keys()]);
    for (const blocknr of [...blocks].sort((a, b) => a - b)) {
      const known = this.#affected.get(blocknr);
      const problem = known?.problem ?? problems.get(blocknr)!;
      const path = known?.list[0] === undefined ? [] : [0, ...known.list[0].path];
      this.#findings.add(
        "mappings-damaged",
        `${problemText(this.#store, blocknr, problem, Kind.Node, path)}${rangesText(known)}`,
        {
          block: blocknr,
          problem: problemName(problem),
          kind: "Node",
          ...(path.length === 0 ? {} : { path }),
          ...(known === undefined ? {} : { affected: known.list, moreAffected: known.more }),
        },
      );
    }
  }

  // --- counts ---

  async #checkCounts(live: SuperblockValues, heldRoot: number, window: DataWindow, mappings: NodeSweep): Promise<void> {
    const store = this.#store;
    const references = this.#references;
    const { pace } = this.#options;
    const shared = { store, references, pace, findings: this.#findings };
    references[0]!++;
    if (heldRoot !== 0 && store.isInside(heldRoot)) references[heldRoot]!++;
    const isTreesWhole = this.#isWhole;
    const data = await countIndex({ ...shared, which: "data", root: live.dataMap });
    const metadata = await countIndex({ ...shared, which: "metadata", root: live.metadataMap });
    const isWhole = isTreesWhole && data.isWhole && metadata.isWhole;
    if (!isWhole) {
      this.#findings.add("counts-unsure", "blocks that could not be read may own others: surplus counts are not told");
    }
    const metadataResult = await checkSpaceMap({
      ...shared,
      which: "metadata",
      index: metadata.index,
      isWhole,
      isOverflowWhole: metadata.isOverflowWhole,
      expected: (first, into) => {
        into.fill(0);
        if (first < references.length) into.set(references.subarray(first, first + into.length));
      },
    });
    this.#metadataCounts = metadataResult.totals;
    this.#metadataLeaks = metadataResult.leaks;
    const dataLeaks: Run[] = [];
    // The first window was counted on the way through the trees; each further one reads the leaves again.
    let used = 0;
    const nrBitmaps = data.index.blocknr.findLastIndex((blocknr) => !Number.isNaN(blocknr)) + 1;
    for (let fromBitmap = 0; fromBitmap === 0 || fromBitmap < nrBitmaps; fromBitmap += WINDOW_BITMAPS) {
      if (fromBitmap > 0) {
        const first = fromBitmap * ENTRIES_PER_BITMAP;
        window.begin(first, Math.min(WINDOW_BLOCKS, live.dataMap.nrBlocks - first));
        await mappings.revisitLeaves((_blocknr, words, _at, nr, at) => window.count(words, at, nr));
      }
      const { leaks, totals } = await checkSpaceMap({
        ...shared,
        which: "data",
        index: data.index,
        isWhole: isTreesWhole && data.isWhole,
        isOverflowWhole: data.isOverflowWhole,
        expected: (first, into) => window.countsFrom(first, into),
        fromBitmap,
        toBitmap: Math.min(fromBitmap + WINDOW_BITMAPS, data.index.nrBitmaps),
      });
      dataLeaks.push(...leaks);
      used += totals.used;
      this.#dataCounts = addTotals(this.#dataCounts, totals);
    }
    const isInParts = nrBitmaps > WINDOW_BITMAPS && data.isWhole;
    if (isInParts && used !== live.dataMap.nrAllocated) {
      tellAllocated(this.#findings, "data", live.dataMap.nrAllocated, used);
    }
    this.#dataLeaks = dataLeaks;
  }
}

/** What nobody looks at, and nobody writes. */
function unusualFields({ flags, compatFlags, metadataBlockSectors }: SuperblockValues): string[] {
  const unknown = (flags & ~FLAG_NEEDS_CHECK) >>> 0;
  return [
    ...(unknown === 0 ? [] : [`flags 0x${unknown.toString(16)}`]),
    ...(compatFlags === 0 ? [] : [`compat flags 0x${compatFlags.toString(16)}`]),
    ...(metadataBlockSectors === METADATA_BLOCK_SECTORS ? [] : [`metadata blocks of ${metadataBlockSectors} sectors`]),
  ];
}

function addTotals(a: CountTotals | undefined, b: CountTotals): CountTotals {
  if (a === undefined) return b;
  return { blocks: b.blocks, used: a.used + b.used, leaked: a.leaked + b.leaked, wrong: a.wrong + b.wrong };
}

function rangesText(known: { readonly list: readonly Affected[]; readonly more: number } | undefined): string {
  if (known === undefined || known.list.length === 0) return "";
  const shown = known.list.slice(0, 3).map(({ device, held, begin, end }) => {
    const range = end === undefined ? `from ${begin} on` : `${begin} to ${end - 1}`;
    return `device ${device}${held ? " (snapshot)" : ""} blocks ${range}`;
  });
  const rest = known.list.length - shown.length + known.more;
  return `: lost are ${shown.join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}

/** Mappings to the data blocks of a window. */
class DataWindow {
  #counts: Uint16Array;
  #first = 0;
  #nr: number;
  /** Counts that two bytes do not hold: there can be few, as each takes as many mappings. */
  readonly #large = new Map<number, number>();
  /** Latest time in the leaf that was counted last. */
  newest = 0;

  constructor(nr: number) {
    this.#nr = nr;
    this.#counts = new Uint16Array(nr);
  }

  begin(first: number, nr: number): void {
    this.#first = first;
    this.#nr = nr;
    this.#counts.fill(0);
    this.#large.clear();
  }

  /** @returns whether all mappings of the leaf lead into the window */
  count(words: Uint32Array, at: number, nr: number): boolean {
    const counts = this.#counts;
    const first = this.#first;
    const length = this.#nr;
    const end = at + nr * 2;
    let inside = 0;
    let newest = 0;
    for (let word = at; word < end; word += 2) {
      const low = words[word]!;
      const high = words[word + 1]!;
      const time = low & 0xffffff;
      if (time > newest) newest = time;
      // Small numbers stay integers.
      const index = high < HIGH_OF_INTEGERS ? ((high << 8) | (low >>> 24)) - first : high * 256 + (low >>> 24) - first;
      if (index < 0 || index >= length) continue;
      inside++;
      const before = counts[index]!;
      if (before < MAX_COUNTED) counts[index] = before + 1;
      else this.#large.set(index, (this.#large.get(index) ?? MAX_COUNTED) + 1);
    }
    this.newest = newest;
    return inside === nr;
  }

  /** Fills in the counts of the blocks from `first` on. */
  countsFrom(first: number, into: Uint32Array): void {
    const at = first - this.#first;
    const counts = this.#counts.subarray(Math.min(at, this.#nr), Math.min(at + into.length, this.#nr));
    into.fill(0, counts.length);
    into.set(counts);
    for (const [block, count] of this.#large) {
      if (block >= at && block < at + into.length) into[block - at] = count;
    }
  }
}

/** Mappings that lead behind the data device, or are newer than the clock. */
class OutsideMappings {
  readonly leaves: { readonly blocknr: number; readonly count: number; readonly first: number }[] = [];
  /** Mappings newer than the clock, and the newest of them. */
  early = 0;
  latest = 0;

  constructor(
    readonly nrDataBlocks: number,
    readonly time: number,
  ) {}

  look(blocknr: number, words: Uint32Array, at: number, nr: number): void {
    const { nrDataBlocks, time } = this;
    let count = 0;
    let first = 0;
    const end = at + nr * 2;
    for (let word = at; word < end; word += 2) {
      const low = words[word]!;
      if ((low & 0xffffff) > time) {
        this.early++;
        this.latest = Math.max(this.latest, low & 0xffffff);
      }
      const block = words[word + 1]! * 256 + (low >>> 24);
      if (block < nrDataBlocks) continue;
      if (count === 0) first = block;
      count++;
    }
    if (count > 0) this.leaves.push({ blocknr, count, first });
  }
}
