/**
 * Whole images in and out of devices, holes kept as holes.
 *
 * Bytes go through a few buffers, used again and again: while some are written others are read. copy_file_range costs as
 * much of the processor as a read and a write, and takes the look at the bytes away. Pieces lie on the device's own blocks, so that a thin device gets whole ones. What is zero in the source
 * is not written, and finding that out costs nothing where it is not: one look at the first byte of a block.
 */
import { closeSync, constants, openSync, readSync, statSync } from "node:fs";
import { IoError, SpaceError, StateError } from "../errors/index.js";
import { type BlockDevice, Claims, FileDevice } from "../io/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { FileCopy, PIECE_BYTES } from "./file-copy.js";
import type { Progress } from "./host.js";
import { ImageFile } from "./image-file.js";

/** Into a device another thread reads ahead and this one writes, as pieces below a device's own bound are written at once. */
const PIECE_IN_BYTES = 768 * 1024;
/** Pieces read before one is written: enough that neither side waits for a thread to wake up. */
const READ_AHEAD_PIECES = 3;
const MAX_PIECE_BYTES = 4 * 2 ** 20;
/** Unit to which pieces are widened where the device has none of its own. */
const DEFAULT_UNIT_BYTES = 65536;
/** What file systems keep holes in. */
const FILE_UNIT_BYTES = 4096;
/** Stretch whose holes are asked for at a time. */
const WINDOW_BYTES = 16 * 2 ** 30;
/** From here on another thread does it. */
const THREAD_POOL_BYTES = 256 * 1024;
const PROGRESS_MS = 250;
/** Longest time without a turn for signals and timers. */
const TURN_MS = 20;

export interface Image extends AsyncDisposable {
  /** As long as the file, whatever that is. */
  readonly sizeBytes: number;
  readonly device: FileDevice;
  /** Bytes behind the last whole sector. */
  readonly tail: Buffer;
}

interface Range {
  readonly from: number;
  readonly to: number;
}

/** Where an image goes. */
interface Sink {
  /** The buffer is used again once this resolves. */
  write(offset: number, piece: Buffer): Promise<void>;
  /**
   * [from, to) reads as zeros in the source. Called before and behind what is written next. Absent where all that is not
   * written reads as zeros.
   */
  zeros?(from: number, to: number, when: "before" | "behind"): Promise<void> | void;
  /** Larger where the unit is. */
  readonly pieceBytes: number;
}

/** A file of any length: its whole sectors as a device, the rest apart. */
export function openImage(path: string): Image {
  const device = FileDevice.open(path, { readOnly: true, threadPoolBytes: THREAD_POOL_BYTES });
  const sizeBytes = device.isBlockDevice ? device.sizeBytes : statSync(path).size;
  const tail = Buffer.alloc(sizeBytes - device.sizeBytes);
  if (tail.length > 0) readTail(path, tail, device.sizeBytes);
  return { sizeBytes, device, tail, [Symbol.asyncDispose]: () => device.close() };
}

function readTail(path: string, tail: Buffer, position: number): void {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    readSync(fd, tail, 0, tail.length, position);
  } finally {
    closeSync(fd);
  }
}

/** Makes the device equal to the image and zeros behind it; nothing is flushed. @returns bytes that were written as data */
export async function copyIn(device: BlockDevice, image: Image, progress: Progress | undefined): Promise<number> {
  const whole = image.device.sizeBytes;
  const report = reporter(progress, image.sizeBytes);
  const unit = Math.max(device.discardGranularityBytes, DEFAULT_UNIT_BYTES);
  const sink: Sink = {
    write: (offset, piece) => device.write(offset, piece),
    // Before, because what is freed may be needed for what comes; behind, because a block that was new for its neighbour
    // reaches into the zeros where units and blocks do not agree, and then holds whatever the pool leaves in new blocks.
    zeros: (from, to) => clear(device, from, to),
    pieceBytes: PIECE_IN_BYTES,
  };
  let dataBytes = await copyData(image.device, { from: 0, to: whole }, { unit, sink, report });
  let at = whole;
  if (image.tail.length > 0) {
    const last = Buffer.alloc(SECTOR_BYTES);
    image.tail.copy(last);
    await device.write(whole, last);
    at += SECTOR_BYTES;
    dataBytes += image.tail.length;
  }
  await clear(device, at, device.sizeBytes);
  report(image.sizeBytes, true);
  return dataBytes;
}

/**
 * To a sparse file, which is made or overwritten, or to a whole block device, which is flushed.
 * @param isStill nobody else uses the device or its pool meanwhile, so that its bytes stay where they are
 * @returns bytes written as data
 */
export async function copyOut(
  device: BlockDevice,
  path: string,
  { progress, isStill }: { readonly progress: Progress | undefined; readonly isStill: boolean },
): Promise<number> {
  const present = statSync(path, { throwIfNoEntry: false });
  if (present?.isBlockDevice() === true) return copyToBlockDevice(device, path, progress);
  if (present !== undefined && !present.isFile()) {
    throw new StateError("EINVAL", `${path} is neither a regular file nor a block device`, {
      hint: "give a new file's name",
    });
  }
  // A file that something stands on must not be overwritten under it.
  if (present !== undefined) new Claims().claim({ path, role: "exported image" }).release();
  const report = reporter(progress, device.sizeBytes);
  using file = new ImageFile(path, device.sizeBytes);
  const dataBytes = await copyToFile(device, file, { report, isStill });
  file.finish();
  report(device.sizeBytes, true);
  return dataBytes;
}

/** @returns bytes written */
async function copyToFile(
  device: BlockDevice,
  file: ImageFile,
  { report, isStill }: { readonly report: (done: number) => void; readonly isStill: boolean },
): Promise<number> {
  await using copy = new FileCopy(file, report);
  const buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  const turn = turnTaker();
  let dataBytes = 0;
  for await (const { from, to } of dataStretches(device, { from: 0, to: device.sizeBytes }, FILE_UNIT_BYTES)) {
    const located = isStill ? device.locate?.(from, to - from) : undefined;
    if (located !== undefined) {
      for (const each of located) await copy.add(each);
      continue;
    }
    for (let at = from; at < to; at += buffer.length) {
      file.expect(at, to);
      const piece = buffer.subarray(0, Math.min(buffer.length, to - at));
      const done = device.tryRead?.(at, piece) ?? 0;
      if (done < piece.length) await device.read(at + done, piece.subarray(done));
      let zerosFrom = 0;
      forEachNonZero(piece, FILE_UNIT_BYTES, (begin, end) => {
        if (zerosFrom < begin) file.giveBack(at + zerosFrom, at + begin);
        file.write(at + begin, buffer, begin, end - begin);
        dataBytes += end - begin;
        zerosFrom = end;
      });
      if (zerosFrom < piece.length) file.giveBack(at + zerosFrom, at + piece.length);
      report(at);
      await turn();
    }
  }
  await copy.end();
  return dataBytes + copy.dataBytes;
}

async function copyToBlockDevice(device: BlockDevice, path: string, progress: Progress | undefined): Promise<number> {
  using _claim = new Claims().claim({ path, role: "export" });
  await using target = FileDevice.open(path);
  if (target.sizeBytes < device.sizeBytes) throw pastEnd(target, 0, device.sizeBytes);
  const report = reporter(progress, device.sizeBytes);
  const sink: Sink = {
    write: (offset, piece) => target.write(offset, piece),
    zeros: (from, to, when) => (when === "before" ? target.writeZeroes(from, to - from) : undefined),
    pieceBytes: PIECE_IN_BYTES,
  };
  const range = { from: 0, to: device.sizeBytes };
  const dataBytes = await copyData(device, range, { unit: DEFAULT_UNIT_BYTES, sink, report });
  await target.flush();
  report(device.sizeBytes, true);
  return dataBytes;
}

export function pastEnd(device: BlockDevice, from: number, bytes: number | undefined): SpaceError {
  const what = bytes === undefined ? "the input does not end there" : `${bytes} bytes at ${from} do not fit`;
  return new SpaceError(`${device.name} ends at ${device.sizeBytes} bytes: ${what}`, {
    hint: "make the device larger (udm thin resize), or write less",
  });
}

/** Gives a sink what a source holds, in order; every byte of the range goes to `write` or to `zeros`. @returns bytes written */
async function copyData(
  source: BlockDevice,
  range: Range,
  { unit, sink, report }: { readonly unit: number; readonly sink: Sink; readonly report: (done: number) => void },
): Promise<number> {
  const pieceBytes = pieceBytesFor(unit, sink.pieceBytes);
  const turn = turnTaker();
  let dataBytes = 0;
  let at = range.from;
  const put = async (offset: number, piece: Buffer) => {
    const gap = at;
    at = offset + piece.length;
    dataBytes += piece.length;
    if (gap < offset) await sink.zeros?.(gap, offset, "before");
    await sink.write(offset, piece);
    if (gap < offset) await sink.zeros?.(gap, offset, "behind");
  };
  const pipe = new Pipe({
    pieceBytes,
    read: (offset, piece) => source.read(offset, piece),
    put: async (offset, piece) => {
      const runs: Range[] = [];
      forEachNonZero(piece, unit, (from, to) => runs.push({ from, to }));
      for (const { from, to } of runs) await put(offset + from, piece.subarray(from, to));
    },
  });
  try {
    for await (const { from, to } of dataStretches(source, range, unit)) {
      for (let offset = from; offset < to; offset += pieceBytes) {
        await pipe.add(offset, Math.min(pieceBytes, to - offset));
        report(offset);
        await turn();
      }
    }
    await pipe.end();
  } finally {
    await pipe.settle();
  }
  if (at < range.to) {
    await sink.zeros?.(at, range.to, "before");
    await sink.zeros?.(at, range.to, "behind");
  }
  return dataBytes;
}

interface PipeOptions {
  readonly pieceBytes: number;
  read(offset: number, piece: Buffer): Promise<void>;
  put(offset: number, piece: Buffer): Promise<void>;
}

interface Slot {
  readonly buffer: Buffer;
  offset: number;
  piece: Buffer;
  reading: Promise<void>;
}

/** A few pieces are read ahead while one is written, each in a buffer that is used again. Written in their order. */
class Pipe {
  readonly #options: PipeOptions;
  readonly #slots: readonly Slot[];
  #added = 0;
  #put = 0;

  constructor(options: PipeOptions) {
    this.#options = options;
    this.#slots = Array.from({ length: READ_AHEAD_PIECES + 1 }, () => {
      const buffer = Buffer.allocUnsafeSlow(options.pieceBytes);
      return { buffer, offset: 0, piece: buffer, reading: Promise.resolve() };
    });
  }

  /** Begins to read a piece; when no buffer is left for the next, the oldest is put. */
  async add(offset: number, length: number): Promise<void> {
    const slot = this.#slotOf(this.#added++);
    slot.offset = offset;
    slot.piece = slot.buffer.subarray(0, length);
    slot.reading = this.#options.read(offset, slot.piece);
    slot.reading.catch(() => {});
    if (this.#added - this.#put === this.#slots.length) await this.#putOldest();
  }

  /** Resolves when all pieces are put. @throws what one of them failed with */
  async end(): Promise<void> {
    while (this.#put < this.#added) await this.#putOldest();
  }

  /** No buffer is being read into any more, whatever became of it. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#slots.map(({ reading }) => reading));
  }

  async #putOldest(): Promise<void> {
    const slot = this.#slotOf(this.#put++);
    await slot.reading;
    await this.#options.put(slot.offset, slot.piece);
  }

  #slotOf(index: number): Slot {
    return this.#slots[index % this.#slots.length]!;
  }
}

/** Whole units, about as many bytes as wanted. */
function pieceBytesFor(unit: number, wanted: number): number {
  return Math.min(Math.max(unit, floorTo(wanted, unit)), MAX_PIECE_BYTES);
}

/** Runs of units that are not all zeros, in order. A unit larger than the piece is judged in parts. */
function forEachNonZero(piece: Buffer, unit: number, visit: (from: number, to: number) => void): void {
  let begin = -1;
  for (let from = 0; from < piece.length; from += unit) {
    const isData = piece[from] !== 0 || !isZero(piece, from, Math.min(from + unit, piece.length));
    if (isData === begin >= 0) continue;
    if (!isData) visit(begin, from);
    begin = isData ? from : -1;
  }
  if (begin >= 0) visit(begin, piece.length);
}

const ZEROS = Buffer.alloc(DEFAULT_UNIT_BYTES);

function isZero(piece: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at += ZEROS.length) {
    const end = Math.min(at + ZEROS.length, to);
    if (piece.compare(ZEROS, 0, end - at, at, end) !== 0) return false;
  }
  return true;
}

/** Stretches that hold data, widened to whole units and joined where they meet. */
export async function* dataStretches(device: BlockDevice, range: Range, unit: number): AsyncGenerator<Range> {
  let last: { from: number; to: number } | undefined;
  for (let window = range.from; window < range.to; window += WINDOW_BYTES) {
    const length = Math.min(WINDOW_BYTES, range.to - window);
    for (const extent of await device.extents(window, length)) {
      if (extent.kind === "zeros") continue;
      const from = Math.max(range.from, floorTo(extent.offset, unit));
      const to = Math.min(range.to, ceilTo(extent.offset + extent.length, unit));
      if (last !== undefined && from <= last.to) last.to = Math.max(last.to, to);
      else {
        if (last !== undefined) yield last;
        last = { from, to };
      }
    }
  }
  if (last !== undefined) yield last;
}

/** Makes a stretch read as zeros, touching only what does not yet. */
export async function clear(device: BlockDevice, from: number, to: number): Promise<void> {
  for (let window = from; window < to; window += WINDOW_BYTES) {
    for (const extent of await device.extents(window, Math.min(WINDOW_BYTES, to - window))) {
      if (extent.kind === "data") await device.writeZeroes(extent.offset, extent.length);
    }
  }
}

/** Reads both again. @throws IoError EIO at the first difference */
export async function verify(
  device: BlockDevice,
  image: Image,
  { otherName }: { readonly otherName: string },
): Promise<void> {
  const whole = image.device.sizeBytes;
  const ours = Buffer.allocUnsafeSlow(PIECE_IN_BYTES);
  const theirs = Buffer.allocUnsafeSlow(PIECE_IN_BYTES);
  const turn = turnTaker();
  for (let at = 0; at < whole; at += PIECE_IN_BYTES) {
    const length = Math.min(PIECE_IN_BYTES, whole - at);
    const [left, right] = [ours.subarray(0, length), theirs.subarray(0, length)];
    await device.read(at, left);
    await image.device.read(at, right);
    if (!left.equals(right)) throw different(device.name, otherName, at + firstDifference(left, right));
    await turn();
  }
  if (image.tail.length > 0) {
    const last = Buffer.alloc(SECTOR_BYTES);
    await device.read(whole, last);
    const left = last.subarray(0, image.tail.length);
    if (!left.equals(image.tail)) throw different(device.name, otherName, whole + firstDifference(left, image.tail));
  }
}

function firstDifference(left: Buffer, right: Buffer): number {
  let at = 0;
  while (left[at] === right[at]) at++;
  return at;
}

function different(left: string, right: string, at: number): IoError {
  return new IoError("EIO", `${left} and ${right} differ at byte ${at}`, {
    hint: "did somebody write to one of them meanwhile? try again",
  });
}

function reporter(progress: Progress | undefined, total: number): (done: number, isEnd?: boolean) => void {
  let last = 0;
  return (done, isEnd = false) => {
    const now = performance.now();
    if (progress === undefined || (!isEnd && now - last < PROGRESS_MS)) return;
    last = now;
    progress(done, total);
  };
}

/** Work that never waits keeps signals and timers waiting; now and then it lets them have a turn. */
function turnTaker(): () => Promise<void> | undefined {
  let last = performance.now();
  return () => {
    if (performance.now() - last < TURN_MS) return undefined;
    return new Promise((resolve) => {
      setImmediate(() => {
        last = performance.now();
        resolve();
      });
    });
  };
}

export function floorTo(value: number, unit: number): number {
  return Math.floor(value / unit) * unit;
}

export function ceilTo(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
