/**
 * Metadata images with random damage, each looked at by our check and by thin_check, and some by the other tools. Image k
 * depends on k alone, so that one that went wrong can be made again.
 *
 * thin_check reads past the page cache, and sleeps at its end until the kernel has let go of its asynchronous reads: so the
 * images lie in memory, in files that are changed back after each look, and a shell runs a batch of them side by side.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32c } from "../../src/bytes/index.js";
import { UdmError } from "../../src/errors/index.js";
import type { SyncIo } from "../../src/io/index.js";
import {
  BlockStore,
  type CheckReport,
  checkMetadata,
  DAMAGE_CASES,
  deltaMetadata,
  dumpMetadata,
  findCandidates,
  KIND_SALT,
  Kind,
  listMetadata,
  mendMetadata,
  Pace,
  planDamage,
  repairMetadata,
  reverseMap,
} from "../../src/thin/index.js";
import { METADATA_BLOCK_BYTES, MetadataImage, type UsedBlock } from "./metadata-image.js";
import { Random } from "./random.js";
import { judgeDifference } from "./thin-check-differences.js";
import { thinCheck } from "./thin-tools.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const SLOTS = 24;
/** Batches under way at once; each has the bases of its own. */
const LANES = 3;
/** Of a process of thin_check. */
const MAX_CPU_SECONDS = 20;
/** By so much a case of the catalogue grows a device. */
const GROWN_BYTES = 64 * METADATA_BLOCK_BYTES;
const HEADER_BYTES = 64;
const SECTOR_BYTES = 512;
const KINDS: Readonly<Record<UsedBlock["kind"], Kind>> = {
  superblock: Kind.Superblock,
  node: Kind.Node,
  bitmap: Kind.Bitmap,
  index: Kind.Index,
};
/** Reads of a tool, in blocks: so many times the device, and some. */
const CHECK_READS = 16;
const TOOL_READS = 600;
const SOME_READS = 20_000;
/** Every so many images the other tools look too, and repair. */
const TOOLS_EVERY = 8;
const REPAIR_EVERY = 16;

/** Bytes of a device in an array, with a bound on how much is read. */
class ArrayDevice {
  readonly name = "image";
  readonly sync: SyncIo;
  blocksLeft = Number.POSITIVE_INFINITY;
  fault: string | undefined;

  constructor(
    readonly bytes: Uint8Array,
    public sizeBytes: number,
  ) {
    this.sync = {
      read: (offset, buffer) => {
        this.blocksLeft -= Math.ceil(buffer.length / METADATA_BLOCK_BYTES);
        // Who reads goes on behind blocks that cannot be read, so the fault is kept for later.
        if (this.blocksLeft < 0) this.fault ??= "it reads without end";
        if (offset + buffer.length > this.sizeBytes) this.fault ??= `it reads behind the end, at ${offset}`;
        if (this.fault !== undefined) throw new Error(this.fault);
        buffer.set(this.bytes.subarray(offset, offset + buffer.length));
      },
      write: (offset, buffer) => this.bytes.set(buffer, offset),
      flush: () => {},
      discard: () => {},
      writeZeroes: (offset, length) => void this.bytes.fill(0, offset, offset + length),
      knownZeroes: () => 0,
    };
  }
}

export interface FuzzBase {
  readonly name: string;
  readonly bytes: Uint8Array;
}

class PreparedBase implements FuzzBase {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly used: readonly UsedBlock[];
  /** Blocks that are sound nodes, used or left over. */
  readonly nodes: readonly number[];
  /** Blocks with anything in them. */
  readonly written: readonly number[];
  readonly nrBlocks: number;
  /** The base, and behind it zeros for devices that grow. */
  readonly #lent: Uint8Array;

  constructor({ name, bytes }: FuzzBase) {
    this.name = name;
    this.bytes = bytes;
    const image = new MetadataImage(bytes);
    this.nrBlocks = bytes.length / METADATA_BLOCK_BYTES;
    const all = Array.from({ length: this.nrBlocks }, (_, index) => index);
    this.written = all.filter((block) => image.block(block).some((byte) => byte !== 0));
    this.nodes = this.written.filter((each) => image.hasRightChecksum(each, "node") && image.u64(each, 8) === each);
    this.used = image.used();
    this.#lent = new Uint8Array(bytes.length + GROWN_BYTES);
    this.#lent.set(bytes);
  }

  original(block: number): Uint8Array {
    return this.bytes.subarray(block * METADATA_BLOCK_BYTES, (block + 1) * METADATA_BLOCK_BYTES);
  }

  /** The bytes of an image, until it is given back. */
  lend({ blocks, sizeBytes }: Mutated): Uint8Array {
    for (const [number, block] of blocks) this.#lent.set(block, number * METADATA_BLOCK_BYTES);
    return this.#lent.subarray(0, sizeBytes);
  }

  giveBack({ blocks }: Mutated): void {
    for (const number of blocks.keys()) this.#lent.set(this.original(number), number * METADATA_BLOCK_BYTES);
  }
}

// --- damage ---

export interface Mutated {
  /** Blocks with other contents. */
  readonly blocks: Map<number, Uint8Array>;
  readonly sizeBytes: number;
  readonly what: readonly string[];
}

class Mutator {
  readonly blocks = new Map<number, Uint8Array>();
  readonly what: string[] = [];
  sizeBytes: number;

  constructor(
    readonly base: PreparedBase,
    readonly random: Random,
  ) {
    this.sizeBytes = base.bytes.length;
  }

  block(number: number): Uint8Array {
    const known = this.blocks.get(number);
    if (known !== undefined) return known;
    const from = number * METADATA_BLOCK_BYTES;
    const bytes = this.base.bytes.slice(from, from + METADATA_BLOCK_BYTES);
    this.blocks.set(number, bytes);
    return bytes;
  }

  seal(number: number, kind: Kind): void {
    const bytes = this.block(number);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, (crc32c(view, 4) ^ KIND_SALT[kind]) >>> 0, true);
  }

  /** One to four kinds of damage; most under right checksums, as wrong ones end the look at a block. */
  run(): Mutated {
    const { random } = this;
    const count = random.pick([1, 1, 1, 2, 2, 3, 4]);
    for (let index = 0; index < count; index++) {
      const kind = random.weighted({
        field: 6,
        byte: 4,
        entry: 5,
        superblock: 3,
        copy: 2,
        hole: 1,
        catalogue: 3,
        size: 0.3,
      });
      this[kind]();
    }
    return { blocks: this.blocks, sizeBytes: this.sizeBytes, what: this.what };
  }

  #pick(): UsedBlock {
    return this.random.pick(this.base.used);
  }

  #finish(used: UsedBlock, what: string): void {
    const isSealed = !this.random.oneIn(5);
    if (isSealed) this.seal(used.number, KINDS[used.kind]);
    this.what.push(`${used.path}: ${what}${isSealed ? ", sealed" : ""}`);
  }

  #number(): number {
    const { random, base } = this;
    const { nrBlocks } = base;
    return random.pick([
      ...[0, 1, 2, 3, 4, 8, 24, 63, 125, 126, 127, 249, 251, 252, 253, 255, 256, 16319, 16320, 16321],
      ...[0xffffff, 0x1000000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff],
      ...[nrBlocks - 1, nrBlocks, nrBlocks + 1, random.between(0, nrBlocks), random.between(0, 0xffffffff)],
      ...[random.pick(base.used).number, random.pick(base.nodes), random.pick(base.nodes)],
    ]);
  }

  byte(): void {
    const used = this.#pick();
    const at = this.random.between(0, (this.random.oneIn(2) ? HEADER_BYTES : METADATA_BLOCK_BYTES) - 1);
    this.block(used.number)[at]! ^= this.random.between(1, 255);
    this.#finish(used, `byte ${at}`);
  }

  field(): void {
    const used = this.#pick();
    const at = 4 * this.random.between(1, (this.random.oneIn(2) ? HEADER_BYTES : METADATA_BLOCK_BYTES) / 4 - 1);
    const bytes = this.block(used.number);
    const view = new DataView(bytes.buffer);
    const before = view.getUint32(at, true);
    const step = this.random.pick([-1, 1, 2]);
    const value = this.random.oneIn(3) ? (before + step) >>> 0 : this.#number() >>> 0;
    view.setUint32(at, value, true);
    this.#finish(used, `number at ${at}: ${value}`);
  }

  /** Keys and values of a node. */
  entry(): void {
    const nodes = this.base.used.filter(({ kind }) => kind === "node");
    const used = this.random.pick(nodes);
    const bytes = this.block(used.number);
    const view = new DataView(bytes.buffer);
    const nr = Math.min(view.getUint32(16, true), 252);
    const max = Math.min(view.getUint32(20, true), 252);
    const valueBytes = Math.min(Math.max(view.getUint32(24, true), 4), 24);
    const { random } = this;
    const one = random.between(0, Math.max(0, nr - 1));
    const other = random.oneIn(2) ? Math.min(one + 1, Math.max(0, nr - 1)) : random.between(0, Math.max(0, nr - 1));
    const keyAt = (index: number) => 32 + 8 * index;
    const valueAt = (index: number) => 32 + 8 * max + valueBytes * index;
    const way = random.pick(["key", "keys", "value", "values", "drop", "cut", "number"] as const);
    const swap = (a: number, b: number, length: number) => {
      if (Math.max(a, b) + length > METADATA_BLOCK_BYTES) return;
      const kept = bytes.slice(a, a + length);
      bytes.copyWithin(a, b, b + length);
      bytes.set(kept, b);
    };
    switch (way) {
      case "key":
        view.setUint32(keyAt(one), random.oneIn(2) ? view.getUint32(keyAt(one), true) + 1 : this.#number(), true);
        break;
      case "keys":
        swap(keyAt(one), keyAt(other), 8);
        break;
      case "value":
        if (valueAt(one) + 8 > METADATA_BLOCK_BYTES) break;
        view.setUint32(valueAt(one), this.#number(), true);
        if (random.oneIn(3)) view.setUint32(valueAt(one) + 4, this.#number(), true);
        break;
      case "values":
        swap(valueAt(one), valueAt(other), valueBytes);
        break;
      case "drop":
        bytes.copyWithin(keyAt(one), keyAt(one + 1), keyAt(nr));
        bytes.copyWithin(valueAt(one), valueAt(one + 1), valueAt(nr));
        view.setUint32(16, Math.max(0, nr - 1), true);
        break;
      case "cut":
        view.setUint32(16, random.between(0, nr), true);
        break;
      case "number":
        view.setUint32(16, random.between(0, max + 3), true);
        break;
    }
    this.#finish(used, `${way} ${one}, ${other}`);
  }

  superblock(): void {
    const used = this.base.used[0]!;
    const at = this.random.pick([
      ...[4, 8, 16, 32, 36, 40, 44, 48, 52, 56, 60],
      ...[64, 68, 72, 80, 88, 92, 96, 192, 196, 200, 208, 216, 220, 224],
      ...[320, 324, 328, 332, 336, 340, 344, 352, 356, 360, 364],
    ]);
    const view = new DataView(this.block(0).buffer);
    const before = view.getUint32(at, true);
    const value = this.random.oneIn(3) ? (before + this.random.pick([-1, 1, 2])) >>> 0 : this.#number() >>> 0;
    view.setUint32(at, value, true);
    this.#finish(used, `number at ${at}: ${value}`);
  }

  /** A block where another one was, with its own number or the right one. */
  copy(): void {
    const used = this.#pick();
    const from = this.random.oneIn(2) ? this.random.pick(this.base.nodes) : this.#pick().number;
    const bytes = this.block(used.number);
    bytes.set(this.base.bytes.subarray(from * METADATA_BLOCK_BYTES, (from + 1) * METADATA_BLOCK_BYTES));
    if (this.random.oneIn(4)) {
      this.what.push(`${used.path}: what is in block ${from}, as it is`);
      return;
    }
    new DataView(bytes.buffer).setBigUint64(8, BigInt(used.number), true);
    this.#finish(used, `what is in block ${from}`);
  }

  hole(): void {
    const used = this.#pick();
    const bytes = this.block(used.number);
    const isWhole = this.random.oneIn(2);
    const at = isWhole ? 0 : SECTOR_BYTES * this.random.between(0, 7);
    bytes.fill(this.random.oneIn(4) ? 0xa5 : 0, at, isWhole ? METADATA_BLOCK_BYTES : at + SECTOR_BYTES);
    this.#finish(used, isWhole ? "emptied" : `sector at ${at} emptied`);
  }

  /** A case of the catalogue, on the base as it was: later damage wins where both hit one block. */
  catalogue(): void {
    const { id } = this.random.pick(DAMAGE_CASES);
    const seed = this.random.between(0, 0xffff);
    const device = new ArrayDevice(this.base.bytes, this.base.bytes.length);
    try {
      const plan = planDamage(new BlockStore(device), id, seed);
      if (plan.sizeBytes === 0) return;
      for (const { begin, end } of plan.zeroed) {
        for (let block = begin; block < end; block++) this.block(block).fill(0);
      }
      for (const { blocknr, bytes } of plan.blocks) this.block(blocknr).set(bytes);
      this.sizeBytes = plan.sizeBytes ?? this.sizeBytes;
      this.what.push(`${id}, seed ${seed}`);
    } catch (error) {
      if (!(error instanceof UdmError) || error.code !== "ENODATA") throw error;
    }
  }

  size(): void {
    const blocks = this.random.between(1, this.base.nrBlocks);
    this.sizeBytes = blocks * METADATA_BLOCK_BYTES - (this.random.oneIn(4) && blocks > 1 ? 512 : 0);
    this.what.push(`cut to ${this.sizeBytes} bytes`);
  }
}

// --- the run ---

export interface FuzzResult {
  images: number;
  agreedClean: number;
  agreedDamaged: number;
  /** By reason, how often thin_check said something else and why udm is right. */
  readonly explained: Map<string, number>;
  /** What nobody can explain, and what no tool may do; with the number of the image. */
  readonly wrong: string[];
  /** Images looked at by the other tools, and repaired ones that were checked again. */
  otherTools: number;
  repaired: number;
  mended: number;
}

export interface FuzzOptions {
  readonly bases: readonly FuzzBase[];
  readonly from: number;
  readonly count: number;
  readonly onProgress?: (result: FuzzResult) => void;
}

export async function fuzzMetadata({ bases, from, count, onProgress }: FuzzOptions): Promise<FuzzResult> {
  const result: FuzzResult = {
    ...{ images: 0, agreedClean: 0, agreedDamaged: 0, otherTools: 0, repaired: 0, mended: 0 },
    explained: new Map(),
    wrong: [],
  };
  const prepared: PreparedBase[] = [];
  const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "udm-fuzz-"));
  const slots = new Map<string, SlotFiles>();
  try {
    const lane = async (number: number) => {
      for (let first = from - (from % SLOTS); first < from + count; first += SLOTS) {
        const index = (first / SLOTS) % bases.length;
        if (index % LANES !== number) continue;
        const base = prepared[index] ?? new PreparedBase(bases[index]!);
        prepared[index] = base;
        const files = slots.get(base.name) ?? new SlotFiles(base, folder);
        slots.set(base.name, files);
        const end = Math.min(first + SLOTS, from + count);
        await runBatch({ base, files, result, first: Math.max(first, from), end });
        onProgress?.(result);
      }
    };
    await Promise.all(Array.from({ length: LANES }, (_, number) => lane(number)));
  } finally {
    for (const files of slots.values()) files.close();
    rmSync(folder, { recursive: true, force: true });
  }
  return result;
}

interface Batch {
  readonly base: PreparedBase;
  readonly files: SlotFiles;
  readonly result: FuzzResult;
  readonly first: number;
  readonly end: number;
}

/** Image `number`, made again. */
export function mutatedImage(
  bases: readonly FuzzBase[],
  number: number,
): { readonly bytes: Uint8Array; readonly what: string } {
  const base = new PreparedBase(bases[Math.floor(number / SLOTS) % bases.length]!);
  const mutated = new Mutator(base, new Random(number)).run();
  return { bytes: imageOf(base, mutated), what: `${base.name}: ${mutated.what.join("; ")}` };
}

function imageOf(base: PreparedBase, { blocks, sizeBytes }: Mutated): Uint8Array {
  const bytes = new Uint8Array(Math.max(sizeBytes, base.bytes.length));
  bytes.set(base.bytes);
  for (const [number, block] of blocks) bytes.set(block, number * METADATA_BLOCK_BYTES);
  return bytes.subarray(0, sizeBytes);
}

async function runBatch({ base, files, result, first, end }: Batch): Promise<void> {
  const images: Mutated[] = [];
  for (let number = first; number < end; number++) images.push(new Mutator(base, new Random(number)).run());
  for (const [slot, image] of images.entries()) files.put(slot, image);
  const theirs = files.check(images.length);
  const reports: (CheckReport | undefined)[] = [];
  for (const [index, image] of images.entries()) {
    reports.push(await look({ base, image, result, number: first + index }));
  }
  const statuses = await theirs;
  for (const [index, image] of images.entries()) {
    const name = `image ${first + index} (${base.name}: ${image.what.join("; ")})`;
    const report = reports[index];
    if (report !== undefined) compare({ base, image, report, result, name, isClean: statuses[index] === 0 });
    files.undo(index, image);
  }
  result.images += images.length;
}

/** Our check, and on some images the other tools. */
async function look(options: {
  readonly base: PreparedBase;
  readonly image: Mutated;
  readonly result: FuzzResult;
  readonly number: number;
}): Promise<CheckReport | undefined> {
  const { base, image, result, number } = options;
  const bytes = base.lend(image);
  const name = `image ${number} (${base.name}: ${image.what.join("; ")})`;
  const device = new ArrayDevice(bytes, bytes.length);
  const nrBlocks = Math.floor(bytes.length / METADATA_BLOCK_BYTES);
  const attempt = async <T>(
    tool: string,
    reads: number,
    work: (store: BlockStore) => Promise<T>,
  ): Promise<T | undefined> => {
    device.blocksLeft = nrBlocks * reads + SOME_READS;
    device.fault = undefined;
    try {
      const made = await work(new BlockStore(device));
      if (device.fault !== undefined) result.wrong.push(`${name}: ${tool}: ${device.fault}`);
      return made;
    } catch (error) {
      if (error instanceof UdmError && error.name !== "InvariantError") return undefined;
      result.wrong.push(`${name}: ${tool}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      return undefined;
    }
  };
  const report = await attempt("check", CHECK_READS, (store) => checkMetadata(store, { pace: new Pace() }));
  if (report === undefined) result.wrong.push(`${name}: check gives up`);
  else checkReport(report, name, result);
  if (number % TOOLS_EVERY === 0) {
    result.otherTools++;
    const common = { superblock: 0, pace: new Pace() };
    const write = () => {};
    await attempt("dump", TOOL_READS, (store) => dumpMetadata(store, { ...common, format: "xml", write }));
    const onSkipped = () => {};
    await attempt("dump --repair", TOOL_READS, (store) =>
      dumpMetadata(store, { ...common, format: "human_readable", write, onSkipped }),
    );
    await attempt("ls", TOOL_READS, (store) => listMetadata(store, { ...common, exclusive: true }));
    await attempt("rmap", TOOL_READS, (store) => reverseMap(store, { ...common, regions: [{ begin: 0, end: 500 }] }));
    const [left, right] = [0, 1].map((id) => ({ kind: "device" as const, id: id + (number % 3) }));
    await attempt("delta", TOOL_READS, (store) =>
      deltaMetadata(store, { ...common, left: left!, right: right!, format: "xml", write } as Parameters<
        typeof deltaMetadata
      >[1]),
    );
  }
  if (number % REPAIR_EVERY === 0) await attempt("repair", TOOL_READS, (store) => repair(store, base, name, result));
  if (report?.verdict === "harmless") mend(bytes, report, name, result);
  base.giveBack(image);
  return report;
}

/** A report that does not agree with itself. */
function checkReport(report: CheckReport, name: string, result: FuzzResult): void {
  const worst = report.findings.some(({ severity }) => severity === "damage")
    ? "damaged"
    : report.findings.some(({ severity }) => severity === "harmless")
      ? "harmless"
      : "clean";
  if (worst !== report.verdict) result.wrong.push(`${name}: findings are ${worst}, the verdict is ${report.verdict}`);
  const broken = report.findings.find(({ message }) => /Infinity|NaN|undefined/.test(message));
  if (broken !== undefined) result.wrong.push(`${name}: ${broken.id}: ${broken.message}`);
}

async function repair(store: BlockStore, base: PreparedBase, name: string, result: FuzzResult): Promise<void> {
  const { forest, candidates } = await findCandidates(store, { overrides: {}, pace: new Pace() });
  const [candidate] = candidates;
  if (candidate === undefined) return;
  const outputBytes = (2 * base.written.length + 64) * METADATA_BLOCK_BYTES;
  const output = new ArrayDevice(new Uint8Array(outputBytes), outputBytes);
  await repairMetadata(output, { forest, candidate, pace: new Pace() });
  result.repaired++;
  const report = await checkMetadata(new BlockStore(output), { pace: new Pace() });
  if (report.verdict !== "clean") {
    result.wrong.push(`${name}: repaired, and then: ${report.findings[0]?.id}: ${report.findings[0]?.message}`);
  }
  if (result.repaired % 8 !== 0) return;
  const said = thinCheck(output.bytes);
  if (said !== undefined) result.wrong.push(`${name}: repaired, and then thin_check says: ${said}`);
}

/** What --auto-repair does: leaks are gone, nothing else has changed. */
function mend(bytes: Uint8Array, report: CheckReport, name: string, result: FuzzResult): void {
  const { metadata, data } = report.leaks;
  const isOnlyLeaks = report.findings.every(({ id, severity }) => severity === "note" || id.endsWith("-leak"));
  if (!isOnlyLeaks || metadata.length + data.length === 0 || bytes.length % METADATA_BLOCK_BYTES !== 0) return;
  const device = new ArrayDevice(bytes.slice(), bytes.length);
  try {
    mendMetadata(device, { leaks: report.leaks });
  } catch (error) {
    if (error instanceof UdmError && error.name !== "InvariantError") return;
    result.wrong.push(`${name}: mending: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    return;
  }
  result.mended++;
  const said = thinCheck(device.bytes);
  if (said !== undefined) result.wrong.push(`${name}: mended, and then thin_check says: ${said}`);
}

function compare(options: {
  readonly base: PreparedBase;
  readonly image: Mutated;
  readonly report: CheckReport;
  readonly result: FuzzResult;
  readonly name: string;
  readonly isClean: boolean;
}): void {
  const { base, image, report, result, name, isClean } = options;
  const isOursClean = report.verdict === "clean";
  if (isClean === isOursClean) {
    if (isClean) result.agreedClean++;
    else result.agreedDamaged++;
    return;
  }
  const said = isClean ? undefined : (thinCheck(imageOf(base, image)) ?? "nothing, the second time");
  const verdict = judgeDifference(report, said);
  if (verdict.kind === "unexplained") result.wrong.push(`${name}: ${verdict.why}`);
  if (verdict.kind !== "explained") return;
  for (const reason of verdict.reasons) result.explained.set(reason, (result.explained.get(reason) ?? 0) + 1);
}

/** Files that hold the base, one for each image of a batch. */
class SlotFiles {
  readonly #fds: number[] = [];
  readonly #paths: string[] = [];

  constructor(
    readonly base: PreparedBase,
    readonly folder: string,
  ) {}

  #open(slot: number): number {
    const { base, folder } = this;
    const path = join(folder, `${base.name.replaceAll(/\W/g, "-")}-${slot}`);
    const fd = openSync(path, "w+");
    ftruncateSync(fd, base.bytes.length);
    for (const block of base.written) this.#write(fd, block, base.original(block));
    this.#fds[slot] = fd;
    this.#paths[slot] = path;
    return fd;
  }

  put(slot: number, image: Mutated): void {
    const fd = this.#fds[slot] ?? this.#open(slot);
    for (const [block, bytes] of image.blocks) this.#write(fd, block, bytes);
    if (image.sizeBytes !== this.base.bytes.length) ftruncateSync(fd, image.sizeBytes);
  }

  undo(slot: number, image: Mutated): void {
    const fd = this.#fds[slot]!;
    const { base } = this;
    if (image.sizeBytes !== base.bytes.length) {
      ftruncateSync(fd, base.bytes.length);
      const firstLost = Math.floor(image.sizeBytes / METADATA_BLOCK_BYTES);
      for (const block of base.written) if (block >= firstLost) this.#write(fd, block, this.base.original(block));
    }
    for (const block of image.blocks.keys()) this.#write(fd, block, this.base.original(block));
  }

  /** Exit statuses of thin_check on the first slots. */
  async check(count: number): Promise<number[]> {
    const script = `ulimit -c 0; ulimit -t ${MAX_CPU_SECONDS}; n=0
for f; do { thin_check -q "$f" >/dev/null 2>&1; echo "$n $?"; } & n=$((n + 1)); done; wait`;
    const child = spawn("sh", ["-c", script, "sh", ...this.#paths.slice(0, count)], {
      env: { PATH },
      stdio: ["ignore", "pipe", "ignore"],
    });
    const pieces: Buffer[] = [];
    for await (const piece of child.stdout) pieces.push(piece as Buffer);
    const statuses: number[] = [];
    for (const line of Buffer.concat(pieces).toString("utf8").trim().split("\n")) {
      const [slot, status] = line.split(" ").map(Number);
      statuses[slot!] = status!;
    }
    for (let slot = 0; slot < count; slot++) {
      if (statuses[slot] === undefined) throw new Error(`thin_check was not run on image ${slot} of the batch`);
    }
    return statuses;
  }

  close(): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
  }

  #write(fd: number, block: number, bytes: Uint8Array): void {
    if (bytes.length > 0) writeSync(fd, bytes, 0, bytes.length, block * METADATA_BLOCK_BYTES);
  }
}
