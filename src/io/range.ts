/** Checks that every device makes before it touches anything. */
import { IoError } from "../errors/index.js";
import { SECTOR_BYTES } from "../units/index.js";

/** @throws IoError EINVAL when [offset, offset + length) leaves the device or does not begin and end at a sector. */
export function checkRange(device: string, sizeBytes: number, offset: number, length: number): void {
  // The low bits of a number survive the conversion to 32 bits, also above 2^32.
  if (((offset | length) & (SECTOR_BYTES - 1)) === 0 && offset >= 0 && length >= 0 && offset + length <= sizeBytes)
    return;
  throw rangeError(device, sizeBytes, offset, length);
}

function rangeError(device: string, sizeBytes: number, offset: number, length: number): IoError {
  if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) {
    return new IoError(
      "EINVAL",
      `${device}: ${length} bytes at ${offset} are not whole sectors of ${SECTOR_BYTES} bytes`,
    );
  }
  return new IoError("EINVAL", `${device}: ${length} bytes at ${offset} are outside the device of ${sizeBytes} bytes`);
}

/** @throws IoError EROFS */
export function refuseReadOnly(device: string): never {
  throw new IoError("EROFS", `${device}: is read-only`);
}
