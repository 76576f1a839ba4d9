/**
 * The one contract for anything that holds bytes: files, block devices, memory, slices, mapped devices.
 *
 * Offsets and lengths are bytes. Transfers are whole: a short read or write is an error, never a partial result. A
 * transfer that leaves the device is refused (EINVAL) before anything is touched. Offsets and lengths need only be
 * multiples of 512; an implementation that stands on larger sectors reads, changes and writes them itself.
 */

/** The operations of a device that can always be completed at once, without waiting for anybody. */
export interface SyncIo {
  /** Fills `buffer` from `offset`. @throws IoError EIO */
  read(offset: number, buffer: Uint8Array): void;
  /** Writes all of `buffer` at `offset`; durable after the next flush. @throws IoError EIO, EROFS; SpaceError ENOSPC */
  write(offset: number, buffer: Uint8Array): void;
  /** All writes that had returned before are durable when it returns. */
  flush(): void;
  /** Bytes may be dropped: they read as zeros or as before. A hole is punched in a file. */
  discard(offset: number, length: number): void;
  /** Bytes read as zeros afterwards, in the cheapest way the device has. */
  writeZeroes(offset: number, length: number): void;
  /**
   * How many bytes from `offset` on, at most `length`, are known to read as zeros without being read (a hole of a
   * sparse file); 0 when nothing is known.
   */
  knownZeroes(offset: number, length: number): number;
}

export interface BlockDevice {
  /** What messages call it: a path, `7:1`, a mapped device's name. */
  readonly name: string;
  /** Present size; may change when the thing below was resized and `refreshSize` called. */
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  /** 512 or 4096: what programs above should align to. */
  readonly logicalBlockBytes: number;
  /** Discard unit in bytes, 0 when the device does not discard. */
  readonly discardGranularityBytes: number;
  /** Present when nothing this device does ever waits; metadata must stand on such a device. */
  readonly sync: SyncIo | undefined;

  read(offset: number, buffer: Uint8Array): Promise<void>;
  /** `fua`: durable when the promise resolves. */
  write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void>;
  flush(): Promise<void>;
  discard(offset: number, length: number): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  /** Extents of [offset, offset + length), in order and without gap; a device that knows nothing gives one data extent. */
  extents(offset: number, length: number): Promise<readonly Extent[]>;
  /**
   * Reads as much as can be read without waiting for anybody, from the front. For servers, which answer at once what can be
   * answered at once. @returns bytes done, 0 when nothing could be
   */
  tryRead?(offset: number, buffer: Uint8Array): number;
  /** Writes as much as can be written without waiting, from the front. @returns bytes done */
  tryWrite?(offset: number, buffer: Uint8Array): number;
  /**
   * In which files the bytes of a range lie, in order and without the holes, for who copies them himself. True until the
   * device, or what it shares its ground with, is next changed. Undefined where it cannot be told.
   */
  locate?(offset: number, length: number): readonly Located[] | undefined;
  /**
   * Whole units of so many bytes are made to read as zeros without writing them; 0, or undefined, where zeros are written.
   */
  readonly zeroGranularityBytes?: number;
  /** Asks the thing below for its size again. */
  refreshSize(): Promise<void>;
  /** May be called twice. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A stretch that holds data, or reads as zeros. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly kind: "data" | "zeros";
}

/** A stretch of a device, and where an open file holds it. */
export interface Located {
  readonly offset: number;
  readonly length: number;
  readonly fd: number;
  readonly fileOffset: number;
}
