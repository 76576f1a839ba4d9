/**
 * Shrinking by way of the XML of a dump, as thin_shrink does it: the text is read once to learn which data blocks are in
 * use, data is copied, and the text is read again and written with the blocks' new places. The pool the text was dumped
 * from stays as it is, until the new text is restored over its metadata.
 */
import type { BlockDevice } from "../../../io/index.js";
import { SECTOR_BYTES } from "../../../units/index.js";
import { ByteWriter } from "../dump/byte-writer.js";
import { type Emitter, emitterFor } from "../dump/emitter.js";
import type { Pace } from "../pace.js";
import { Attribute, Tag, type XmlHandler, XmlReader } from "../restore/xml-reader.js";
import { BitRank } from "./bit-rank.js";
import { copyBlocks } from "./copy.js";
import { interrupted } from "./interrupted.js";
import { refuseSize, relocate, type ShrinkFigures } from "./plan.js";
import type { Relocation } from "./relocation.js";
import { refuseShortData } from "./shrink.js";

/** Bytes that are read between two looks at the clock. */
const SLICE_BYTES = 256 * 1024;
const FORMAT_VERSION = 2;

export interface ShrinkXmlOptions {
  /** What the text is called in messages. */
  readonly name: string;
  /** The text from its begin, each time anew. */
  readonly open: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  readonly textBytes: number;
  readonly blocksAfter: number;
  /** Undefined: nothing is copied. */
  readonly data: BlockDevice | undefined;
  /** Only the figures are wanted: nothing is copied or written. */
  readonly isDryRun?: boolean;
  readonly write: (piece: Uint8Array) => void | Promise<void>;
  readonly pace: Pace;
}

/**
 * The copies are durable before the first piece is written.
 * @throws StateError EINVAL with the line, for what is no dump; SpaceError with figures; UdmError EINTR; IoError
 */
export async function shrinkXml(options: ShrinkXmlOptions): Promise<ShrinkFigures> {
  const { data, name, pace } = options;
  const survey = new Survey(name, options.blocksAfter);
  await readThrough(options, survey);
  const plan = survey.plan();
  refuseShortData(plan, data);
  if (options.isDryRun === true) return plan.figures;
  const { relocation, figures } = plan;
  if (data !== undefined && relocation.count > 0) {
    pace.base = 0;
    pace.total = figures.bytesToMove;
    const { limit, end } = relocation;
    const { blockBytes } = figures;
    const copied = await copyBlocks(data, relocation, { begin: limit, end, blockBytes, pace, done: 0 });
    if (copied < end) throw interrupted("interrupted: nothing was changed but free data blocks");
    await data.flush();
  }
  const rewrite = new Rewrite(relocation);
  await readThrough(options, rewrite, async () => {
    for (const piece of rewrite.pieces.splice(0)) await options.write(piece);
  });
  await options.write(rewrite.out.take());
  return figures;
}

async function readThrough(
  { name, open, textBytes, pace }: ShrinkXmlOptions,
  handler: XmlHandler,
  drain: () => Promise<void> = async () => undefined,
): Promise<void> {
  const reader = new XmlReader(name, handler);
  pace.base = 0;
  pace.total = textBytes;
  let done = 0;
  for await (const piece of open()) {
    for (let at = 0; at < piece.length; at += SLICE_BYTES) {
      reader.feed(piece.subarray(at, at + SLICE_BYTES));
      await drain();
      await pace.rest(done + at);
    }
    done += piece.length;
  }
  reader.end();
  await drain();
}

/** Which data blocks are in use. */
class Survey implements XmlHandler {
  readonly #name: string;
  readonly #blocksAfter: number;
  #blocksBefore = 0;
  #blockBytes = 0;
  #used = new BitRank(0);

  constructor(name: string, blocksAfter: number) {
    this.#name = name;
    this.#blocksAfter = blocksAfter;
  }

  open(tag: Tag, reader: XmlReader): void {
    switch (tag) {
      case Tag.Superblock:
        this.#blocksBefore = reader.value(Attribute.NrDataBlocks);
        this.#blockBytes = reader.value(Attribute.DataBlockSize) * SECTOR_BYTES;
        if (this.#blockBytes === 0) throw reader.fail("data blocks of no size");
        refuseSize(this.#name, this.#blocksBefore, this.#blocksAfter);
        this.#used = new BitRank(this.#blocksBefore);
        return;
      case Tag.Single:
        this.#add(reader, reader.value(Attribute.DataBlock), 1);
        return;
      case Tag.Range:
        this.#add(reader, reader.value(Attribute.DataBegin), reader.value(Attribute.Length));
        return;
      case Tag.Device:
      case Tag.Def:
      case Tag.Ref:
        return;
    }
  }

  close(): void {}

  #add(reader: XmlReader, begin: number, length: number): void {
    const end = begin + length;
    if (end > this.#blocksBefore) {
      throw reader.fail(`data block ${end - 1}, the pool has ${this.#blocksBefore}`);
    }
    for (let block = begin; block < end; block++) this.#used.add(block);
  }

  plan(): ReturnType<typeof relocate> {
    const used = this.#used;
    const before = this.#blocksBefore;
    const after = this.#blocksAfter;
    const sources = new BitRank(before - after);
    const targets = new BitRank(after);
    let usedBlocks = 0;
    let freeBelow = 0;
    for (let begin = used.nextIn(0, before); begin < before; ) {
      const end = used.nextOut(begin, before);
      usedBlocks += end - begin;
      for (let block = Math.max(begin, after); block < end; block++) sources.add(block - after);
      begin = used.nextIn(end, before);
    }
    for (let begin = used.nextOut(0, after); begin < after; ) {
      const end = used.nextIn(begin, after);
      freeBelow += end - begin;
      for (let block = begin; block < end; block++) targets.add(block);
      begin = used.nextOut(end, after);
    }
    return relocate(this.#name, { sources, targets, blockBytes: this.#blockBytes, usedBlocks, freeBelow });
  }
}

/** The same text with other data blocks. */
class Rewrite implements XmlHandler {
  /** Full ones, to be written. */
  readonly pieces: Uint8Array[] = [];
  readonly out = new ByteWriter();
  readonly #emitter: Emitter = emitterFor("xml", this.out);
  readonly #relocation: Relocation;

  constructor(relocation: Relocation) {
    this.#relocation = relocation;
  }

  open(tag: Tag, reader: XmlReader): void {
    const value = (attribute: Attribute) => reader.value(attribute);
    const orElse = (attribute: Attribute, other: number) => (reader.has(attribute) ? value(attribute) : other);
    switch (tag) {
      case Tag.Superblock:
        this.#emitter.superblock({
          time: value(Attribute.Time),
          transactionId: value(Attribute.Transaction),
          flags: orElse(Attribute.Flags, 0),
          version: orElse(Attribute.Version, FORMAT_VERSION),
          dataBlockSectors: value(Attribute.DataBlockSize),
          nrDataBlocks: this.#relocation.limit,
        });
        return;
      case Tag.Device:
        this.#emitter.device(value(Attribute.DevId), {
          mappedBlocks: value(Attribute.MappedBlocks),
          transactionId: value(Attribute.Transaction),
          creationTime: value(Attribute.CreationTime),
          snapshottedTime: value(Attribute.SnapTime),
        });
        return;
      case Tag.Def:
        this.out.text(`  <def name="${reader.name()}">\n`);
        return;
      case Tag.Ref:
        this.out.text(`    <ref name="${reader.name()}"/>\n`);
        return;
      case Tag.Single:
        this.#run(value(Attribute.OriginBlock), value(Attribute.DataBlock), 1, value(Attribute.Time));
        return;
      case Tag.Range:
        this.#run(
          value(Attribute.OriginBegin),
          value(Attribute.DataBegin),
          value(Attribute.Length),
          value(Attribute.Time),
        );
        return;
    }
  }

  close(tag: Tag): void {
    if (tag === Tag.Device) this.#emitter.endDevice();
    else if (tag === Tag.Def) this.out.text("  </def>\n");
    else if (tag === Tag.Superblock) this.#emitter.end();
  }

  #run(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    const relocation = this.#relocation;
    for (let done = 0; done < length; ) {
      const block = dataBegin + done;
      const count = relocation.lengthFrom(block, length - done);
      const place = block < relocation.limit ? block : relocation.target(block);
      this.#emitter.run(virtualBegin + done, place, count, time);
      done += count;
      if (this.out.isFull) this.pieces.push(this.out.take());
    }
  }
}
