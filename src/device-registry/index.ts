export { type ConciseDevice, formatConcise, parseConcise } from "./concise.js";
export { MappedDevice } from "./mapped-device.js";
export { compareNames, mangle, parseName, parseUuid, unmangle } from "./names.js";
export {
  type Below,
  type Hold,
  type Holder,
  MAPPED_MAJOR,
  Registry,
  type RegistryOptions,
  type TargetStatus,
  tableTexts,
} from "./registry.js";
export {
  type DeviceRecord,
  EMPTY_STATE,
  formatState,
  type InactiveTable,
  type Intent,
  type LoopRecord,
  type MadeFile,
  type PoolRecord,
  parseState,
  type ReadSnapshot,
  type State,
  type ThinRecord,
} from "./state.js";
export { StateFile } from "./state-file.js";
export { formatLine, formatTable, parseTable, tableParams, tableSectors } from "./table-text.js";
