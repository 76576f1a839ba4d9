/** What the metadata records of a thin device besides its mappings. Its size is not recorded anywhere. */
import { struct, u32, u64 } from "../bytes/index.js";

/** Source: the kernel's disk_device_details. */
export const DEVICE_DETAILS = struct("device details", 24, {
  mappedBlocks: u64(0, "mappings of the device"),
  transactionId: u64(8, "the pool's transaction id when it was created"),
  creationTime: u32(16, "the pool's clock when it was created"),
  snapshottedTime: u32(20, "the pool's clock when it last took part in a snapshot"),
});

export const MAX_DEVICE_ID = 2 ** 24 - 1;
