/**
 * Copy-on-write for metadata blocks. A block of the last commit is never changed: whoever wants to change it gets a
 * shadow, a copy in a block that was free at the last commit. A block allocated in the running transaction ("fresh") that
 * has one owner is its own shadow.
 */
import { InvariantError, SpaceError } from "../errors/index.js";
import type { BlockManager, ReadBlock, WriteBlock } from "./block-manager.js";
import type { SpaceMap } from "./space-map.js";
import type { Validator } from "./validator.js";

/** What a shadow gave. `sharesChildren`: original and copy both point at the children now, count them once more. */
export interface Shadow {
  readonly block: WriteBlock;
  readonly sharesChildren: boolean;
}

export class TransactionManager {
  readonly #fresh = new Set<number>();
  #spaceMap: SpaceMap | undefined;

  constructor(readonly blocks: BlockManager) {}

  /** The space map of the metadata device itself; it stands on this transaction manager, so it comes second. */
  attach(spaceMap: SpaceMap): void {
    this.#spaceMap = spaceMap;
  }

  get spaceMap(): SpaceMap {
    if (this.#spaceMap === undefined) throw new InvariantError("transaction manager without space map");
    return this.#spaceMap;
  }

  read(blocknr: number, validator: Validator): ReadBlock {
    return this.blocks.read(blocknr, validator);
  }

  /** A new zeroed block. @throws SpaceError when the metadata device is full */
  newBlock(validator: Validator): WriteBlock {
    const blocknr = this.#allocate();
    const block = this.blocks.writeZeroed(blocknr, validator);
    this.#fresh.add(blocknr);
    return block;
  }

  /** The block itself when it is fresh and has one owner, else a copy; the owner must point at the result. */
  shadow(blocknr: number, validator: Validator): Shadow {
    const sharesChildren = this.spaceMap.isMoreThanOne(blocknr);
    if (!sharesChildren && this.#fresh.has(blocknr)) {
      return { block: this.blocks.write(blocknr, validator), sharesChildren };
    }
    const copyNr = this.#allocate();
    this.spaceMap.dec(blocknr, blocknr + 1);
    const original = this.blocks.read(blocknr, validator);
    const copy = this.blocks.writeZeroed(copyNr, validator);
    copy.bytes.set(original.bytes);
    this.#fresh.add(copyNr);
    return { block: copy, sharesChildren };
  }

  isShared(blocknr: number): boolean {
    return this.spaceMap.isMoreThanOne(blocknr);
  }

  inc(begin: number, end = begin + 1): void {
    this.spaceMap.inc(begin, end);
  }

  dec(begin: number, end = begin + 1): void {
    this.spaceMap.dec(begin, end);
  }

  #allocate(): number {
    const blocknr = this.spaceMap.allocate();
    if (blocknr !== undefined) return blocknr;
    throw new SpaceError("no free metadata block", {
      hint: "grow the metadata with 'udm pool resize NAME --metadata-size +SIZE'",
    });
  }

  /** The transaction is being committed: no block is fresh any more. */
  endTransaction(): void {
    this.#fresh.clear();
  }
}
