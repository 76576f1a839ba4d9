/**
 * Loop devices of udm: a file or block device, or a part of it, with a size that was taken up when it was attached and
 * stays until somebody asks for more. Semantics of losetup; source: section 9.3 of dmsetup-cli.
 */
import { IoError } from "../errors/index.js";
import { type BlockDevice, FileDevice } from "../io/index.js";
import { SECTOR_BYTES } from "../units/index.js";

/** What a loop device stands on. */
export interface LoopBacking {
  readonly number: number;
  readonly file: string;
  readonly offsetBytes: number;
  /** 0: to the end of the file. */
  readonly sizeLimitBytes: number;
  readonly readOnly: boolean;
  readonly sectorBytes: number;
  /** Taken up from the file, whatever that grew to. */
  readonly sizeBytes: number;
}

export interface LoopRequest {
  readonly number: number;
  readonly file: string;
  readonly offsetBytes?: number;
  readonly sizeLimitBytes?: number;
  readonly readOnly?: boolean;
  readonly sectorBytes?: number;
}

/** How much of a file of `fileBytes` a loop device takes up, in whole sectors. */
export function loopSizeBytes(
  fileBytes: number,
  { offsetBytes = 0, sizeLimitBytes = 0 }: { readonly offsetBytes?: number; readonly sizeLimitBytes?: number },
): number {
  const behind = Math.max(fileBytes - offsetBytes, 0);
  const limited = sizeLimitBytes > 0 ? Math.min(behind, sizeLimitBytes) : behind;
  return limited - (limited % SECTOR_BYTES);
}

/**
 * What attaching gives: the size taken up, and read-only where the file cannot be written. Nothing is changed.
 * @throws StateError ENOENT, EACCES, EINVAL, ENOTBLK; IoError EINVAL for offset, limit or sector size
 */
export function takeUpLoop(request: LoopRequest): LoopBacking {
  const { number, file, offsetBytes = 0, sizeLimitBytes = 0, readOnly = false, sectorBytes } = request;
  if (sizeLimitBytes % SECTOR_BYTES !== 0) {
    throw new IoError("EINVAL", `${file}: size limit ${sizeLimitBytes} is not a multiple of ${SECTOR_BYTES} bytes`, {
      hint: `round it down to ${sizeLimitBytes - (sizeLimitBytes % SECTOR_BYTES)}`,
    });
  }
  const device = FileDevice.open(file, {
    readOnly,
    fallBackToReadOnly: true,
    offsetBytes,
    sizeLimitBytes,
    ...(sectorBytes === undefined ? {} : { sectorBytes }),
  });
  const backing: LoopBacking = {
    number,
    file,
    offsetBytes,
    sizeLimitBytes,
    readOnly: device.isReadOnly,
    sectorBytes: device.logicalBlockBytes,
    sizeBytes: device.sizeBytes,
  };
  void device.close();
  return backing;
}

/** Things losetup warns about and does all the same; lines without the program's name. */
export function loopWarnings(file: string, fileBytes: number): string[] {
  if (fileBytes < SECTOR_BYTES) {
    return [
      `${file}: Warning: file is smaller than 512 bytes; the loop device may be useless or invisible for system tools.`,
    ];
  }
  if (fileBytes % SECTOR_BYTES === 0) return [];
  return [`${file}: Warning: file does not fit into a 512-byte sector; the end of the file will be ignored.`];
}

/**
 * The device, with the size that was taken up.
 * @throws IoError EIO when the file was cut off since: found and wanted bytes; EROFS when it can no longer be written
 */
export function openLoop(loop: LoopBacking): BlockDevice {
  return FileDevice.open(loop.file, {
    name: `7:${loop.number} (${loop.file})`,
    readOnly: loop.readOnly,
    offsetBytes: loop.offsetBytes,
    fixedSizeBytes: loop.sizeBytes,
    sectorBytes: loop.sectorBytes,
  });
}
