/**
 * Packed metadata, in the form of thin_metadata_pack 1.x. `packMetadata` reads a device, however damaged, into a file;
 * `PackReader` checks such a file, `unpackMetadata` puts it back.
 */
export type { PackSink } from "./chunk-writer.js";
export { type KeepDamaged, type Packed, type PackOptions, packMetadata } from "./pack.js";
export { type PackedBlockVisitor, PackReader } from "./pack-reader.js";
export { checkRoom, type Unpacked, unpackMetadata, verifyPack } from "./unpack.js";
