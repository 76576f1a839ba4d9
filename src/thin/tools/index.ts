/** The tools for metadata: what they find, and what they make. */

export { describeSure, firstStep, followPath, type Step } from "./block-path.js";
export { type Census, countKinds } from "./census.js";
export { type CheckOptions, type CheckReport, checkMetadata, type Run } from "./check.js";
export type { CountTotals } from "./check-counts.js";
export * from "./damage/index.js";
export { type DeltaOptions, type DeltaSide, deltaMetadata } from "./delta/delta.js";
export type { DeltaFormat, DeltaKind } from "./delta/emitters.js";
export { type DescribedBlock, type DescribedEntry, describeBlock, type Role } from "./describe.js";
export { ByteWriter } from "./dump/byte-writer.js";
export { type DumpOptions, dumpMetadata } from "./dump/dump.js";
export { DUMP_FORMATS, type DumpFormat, type DumpHead, type Emitter, emitterFor } from "./dump/emitter.js";
export { type Affected, FINDINGS, type Finding, type FindingId, type FindingKind, type Severity } from "./findings.js";
export { FreeData } from "./free-data.js";
export { type ListedDevice, type Listing, type ListOptions, listMetadata } from "./ls.js";
export { type MendOptions, mendMetadata } from "./mend.js";
export { Pace, type PaceOptions } from "./pace.js";
export * from "./pack/index.js";
export { problemText } from "./problem-text.js";
export * from "./reader/index.js";
export * from "./repair/index.js";
export { MetadataBuilder } from "./restore/metadata-builder.js";
export type { BuildHead } from "./restore/pool-parts.js";
export { type Restored, type RestoreOptions, restoreMetadata } from "./restore/restore.js";
export { type Region, type ReverseRun, reverseMap } from "./rmap.js";
export { planShrink, planSoundShrink, refuseUnsound, type ShrinkFigures, type ShrinkPlan } from "./shrink/plan.js";
export {
  type MetadataDevice,
  refuseShortData,
  releaseMetadataSnapshot,
  type ShrinkOptions,
  type Shrunk,
  shrinkPool,
} from "./shrink/shrink.js";
export { type ShrinkXmlOptions, shrinkXml } from "./shrink/xml.js";
export { adviseMetadataSize, type SizeAdvice, type SizeRequest } from "./size.js";
export { soundSuperblock } from "./sound.js";
export { type CountHistogram, type MetadataStat, type RunTotals, statMetadata, type TreeName } from "./stat.js";
export type { TreeShape } from "./tree-shape.js";
