/**
 * Forms of a dump. Each gets the superblock, then each device with its runs in order. XML and the readable form are those
 * of thin_dump; JSON is one value a line.
 */
import type { DetailsValues } from "../reader/devices.js";
import { ascii, type ByteWriter } from "./byte-writer.js";

export const DUMP_FORMATS = ["xml", "human_readable", "json"] as const;
export type DumpFormat = (typeof DUMP_FORMATS)[number];

/** What a dump says of the pool. */
export interface DumpHead {
  readonly time: number;
  readonly transactionId: number;
  readonly flags: number;
  readonly version: number;
  readonly dataBlockSectors: number;
  readonly nrDataBlocks: number;
}

export interface Emitter {
  superblock(head: DumpHead): void;
  device(id: number, details: DetailsValues): void;
  run(virtualBegin: number, dataBegin: number, length: number, time: number): void;
  endDevice(): void;
  end(): void;
}

export function emitterFor(format: DumpFormat, out: ByteWriter): Emitter {
  switch (format) {
    case "xml":
      return new XmlEmitter(out);
    case "human_readable":
      return new ReadableEmitter(out);
    case "json":
      return new JsonEmitter(out);
  }
}

const XML = {
  single: ascii('    <single_mapping origin_block="'),
  singleData: ascii('" data_block="'),
  range: ascii('    <range_mapping origin_begin="'),
  rangeData: ascii('" data_begin="'),
  length: ascii('" length="'),
  time: ascii('" time="'),
  end: ascii('"/>\n'),
};

class XmlEmitter implements Emitter {
  constructor(readonly out: ByteWriter) {}

  superblock(head: DumpHead): void {
    this.out.text(
      `<superblock uuid="" time="${head.time}" transaction="${head.transactionId}" flags="${head.flags}" version="${head.version}" data_block_size="${head.dataBlockSectors}" nr_data_blocks="${head.nrDataBlocks}">\n`,
    );
  }

  device(id: number, details: DetailsValues): void {
    this.out.text(
      `  <device dev_id="${id}" mapped_blocks="${details.mappedBlocks}" transaction="${details.transactionId}" creation_time="${details.creationTime}" snap_time="${details.snapshottedTime}">\n`,
    );
  }

  run(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    const { out } = this;
    if (length === 1) {
      out.put(XML.single);
      out.number(virtualBegin);
      out.put(XML.singleData);
      out.number(dataBegin);
    } else {
      out.put(XML.range);
      out.number(virtualBegin);
      out.put(XML.rangeData);
      out.number(dataBegin);
      out.put(XML.length);
      out.number(length);
    }
    out.put(XML.time);
    out.number(time);
    out.put(XML.end);
  }

  endDevice(): void {
    this.out.text("  </device>\n");
  }

  end(): void {
    this.out.text("</superblock>\n");
  }
}

const READABLE = {
  indent: ascii("    "),
  arrow: ascii(" -> "),
  comma: ascii(", "),
  begin: ascii("    ("),
  to: ascii(".."),
  data: ascii(") -> ("),
  time: ascii("), "),
  end: ascii("\n"),
};

class ReadableEmitter implements Emitter {
  constructor(readonly out: ByteWriter) {}

  superblock(head: DumpHead): void {
    const { time, transactionId, flags, version, dataBlockSectors, nrDataBlocks } = head;
    const numbers = [time, transactionId, flags, version, dataBlockSectors, nrDataBlocks].join(", ");
    this.out.text(`begin superblock: "", ${numbers}\n`);
  }

  device(id: number, details: DetailsValues): void {
    this.out.text(
      `device: ${id}\nmapped_blocks: ${details.mappedBlocks}\ntransaction: ${details.transactionId}\ncreation time: ${details.creationTime}\nsnap time: ${details.snapshottedTime}\n`,
    );
  }

  run(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    const { out } = this;
    if (length === 1) {
      out.put(READABLE.indent);
      out.number(virtualBegin);
      out.put(READABLE.arrow);
      out.number(dataBegin);
      out.put(READABLE.comma);
      out.number(time);
      out.put(READABLE.end);
      return;
    }
    out.put(READABLE.begin);
    out.number(virtualBegin);
    out.put(READABLE.to);
    out.number(virtualBegin + length - 1);
    out.put(READABLE.data);
    out.number(dataBegin);
    out.put(READABLE.to);
    out.number(dataBegin + length - 1);
    out.put(READABLE.time);
    out.number(time);
    out.put(READABLE.end);
  }

  endDevice(): void {
    this.out.text("\n");
  }

  end(): void {
    this.out.text("end superblock\n");
  }
}

const JSON_RUN = { begin: ascii('{"map":['), comma: ascii(","), end: ascii("]}\n") };

class JsonEmitter implements Emitter {
  constructor(readonly out: ByteWriter) {}

  superblock(head: DumpHead): void {
    this.out.text(`${JSON.stringify({ superblock: head })}\n`);
  }

  device(id: number, details: DetailsValues): void {
    this.out.text(`${JSON.stringify({ device: { id, ...details } })}\n`);
  }

  run(virtualBegin: number, dataBegin: number, length: number, time: number): void {
    const { out } = this;
    out.put(JSON_RUN.begin);
    out.number(virtualBegin);
    out.put(JSON_RUN.comma);
    out.number(dataBegin);
    out.put(JSON_RUN.comma);
    out.number(length);
    out.put(JSON_RUN.comma);
    out.number(time);
    out.put(JSON_RUN.end);
  }

  endDevice(): void {}

  end(): void {}
}
