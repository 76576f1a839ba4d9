export { crc32c } from "./crc32c.js";
export { bytes, type Field, type Struct, struct, u16, u32, u64, type Values } from "./struct.js";
export { getU64, MAX_U64_NUMBER, type ReadView, setU64 } from "./u64.js";
