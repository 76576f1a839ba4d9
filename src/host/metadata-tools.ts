/**
 * The tools for metadata, run where they are asked for. The host tells the place (`locateMetadata`); here it is claimed
 * and opened. Who only reads shares it with readers; who writes has it alone. What somebody else has in use is refused,
 * unless the metadata snapshot is to be read, which nobody changes, or a look at moving blocks is asked for.
 */
import { existsSync, statSync } from "node:fs";
import { codeOf, StateError } from "../errors/index.js";
import {
  type BlockDevice,
  type Claim,
  Claims,
  FileDevice,
  identityOf,
  isSameFile,
  nativeCalls,
  SliceDevice,
} from "../io/index.js";
import { BlockBuffer, BlockStore, checkHead, Kind, numberAt, Problem, SUPERBLOCK } from "../thin/index.js";
import type { Host, MetadataPlace } from "./host.js";
import { type HeldSnapshot, SNAPSHOT_KIND, snapshotOfService } from "./metadata-snapshot.js";

export interface MetadataAccess {
  /** Read the metadata snapshot: the present one, or the superblock copy in that block. */
  readonly snapshot?: true | number | undefined;
  /** Read without a claim, whoever has it open for writing; `confirm` tells whether it was of one moment. */
  readonly forceReadOnly?: boolean | undefined;
  /** The host that was asked for the place: its daemon may hold a metadata snapshot for the reader. */
  readonly host?: Host | undefined;
  /** The tool changes it. */
  readonly write?: boolean | undefined;
}

/** Metadata opened for a tool. */
export interface OpenedMetadata extends AsyncDisposable {
  readonly name: string;
  readonly pool: string | undefined;
  readonly device: BlockDevice;
  readonly store: BlockStore;
  /** Block of the superblock to begin at: 0, or the metadata snapshot. */
  readonly superblock: number;
  /** Somebody else has it open for writing, or may have. */
  readonly isLive: boolean;
  /** It is read through a metadata snapshot that was there before, and may be older than the pool. */
  readonly mayBeOld: boolean;
  /**
   * To be asked when all was read: it was of one moment. Blocks that a committed superblock, or a metadata snapshot, leads to
   * are not written again before the next commit, or its release; so it is enough to look whether one of these came
   * meanwhile. @throws StateError EBUSY
   */
  confirm(): void;
  /** The same of all blocks, not of those alone that the superblock to begin at leads to. @throws StateError EBUSY */
  confirmAll(): void;
  /** Whether a path leads to the same file or block device. */
  isFile(path: string): boolean;
  /** May be called twice. */
  close(): Promise<void>;
}

/**
 * @throws StateError EBUSY with the holder's name; ENODATA when there is no metadata snapshot; ENOENT, EACCES; IoError
 */
export async function openMetadata(place: MetadataPlace, access: MetadataAccess = {}): Promise<OpenedMetadata> {
  const opened = openPlace(place, { ...access, role: "metadata" });
  const { device, isLive } = opened;
  let held: HeldSnapshot | undefined;
  const close = async () => {
    await opened.close();
    const { host } = access;
    const service = held?.service;
    held = undefined;
    if (service !== undefined) await host?.stopService(service);
  };
  try {
    // A pool in use is read through its metadata snapshot.
    const wantsHeld = isLive && access.forceReadOnly !== true;
    if (wantsHeld && access.snapshot === undefined) held = await holdSnapshot(place, access.host);
    const first = readHead(device);
    const snapshot = access.snapshot ?? (wantsHeld ? true : undefined);
    const superblock = held?.superblock ?? heldRootOf(first, place, snapshot, opened.conflict);
    const copy = superblock === 0 ? first : readBlock(device, superblock);
    return {
      name: place.name,
      pool: place.pool,
      device,
      store: new BlockStore(device),
      superblock,
      isLive,
      mayBeOld: isLive && superblock !== 0 && held?.isFresh !== true,
      confirm() {
        if (isLive && !isUnmoved(device, { superblock, first, copy })) throw moved(place.name, superblock);
      },
      confirmAll() {
        if (!isLive || isUnmoved(device, { superblock: 0, first, copy })) return;
        throw new StateError("EBUSY", `${place.name}: it changed while it was read`, {
          hint: "take it out of use; or dump it, which reads a pool in use as it is at one moment",
        });
      },
      isFile: (path) => isSamePlace(path, place.path),
      close,
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** @returns false where one of them is not there */
export function isSamePlace(one: string, other: string): boolean {
  const [a, b] = [one, other].map((path) => (existsSync(path) ? identityOf(path) : undefined));
  return a !== undefined && b !== undefined && isSameFile(a, b);
}

/** Has the daemon hold a metadata snapshot, when it is the one that has the pool open. */
async function holdSnapshot({ pool }: MetadataPlace, host: Host | undefined): Promise<HeldSnapshot | undefined> {
  if (pool === undefined || host === undefined) return undefined;
  const info = await host.daemonInfo();
  if (info?.openPools.includes(pool) !== true) return undefined;
  try {
    return snapshotOfService(await host.startService({ kind: SNAPSHOT_KIND, options: { pool }, lasts: "connection" }));
  } catch (error) {
    const code = codeOf(error);
    if (code !== "EROFS" && code !== "EIO" && code !== "ENOSPC" && code !== "EINVAL") throw error;
    throw new StateError("EBUSY", `${pool}: no metadata snapshot can be taken to read: ${reasonOf(error)}`, {
      hint: "--force-read-only reads it as it lies there",
      cause: error,
    });
  }
}

/** Block 0; one that is just being written is read again. */
function readHead(device: BlockDevice): BlockBuffer {
  for (let left = READS_OF_HEAD; ; left--) {
    const head = readBlock(device, 0);
    if (left === 0 || checkHead(0, Kind.Superblock, head.words, 0, head.view) === Problem.None) return head;
  }
}

/** Zeros where nothing can be read: the tools find out for themselves. */
function readBlock(device: BlockDevice, blocknr: number): BlockBuffer {
  const buffer = new BlockBuffer(1);
  const store = new BlockStore(device);
  store.loadOne(blocknr, buffer);
  return buffer;
}

const READS_OF_HEAD = 8;

function heldIn(head: BlockBuffer): number {
  return numberAt(head.words, SUPERBLOCK.fields.heldRoot.offset / 4);
}

interface Seen {
  readonly superblock: number;
  readonly first: BlockBuffer;
  readonly copy: BlockBuffer;
}

function isUnmoved(device: BlockDevice, { superblock, first, copy }: Seen): boolean {
  const now = readHead(device);
  if (Buffer.compare(now.bytes, first.bytes) === 0) return true;
  if (superblock === 0) return false;
  const isHeld = heldIn(now) === superblock && heldIn(first) === superblock;
  return isHeld && Buffer.compare(readBlock(device, superblock).bytes, copy.bytes) === 0;
}

function moved(name: string, superblock: number): StateError {
  if (superblock !== 0) {
    return new StateError("EBUSY", `${name}: its metadata snapshot was released while it was read`, {
      hint: "what was found may be wrong; take another one and try again",
    });
  }
  return new StateError("EBUSY", `${name}: it changed while it was read`, {
    hint: "what was found may be of two moments; try again, or read its metadata snapshot with -m",
  });
}

function heldRootOf(
  head: BlockBuffer,
  place: MetadataPlace,
  wanted: true | number | undefined,
  conflict: unknown,
): number {
  if (wanted === undefined) return 0;
  if (wanted !== true) return wanted;
  const held = heldIn(head);
  if (held !== 0) return held;
  const reserve =
    place.pool === undefined
      ? "dmsetup message POOL 0 reserve_metadata_snap takes one"
      : `udm pool message ${place.pool} reserve_metadata_snap takes one`;
  if (conflict !== undefined) {
    throw new StateError("EBUSY", `${place.name}: ${reasonOf(conflict)}, and has no metadata snapshot to read`, {
      hint: `${reserve}; or --force-read-only for a look while it changes`,
      cause: conflict,
    });
  }
  throw new StateError("ENODATA", `${place.name}: no metadata snapshot`, { hint: reserve });
}

/** `FILE: is held by ...` without the file. */
function reasonOf(conflict: unknown): string {
  const text = conflict instanceof Error ? conflict.message : String(conflict);
  return text.replace(/^.*?: /, "");
}

export interface OpenedPlace {
  readonly device: BlockDevice;
  readonly isLive: boolean;
  /** The refusal that was passed over. */
  readonly conflict: unknown;
  close(): Promise<void>;
}

/** Claims and opens a place, for metadata or data. */
export function openPlace(place: MetadataPlace, access: MetadataAccess & { readonly role: string }): OpenedPlace {
  const { path, offsetBytes, sizeBytes, name } = place;
  const readOnly = access.write !== true;
  let claim: Claim | undefined;
  let conflict: unknown;
  try {
    // Who takes a look is in nobody's way, not even of one who is just about to open it.
    if (access.forceReadOnly === true && readOnly) throw new StateError("EBUSY", `${path}: may be in use`);
    const range = { offsetBytes, ...(sizeBytes === undefined ? {} : { lengthBytes: sizeBytes }) };
    claim = new Claims().claim({ path, role: access.role, readOnly, ...range });
  } catch (error) {
    if (codeOf(error) !== "EBUSY" || !readOnly) throw error;
    const mayBeLive = access.snapshot !== undefined || access.forceReadOnly === true || place.pool !== undefined;
    if (!mayBeLive) throw withWayOut(error);
    conflict = error;
  }
  try {
    // What the kernel writes below the page cache is read below it.
    const direct = conflict !== undefined && statSync(path).isBlockDevice() && nativeCalls() !== undefined;
    const file = FileDevice.open(path, { name, readOnly, direct });
    const device = sizeBytes === undefined && offsetBytes === 0 ? file : sliceOf(file, place);
    const close = async () => {
      await device.close();
      await file.close();
      claim?.release();
    };
    return { device, isLive: conflict !== undefined, conflict, close };
  } catch (error) {
    claim?.release();
    throw error;
  }
}

function sliceOf(file: FileDevice, { name, offsetBytes, sizeBytes }: MetadataPlace): BlockDevice {
  const lengthBytes = sizeBytes ?? file.sizeBytes - offsetBytes;
  return new SliceDevice(file, { name, offsetBytes, lengthBytes });
}

function withWayOut(error: unknown): unknown {
  if (!(error instanceof StateError)) return error;
  return new StateError("EBUSY", error.message, {
    hint: "-m reads its metadata snapshot; --force-read-only takes a look while it changes",
    cause: error,
  });
}
