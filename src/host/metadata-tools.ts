/**
 * The tools for metadata, run where they are asked for. The host tells the place (`locateMetadata`); here it is claimed
 * and opened. Who only reads shares it with readers; who writes has it alone. What somebody else has in use is refused,
 * unless the metadata snapshot is to be read, which nobody changes, or a look at moving blocks is asked for.
 */
import { codeOf, StateError } from "../errors/index.js";
import { type BlockDevice, type Claim, Claims, FileDevice, SliceDevice } from "../io/index.js";
import { BlockStore, readSuperblock } from "../thin/index.js";
import type { MetadataPlace } from "./host.js";

export interface MetadataAccess {
  /** Read the metadata snapshot: the present one, or the superblock copy in that block. */
  readonly snapshot?: true | number | undefined;
  /** Read although somebody else has it open for writing; what is found may be of two moments. */
  readonly forceReadOnly?: boolean | undefined;
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
  /** Somebody else has it open for writing. */
  readonly isLive: boolean;
  /** May be called twice. */
  close(): Promise<void>;
}

/**
 * @throws StateError EBUSY with the holder's name; ENODATA when there is no metadata snapshot; ENOENT, EACCES; IoError
 */
export async function openMetadata(place: MetadataPlace, access: MetadataAccess = {}): Promise<OpenedMetadata> {
  const opened = openPlace(place, { ...access, role: "metadata" });
  try {
    const store = new BlockStore(opened.device);
    // A pool in use is read through its metadata snapshot where it has one.
    const wantsHeld = opened.isLive && access.forceReadOnly !== true;
    const superblock = heldRootOf(store, place, access.snapshot ?? (wantsHeld ? true : undefined), opened.conflict);
    const { device, isLive, close } = opened;
    return {
      name: place.name,
      pool: place.pool,
      device,
      store,
      superblock,
      isLive,
      close,
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

function heldRootOf(
  store: BlockStore,
  place: MetadataPlace,
  wanted: true | number | undefined,
  conflict: unknown,
): number {
  if (wanted === undefined) return 0;
  if (wanted !== true) return wanted;
  const held = readSuperblock(store).values?.heldRoot ?? 0;
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
    const range = { offsetBytes, ...(sizeBytes === undefined ? {} : { lengthBytes: sizeBytes }) };
    claim = new Claims().claim({ path, role: access.role, readOnly, ...range });
  } catch (error) {
    if (codeOf(error) !== "EBUSY" || !readOnly) throw error;
    const mayBeLive = access.snapshot !== undefined || access.forceReadOnly === true || place.pool !== undefined;
    if (!mayBeLive) throw withWayOut(error);
    conflict = error;
  }
  try {
    const file = FileDevice.open(path, { name, readOnly });
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
