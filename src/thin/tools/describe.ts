/**
 * One metadata block taken apart for a person to read, sound or damaged: what it is, what is wrong with it, its fields, its
 * entries, and which block each of them leads to. What a leaf holds is not said in the leaf: it follows from the way there.
 */
import { INDEX_ENTRY, NODE_HEADER, SPACE_MAP_ROOT } from "../../persistent-data/index.js";
import { FLAG_NEEDS_CHECK, SUPERBLOCK, SUPERBLOCK_LOCATION, THIN_MAGIC } from "../superblock.js";
import { problemText } from "./problem-text.js";
import { BLOCK_WORDS, BlockBuffer, type BlockStore, checkHead, checksumAs } from "./reader/block-store.js";
import { DETAILS_BYTES, detailsAt } from "./reader/devices.js";
import {
  capacityOf,
  checkNode,
  entriesOf,
  isLeafNode,
  KEYS,
  nodeValueSize,
  numberAt,
  valuesAt,
} from "./reader/node.js";
import { KIND_NAME, Kind, Problem } from "./reader/problems.js";
import { COUNT_BYTES, ENTRIES_PER_BITMAP, INDEX_ENTRY_BYTES } from "./reader/space-map.js";

/** What a block is to who points at it. */
export type Role =
  | { readonly kind: "superblock" | "snapshot" | "devices" | "details" }
  | { readonly kind: "mappings"; readonly device: number }
  | { readonly kind: "index" | "counts"; readonly map: "data" | "metadata" }
  | { readonly kind: "bitmap"; readonly map: "data" | "metadata"; readonly bitmap: number };

export interface DescribedEntry {
  /** What it is found by: a field's name, a key, a range of blocks. */
  readonly label: string;
  readonly text: string;
  /** The block it leads to. */
  readonly target?: { readonly block: number; readonly role: Role | undefined };
}

export interface DescribedBlock {
  readonly block: number;
  readonly kind: "superblock" | "internal node" | "leaf" | "bitmap" | "index block" | "empty" | "unknown";
  readonly title: string;
  readonly problems: readonly string[];
  readonly fields: readonly DescribedEntry[];
  readonly entries: readonly DescribedEntry[];
  readonly bytes: Uint8Array;
}

const KINDS: readonly Kind[] = [Kind.Superblock, Kind.Node, Kind.Bitmap, Kind.Index];
const BITMAP_HEADER_WORDS = 4;
const TWO_32 = 4294967296;

/** @param role undefined: what it holds is guessed. @returns undefined when there is no such block */
export function describeBlock(store: BlockStore, block: number, role: Role | undefined): DescribedBlock | undefined {
  if (!store.isInside(block)) return undefined;
  const buffer = new BlockBuffer(1);
  if (!store.loadOne(block, buffer)) {
    const nothing = { kind: "unknown", fields: [], entries: [], bytes: buffer.bytes } as const;
    return { block, ...nothing, title: titleOf("unreadable", role), problems: ["the device cannot read it"] };
  }
  const { words } = buffer;
  const problems: string[] = [];
  const wanted = role === undefined ? undefined : kindOfRole(role);
  const isEmpty = words.every((word) => word === 0);
  if (isEmpty && (wanted === undefined || wanted === Kind.Node)) {
    const title = titleOf("empty", role);
    const empty = role === undefined ? [] : ["it holds nothing but zeros"];
    return { block, kind: "empty", title, problems: empty, fields: [], entries: [], bytes: buffer.bytes };
  }
  const sealed = KINDS.find((kind) => checksumAs(kind, buffer) === words[0]);
  const kind = sealed ?? wanted ?? guess(block, words);
  if (kind === undefined) {
    const unknown = { kind: "unknown", fields: [], entries: [], bytes: buffer.bytes } as const;
    return { block, ...unknown, title: titleOf("no metadata", role), problems: [] };
  }
  if (wanted !== undefined && kind !== wanted) {
    problems.push(`it is a sound ${KIND_NAME[kind]}, wanted a ${KIND_NAME[wanted]}`);
  }
  const head = checkHead(block, kind, words, 0, buffer.view);
  if (head !== Problem.None) problems.push(textOf(store, block, head, kind));
  const decoded = decode(kind, words, { role: kind === wanted ? role : undefined, problems, store, block });
  return { block, ...decoded, problems, bytes: buffer.bytes };
}

interface Surroundings {
  readonly role: Role | undefined;
  readonly problems: string[];
  readonly store: BlockStore;
  readonly block: number;
}

type Decoded = Pick<DescribedBlock, "kind" | "title" | "fields" | "entries">;

function decode(kind: Kind, words: Uint32Array, around: Surroundings): Decoded {
  switch (kind) {
    case Kind.Superblock:
      return superblock(words, around);
    case Kind.Node:
      return node(words, around);
    case Kind.Bitmap:
      return bitmap(words, around);
    case Kind.Index:
      return indexBlock(words, around);
  }
}

/** `checksum 0x1c, wanted 0x2f` without the block, which stands above. */
function textOf(store: BlockStore, block: number, problem: Problem, kind: Kind): string {
  return problemText(store, block, problem, kind).replace(/^metadata block \S+ \([^)]*\): /, "");
}

function kindOfRole(role: Role): Kind {
  switch (role.kind) {
    case "superblock":
    case "snapshot":
      return Kind.Superblock;
    case "bitmap":
      return Kind.Bitmap;
    case "index":
      return role.map === "metadata" ? Kind.Index : Kind.Node;
    case "devices":
    case "details":
    case "mappings":
    case "counts":
      return Kind.Node;
  }
}

function guess(block: number, words: Uint32Array): Kind | undefined {
  const magic = SUPERBLOCK.fields.magic.offset / 4;
  if (block === SUPERBLOCK_LOCATION || (words[magic] === THIN_MAGIC && words[magic + 1] === 0)) return Kind.Superblock;
  const isNode = checkNode(words, 0, nodeValueSize(words, 0));
  const isLike = isNode === Problem.None || isNode === Problem.KeyOrder || isNode === Problem.Entries;
  return isLike ? Kind.Node : undefined;
}

function titleOf(what: string, role: Role | undefined): string {
  if (role === undefined) return what;
  switch (role.kind) {
    case "superblock":
      return what;
    case "snapshot":
      return `${what}, metadata snapshot`;
    case "devices":
      return `${what}, tree of devices`;
    case "details":
      return `${what}, device details`;
    case "mappings":
      return `${what}, mappings of device ${role.device}`;
    case "index":
      return `${what}, ${role.map} space map`;
    case "counts":
      return `${what}, larger counts of the ${role.map} space map`;
    case "bitmap":
      return `${what} ${role.bitmap} of the ${role.map} space map`;
  }
}

/** A u64; what does not fit a number in hexadecimal. */
function u64(words: Uint32Array, word: number): string {
  const value = numberAt(words, word);
  if (Number.isFinite(value)) return String(value);
  return `0x${words[word + 1]!.toString(16)}${words[word]!.toString(16).padStart(8, "0")}`;
}

const hex = (value: number) => `0x${value.toString(16).padStart(8, "0")}`;

// Superblock

function superblock(words: Uint32Array, { role, problems }: Surroundings): Decoded {
  const { fields } = SUPERBLOCK;
  const u32 = (field: keyof typeof fields) => words[fields[field].offset / 4]!;
  const plain = (field: keyof typeof fields): DescribedEntry => ({
    label: field,
    text: fields[field].size === 8 ? u64(words, fields[field].offset / 4) : String(u32(field)),
  });
  const root = (field: keyof typeof fields, kind: "devices" | "details" | "snapshot"): DescribedEntry => ({
    ...plain(field),
    ...leadsTo(numberAt(words, fields[field].offset / 4), { kind }),
  });
  if (u32("magic") !== THIN_MAGIC || words[fields.magic.offset / 4 + 1] !== 0) {
    problems.push(`magic ${u64(words, fields.magic.offset / 4)}, wanted ${THIN_MAGIC}`);
  }
  const flags = u32("flags");
  const uuid = Buffer.from(words.buffer, words.byteOffset + fields.uuid.offset, fields.uuid.size).toString("hex");
  const isSnapshot = role?.kind === "snapshot";
  const list: DescribedEntry[] = [
    { label: "csum", text: hex(u32("csum")) },
    { label: "flags", text: `${flags}${(flags & FLAG_NEEDS_CHECK) === 0 ? "" : ", needs_check"}` },
    plain("blocknr"),
    { label: "uuid", text: uuid },
    plain("magic"),
    plain("version"),
    plain("time"),
    plain("transId"),
    root("heldRoot", "snapshot"),
    ...mapRoot(words, "data"),
    ...mapRoot(words, "metadata"),
    root("dataMappingRoot", "devices"),
    root("deviceDetailsRoot", "details"),
    plain("dataBlockSize"),
    plain("metadataBlockSize"),
    plain("metadataNrBlocks"),
    ...(["compatFlags", "compatRoFlags", "incompatFlags"] as const).map((field) => ({
      label: field,
      text: hex(u32(field)),
    })),
  ];
  const title = isSnapshot ? "superblock, metadata snapshot" : "superblock";
  return { kind: "superblock", title, fields: list, entries: [] };
}

function mapRoot(words: Uint32Array, map: "data" | "metadata"): readonly DescribedEntry[] {
  const begin = SUPERBLOCK.fields[map === "data" ? "dataSpaceMapRoot" : "metadataSpaceMapRoot"].offset;
  const at = (field: keyof typeof SPACE_MAP_ROOT.fields) => (begin + SPACE_MAP_ROOT.fields[field].offset) / 4;
  const entry = (field: keyof typeof SPACE_MAP_ROOT.fields, role?: Role): DescribedEntry => ({
    label: `${map}.${field}`,
    text: u64(words, at(field)),
    ...(role === undefined ? {} : leadsTo(numberAt(words, at(field)), role)),
  });
  return [
    entry("nrBlocks"),
    entry("nrAllocated"),
    entry("bitmapRoot", { kind: "index", map }),
    entry("refCountRoot", { kind: "counts", map }),
  ];
}

/** Block 0 is nobody's child. */
function leadsTo(block: number, role: Role | undefined): Pick<DescribedEntry, "target"> | undefined {
  return block === 0 || !Number.isFinite(block) ? undefined : { target: { block, role } };
}

// Nodes

function node(words: Uint32Array, { role, problems, store, block }: Surroundings): Decoded {
  const size = nodeValueSize(words, 0);
  const isLeaf = isLeafNode(words, 0);
  const wantedSize = isLeaf && role !== undefined ? valueBytes(role) : size;
  const problem = checkNode(words, 0, wantedSize ?? size);
  if (problem !== Problem.None) problems.push(textOf(store, block, problem, Kind.Node));
  const nr = entriesOf(words, 0);
  const max = capacityOf(words, 0);
  const { fields } = NODE_HEADER;
  const header: DescribedEntry[] = [
    { label: "csum", text: hex(words[0]!) },
    { label: "flags", text: `${words[fields.flags.offset / 4]}` },
    { label: "blocknr", text: u64(words, fields.blocknr.offset / 4) },
    { label: "nrEntries", text: String(nr) },
    { label: "maxEntries", text: String(max) },
    { label: "valueSize", text: String(size) },
  ];
  const kind = isLeaf ? "leaf" : "internal node";
  const title = `${titleOf(kind, role)}, ${nr} of ${max} entries`;
  const bytes = isLeaf ? size : 8;
  const room = Math.floor((BLOCK_WORDS - KEYS) / 2);
  const entries: DescribedEntry[] = [];
  for (let entry = 0; entry < Math.min(nr, max, room); entry++) {
    const value = valuesAt(words, 0) + (entry * bytes) / 4;
    const key = u64(words, KEYS + entry * 2);
    if (value + bytes / 4 > BLOCK_WORDS) entries.push({ label: key, text: "its value would lie behind the block" });
    else if (!isLeaf) {
      entries.push({ label: `from ${key}`, text: u64(words, value), ...leadsTo(numberAt(words, value), role) });
    } else
      entries.push({ label: key, ...leafValue(words, value, { size, role, key: numberAt(words, KEYS + entry * 2) }) });
  }
  return { kind, title, fields: header, entries };
}

function valueBytes(role: Role): number | undefined {
  switch (role.kind) {
    case "devices":
    case "mappings":
      return 8;
    case "details":
      return DETAILS_BYTES;
    case "index":
      return INDEX_ENTRY_BYTES;
    case "counts":
      return COUNT_BYTES;
    case "superblock":
    case "snapshot":
    case "bitmap":
      return undefined;
  }
}

function leafValue(
  words: Uint32Array,
  at: number,
  { size, role, key }: { readonly size: number; readonly role: Role | undefined; readonly key: number },
): Omit<DescribedEntry, "label"> {
  if (size === COUNT_BYTES) return { text: `count ${words[at]}` };
  if (size === DETAILS_BYTES) {
    const { mappedBlocks, transactionId, creationTime, snapshottedTime } = detailsAt(words, at);
    return {
      text: `mapped ${mappedBlocks}, transaction ${transactionId}, created ${creationTime}, snapped ${snapshottedTime}`,
    };
  }
  if (size === INDEX_ENTRY_BYTES) return indexEntry(words, at, role?.kind === "index" ? role.map : "data", key);
  if (size !== 8) return { text: `${size} bytes` };
  const high = words[at + 1]!;
  const low = words[at]!;
  const mapping = `data block ${high * 256 + (low >>> 24)}, time ${low & 0xffffff}`;
  if (role?.kind === "devices") {
    return { text: `root ${u64(words, at)}`, ...leadsTo(numberAt(words, at), { kind: "mappings", device: key }) };
  }
  if (role?.kind === "mappings") return { text: mapping };
  // In a tree of devices it is a root: of mappings the time would be 0 and the data block a multiple of something.
  const root = numberAt(words, at);
  const isRoot = Number.isFinite(root) && root < TWO_32;
  return isRoot ? { text: `${mapping}; or root ${root}`, ...leadsTo(root, undefined) } : { text: mapping };
}

function indexEntry(
  words: Uint32Array,
  at: number,
  map: "data" | "metadata",
  bitmapNumber: number,
): Omit<DescribedEntry, "label"> {
  const { fields } = INDEX_ENTRY;
  const free = words[at + fields.nrFree.offset / 4];
  const none = words[at + fields.noneFreeBefore.offset / 4];
  return {
    text: `block ${u64(words, at)}, ${free} free, none before ${none}`,
    ...leadsTo(numberAt(words, at), { kind: "bitmap", map, bitmap: bitmapNumber }),
  };
}

// Space maps

function indexBlock(words: Uint32Array, { role }: Surroundings): Decoded {
  const perEntry = INDEX_ENTRY_BYTES / 4;
  const entries: DescribedEntry[] = [];
  for (let at = BITMAP_HEADER_WORDS; at + perEntry <= BLOCK_WORDS; at += perEntry) {
    if (words[at] === 0 && words[at + 1] === 0) continue;
    const number = (at - BITMAP_HEADER_WORDS) / perEntry;
    entries.push({ label: `bitmap ${number}`, ...indexEntry(words, at, "metadata", number) });
  }
  return { kind: "index block", title: titleOf("index block", role), fields: mapHeader(words), entries };
}

function mapHeader(words: Uint32Array): readonly DescribedEntry[] {
  return [
    { label: "csum", text: hex(words[0]!) },
    { label: "blocknr", text: u64(words, 2) },
  ];
}

/** Stored high bit first. */
const COUNT_TEXT = ["free", "count 2", "count 1", "count 3 or more"];

function bitmap(words: Uint32Array, { role }: Surroundings): Decoded {
  const first = role?.kind === "bitmap" ? role.bitmap * ENTRIES_PER_BITMAP : 0;
  const rawAt = (entry: number) => (words[BITMAP_HEADER_WORDS + (entry >>> 4)]! >>> ((entry & 15) * 2)) & 3;
  const entries: DescribedEntry[] = [];
  for (let entry = 0; entry < ENTRIES_PER_BITMAP; ) {
    const raw = rawAt(entry);
    let end = entry + 1;
    while (end < ENTRIES_PER_BITMAP && rawAt(end) === raw) end++;
    const range = end - entry === 1 ? String(first + entry) : `${first + entry}-${first + end - 1}`;
    entries.push({ label: range, text: COUNT_TEXT[raw]! });
    entry = end;
  }
  const title = role === undefined ? "bitmap, blocks from its begin" : titleOf("bitmap", role);
  return { kind: "bitmap", title, fields: mapHeader(words), entries };
}
