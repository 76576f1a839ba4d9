/**
 * In which blocks two thin devices differ, from their mappings alone: blocks that only one has, blocks that lie in the
 * same place, blocks that lie in different ones. Two trees are read side by side; what they share is read once and is
 * the same without a look at each mapping.
 */
import { StateError } from "../../../errors/index.js";
import { ByteWriter } from "../dump/byte-writer.js";
import type { Pace } from "../pace.js";
import type { BlockStore } from "../reader/block-store.js";
import { damageError, soundDevices, soundSuperblock } from "../sound.js";
import { type DeltaEmitter, type DeltaFormat, deltaEmitterOf } from "./emitters.js";
import { LeafRuns, NOTHING } from "./leaf-runs.js";

/** A side of the comparison: a device by id, or the root of a mapping tree. */
export type DeltaSide =
  | { readonly kind: "device"; readonly id: number }
  | { readonly kind: "root"; readonly block: number };

export interface DeltaOptions {
  readonly superblock: number;
  readonly left: DeltaSide;
  readonly right: DeltaSide;
  readonly format: DeltaFormat;
  /** Told at the begin of the JSON document. */
  readonly documentVersion?: number;
  readonly pace: Pace;
  readonly write: (piece: Uint8Array) => void | Promise<void>;
}

const MAPPINGS_PER_BLOCK = 252;

/** @throws StateError ENODATA for a device that there is not; DamageError */
export async function deltaMetadata(store: BlockStore, options: DeltaOptions): Promise<void> {
  const { pace } = options;
  const superblock = soundSuperblock(store, options.superblock);
  const devices = soundDevices(store, superblock);
  const rootOf = (side: DeltaSide): number => {
    if (side.kind === "root") return side.block;
    const root = devices.find(({ id }) => id === side.id)?.root;
    if (root !== undefined) return root;
    throw new StateError("ENODATA", `${store.name} has no device ${side.id}`, { hint: "udm metadata ls lists them" });
  };
  const readAhead = new Uint8Array(store.nrBlocks);
  const sideOf = (side: DeltaSide): LeafRuns => {
    const name = side.kind === "device" ? `device ${side.id}` : `tree ${side.block}`;
    const onDamage = (damage: Parameters<typeof damageError>[1]) => {
      throw damageError(store, damage, name);
    };
    return new LeafRuns(store, rootOf(side), onDamage, readAhead);
  };
  const left = sideOf(options.left);
  const right = sideOf(options.right);
  const mappedOf = (side: DeltaSide) =>
    side.kind === "device" ? (devices.find(({ id }) => id === side.id)?.details?.mappedBlocks ?? 0) : 0;
  pace.total = (mappedOf(options.left) + mappedOf(options.right)) / MAPPINGS_PER_BLOCK;

  const out = new ByteWriter();
  const emitter = deltaEmitterOf(options.format, out, options.documentVersion);
  const word = (side: DeltaSide) => (side.kind === "device" ? side.id : side.block);
  emitter.begin({
    time: superblock.time,
    transactionId: superblock.transactionId,
    dataBlockSectors: superblock.dataBlockSectors,
    nrDataBlocks: superblock.dataMap.nrBlocks,
    heldRoot: superblock.heldRoot,
    left: word(options.left),
    right: word(options.right),
  });
  let done = 0;
  for (;;) {
    const common = nextCommonLeaf(left, right);
    if (common !== undefined) done += 2 * emitLeaf(common, emitter);
    else if (left.begin === NOTHING && right.begin === NOTHING) break;
    else done += emitNext(left, right, emitter);
    if (out.isFull) await options.write(out.take());
    if (pace.isDue) await pace.rest(done / MAPPINGS_PER_BLOCK);
  }
  emitter.end();
  await options.write(out.take());
}

/**
 * Gives both sides something to compare, unless what comes next is a leaf of both: then the side that has it, while the
 * other is behind it.
 */
function nextCommonLeaf(left: LeafRuns, right: LeafRuns): LeafRuns | undefined {
  if (left.isDone && right.isDone) {
    // Inside a subtree of both the other side is behind all of it already.
    if (!left.isNextMarked && left.peek() !== 0 && left.peek() === right.peek()) {
      right.skip();
      left.markNext();
    }
    left.enter();
    if (left.isMarked) return left;
  }
  if (right.isDone) {
    if (left.isWhole && left.blocknr === right.peek()) {
      right.skip();
      return left;
    }
    right.enter();
  }
  if (left.isDone) {
    if (right.isWhole && right.blocknr === left.peek()) {
      left.skip();
      return right;
    }
    left.enter();
  }
  if (!left.isWhole || !right.isWhole || left.blocknr !== right.blocknr) return undefined;
  right.drop();
  return left;
}

/** @returns how many mappings it has */
function emitLeaf(leaf: LeafRuns, emitter: DeltaEmitter): number {
  const { nr } = leaf;
  if (!emitter.needsData && leaf.isContiguous) {
    emitter.run("same", leaf.begin, nr, leaf.data, leaf.data);
    leaf.drop();
    return nr;
  }
  while (!leaf.isDone) {
    emitter.run("same", leaf.begin, leaf.length, leaf.data, leaf.data);
    leaf.take(leaf.length);
  }
  return nr;
}

/** What comes first, as far as it is of one kind. @returns mappings of both sides in it */
function emitNext(left: LeafRuns, right: LeafRuns, emitter: DeltaEmitter): number {
  if (left.begin === right.begin) {
    const count = Math.min(left.length, right.length);
    emitter.run(left.data === right.data ? "same" : "different", left.begin, count, left.data, right.data);
    left.take(count);
    right.take(count);
    return 2 * count;
  }
  const isLeft = left.begin < right.begin;
  const [first, second] = isLeft ? [left, right] : [right, left];
  const count = Math.min(first.length, second.begin - first.begin);
  emitter.run(isLeft ? "left_only" : "right_only", first.begin, count, first.data, first.data);
  first.take(count);
  return count;
}
