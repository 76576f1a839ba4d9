/** The two small trees that say which thin devices there are: roots of their mapping trees, and their details. */
import { DEVICE_DETAILS } from "../../device-details.js";
import type { BlockStore } from "./block-store.js";
import { keyOf, numberAt } from "./node.js";
import { TreeCursor, type TreeDamage } from "./tree-cursor.js";

export const ROOT_BYTES = 8;
export const DETAILS_BYTES = DEVICE_DETAILS.size;
const { fields } = DEVICE_DETAILS;

export interface DetailsValues {
  readonly mappedBlocks: number;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}

/** A device that either tree knows. */
export interface DeviceReading {
  readonly id: number;
  /** Root of its mapping tree; undefined when only its details were found. */
  readonly root: number | undefined;
  readonly details: DetailsValues | undefined;
}

/** Numbers above 2^53 are Infinity. Called with ids that ascend. */
export function eachDeviceRoot(
  store: BlockStore,
  mappingRoot: number,
  visit: (id: number, root: number, leaf: number) => void,
  onDamage: (damage: TreeDamage) => void,
): void {
  const cursor = new TreeCursor(store, mappingRoot, ROOT_BYTES, onDamage);
  while (cursor.next()) {
    for (let index = 0; index < cursor.nr; index++) {
      visit(
        keyOf(cursor.words, cursor.at, index),
        numberAt(cursor.words, cursor.values + index * (ROOT_BYTES / 4)),
        cursor.blocknr,
      );
    }
  }
}

export function eachDeviceDetails(
  store: BlockStore,
  detailsRoot: number,
  visit: (id: number, details: DetailsValues) => void,
  onDamage: (damage: TreeDamage) => void,
): void {
  const cursor = new TreeCursor(store, detailsRoot, DETAILS_BYTES, onDamage);
  while (cursor.next()) {
    for (let index = 0; index < cursor.nr; index++) {
      const value = cursor.values + index * (DETAILS_BYTES / 4);
      visit(keyOf(cursor.words, cursor.at, index), detailsAt(cursor.words, value));
    }
  }
}

export function detailsAt(words: Uint32Array, word: number): DetailsValues {
  return {
    mappedBlocks: numberAt(words, word + fields.mappedBlocks.offset / 4),
    transactionId: numberAt(words, word + fields.transactionId.offset / 4),
    creationTime: words[word + fields.creationTime.offset / 4]!,
    snapshottedTime: words[word + fields.snapshottedTime.offset / 4]!,
  };
}

/** Both trees put together, by id. */
export function readDevices(
  store: BlockStore,
  roots: { readonly mappingRoot: number; readonly detailsRoot: number },
  onDamage: (damage: TreeDamage, tree: "devices" | "details") => void,
): DeviceReading[] {
  const found = new Map<number, DeviceReading>();
  eachDeviceRoot(
    store,
    roots.mappingRoot,
    (id, root) => found.set(id, { id, root, details: undefined }),
    (damage) => onDamage(damage, "devices"),
  );
  eachDeviceDetails(
    store,
    roots.detailsRoot,
    (id, details) => found.set(id, { id, root: found.get(id)?.root, details }),
    (damage) => onDamage(damage, "details"),
  );
  return [...found.values()].sort((left, right) => left.id - right.id);
}
