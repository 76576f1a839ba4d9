/**
 * New metadata from devices and mappings in ascending order. Trees are packed; blocks are used from the front of the
 * device on, space maps come last. The superblock is wiped first and written last, so that what is cut off is no pool.
 *
 * What is in memory: two nodes for each level of a tree, two bytes for each data block, some words for each device, and
 * the leaves of shared stretches.
 */
import { StateError } from "../../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../../io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../persistent-data/index.js";
import { usableBlocks } from "../../metadata-store.js";
import type { DetailsValues } from "../reader/devices.js";
import { entriesOf, valuesAt } from "../reader/node.js";
import { MAPPING_BYTES } from "../reader/run-cursor.js";
import { BlockAppender } from "./block-appender.js";
import {
  type BuildHead,
  type BuiltDevice,
  buildDataMap,
  buildDeviceTrees,
  buildMetadataMap,
  checkBuildHead,
  tooSmall,
  wipeSuperblock,
  writeNewSuperblock,
} from "./pool-parts.js";
import { type SharedLeaf, TreeBuilder } from "./tree-builder.js";

const MAX_COUNTED = 65535;

export class MetadataBuilder {
  readonly #io: SyncIo;
  readonly #name: string;
  readonly #nrBlocks: number;
  readonly #out: BlockAppender;
  readonly #head: BuildHead;
  readonly #dataCounts: Uint16Array;
  /** Counts that two bytes do not hold. */
  readonly #largeCounts = new Map<number, number>();
  /** Metadata blocks with another count than one. */
  readonly #shares = new Map<number, number>();
  readonly #devices: BuiltDevice[] = [];
  #tree: TreeBuilder | undefined;
  #mapped = 0;

  /** Wipes the superblock. @throws StateError EINVAL for a head that no pool has; IoError */
  constructor(device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">, head: BuildHead) {
    checkBuildHead(device.name, head);
    if (device.sync === undefined) {
      throw new StateError("EOPNOTSUPP", `${device.name}: metadata must lie on a file or block device`);
    }
    this.#io = device.sync;
    this.#name = device.name;
    this.#nrBlocks = usableBlocks(Math.floor(device.sizeBytes / METADATA_BLOCK_BYTES));
    this.#head = head;
    this.#dataCounts = new Uint16Array(head.nrDataBlocks);
    if (this.#nrBlocks > 0) wipeSuperblock(this.#io);
    this.#out = new BlockAppender(device.sync, this.#nrBlocks, 1);
  }

  /** Blocks made so far. */
  get nrMade(): number {
    return this.#out.next;
  }

  beginDevice(): void {
    this.#tree = this.#mappingTree();
    this.#mapped = 0;
  }

  /** Keys go up within a device. @throws StateError EINVAL for a mapping behind the data device */
  run(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    this.#count(dataBegin, length);
    this.#tree!.pushRun(virtualBegin, dataBegin, length, time);
    this.#mapped += length;
  }

  /** Whole leaves made before, for several devices. */
  share(leaves: readonly SharedLeaf[]): void {
    for (const leaf of leaves) {
      this.#tree!.attach(leaf);
      this.#mapped += leaf.nr;
    }
  }

  /** @returns mappings of the device */
  endDevice(id: number, details: DetailsValues): number {
    const root = this.#tree!.finish();
    this.#tree = undefined;
    this.#devices.push({ id, root, details: { ...details, mappedBlocks: this.#mapped } });
    return this.#mapped;
  }

  /** Mappings that are no device's yet. Their leaves have no owner until they are shared. */
  beginShared(): readonly SharedLeaf[] {
    const leaves: SharedLeaf[] = [];
    this.#tree = new TreeBuilder(this.#out, MAPPING_BYTES, (leaf) => {
      leaves.push(leaf);
      this.#shares.set(leaf.blocknr, 0);
    });
    return leaves;
  }

  /** The internal nodes above the leaves have no use. */
  endShared(): void {
    const before = this.#out.next;
    this.#tree!.finish();
    this.#tree = undefined;
    for (let blocknr = before; blocknr < this.#out.next; blocknr++) {
      if (!this.#shares.has(blocknr)) this.#shares.set(blocknr, 0);
    }
  }

  /**
   * Writes what is left, flushes, and makes it a pool by its superblock; durable when it returns.
   * @throws SpaceError when the device is too small, with the size it should have; StateError EEXIST
   */
  finish(): void {
    this.#dropUnowned();
    const { detailsRoot, mappingRoot } = buildDeviceTrees(this.#out, this.#devices);
    const dataMap = buildDataMap(this.#out, this.#head.nrDataBlocks, (block) => this.#countOf(block));
    const shared = [...this.#shares].sort(([left], [right]) => left - right);
    const metadataMap = buildMetadataMap(this.#out, this.#nrBlocks, {
      shared,
      countOf: (blocknr) => this.#shares.get(blocknr) ?? 1,
    });
    if (this.#out.next > this.#nrBlocks) throw tooSmall(this.#name, this.#nrBlocks, this.#out.next);
    this.#out.flush();
    this.#io.flush();
    const roots = { detailsRoot, mappingRoot, dataMap, metadataMap };
    writeNewSuperblock(this.#io, { head: this.#head, nrBlocks: this.#nrBlocks, roots });
    this.#io.flush();
  }

  #mappingTree(): TreeBuilder {
    const tree = new TreeBuilder(this.#out, MAPPING_BYTES);
    tree.onShare = ({ blocknr }) => this.#shares.set(blocknr, this.#shares.get(blocknr)! + 1);
    tree.onCopy = (words) => {
      const values = valuesAt(words, 0);
      for (let index = 0; index < entriesOf(words, 0); index++) this.#count(dataBlockAt(words, values + index * 2), 1);
    };
    return tree;
  }

  #count(begin: number, length: number): void {
    const counts = this.#dataCounts;
    const end = begin + length;
    if (end > counts.length) {
      throw new StateError("EINVAL", `data block ${end - 1}: the pool has ${counts.length}`, {
        hint: "--nr-data-blocks gives it more",
      });
    }
    for (let block = begin; block < end; block++) {
      const before = counts[block]!;
      if (before < MAX_COUNTED) counts[block] = before + 1;
      else this.#largeCounts.set(block, (this.#largeCounts.get(block) ?? MAX_COUNTED) + 1);
    }
  }

  #countOf(block: number): number {
    const count = this.#dataCounts[block]!;
    return count < MAX_COUNTED ? count : (this.#largeCounts.get(block) ?? count);
  }

  /** Shared leaves that no device points at own nothing. */
  #dropUnowned(): void {
    if (this.#shares.size === 0 || this.#out.next > this.#nrBlocks) return;
    const tree = new TreeBuilder(this.#out, MAPPING_BYTES);
    for (const [blocknr, count] of this.#shares) {
      if (count > 0) continue;
      const words = tree.peek(blocknr);
      if (words === undefined) continue;
      const values = valuesAt(words, 0);
      for (let index = 0; index < entriesOf(words, 0); index++) this.#uncount(dataBlockAt(words, values + index * 2));
    }
  }

  #uncount(block: number): void {
    const count = this.#countOf(block);
    if (count > MAX_COUNTED) this.#largeCounts.set(block, count - 1);
    else this.#dataCounts[block] = count - 1;
  }
}

function dataBlockAt(words: Uint32Array, word: number): number {
  return words[word + 1]! * 256 + (words[word]! >>> 24);
}
