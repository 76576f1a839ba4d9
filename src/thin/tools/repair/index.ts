/** Finding what is left in damaged metadata, and new metadata from it. */
export type {
  Adoption,
  Candidate,
  CandidateDevice,
  CandidateHead,
  CandidateSource,
  HeadOverrides,
  LostDevice,
} from "./candidate.js";
export { type FoundCandidates, findCandidates } from "./candidates.js";
export type { KeyRange } from "./forest.js";
export { Forest } from "./forest.js";
export { type Repaired, type RepairOptions, repairMetadata } from "./repair.js";
