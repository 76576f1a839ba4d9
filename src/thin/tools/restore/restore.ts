/** Metadata from the XML of a dump, streamed: the text may be larger than memory. */
import { StateError } from "../../../errors/index.js";
import type { BlockDevice } from "../../../io/index.js";
import type { Pace } from "../pace.js";
import type { DetailsValues } from "../reader/devices.js";
import { MetadataBuilder } from "./metadata-builder.js";
import type { BuildHead } from "./pool-parts.js";
import type { SharedLeaf } from "./tree-builder.js";
import { Attribute, Tag, type XmlHandler, XmlReader } from "./xml-reader.js";

export interface RestoreOptions {
  /** What the text is called in messages. */
  readonly name: string;
  readonly text: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  /** Bytes of the text, for progress; 0 when not known. */
  readonly textBytes: number;
  /** The larger of these and the text's; the block size takes the place of the text's. */
  readonly overrides?: {
    readonly transactionId?: number;
    readonly dataBlockSectors?: number;
    readonly nrDataBlocks?: number;
  };
  readonly pace: Pace;
}

export interface Restored {
  readonly devices: number;
  readonly mappings: number;
  /** Metadata blocks in use. */
  readonly metadataBlocks: number;
  readonly head: BuildHead;
}

/** Bytes that are read between two looks at the clock. */
const SLICE_BYTES = 256 * 1024;

/**
 * Writes a pool's metadata over a device. The superblock is wiped first and written last; durable when it resolves.
 * @throws StateError EINVAL with the line, for what is no dump; SpaceError with the size wanted; IoError
 */
export async function restoreMetadata(
  device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">,
  options: RestoreOptions,
): Promise<Restored> {
  const { pace, text, textBytes } = options;
  const restore = new Restore(device, options);
  const reader = new XmlReader(options.name, restore);
  pace.total = textBytes;
  let done = 0;
  for await (const piece of text) {
    for (let at = 0; at < piece.length; at += SLICE_BYTES) {
      reader.feed(piece.subarray(at, at + SLICE_BYTES));
      await pace.rest(done + at);
    }
    done += piece.length;
  }
  reader.end();
  return restore.finish();
}

class Restore implements XmlHandler {
  readonly #device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">;
  readonly #options: RestoreOptions;
  readonly #shared = new Map<string, readonly SharedLeaf[]>();
  #builder: MetadataBuilder | undefined;
  #head: BuildHead | undefined;
  #current: (Omit<DetailsValues, "mappedBlocks"> & { readonly id: number }) | undefined;
  #defName = "";
  /** First virtual block that may come next. */
  #nextVirtual = 0;
  #nrDevices = 0;
  #nrMappings = 0;

  constructor(device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">, options: RestoreOptions) {
    this.#device = device;
    this.#options = options;
  }

  open(tag: Tag, reader: XmlReader): void {
    switch (tag) {
      case Tag.Single: {
        const block = reader.value(Attribute.OriginBlock);
        this.#run(reader, block, reader.value(Attribute.DataBlock), 1);
        return;
      }
      case Tag.Range: {
        const length = reader.value(Attribute.Length);
        if (length === 0) throw reader.fail("a range of no blocks");
        this.#run(reader, reader.value(Attribute.OriginBegin), reader.value(Attribute.DataBegin), length);
        return;
      }
      case Tag.Superblock:
        this.#superblock(reader);
        return;
      case Tag.Device:
        this.#current = {
          id: reader.value(Attribute.DevId),
          transactionId: reader.value(Attribute.Transaction),
          creationTime: time32(reader, Attribute.CreationTime),
          snapshottedTime: time32(reader, Attribute.SnapTime),
        };
        this.#nextVirtual = 0;
        this.#builder!.beginDevice();
        return;
      case Tag.Def:
        this.#defName = reader.name();
        if (this.#shared.has(this.#defName)) throw reader.fail(`def '${this.#defName}' is there twice`);
        this.#nextVirtual = 0;
        this.#shared.set(this.#defName, this.#builder!.beginShared());
        return;
      case Tag.Ref:
        this.#ref(reader);
        return;
    }
  }

  close(tag: Tag): void {
    if (tag === Tag.Def) {
      this.#builder!.endShared();
    } else if (tag === Tag.Device) {
      const { id, ...details } = this.#current!;
      this.#nrMappings += this.#builder!.endDevice(id, { ...details, mappedBlocks: 0 });
      this.#nrDevices++;
      this.#current = undefined;
    }
  }

  finish(): Restored {
    const builder = this.#builder!;
    builder.finish();
    return {
      devices: this.#nrDevices,
      mappings: this.#nrMappings,
      metadataBlocks: builder.nrMade,
      head: this.#head!,
    };
  }

  #superblock(reader: XmlReader): void {
    const { overrides = {} } = this.#options;
    const nrDataBlocks = reader.has(Attribute.NrDataBlocks) ? reader.value(Attribute.NrDataBlocks) : 0;
    this.#head = {
      time: reader.value(Attribute.Time),
      transactionId: Math.max(reader.value(Attribute.Transaction), overrides.transactionId ?? 0),
      dataBlockSectors: overrides.dataBlockSectors ?? reader.value(Attribute.DataBlockSize),
      nrDataBlocks: Math.max(nrDataBlocks, overrides.nrDataBlocks ?? 0),
    };
    this.#builder = new MetadataBuilder(this.#device, this.#head);
  }

  #run(reader: XmlReader, virtualBegin: number, dataBegin: number, length: number): void {
    if (virtualBegin < this.#nextVirtual) {
      throw reader.fail(`virtual block ${virtualBegin} stands behind block ${this.#nextVirtual - 1}: blocks go up`);
    }
    this.#nextVirtual = virtualBegin + length;
    if (this.#nextVirtual > Number.MAX_SAFE_INTEGER) throw reader.fail("a virtual block above 2^53");
    const time = reader.value(Attribute.Time);
    if (time > MAX_TIME) throw reader.fail(`time ${time}, wanted below ${MAX_TIME + 1}`);
    try {
      this.#builder!.run(virtualBegin, dataBegin, length, time);
    } catch (error) {
      if (error instanceof StateError && error.code === "EINVAL") throw withHint(reader.fail(error.message), error);
      throw error;
    }
  }

  #ref(reader: XmlReader): void {
    const name = reader.name();
    const leaves = this.#shared.get(name);
    if (leaves === undefined) throw reader.fail(`def '${name}' has not been seen`);
    if (this.#current === undefined) throw reader.fail("a ref outside a device");
    const [first] = leaves;
    if (first === undefined) return;
    if (first.firstKey < this.#nextVirtual) throw reader.fail(`def '${name}' begins before what stands before it`);
    this.#builder!.share(leaves);
    this.#nextVirtual = leaves.at(-1)!.firstKey + 1;
  }
}

const MAX_TIME = 2 ** 24 - 1;
const MAX_U32 = 2 ** 32 - 1;

function time32(reader: XmlReader, attribute: Attribute): number {
  const value = reader.value(attribute);
  if (value > MAX_U32) throw reader.fail("a time above 2^32");
  return value;
}

function withHint(failure: StateError, cause: StateError): StateError {
  return new StateError(failure.code, failure.message, {
    ...(cause.hint === undefined ? {} : { hint: cause.hint }),
    cause,
  });
}
