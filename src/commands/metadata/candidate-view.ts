/** Candidates of a repair as text, and as a document. */
import type { Candidate, CandidateDevice, CandidateSource, KeyRange } from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { DocumentOf } from "../schema/documents.js";

type CandidateDocument = DocumentOf<"repair">["repair"]["candidates"][number];

const SECTOR_BYTES = 512;
/** Ranges, and ids, that one line names. */
const MOST_NAMED = 4;

const SOURCE_TEXT: Readonly<Record<CandidateSource, (block: number) => string>> = {
  superblock: () => "the superblock",
  "damaged-superblock": () => "the superblock, though it is damaged",
  "metadata-snapshot": (block) => `a copy of the superblock in block ${block}: the state of a metadata snapshot`,
  "found-roots": (block) => `trees found at block ${block}: a state between or before others, of unknown age`,
};

export function candidateLines(candidate: Candidate, number: number): string[] {
  const { head, devices, mappings, lostMappings, lostDevices, lostIds } = candidate;
  const unit = head.dataBlockSectors === undefined ? "unknown size" : formatBytes(head.dataBlockSectors * SECTOR_BYTES);
  const size = `${head.nrDataBlocks} data blocks of ${unit}${head.isInferredSize ? ", as far as mappings go" : ""}`;
  const lines = [
    `candidate ${number}: ${SOURCE_TEXT[candidate.source](candidate.block)}`,
    `  transaction ${head.transactionId}, time ${head.time}, ${size}`,
    `  keeps ${plural(devices.length, "device")}, ${plural(mappings, "mapping")}`,
  ];
  const isGuess = devices.some(({ isFoundRoot }) => isFoundRoot);
  const isOfNow = candidate.source === "superblock" || candidate.source === "damaged-superblock";
  if (candidate.isWhole)
    lines.push(
      `  loses nothing${isOfNow ? "" : " of that state"}${isGuess ? ", if the trees that were found are the right ones" : ""}`,
    );
  else
    lines.push(
      `  loses ${plural(lostMappings, "mapping")}${lostDevices.length === 0 ? "" : `, ${devicesText(lostDevices)}`}`,
    );
  if (lostIds.length > 0) lines.push(`  devices with ids ${rangesText(lostIds, 0)} cannot be read, if there were any`);
  for (const device of devices) lines.push(...deviceLines(device));
  return lines;
}

function deviceLines(device: CandidateDevice): string[] {
  const notes: string[] = [];
  const { id, lost, moreLost, lostMappings, expected, outsideMappings, adoptedMappings } = device;
  if (lost.length > 0) {
    const of = expected === undefined ? "" : ` of ${expected}`;
    notes.push(
      `loses ${lostMappings - outsideMappings}${of} mappings, of virtual blocks ${rangesText(lost, moreLost)}`,
    );
  }
  if (lost.length === 0 && expected !== undefined && expected !== device.mappings + outsideMappings) {
    notes.push(`its details say ${plural(expected, "mapping")}, its tree has ${device.mappings + outsideMappings}`);
  }
  if (outsideMappings > 0) notes.push(`loses ${plural(outsideMappings, "mapping")} that lead behind the data device`);
  if (adoptedMappings > 0) notes.push(`${adoptedMappings} mappings were found in subtrees that nothing points at`);
  if (device.isFoundRoot) notes.push("its tree was found by its number of mappings: look at the data");
  if (device.isMadeDetails) notes.push("its details are lost; everything in it counts as shared");
  return notes.map((note) => `  device ${id}: ${note}`);
}

function devicesText(lost: Candidate["lostDevices"]): string {
  const named = lost
    .slice(0, MOST_NAMED)
    .map(({ id, mappings }) => (mappings === undefined ? `${id}` : `${id} (${mappings})`));
  return `and ${plural(lost.length, "whole device")}: ${named.join(", ")}${lost.length > MOST_NAMED ? ", ..." : ""}`;
}

function rangesText(ranges: readonly KeyRange[], more: number): string {
  const named = ranges
    .slice(0, MOST_NAMED)
    .map(({ low, high }) => (high === Number.POSITIVE_INFINITY ? `from ${low} on` : `${low} to ${high - 1}`));
  return `${named.join(", ")}${ranges.length + more > MOST_NAMED ? ", ..." : ""}`;
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

export function candidateDocument(candidate: Candidate, number: number): CandidateDocument {
  const { source, block, mappingRoot, detailsRoot, head, isWhole, mappings, lostMappings } = candidate;
  return {
    number,
    from: source,
    block,
    mappingRoot,
    detailsRoot,
    time: head.time,
    transactionId: head.transactionId,
    dataBlockSectors: head.dataBlockSectors ?? null,
    dataBlocks: head.nrDataBlocks,
    dataBlocksInferred: head.isInferredSize,
    whole: isWhole,
    mappings,
    lostMappings,
    devices: candidate.devices.map((device) => ({
      id: device.id,
      mappings: device.mappings,
      expected: device.expected ?? null,
      lostMappings: device.lostMappings,
      lost: device.lost.map(rangeDocument),
      moreLost: device.moreLost,
      outsideMappings: device.outsideMappings,
      foundAgain: device.adoptedMappings,
      foundRoot: device.isFoundRoot,
      madeDetails: device.isMadeDetails,
    })),
    lostDevices: candidate.lostDevices.map(({ id, mappings: mapped }) => ({ id, mappings: mapped ?? null })),
    lostIds: candidate.lostIds.map(rangeDocument),
  };
}

function rangeDocument({ low, high }: KeyRange): { begin: number; end: number | null } {
  return { begin: low, end: high === Number.POSITIVE_INFINITY ? null : high };
}
