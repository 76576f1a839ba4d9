/**
 * A reader of the XML of thin_dump, byte by byte: a fixed grammar of few elements, whose attributes are numbers, but for
 * two names. A piece may end anywhere; what is not whole yet waits for the next. No strings are made on the way, and
 * nothing is kept: memory is one piece, however long the text is.
 */
import { StateError } from "../../../errors/index.js";

/** Elements of the grammar. */
export enum Tag {
  Superblock,
  Device,
  Single,
  Range,
  Def,
  Ref,
}

/** Attributes that are numbers, each with a place of its own. */
export enum Attribute {
  Time,
  Transaction,
  Flags,
  Version,
  DataBlockSize,
  NrDataBlocks,
  MetadataSnap,
  DevId,
  MappedBlocks,
  CreationTime,
  SnapTime,
  OriginBlock,
  DataBlock,
  OriginBegin,
  DataBegin,
  Length,
  /** uuid and the name of a def are text. */
  Uuid,
  Name,
}

const TAGS: Readonly<Record<string, Tag>> = {
  superblock: Tag.Superblock,
  device: Tag.Device,
  single_mapping: Tag.Single,
  range_mapping: Tag.Range,
  def: Tag.Def,
  ref: Tag.Ref,
};

const ATTRIBUTES: Readonly<Record<string, Attribute>> = {
  time: Attribute.Time,
  transaction: Attribute.Transaction,
  flags: Attribute.Flags,
  version: Attribute.Version,
  data_block_size: Attribute.DataBlockSize,
  nr_data_blocks: Attribute.NrDataBlocks,
  metadata_snap: Attribute.MetadataSnap,
  dev_id: Attribute.DevId,
  mapped_blocks: Attribute.MappedBlocks,
  creation_time: Attribute.CreationTime,
  snap_time: Attribute.SnapTime,
  origin_block: Attribute.OriginBlock,
  data_block: Attribute.DataBlock,
  origin_begin: Attribute.OriginBegin,
  data_begin: Attribute.DataBegin,
  length: Attribute.Length,
  uuid: Attribute.Uuid,
  name: Attribute.Name,
};

const FIRST_TEXT = Attribute.Uuid;
const NR_ATTRIBUTES = Attribute.Name + 1;
const LINE_FEED = 10;
const LOWER_THAN = 60;
const GREATER_THAN = 62;
const SLASH = 47;
const QUESTION = 63;
const EXCLAMATION = 33;
const EQUALS = 61;
const QUOTE = 34;
const APOSTROPHE = 39;
const MINUS = 45;
const DIGIT_0 = 48;
const SPACE = 32;
const UNDERSCORE = 95;
/** Longer than any element there is; what does not end by then is no element. */
const MAX_ELEMENT_BYTES = 65536;

export interface XmlHandler {
  /** `value(attribute)` tells what stands there; it throws where nothing does. */
  open(tag: Tag, reader: XmlReader): void;
  /** Of superblock, device and def; also when they are empty elements. */
  close(tag: Tag): void;
}

export class XmlReader {
  readonly #name: string;
  readonly #handler: XmlHandler;
  #bytes: Uint8Array = new Uint8Array(0);
  #pending: Uint8Array = new Uint8Array(0);
  readonly #values = new Float64Array(NR_ATTRIBUTES);
  readonly #given = new Uint8Array(NR_ATTRIBUTES);
  #text = "";
  #line = 1;
  #open: Tag[] = [];
  #tag = "";
  #isDone = false;

  /** @param name of the source, for messages */
  constructor(name: string, handler: XmlHandler) {
    this.#name = name;
    this.#handler = handler;
  }

  /** Takes a piece of the text. @throws StateError EINVAL with the line, for what is not in the grammar */
  feed(piece: Uint8Array): void {
    this.#bytes = piece;
    if (this.#pending.length > 0) {
      const joined = new Uint8Array(this.#pending.length + piece.length);
      joined.set(this.#pending);
      joined.set(piece, this.#pending.length);
      this.#bytes = joined;
    }
    const end = this.#parse();
    this.#pending = this.#bytes.slice(end);
    if (this.#pending.length > MAX_ELEMENT_BYTES) throw this.fail("an element does not end");
  }

  /** The text is over. @throws StateError EINVAL when something is still open */
  end(): void {
    if (this.#pending.some((byte) => byte > SPACE)) throw this.fail("the text ends within an element");
    if (!this.#isDone) {
      const open = this.#open.at(-1);
      throw this.fail(
        open === undefined ? "no superblock element" : `the text ends before </${Tag[open]!.toLowerCase()}>`,
      );
    }
  }

  has(attribute: Attribute): boolean {
    return this.#given[attribute] === 1;
  }

  /** Number of an attribute of the present element. @throws StateError EINVAL where it is missing */
  value(attribute: Attribute): number {
    if (this.#given[attribute] === 1) return this.#values[attribute]!;
    throw this.fail(`${this.#tag} has no ${nameOf(attribute)}`);
  }

  /** Of def and ref. */
  name(): string {
    if (this.#given[Attribute.Name] === 1) return this.#text;
    throw this.fail(`${this.#tag} has no name`);
  }

  /** For the handler's own complaints. */
  fail(what: string): StateError {
    return new StateError("EINVAL", `${this.#name}: line ${this.#line}: ${what}`, {
      hint: "this is no dump of thin_dump or udm metadata dump, or it is damaged or cut off",
    });
  }

  /** @returns index of the first byte that was not used */
  #parse(): number {
    const bytes = this.#bytes;
    const last = bytes.lastIndexOf(GREATER_THAN);
    let at = 0;
    while (at <= last) {
      const byte = bytes[at]!;
      if (byte === LINE_FEED) this.#line++;
      if (byte <= SPACE) {
        at++;
        continue;
      }
      if (byte !== LOWER_THAN) throw this.fail(`text between elements: '${String.fromCharCode(byte)}'`);
      const next = bytes[at + 1];
      if (next === QUESTION || next === EXCLAMATION) {
        const end = this.#skip(at, next === QUESTION ? QUESTION : MINUS);
        if (end < 0) return at;
        at = end;
      } else if (next === SLASH) at = this.#closing(at + 2);
      else at = this.#element(at + 1);
    }
    // White space is no begin of an element, however much of it there is.
    for (; at < bytes.length && bytes[at]! <= SPACE; at++) if (bytes[at] === LINE_FEED) this.#line++;
    return at;
  }

  /** Behind a declaration or comment; -1 when it is not whole. */
  #skip(at: number, mark: number): number {
    const bytes = this.#bytes;
    const line = this.#line;
    const isComment = mark === MINUS && bytes[at + 2] === MINUS && bytes[at + 3] === MINUS;
    for (let index = at + 2; index < bytes.length; index++) {
      if (bytes[index] === LINE_FEED) this.#line++;
      if (bytes[index] !== GREATER_THAN) continue;
      const ends = isComment
        ? bytes[index - 1] === MINUS && bytes[index - 2] === MINUS && index >= at + 6
        : mark === MINUS || bytes[index - 1] === QUESTION;
      if (ends) return index + 1;
    }
    this.#line = line;
    return -1;
  }

  #closing(at: number): number {
    const bytes = this.#bytes;
    let end = at;
    while (bytes[end]! !== GREATER_THAN) end++;
    const name = textOf(bytes, at, end).trim();
    const open = this.#open.pop();
    if (open === undefined || TAGS[name] !== open) throw this.fail(`</${name}> closes what is not open`);
    this.#close(open);
    return end + 1;
  }

  #close(tag: Tag): void {
    if (tag === Tag.Superblock) this.#isDone = true;
    if (tag === Tag.Superblock || tag === Tag.Device || tag === Tag.Def) this.#handler.close(tag);
  }

  #element(start: number): number {
    const bytes = this.#bytes;
    let at = start;
    while (isNameByte(bytes[at]!)) at++;
    const tag = this.#tagOf(start, at);
    this.#nest(tag);
    this.#given.fill(0);
    for (;;) {
      let byte = bytes[at]!;
      while (byte <= SPACE) {
        if (byte === LINE_FEED) this.#line++;
        byte = bytes[++at]!;
      }
      if (byte === GREATER_THAN || byte === SLASH) break;
      at = this.#attribute(at);
    }
    const isEmpty = bytes[at] === SLASH;
    if (isEmpty && bytes[at + 1] !== GREATER_THAN) throw this.fail("'/' without '>'");
    this.#handler.open(tag, this);
    if (isEmpty) this.#close(tag);
    else this.#open.push(tag);
    return at + (isEmpty ? 2 : 1);
  }

  /** The two that there are millions of are told by their first letter and length. */
  #tagOf(start: number, end: number): Tag {
    const bytes = this.#bytes;
    const length = end - start;
    if (length === 14 && bytes[start] === 115 && bytes[start + 6] === UNDERSCORE) {
      this.#tag = "single_mapping";
      return Tag.Single;
    }
    if (length === 13 && bytes[start] === 114 && bytes[start + 5] === UNDERSCORE) {
      this.#tag = "range_mapping";
      return Tag.Range;
    }
    const name = textOf(bytes, start, end);
    const tag = Object.hasOwn(TAGS, name) ? TAGS[name] : undefined;
    if (tag === undefined) throw this.fail(`unknown element '${name}'`);
    this.#tag = name;
    return tag;
  }

  #nest(tag: Tag): void {
    const parent = this.#open.at(-1);
    const isFit =
      tag === Tag.Superblock
        ? parent === undefined && !this.#isDone
        : tag === Tag.Device || tag === Tag.Def
          ? parent === Tag.Superblock
          : parent === Tag.Device || parent === Tag.Def;
    if (!isFit) throw this.fail(`${this.#tag} may not stand here`);
  }

  #attribute(start: number): number {
    const bytes = this.#bytes;
    let at = start;
    while (isNameByte(bytes[at]!)) at++;
    const attribute = this.#attributeOf(start, at);
    if (bytes[at] !== EQUALS) throw this.fail(`'${textOf(bytes, start, at)}' has no value`);
    const quote = bytes[++at]!;
    if (quote !== QUOTE && quote !== APOSTROPHE) throw this.fail("a value without quotes");
    at++;
    if (this.#given[attribute] === 1) throw this.fail(`${nameOf(attribute)} is given twice`);
    this.#given[attribute] = 1;
    if (attribute >= FIRST_TEXT) {
      const from = at;
      while (at < bytes.length && bytes[at] !== quote) at++;
      if (attribute === Attribute.Name) this.#text = textOf(bytes, from, at);
      return at + 1;
    }
    const from = at;
    let value = 0;
    for (let digit = bytes[at]! - DIGIT_0; digit >= 0 && digit <= 9; digit = bytes[++at]! - DIGIT_0) {
      value = value * 10 + digit;
    }
    if (bytes[at] !== quote || at === from) throw this.fail(`${nameOf(attribute)} is not a number`);
    if (value > Number.MAX_SAFE_INTEGER) throw this.fail(`${nameOf(attribute)} is above 2^53`);
    this.#values[attribute] = value;
    return at + 1;
  }

  /** Attributes of mappings without a string; the rest by name. */
  #attributeOf(start: number, end: number): Attribute {
    const bytes = this.#bytes;
    const last = bytes[end - 1];
    switch (end - start) {
      case 4:
        if (bytes[start] === 116 && last === 101) return Attribute.Time;
        break;
      case 6:
        if (bytes[start] === 108 && last === 104) return Attribute.Length;
        break;
      case 10:
        if (bytes[start + 4] !== UNDERSCORE) break;
        if (last === 107) return Attribute.DataBlock;
        if (last === 110) return Attribute.DataBegin;
        break;
      case 12:
        if (bytes[start + 6] !== UNDERSCORE || bytes[start] !== 111) break;
        if (last === 107) return Attribute.OriginBlock;
        if (last === 110) return Attribute.OriginBegin;
        break;
      default:
    }
    const name = textOf(bytes, start, end);
    const attribute = Object.hasOwn(ATTRIBUTES, name) ? ATTRIBUTES[name] : undefined;
    if (attribute === undefined) throw this.fail(`unknown attribute '${name}' of ${this.#tag}`);
    return attribute;
  }
}

function isNameByte(byte: number): boolean {
  return (byte >= 97 && byte <= 122) || byte === 95 || (byte >= 65 && byte <= 90) || (byte >= 48 && byte <= 57);
}

function textOf(bytes: Uint8Array, start: number, end: number): string {
  return String.fromCharCode(...bytes.subarray(start, Math.min(end, start + 100)));
}

function nameOf(attribute: Attribute): string {
  return Object.keys(ATTRIBUTES).find((name) => ATTRIBUTES[name] === attribute)!;
}
