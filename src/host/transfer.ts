/**
 * Bytes of mapped devices: streams in and out, whole images (see images.ts), discards. Pieces of a stream are large and lie
 * on borders of the device's own blocks, so that a thin device gets whole ones; the next is read while one is written.
 */
import { fstatSync, readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { MappedDevice } from "../device-registry/index.js";
import { IoError, StateError } from "../errors/index.js";
import { type BlockDevice, Claims, type Extent } from "../io/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import type { Core } from "./core.js";
import type { ImportResult, Progress, TransferOptions } from "./host.js";
import { ceilTo, clear, copyIn, copyOut, dataStretches, floorTo, openImage, pastEnd, verify } from "./images.js";
import type { Session } from "./session.js";
import { nameOwner, soleThinLine } from "./thin-records.js";

const CHUNK_BYTES = 2 * 2 ** 20;
/** Stretch whose holes are asked for at a time. */
const WINDOW_BYTES = 16 * 2 ** 30;

/** The device of a name, with its bytes. */
function openerOf(name: string): (session: Session) => Promise<MappedDevice> {
  return (session) => openDevice(session, name);
}

export async function openDevice(session: Session, name: string): Promise<MappedDevice> {
  if (session.registry.find(name) === undefined) {
    const owner = nameOwner(session, name);
    throw new StateError("ENXIO", owner === undefined ? `no device '${name}'` : `'${name}' is not active`, {
      hint: owner === undefined ? "udm device list shows the devices there are" : `udm thin activate ${name} ${name}`,
    });
  }
  return session.registry.open(name);
}

interface Range {
  readonly from: number;
  readonly to: number;
}

export function rangeOf(device: BlockDevice, options: TransferOptions): Range {
  const from = options.offsetBytes ?? 0;
  const to = options.lengthBytes === undefined ? device.sizeBytes : from + options.lengthBytes;
  if (from < 0 || from > device.sizeBytes || to < from || to > device.sizeBytes) {
    throw new StateError(
      "EINVAL",
      `${device.name} ends at ${device.sizeBytes} bytes: ${to - from} bytes at ${from} leave it`,
      {
        hint: "choose an offset and a length inside the device",
      },
    );
  }
  return { from, to };
}

// Streams

export function readDevice(
  core: Core,
  name: string,
  out: NodeJS.WritableStream,
  options: TransferOptions = {},
): Promise<number> {
  return core.use(`read ${name}`, openerOf(name), async (device) => {
    const range = rangeOf(device, options);
    await pipeTo(out, pieces(device, range));
    return range.to - range.from;
  });
}

async function* pieces(device: BlockDevice, { from, to }: Range): AsyncGenerator<Buffer> {
  let next = from < to ? readPiece(device, from, Math.min(to, nextBorder(from))) : undefined;
  for (let at = from; at < to && next !== undefined; ) {
    const piece = await next;
    at += piece.length;
    next = at < to ? readPiece(device, at, Math.min(to, nextBorder(at))) : undefined;
    // The consumer may leave before this one is waited for.
    next?.catch(() => {});
    yield piece;
  }
}

function nextBorder(at: number): number {
  return (Math.floor(at / CHUNK_BYTES) + 1) * CHUNK_BYTES;
}

/** Any bytes: what is not in whole sectors is cut out of some. */
async function readPiece(device: BlockDevice, from: number, to: number): Promise<Buffer> {
  const begin = floorTo(from, SECTOR_BYTES);
  const end = ceilTo(to, SECTOR_BYTES);
  const buffer = Buffer.allocUnsafeSlow(end - begin);
  await device.read(begin, buffer);
  return buffer.subarray(from - begin, to - begin);
}

async function pipeTo(out: NodeJS.WritableStream, source: AsyncIterable<Buffer>): Promise<void> {
  await pipeline(Readable.from(source, { objectMode: false, highWaterMark: CHUNK_BYTES }), out, { end: false });
}

export function writeDevice(
  core: Core,
  name: string,
  input: NodeJS.ReadableStream,
  options: { readonly offsetBytes?: number } = {},
): Promise<number> {
  return core.use(`write ${name}`, openerOf(name), async (device) => {
    refuseWriting(device, name);
    const from = options.offsetBytes ?? 0;
    const { to } = rangeOf(device, { offsetBytes: from });
    const known = lengthOf(input);
    if (known !== undefined && known > to - from) throw pastEnd(device, from, known);
    const count = await writeStream(device, { from, to }, input);
    await device.flush();
    core.log(`write '${name}': ${count} bytes ${sectors(from, from + count)}, flushed`);
    return count;
  });
}

/** For traces. */
function sectors(from: number, to: number): string {
  return `in sectors ${Math.floor(from / SECTOR_BYTES)} to ${Math.ceil(to / SECTOR_BYTES)}`;
}

export function refuseWriting(device: BlockDevice, name: string): void {
  if (device.isReadOnly)
    throw new IoError("EROFS", `'${name}' is read-only`, { hint: "make a snapshot of it to write to" });
}

/** What is left of a regular file behind a stream; nothing is known of pipes. */
export function lengthOf(input: NodeJS.ReadableStream): number | undefined {
  // From another process, where it was looked at.
  if ("knownBytes" in input && typeof input.knownBytes === "number") return input.knownBytes;
  const fd: unknown = "fd" in input ? input.fd : undefined;
  if (typeof fd !== "number") return undefined;
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) return undefined;
    const position = /^pos:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
    return Math.max(0, stat.size - Number(position ?? 0));
  } catch {
    return undefined;
  }
}

/** Gathers a stream in large pieces; one is written while the next comes in. */
async function writeStream(device: BlockDevice, range: Range, input: NodeJS.ReadableStream): Promise<number> {
  let at = range.from;
  let pending: Promise<void> = Promise.resolve();
  let piece = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  let filled = 0;
  const flushPiece = async () => {
    const [data, offset] = [piece.subarray(0, filled), at];
    await pending;
    pending = writePiece(device, offset, data);
    pending.catch(() => {});
    at += filled;
    filled = 0;
    piece = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  };
  let isTooLong = false;
  for await (const chunk of input) {
    let rest = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
    while (rest.length > 0) {
      const room = Math.min(nextBorder(at) - at, range.to - at) - filled;
      if (room === 0 && at + filled >= range.to) {
        isTooLong = true;
        break;
      }
      const count = Math.min(room, rest.length);
      rest.copy(piece, filled, 0, count);
      filled += count;
      rest = rest.subarray(count);
      if (filled > 0 && (count === room || filled === CHUNK_BYTES)) await flushPiece();
    }
    if (isTooLong) break;
  }
  if (filled > 0) await flushPiece();
  await pending;
  if (isTooLong) {
    await device.flush();
    throw pastEnd(device, range.from, undefined);
  }
  return at - range.from;
}

/** Any bytes: the ends of sectors that are written in part are read first. */
async function writePiece(device: BlockDevice, offset: number, data: Buffer): Promise<void> {
  const begin = floorTo(offset, SECTOR_BYTES);
  const end = ceilTo(offset + data.length, SECTOR_BYTES);
  if (begin === offset && end === offset + data.length) return device.write(offset, data);
  const whole = Buffer.alloc(end - begin);
  await device.read(begin, whole.subarray(0, SECTOR_BYTES));
  await device.read(end - SECTOR_BYTES, whole.subarray(whole.length - SECTOR_BYTES));
  data.copy(whole, offset - begin);
  await device.write(begin, whole);
}

// Images

export function importDevice(
  core: Core,
  name: string,
  file: string,
  options: { readonly verify?: boolean; readonly progress?: Progress; readonly input?: NodeJS.ReadableStream } = {},
): Promise<ImportResult> {
  return core.use(`import ${name}`, openerOf(name), async (device) => {
    refuseWriting(device, name);
    if (file === "-") {
      if (options.verify === true) {
        throw new StateError("EINVAL", "what comes through a pipe cannot be read again to verify it", {
          hint: "give a file",
        });
      }
      const bytes = await importStream(device, required(options.input));
      return { bytes, dataBytes: bytes, verified: false };
    }
    const path = core.resolvePath(file);
    await using image = openImage(path);
    if (image.sizeBytes > device.sizeBytes) throw pastEnd(device, 0, image.sizeBytes);
    using _claim = new Claims().claim({ path, role: "image", readOnly: true });
    const dataBytes = await copyIn(device, image, options.progress);
    await device.flush();
    core.log(`import '${name}': ${dataBytes} bytes of data ${sectors(0, image.sizeBytes)}, flushed`);
    if (options.verify === true) await verify(device, image, { otherName: path });
    return { bytes: image.sizeBytes, dataBytes, verified: options.verify === true };
  });
}

async function importStream(device: BlockDevice, input: NodeJS.ReadableStream): Promise<number> {
  const known = lengthOf(input);
  if (known !== undefined && known > device.sizeBytes) throw pastEnd(device, 0, known);
  const bytes = await writeStream(device, { from: 0, to: device.sizeBytes }, input);
  await clear(device, ceilTo(bytes, SECTOR_BYTES), device.sizeBytes);
  await device.flush();
  return bytes;
}

export function exportDevice(
  core: Core,
  name: string,
  file: string,
  options: { readonly verify?: boolean; readonly progress?: Progress; readonly output?: NodeJS.WritableStream } = {},
): Promise<ImportResult> {
  return core.use(`export ${name}`, openerOf(name), async (device) => {
    const range = { from: 0, to: device.sizeBytes };
    if (file === "-") {
      if (options.verify === true) {
        throw new StateError("EINVAL", "what goes through a pipe cannot be read back to verify it", {
          hint: "give a file",
        });
      }
      await pipeTo(required(options.output), pieces(device, range));
      return { bytes: range.to, dataBytes: range.to, verified: false };
    }
    const path = core.resolvePath(file);
    const dataBytes = await copyOut(device, path, { progress: options.progress, isStill: core.isAlone });
    if (options.verify === true) {
      await using image = openImage(path);
      await verify(device, image, { otherName: path });
    }
    return { bytes: range.to, dataBytes, verified: options.verify === true };
  });
}

// Discards

export function trimDevice(
  core: Core,
  name: string,
  options: TransferOptions & { readonly zeroes?: boolean } = {},
): Promise<{ readonly trimmedBytes: number }> {
  let isThin = false;
  const open = (session: Session) => {
    isThin = soleThinLine(session.registry.get(name)) !== undefined;
    return openDevice(session, name);
  };
  return core.use(`trim ${name}`, open, async (device) => {
    refuseWriting(device, name);
    const { from, to } = rangeOf(device, options);
    refuseDiscard(device, name, { from, to });
    core.log(`discard '${name}': ${sectors(from, to)}`);
    const unit = device.discardGranularityBytes;
    const before = await dataBytesOf(device, from, to);
    if (options.zeroes === true) await discardZeroes(device, { from, to }, unit);
    else await device.discard(from, to - from);
    await device.flush();
    const after = await dataBytesOf(device, from, to);
    return { trimmedBytes: !isThin && options.zeroes !== true ? to - from : before - after };
  });
}

export function refuseDiscard(device: BlockDevice, name: string, { from, to }: Range): void {
  if (from % SECTOR_BYTES !== 0 || to % SECTOR_BYTES !== 0) {
    throw new StateError("EINVAL", "offset and length of a discard are multiples of 512", { hint: "round them" });
  }
  if (device.discardGranularityBytes > 0) return;
  throw new StateError("EOPNOTSUPP", `'${name}' does not discard`, {
    hint: "its pool has ignore_discard, or what it stands on cannot discard",
  });
}

async function dataBytesOf(device: BlockDevice, from: number, to: number): Promise<number> {
  let bytes = 0;
  for (let window = from; window < to; window += WINDOW_BYTES) {
    const extents: readonly Extent[] = await device.extents(window, Math.min(WINDOW_BYTES, to - window));
    for (const extent of extents) if (extent.kind === "data") bytes += extent.length;
  }
  return bytes;
}

/** Discards the units that hold nothing but zeros. */
async function discardZeroes(device: BlockDevice, range: Range, unit: number): Promise<void> {
  const zeros = Buffer.alloc(unit);
  const chunk = Math.max(unit, floorTo(CHUNK_BYTES, unit));
  const inner = { from: ceilTo(range.from, unit), to: floorTo(range.to, unit) };
  for await (const { from, to } of dataStretches(device, inner, unit)) {
    for (let offset = from; offset < to; offset += chunk) {
      const end = Math.min(to, offset + chunk);
      const piece = await readPiece(device, offset, end);
      let start = offset;
      for (let at = offset; at <= end; at += unit) {
        const isZero = at < end && piece.subarray(at - offset, at - offset + unit).equals(zeros);
        if (isZero) continue;
        if (at > start) await device.discard(start, at - start);
        start = at + unit;
      }
    }
  }
}

/** A stream that stands for `-`; who calls gives it. */
function required<T>(stream: T | undefined): T {
  if (stream === undefined)
    throw new StateError("EINVAL", "no stream was given for '-'", { hint: "give a file's name" });
  return stream;
}
