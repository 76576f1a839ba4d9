/**
 * What a target is. A table line is first parsed (words checked in the kernel's order, devices looked up, everything
 * brought to the form in which tables are printed), then opened. A parsed line is plain text and can be kept; what it
 * stands on, which areas it uses and what it prints follow from the text alone. Only opening touches devices.
 *
 * An open target presents its stretch as a BlockDevice of its own length. Suspending holds requests at the mapped
 * device above; targets only learn of it through the hooks.
 */
import type { BlockDevice } from "../io/index.js";
import type { Pool, PoolConfig, PoolNote, PoolRuntime } from "../thin/index.js";

/** One line of a table. `args` are the words behind the type. */
export interface TargetLine {
  readonly startSectors: number;
  readonly lengthSectors: number;
  readonly type: string;
  readonly args: readonly string[];
}

/** A device as a word in a table names it. */
export interface FoundDevice {
  /** `MAJ:MIN` */
  readonly number: string;
  /** What the kernel calls it in messages: `vda`, `loop1`, `dm-0`. */
  readonly kernelName: string;
  readonly kind: "mapped" | "loop" | "machine";
}

/** What a line's words are checked against while it is parsed. */
export interface ParseContext {
  /** `MAJ:MIN` of the mapped device that the table is for. */
  readonly deviceNumber: string;
  /** @throws StateError ENODEV (no such path or not a block device), ENXIO (no such number), EBUSY (held exclusively) */
  find(word: string): Promise<FoundDevice>;
  /** The pool that a mapped device is, by its live table or else its inactive one. */
  poolOf(deviceNumber: string): KnownPool | undefined;
  /** The pool that uses a metadata device. */
  poolOn(metadataNumber: string): KnownPool | undefined;
  /** True for a number that belongs to a mapped device. */
  isMapped(deviceNumber: string): boolean;
}

export interface KnownPool {
  readonly deviceNumber: string;
  readonly deviceName: string;
  readonly metadata: string;
  readonly data: string;
  readonly config: PoolConfig;
  readonly isFailed: boolean;
}

/** A stretch of a device that a target uses; checked against the device's size. */
export interface Area {
  readonly device: string;
  readonly startSectors: number;
  /** As typed: offsets beyond 2^53 are refused, but the refusal names them exactly. */
  readonly startText: string;
  readonly lengthSectors: number;
}

/** What opening a parsed line may use. Devices belong to the context and are closed by it. */
export interface OpenContext {
  readonly deviceNumber: string;
  readonly readOnly: boolean;
  open(deviceNumber: string, mode: { readonly readOnly: boolean }): Promise<BlockDevice>;
  /** The pool that the mapped device already is, when one of its tables is open. */
  ownPool(): OpenPool | undefined;
  /** Opens the mapped device and returns the pool it is. */
  poolOf(deviceNumber: string): Promise<OpenPool>;
  /** What was known about this device's pool when it was last open. */
  readonly runtime: PoolRuntime | undefined;
  onEvent(): void;
  onNote?(note: PoolNote): void;
  log(line: string): void;
  readonly noSpaceTimeoutMs: number | undefined;
  readonly cacheBlocks: number | undefined;
  /** Pools commit only when they are told to. */
  readonly holdsCommits?: boolean;
}

export interface OpenPool {
  readonly pool: Pool;
  readonly isSuspended: boolean;
}

export interface StatusOptions {
  /** Don't commit first. */
  readonly noflush?: boolean;
}

export interface Target {
  /** The stretch as a device: offset 0 is the line's first sector. */
  readonly device: BlockDevice;
  /** Parameters of `dmsetup status`. */
  status(options?: StatusOptions): string | Promise<string>;
  /** @returns the reply, if there is one @throws UdmError */
  message?(words: readonly string[]): Promise<string | undefined>;
  /** Brings the line into force before requests flow; may refuse (EINVAL). */
  preResume?(): Promise<void>;
  /** Requests are held above; what is under way has to end. */
  suspend?(options: { readonly noflush: boolean }): Promise<void>;
  /** The pool, when this target is one. */
  readonly pool?: Pool;
  /** Gives back what opening took. May be called twice. */
  close(): Promise<void>;
}

export interface TargetType {
  readonly name: string;
  /** Version of the kernel's target of this name that it behaves like. */
  readonly version: string;
  /** Must be the only line of its table. */
  readonly isSingleton?: boolean;
  /** A live table with it is replaced by the same type or by `error` only. */
  readonly isImmutable?: boolean;
  /** Refuses to live in a read-only table. */
  readonly alwaysWritable?: boolean;
  /** @returns the words as tables print them @throws StateError with the kernel's reason */
  parse(line: TargetLine, context: ParseContext): Promise<readonly string[]>;
  /** Devices of a parsed line, in order of first reference. */
  devices(args: readonly string[]): readonly string[];
  areas(line: TargetLine): readonly Area[];
  /** Parameters of `dmsetup table`. */
  tableText(args: readonly string[]): string;
  /** Parameters of `dmsetup status` where they need no open device. */
  fixedStatus?(args: readonly string[]): string;
  open(line: TargetLine, context: OpenContext): Promise<Target>;
}
