/**
 * Everything a check can find, in one table: it feeds the text, the JSON and the manual page. `damage` makes a pool unfit
 * until it is repaired; what is `harmless` wastes room or is untidy, and the pool works; a `note` is worth knowing.
 */

import type { Kind, Problem } from "./reader/problems.js";

export type Severity = "damage" | "harmless" | "note";

export interface FindingKind {
  readonly severity: Severity;
  /** What it means, for the manual. */
  readonly meaning: string;
  /** What to do. */
  readonly advice: string;
}

const REPAIR = "repair a copy: udm metadata repair";
const LEAK = "udm metadata check --auto-repair frees them";

export const FINDINGS = {
  "superblock-blank": {
    severity: "damage",
    meaning: "The first block is all zeros: nothing was ever formatted here, or it was wiped.",
    advice: "is this the metadata device? if it was wiped, udm metadata repair looks for what is left",
  },
  "superblock-damaged": {
    severity: "damage",
    meaning: "The superblock cannot be read, or its checksum, number or magic is wrong.",
    advice: "udm metadata repair finds the trees without it",
  },
  "superblock-features": {
    severity: "damage",
    meaning: "Feature bits are set that udm and the kernel refuse.",
    advice: "use the program that made this pool",
  },
  "superblock-read-only": {
    severity: "note",
    meaning: "A feature bit is set that lets udm and the kernel read this pool, and not write it.",
    advice: "use the program that made this pool",
  },
  "superblock-unusual": {
    severity: "note",
    meaning: "A field of the superblock that nobody looks at is not what every program writes there.",
    advice: "nothing, unless a newer program made this pool",
  },
  "superblock-version": {
    severity: "note",
    meaning: "The format version is not 2. The kernel does not look at it.",
    advice: "nothing, unless a newer program made this pool",
  },
  "superblock-geometry": {
    severity: "damage",
    meaning: "A size in the superblock is impossible: the data block size, or a number above 2^53.",
    advice: REPAIR,
  },
  "map-too-large": {
    severity: "damage",
    meaning: "The metadata space map governs more blocks than the device has: the device was cut off.",
    advice: "give the device its old size back; the kernel refuses it as it is",
  },
  "needs-check": {
    severity: "note",
    meaning: "The pool asked for a check after a failure, and opens read-only until the flag is cleared.",
    advice: "when the check is clean: udm metadata check --clear-needs-check-flag",
  },
  "clock-overflow": {
    severity: "damage",
    meaning: "The clock of snapshots has reached 2^24: new mappings would run into block numbers.",
    advice: "dump, and restore with smaller times; do not write to this pool before",
  },
  "tree-damaged": {
    severity: "damage",
    meaning: "A block of the tree of devices, the details, or an index is damaged; devices below it are lost.",
    advice: REPAIR,
  },
  "mappings-damaged": {
    severity: "damage",
    meaning: "A block of a mapping tree is damaged; the named ranges of the named devices cannot be read.",
    advice: REPAIR,
  },
  "space-map-damaged": {
    severity: "damage",
    meaning: "A block of a space map is damaged; no mapping is lost by that.",
    advice: `${REPAIR}, which counts everything again`,
  },
  "node-underfull": {
    severity: "harmless",
    meaning: "A node holds less than a third of what it could.",
    advice: "nothing; a dump and restore packs the trees",
  },
  "depth-uneven": {
    severity: "damage",
    meaning: "Leaves of one tree lie at different depths.",
    advice: REPAIR,
  },
  "device-without-details": {
    severity: "damage",
    meaning: "A device has mappings and no details: the kernel cannot open it.",
    advice: REPAIR,
  },
  "device-without-mappings": {
    severity: "damage",
    meaning: "A device has details and no mapping tree: the kernel cannot open it.",
    advice: REPAIR,
  },
  "device-mapped-count": {
    severity: "damage",
    meaning: "The details of a device give another number of mappings than its tree has.",
    advice: `${REPAIR}, which counts them again`,
  },
  "device-future": {
    severity: "note",
    meaning: "A device was made in a transaction, or at a time, that the pool has not come to.",
    advice: "an older superblock may have been put back; udm metadata repair tells what else there is",
  },
  "mapping-outside-data": {
    severity: "damage",
    meaning: "A mapping leads behind the end of the data device.",
    advice: `${REPAIR}; or give the pool its old data size back`,
  },
  "mapping-time": {
    severity: "note",
    meaning: "A mapping is newer than the pool's clock; sharing may be judged wrongly.",
    advice: "udm metadata repair sets the clock right",
  },
  "metadata-leak": {
    severity: "harmless",
    meaning: "Metadata blocks are counted as used, and nothing uses them.",
    advice: LEAK,
  },
  "metadata-count": {
    severity: "damage",
    meaning: "Metadata blocks have another count than there are pointers to them. Too low a count destroys data.",
    advice: `do not write to this pool; ${REPAIR}, which counts again`,
  },
  "data-leak": {
    severity: "harmless",
    meaning: "Data blocks are counted as used, and no mapping uses them.",
    advice: LEAK,
  },
  "data-count": {
    severity: "damage",
    meaning: "Data blocks have another count than there are mappings to them. Too low a count destroys data.",
    advice: `do not write to this pool; ${REPAIR}, which counts again`,
  },
  "overflow-count": {
    severity: "damage",
    meaning: "Bitmap and overflow tree of a space map do not agree on which blocks have three owners or more.",
    advice: `${REPAIR}, which counts again`,
  },
  "free-count": {
    severity: "harmless",
    meaning: "The index gives a bitmap another number of free blocks than it has.",
    advice: "the kernel takes it and may run out of space early; a dump and restore sets it right",
  },
  "free-hidden": {
    severity: "note",
    meaning: "The index hides free blocks behind its hint where to begin searching.",
    advice: "nothing: they are found again once a block before them is freed",
  },
  "allocated-count": {
    severity: "harmless",
    meaning: "The space map's root gives another number of used blocks than there are.",
    advice: "the pool's status is wrong by that much; a dump and restore sets it right",
  },
  "counts-unsure": {
    severity: "note",
    meaning: "Trees are damaged, so counts above what was found are not told: unread blocks may account for them.",
    advice: REPAIR,
  },
} as const satisfies Readonly<Record<string, FindingKind>>;

export type FindingId = keyof typeof FINDINGS;

/** A stretch of a device that a finding costs. */
export interface Affected {
  readonly device: number;
  /** In the metadata snapshot, not in the live pool. */
  readonly held: boolean;
  /** Virtual blocks [begin, end); end undefined: to the end of the device. */
  readonly begin: number;
  readonly end: number | undefined;
  /** Blocks from the device's root to the damaged one. */
  readonly path: readonly number[];
}

export interface Finding {
  readonly id: FindingId;
  readonly severity: Severity;
  /** What was found, against what was wanted. */
  readonly message: string;
  readonly advice: string;
  /** What is wrong with the block, and what it should be, where it is about one. */
  readonly problem?: keyof typeof Problem;
  readonly kind?: keyof typeof Kind;
  /** Metadata block it is about. */
  readonly block?: number;
  /** Blocks on the way to it, from a root in the superblock on. */
  readonly path?: readonly number[];
  /** Data or metadata blocks [begin, end) that are counted wrongly, the count that stands there and the owners found. */
  readonly blocks?: { readonly begin: number; readonly end: number };
  readonly stored?: number;
  readonly owners?: number;
  /** Keys [low, high) of a tree of devices that are lost; high undefined: all from low on. */
  readonly lostDevices?: { readonly tree: string; readonly low: number; readonly high: number | undefined };
  readonly affected?: readonly Affected[];
  /** Stretches that are not listed. */
  readonly moreAffected?: number;
}

/** Findings as they come; of each kind only so many are kept, the others are counted. */
export class FindingList {
  readonly list: Finding[] = [];
  readonly #perKind: number;
  readonly #seen = new Map<FindingId, number>();

  constructor(perKind = 200) {
    this.#perKind = perKind;
  }

  add(id: FindingId, message: string, more: Omit<Finding, "id" | "severity" | "message" | "advice"> = {}): void {
    const seen = this.#seen.get(id) ?? 0;
    this.#seen.set(id, seen + 1);
    if (seen >= this.#perKind) return;
    const { severity, advice } = FINDINGS[id];
    this.list.push({ id, severity, message, advice, ...more });
  }

  /** How many there were of a kind, listed or not. */
  count(id: FindingId): number {
    return this.#seen.get(id) ?? 0;
  }

  /** Kinds of which not all are listed, with how many are missing. */
  get omitted(): readonly { readonly id: FindingId; readonly count: number }[] {
    return [...this.#seen]
      .filter(([, seen]) => seen > this.#perKind)
      .map(([id, seen]) => ({ id, count: seen - this.#perKind }));
  }

  has(severity: Severity): boolean {
    return [...this.#seen.keys()].some((id) => FINDINGS[id].severity === severity);
  }
}
