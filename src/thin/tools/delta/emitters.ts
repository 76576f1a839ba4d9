/** Differences of two devices as text: the XML of thin_delta, with places or without, and JSON. */
import { ascii, type ByteWriter } from "../dump/byte-writer.js";

export type DeltaKind = "same" | "different" | "left_only" | "right_only";

export type DeltaFormat = "xml" | "verbose-xml" | "json";

export interface DeltaHead {
  readonly time: number;
  readonly transactionId: number;
  readonly dataBlockSectors: number;
  readonly nrDataBlocks: number;
  /** 0: none. */
  readonly heldRoot: number;
  readonly left: number;
  readonly right: number;
}

/** Stretches of one kind that go on are one. */
export abstract class DeltaEmitter {
  /** Whether it matters where stretches lie. */
  abstract readonly needsData: boolean;
  #kind: DeltaKind | undefined;
  #begin = 0;
  #length = 0;
  #leftData = 0;
  #rightData = 0;

  constructor(protected readonly out: ByteWriter) {}

  abstract begin(head: DeltaHead): void;
  protected abstract put(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void;
  protected abstract finish(): void;

  /** Both places are the same where only one device has the blocks. */
  run(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void {
    const before = this.#length;
    if (
      kind === this.#kind &&
      begin === this.#begin + before &&
      (!this.needsData || (leftData === this.#leftData + before && rightData === this.#rightData + before))
    ) {
      this.#length += length;
      return;
    }
    this.#flush();
    this.#kind = kind;
    this.#begin = begin;
    this.#length = length;
    this.#leftData = leftData;
    this.#rightData = rightData;
  }

  end(): void {
    this.#flush();
    this.finish();
  }

  #flush(): void {
    if (this.#kind !== undefined) this.put(this.#kind, this.#begin, this.#length, this.#leftData, this.#rightData);
  }
}

export function deltaEmitterOf(format: DeltaFormat, out: ByteWriter, documentVersion?: number): DeltaEmitter {
  switch (format) {
    case "xml":
      return new PlainEmitter(out);
    case "verbose-xml":
      return new VerboseEmitter(out);
    case "json":
      return new JsonEmitter(out, documentVersion);
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

/** Where the blocks lie does not count. */
class PlainEmitter extends DeltaEmitter {
  readonly needsData = false;

  begin(head: DeltaHead): void {
    xmlHead(this.out, head);
  }

  protected put(kind: DeltaKind, begin: number, length: number): void {
    const { out } = this;
    out.put(BEGIN[kind]);
    out.number(begin);
    out.put(LENGTH);
    out.number(length);
    out.put(END);
  }

  protected finish(): void {
    this.out.text(XML_END);
  }
}

class VerboseEmitter extends DeltaEmitter {
  readonly needsData = true;
  #kind: DeltaKind | undefined;

  begin(head: DeltaHead): void {
    xmlHead(this.out, head);
  }

  protected put(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void {
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

  protected finish(): void {
    this.#close();
    this.out.text(XML_END);
  }

  #close(): void {
    if (this.#kind !== undefined) this.out.text(`    </${this.#kind}>\n`);
  }
}

/** One document, a run a line. */
class JsonEmitter extends DeltaEmitter {
  readonly needsData = true;
  readonly #version: number | undefined;
  #isFirst = true;

  constructor(out: ByteWriter, version: number | undefined) {
    super(out);
    this.#version = version;
  }

  begin(head: DeltaHead): void {
    const { nrDataBlocks, dataBlockSectors, left, right } = head;
    this.out.text(this.#version === undefined ? "{" : `{"version":${this.#version},`);
    this.out.text(`"delta":{"left":${left},"right":${right},`);
    this.out.text(`"dataBlockSectors":${dataBlockSectors},"dataBlocks":${nrDataBlocks},"runs":[`);
  }

  protected put(kind: DeltaKind, begin: number, length: number, leftData: number, rightData: number): void {
    this.out.text(this.#isFirst ? "\n" : ",\n");
    this.#isFirst = false;
    const places =
      kind === "different"
        ? `"leftDataBlock":${leftData},"rightDataBlock":${rightData}`
        : `"dataBlock":${kind === "right_only" ? rightData : leftData}`;
    this.out.text(`{"kind":"${kind.replace("_", "-")}","virtualBlock":${begin},"count":${length},${places}}`);
  }

  protected finish(): void {
    this.out.text("\n]}}\n");
  }
}
