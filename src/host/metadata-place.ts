/**
 * Where the metadata of a pool lies: a file or block device, a loop device of ours, or whatever a pool stands on. The
 * tools open it in their own process; a daemon that has the pool is only asked for the place.
 */
import { type Stats, statSync } from "node:fs";
import type { DeviceRecord, LoopRecord } from "../device-registry/index.js";
import { codeOf, StateError } from "../errors/index.js";
import { systemError } from "../io/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { nodeOf } from "./below.js";
import type { Core } from "./core.js";
import type { MetadataPlace } from "./host.js";
import { isSamePlace } from "./metadata-tools.js";
import type { Session } from "./session.js";
import { isPoolRecord } from "./thin-records.js";

/** Tables that lead to tables. */
const MAX_LEVELS = 8;

/**
 * @param from a pool, a mapped device, a loop device of ours, or a path
 * @param role what of a pool is meant
 */
export function locateMetadata(
  core: Core,
  from: string,
  role: "metadata" | "data" = "metadata",
): Promise<MetadataPlace> {
  if (from === "") {
    throw new StateError("EINVAL", "an empty name names no metadata", { hint: "name a pool, file or block device" });
  }
  return core.view((session) => locate(session, from, role, 0));
}

function locate(session: Session, word: string, role: "metadata" | "data", level: number): MetadataPlace {
  if (level > MAX_LEVELS) throw new StateError("EINVAL", `${word}: its table leads too far down`);
  const record = session.registry.find(word);
  if (record !== undefined) return locateMapped(session, record, word, role, level);
  const loop = level === 0 ? session.low.namedLoop(word) : session.low.loop(word);
  if (loop !== undefined) {
    const pool = poolOver(session, role, ({ number }) => number === loop.number);
    const place = { name: word, path: loop.file, offsetBytes: loop.offsetBytes, sizeBytes: loop.sizeBytes };
    return pool === undefined ? place : { ...place, pool };
  }
  if (/^\d+:\d+$/.test(word)) return { name: word, path: nodeOf(word), offsetBytes: 0 };
  const path = session.resolvePath(word);
  const stat = statOf(path);
  if (stat === undefined) {
    const isPath = word.includes("/") || word.includes(".");
    throw new StateError("ENOENT", isPath ? `${word}: no such file or device` : `no pool, device or file '${word}'`, {
      hint: "name a file or block device that holds metadata, or a pool that udm knows (udm pool list)",
    });
  }
  if (stat.isDirectory() || stat.isCharacterDevice()) {
    throw new StateError("EINVAL", `${word}: not a file or block device`, { hint: "name the pool's metadata" });
  }
  const pool = poolOver(session, role, ({ file, offsetBytes }) => offsetBytes === 0 && isSamePlace(file, path));
  return { name: word, path, offsetBytes: 0, ...(pool === undefined ? {} : { pool }) };
}

/** Undefined where there is nothing. @throws StateError EACCES */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (codeOf(error) === "EACCES") throw systemError(error, path);
    return undefined;
  }
}

function locateMapped(
  session: Session,
  record: DeviceRecord,
  word: string,
  role: "metadata" | "data",
  level: number,
): MetadataPlace {
  const lines = record.live ?? record.inactive?.lines ?? [];
  const [line] = lines;
  if (isPoolRecord(record) && line !== undefined) {
    const below = locate(session, line.args[role === "metadata" ? 0 : 1]!, role, level + 1);
    return { ...below, name: word, pool: record.name };
  }
  if (lines.length === 1 && line?.type === "linear") {
    const below = locate(session, line.args[0]!, role, level + 1);
    const offsetBytes = below.offsetBytes + Number(line.args[1]) * SECTOR_BYTES;
    return { ...below, name: word, offsetBytes, sizeBytes: line.lengthSectors * SECTOR_BYTES };
  }
  throw new StateError("EINVAL", `${word}: its table is not one stretch of one device`, {
    hint: "name the device or file below it",
  });
}

/** Name of the pool whose metadata, or data, is such a loop device, if udm knows one. */
function poolOver(
  session: Session,
  role: "metadata" | "data",
  isMeant: (loop: LoopRecord) => boolean,
): string | undefined {
  for (const record of session.registry.records()) {
    const line = (record.live ?? record.inactive?.lines)?.[0];
    if (!isPoolRecord(record) || line === undefined) continue;
    const loop = session.low.loop(line.args[role === "metadata" ? 0 : 1]!);
    if (loop !== undefined && isMeant(loop)) return record.name;
  }
  return undefined;
}
