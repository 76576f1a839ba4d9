/**
 * In which blocks two thin devices differ, from their mappings alone: blocks that only one has, blocks that lie in the
 * same place, blocks that lie in different ones. Two trees are read side by side, each once.
 */
import { StateError } from "../../errors/index.js";
import { ascii, ByteWriter } from "./dump/byte-writer.js";
import type { Pace } from "./pace.js";
import type { BlockStore } from "./reader/block-store.js";
import { RunCursor } from "./reader/run-cursor.js";
import { damageError, soundDevices, soundSuperblock } from "./sound.js";

export type DeltaKind = "same" | "different" | "left_only" | "right_only";

export type DeltaFormat = "xml" | "verbose-xml" | "json";

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
const NOTHING = Number.POSITIVE_INFINITY;

/** Runs of one device whatever their times, from the front; `take` cuts off what is dealt with. */
class Side {
  begin = NOTHING;
  data = 0;
  length = 0;
  readonly #runs: RunCursor;
  #hasMore: boolean;

  constructor(runs: RunCursor) {
    this.#runs = runs;
    this.#hasMore = runs.next();
    this.#load();
  }

  take(count: number): void {
    this.begin += count;
    this.data += count;
    this.length -= count;
    if (this.length === 0) this.#load();
  }

  #load(): void {
    const runs = this.#runs;
    if (!this.#hasMore) {
      this.begin = NOTHING;
      return;
    }
    this.begin = runs.virtualBegin;
    this.data = runs.dataBegin;
    this.length = runs.length;
    // What differs in time only is one run to us.
    this.#hasMore = runs.next();
    while (
      this.#hasMore &&
      runs.virtualBegin === this.begin + this.length &&
      runs.dataBegin === this.data + this.length
    ) {
      this.length += runs.length;
      this.#hasMore = runs.next();
    }
  }
}

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
  const sideOf = (side: DeltaSide): Side => {
    const name = side.kind === "device" ? `device ${side.id}` : `tree ${side.block}`;
    return new Side(
      new RunCursor(store, rootOf(side), (damage) => {
        throw damageError(store, damage, name);
      }),
    );
  };
  const left = sideOf(options.left);
  const right = sideOf(options.right);
  const mappedOf = (side: DeltaSide) =>
    side.kind === "device" ? (devices.find(({ id }) => id === side.id)?.details?.mappedBlocks ?? 0) : 0;
  pace.total = (mappedOf(options.left) + mappedOf(options.right)) / MAPPINGS_PER_BLOCK;

  const out = new ByteWriter();
  const emit = emitterOf(options, out);
  const word = (side: DeltaSide) => (side.kind === "device" ? side.id : side.block);
  emit.begin({
    time: superblock.time,
    transactionId: superblock.transactionId,
    dataBlockSectors: superblock.dataBlockSectors,
    nrDataBlocks: superblock.dataMap.nrBlocks,
    heldRoot: superblock.heldRoot,
    left: word(options.left),
    right: word(options.right),
  });
  let done = 0;
  while (left.begin !== NOTHING || right.begin !== NOTHING) {
    const begin = Math.min(left.begin, right.begin);
    let count: number;
    if (left.begin !== right.begin) {
      const isLeft = left.begin < right.begin;
      const [first, second] = isLeft ? [left, right] : [right, left];
      count = Math.min(first.length, second.begin - begin);
      emit.run(isLeft ? "left_only" : "right_only", begin, count, first.data, first.data);
      first.take(count);
    } else {
      count = Math.min(left.length, right.length);
      emit.run(left.data === right.data ? "same" : "different", begin, count, left.data, right.data);
      left.take(count);
      right.take(count);
      done += count;
    }
    done += count;
    if (out.isFull) await options.write(out.take());
    if (pace.isDue) await pace.rest(done / MAPPINGS_PER_BLOCK);
  }
  emit.end();
  await options.write(out.take());
}

interface DeltaHead {
  readonly time: number;
  readonly transactionId: number;
  readonly dataBlockSectors: number;
  readonly nrDataBlocks: number;
  /** 0: none. */
  readonly heldRoot: number;
  readonly left: number;
  readonly right: number;
}

interface DeltaEmitter {
  begin(head: DeltaHead): void;
  run(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void;
  end(): void;
}

function emitterOf(options: DeltaOptions, out: ByteWriter): DeltaEmitter {
  switch (options.format) {
    case "xml":
      return new PlainEmitter(out);
    case "verbose-xml":
      return new VerboseEmitter(out);
    case "json":
      return new JsonEmitter(out, options.documentVersion);
  }
}

function xmlHead(out: ByteWriter, head: DeltaHead): void {
  const held = head.heldRoot === 0 ? "" : ` metadata_snap="${head.heldRoot}"`;
  out.text(
    `<superblock uuid="" time="${head.time}" transaction="${head.transactionId}" data_block_size="${head.dataBlockSectors}" nr_data_blocks="${head.nrDataBlocks}"${held}>\n  <diff left="${head.left}" right="${head.right}">\n`,
  );
}

/** Text around the numbers of a run, put together once: there may be a hundred million of them. */
const BEGIN = {
  same: ascii('    <same begin="'),
  different: ascii('    <different begin="'),
  left_only: ascii('    <left_only begin="'),
  right_only: ascii('    <right_only begin="'),
} as const;
const RANGE = ascii('      <range begin="');
const DATA = ascii('" data_begin="');
const LEFT_DATA = ascii('" left_data_begin="');
const RIGHT_DATA = ascii('" right_data_begin="');
const LENGTH = ascii('" length="');
const END = ascii('"/>\n');

const XML_END = "  </diff>\n</superblock>\n";

/** Stretches of one kind that touch are one, wherever they lie. */
class PlainEmitter implements DeltaEmitter {
  #kind: DeltaKind | undefined;
  #begin = 0;
  #length = 0;

  constructor(readonly out: ByteWriter) {}

  begin(head: DeltaHead): void {
    xmlHead(this.out, head);
  }

  run(kind: DeltaKind, begin: number, length: number): void {
    if (kind === this.#kind && begin === this.#begin + this.#length) {
      this.#length += length;
      return;
    }
    this.#flush();
    this.#kind = kind;
    this.#begin = begin;
    this.#length = length;
  }

  end(): void {
    this.#flush();
    this.out.text(XML_END);
  }

  #flush(): void {
    if (this.#kind === undefined) return;
    const { out } = this;
    out.put(BEGIN[this.#kind]);
    out.number(this.#begin);
    out.put(LENGTH);
    out.number(this.#length);
    out.put(END);
  }
}

class VerboseEmitter implements DeltaEmitter {
  #kind: DeltaKind | undefined;

  constructor(readonly out: ByteWriter) {}

  begin(head: DeltaHead): void {
    xmlHead(this.out, head);
  }

  run(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void {
    const { out } = this;
    if (kind !== this.#kind) {
      this.#close();
      out.text(`    <${kind}>\n`);
      this.#kind = kind;
    }
    out.put(RANGE);
    out.number(begin);
    if (kind === "different") {
      out.put(LEFT_DATA);
      out.number(leftData);
      out.put(RIGHT_DATA);
      out.number(rightData);
    } else {
      out.put(DATA);
      out.number(leftData);
    }
    out.put(LENGTH);
    out.number(length);
    out.put(END);
  }

  end(): void {
    this.#close();
    this.out.text(XML_END);
  }

  #close(): void {
    if (this.#kind !== undefined) this.out.text(`    </${this.#kind}>\n`);
  }
}

/** One document, a run a line. */
class JsonEmitter implements DeltaEmitter {
  #isFirst = true;

  constructor(
    readonly out: ByteWriter,
    readonly version: number | undefined,
  ) {}

  begin(head: DeltaHead): void {
    const { nrDataBlocks, dataBlockSectors, left, right } = head;
    this.out.text(this.version === undefined ? "{" : `{"version":${this.version},`);
    this.out.text(`"delta":{"left":${left},"right":${right},`);
    this.out.text(`"dataBlockSectors":${dataBlockSectors},"dataBlocks":${nrDataBlocks},"runs":[`);
  }

  run(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void {
    this.out.text(this.#isFirst ? "\n" : ",\n");
    this.#isFirst = false;
    const places =
      kind === "different"
        ? `"leftDataBlock":${leftData},"rightDataBlock":${rightData}`
        : `"dataBlock":${kind === "right_only" ? rightData : leftData}`;
    this.out.text(`{"kind":"${kind.replace("_", "-")}","virtualBlock":${begin},"count":${length},${places}}`);
  }

  end(): void {
    this.out.text("\n]}}\n");
  }
}
