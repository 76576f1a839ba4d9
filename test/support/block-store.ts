import { MemoryDevice } from "../../src/io/index.js";
import { BlockStore } from "../../src/thin/tools/reader/index.js";

/** What the metadata tools read from, over a copy of an image. */
export function storeOf(image: Uint8Array): BlockStore {
  const device = new MemoryDevice({ sizeBytes: image.length });
  device.sync.write(0, image);
  return new BlockStore(device);
}
