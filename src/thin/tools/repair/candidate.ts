/** What a repair may start from, and what it would hold: plain values that can be shown, chosen from, and carried out. */
import type { DetailsValues } from "../reader/devices.js";
import type { KeyRange } from "./forest.js";

/** Where the two roots were found. */
export type CandidateSource =
  /** The superblock, sound. */
  | "superblock"
  /** The superblock, whose checksum is wrong and whose roots lead to trees all the same. */
  | "damaged-superblock"
  /** A copy of the superblock: the metadata snapshot, or what is left of one. */
  | "metadata-snapshot"
  /** Trees that nothing points at, paired by the devices they name. */
  | "found-roots";

/** Subtrees that nothing else points at and that fit where one was lost. */
export interface Adoption {
  readonly hole: number;
  /** In the order of keys. */
  readonly blocks: readonly number[];
}

export interface CandidateDevice {
  readonly id: number;
  /** Of its mapping tree; 0 for one without mappings. */
  readonly root: number;
  /** The tree of devices does not name this root; it was found, and its number of mappings is right. */
  readonly isFoundRoot: boolean;
  readonly details: DetailsValues;
  /** Details were lost, and are made: everything counts as shared, so the next write of a block copies it. */
  readonly isMadeDetails: boolean;
  /** What its details say, where they were found. */
  readonly expected: number | undefined;
  /** That can be kept. */
  readonly mappings: number;
  /** Among these, in subtrees that were lost and found. */
  readonly adoptedMappings: number;
  /** Virtual blocks that cannot be read; some of them may not have been mapped. */
  readonly lost: readonly KeyRange[];
  /** Ranges that are not listed. */
  readonly moreLost: number;
  /** Mappings that are lost, as far as the details tell; 0 when nothing is. */
  readonly lostMappings: number;
  /** Mappings behind the data device, which are left out. */
  readonly outsideMappings: number;
  readonly adoptions: readonly Adoption[];
}

/** A device that cannot be kept. */
export interface LostDevice {
  readonly id: number;
  readonly mappings: number | undefined;
}

export interface CandidateHead {
  readonly time: number;
  readonly transactionId: number;
  /** Undefined when no superblock tells and nobody gave it. */
  readonly dataBlockSectors: number | undefined;
  readonly nrDataBlocks: number;
  /** The size is what the mappings need: no superblock tells it. */
  readonly isInferredSize: boolean;
  /** Mappings of this time or later get time 0: they are newer than the clock, and count as shared. */
  readonly timeLimit: number;
}

export interface Candidate {
  readonly source: CandidateSource;
  /** Block of the superblock or its copy; of found roots, that of the tree of devices. */
  readonly block: number;
  readonly mappingRoot: number;
  readonly detailsRoot: number;
  readonly head: CandidateHead;
  readonly devices: readonly CandidateDevice[];
  readonly lostDevices: readonly LostDevice[];
  /** Ids in these ranges may have been devices. */
  readonly lostIds: readonly KeyRange[];
  readonly mappings: number;
  readonly lostMappings: number;
  /** Sum of the times of all mappings: of two states that are alike, the newer has more. */
  readonly timeSum: number;
  /** Nothing that it should hold is missing. */
  readonly isWhole: boolean;
}

/** Values that take the place of those found, or of those that are lost. */
export interface HeadOverrides {
  readonly transactionId?: number;
  readonly dataBlockSectors?: number;
  readonly nrDataBlocks?: number;
}
