export { type Inserted, insert, insertRunBelow } from "./insert.js";
export { highestKey, lookup, lookupNext, Position } from "./lookup.js";
export {
  BTREE_NODE,
  childAt,
  INTERNAL_NODE,
  isLeaf,
  keyAt,
  LEAF_NODE,
  lowerBound,
  maxEntriesFor,
  maxEntriesOf,
  NODE_HEADER,
  nrEntriesOf,
  setChildAt,
  valueOffset,
  valueSizeOf,
} from "./node.js";
export { type Removed, remove, removeRun } from "./remove.js";
export { eachRun, emptyTree, MAX_DEPTH, readNode, type Tree, type ValueType } from "./tree.js";
export { deleteTree, deleteTreeInSteps, type LeafVisitor, walkLeaves } from "./walk.js";
