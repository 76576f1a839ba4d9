/** What a server exports: something that holds bytes. The server knows nothing of pools, tables or names of devices. */
import type { Extent } from "../io/index.js";

/** A stretch of an export, and whether its blocks are its own. */
export interface SharedExtent {
  readonly offset: number;
  readonly length: number;
  readonly kind: "hole" | "own" | "shared";
}

export interface NbdExport {
  /** What clients ask for; at most 4096 bytes. */
  readonly name: string;
  readonly description: string | undefined;
  /** Now; it may change. */
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  /** Powers of two; preferred is not below minimum. */
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly canTrim: boolean;
  /** Write zeroes may be quick: see `writeZeroes`. */
  readonly canFastZero: boolean;
  /** A flush on one connection covers what was completed on all. */
  readonly canMultiConn: boolean;

  /** As much as can be read without waiting, from the front. Any offset and length inside. @returns bytes done */
  tryRead(offset: number, buffer: Uint8Array): number;
  tryWrite(offset: number, buffer: Uint8Array): number;
  read(offset: number, buffer: Uint8Array): Promise<void>;
  write(offset: number, buffer: Uint8Array): Promise<void>;
  /** Everything whose promise had resolved is durable. */
  flush(): Promise<void>;
  /** A hint; whole sectors inside the range. */
  trim(offset: number, length: number): Promise<void>;
  /**
   * @param how.noHole room stays, or becomes, allocated
   * @param how.isFast only if it costs about as much as a trim
   * @returns false when it would not be fast; then nothing was changed
   */
  writeZeroes(
    offset: number,
    length: number,
    how: { readonly noHole: boolean; readonly isFast: boolean },
  ): Promise<boolean>;
  /** May give less than asked for, but something. */
  extents(offset: number, length: number): Promise<readonly Extent[]>;
  /** Where blocks may be shared. May give less than asked for. */
  sharing?(offset: number, length: number): Promise<readonly SharedExtent[]>;
}
