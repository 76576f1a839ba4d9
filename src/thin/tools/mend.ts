/**
 * Small repairs in place, each one transaction: what was on the device before is whole until the new superblock is.
 */
import { StateError } from "../../errors/index.js";
import type { BlockDevice, SyncIo } from "../../io/index.js";
import { BlockManager, METADATA_BLOCK_BYTES } from "../../persistent-data/index.js";
import { MetadataStore, usableBlocks } from "../metadata-store.js";
import { FLAG_NEEDS_CHECK, SUPERBLOCK, SUPERBLOCK_VALIDATOR, writeSpaceMapRoot } from "../superblock.js";
import type { Run } from "./check.js";

export interface MendOptions {
  /** Counted as used with one owner, and used by nobody. */
  readonly leaks?: { readonly metadata: readonly Run[]; readonly data: readonly Run[] };
  /** Clear the needs_check flag. */
  readonly clearNeedsCheck?: boolean;
}

/**
 * Frees leaked blocks and clears the flag, durable when it returns. Other flags and fields stay as they are.
 * @throws SpaceError when the metadata has no room for the changed copies; DamageError, IoError
 */
export function mendMetadata(device: Pick<BlockDevice, "name" | "sizeBytes" | "sync">, options: MendOptions): void {
  const blocks = new BlockManager(ioOf(device), usableBlocks(Math.floor(device.sizeBytes / METADATA_BLOCK_BYTES)));
  const store = MetadataStore.open(blocks, undefined, true);
  const { metadata = [], data = [] } = options.leaks ?? {};
  for (const { begin, end } of data) {
    store.dataMap.dec(begin, end);
    blocks.trim();
  }
  for (const { begin, end } of metadata) store.metadataMap.dec(begin, end);
  store.dataMap.commit();
  store.metadataMap.commit();
  blocks.commit(SUPERBLOCK_VALIDATOR, ({ view }) => {
    writeSpaceMapRoot(view, "data", store.dataMap.root);
    writeSpaceMapRoot(view, "metadata", store.metadataMap.root);
    if (options.clearNeedsCheck === true) {
      SUPERBLOCK.set.flags(view, SUPERBLOCK.get.flags(view) & ~FLAG_NEEDS_CHECK);
    }
  });
  store.transaction.endTransaction();
}

function ioOf({ name, sync }: Pick<BlockDevice, "name" | "sync">): SyncIo {
  if (sync !== undefined) return sync;
  throw new StateError("EOPNOTSUPP", `${name}: metadata must lie on a file or block device`);
}
