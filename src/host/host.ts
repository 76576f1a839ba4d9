/**
 * Host: every operation a command can ask for. Arguments and results are plain values (they survive JSON), so that the
 * same interface can be served in the command's own process or by a daemon. Sizes are bytes unless a name says
 * otherwise. Every method rejects with an UdmError.
 */
import type { DeviceDetails } from "../loop/index.js";
import type { PoolFeatures, PoolStatus } from "../thin/index.js";

/** A loop device of ours: a file, or a part of it, with a number. */
export interface LoopInfo {
  readonly number: number;
  /** `7:N` */
  readonly dev: string;
  readonly file: string;
  readonly offsetBytes: number;
  /** 0: to the end of the file. */
  readonly sizeLimitBytes: number;
  /** Size the device has now (what was taken up, not what the file may have grown to). */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly sectorBytes: number;
  /** Names of mapped devices whose tables use it. */
  readonly usedBy: readonly string[];
}

export interface LoopAttach {
  readonly file: string;
  /** Make the file, sparse, where it does not exist. */
  readonly sizeBytes?: number;
  readonly offsetBytes?: number;
  readonly sizeLimitBytes?: number;
  readonly readOnly?: boolean;
  readonly sectorBytes?: number;
  readonly number?: number;
  readonly ifNotExists?: boolean;
}

/** One line of a table. `args` are the words behind the type. */
export interface TableLine {
  readonly startSectors: number;
  readonly lengthSectors: number;
  readonly type: string;
  readonly args: readonly string[];
}

export type DeviceState = "ACTIVE" | "SUSPENDED" | "NONE";

/** A mapped device, as `dmsetup info` shows it. */
export interface DeviceInfo {
  readonly name: string;
  readonly uuid: string;
  readonly major: number;
  readonly minor: number;
  readonly state: DeviceState;
  readonly readOnly: boolean;
  readonly openCount: number;
  readonly eventNr: number;
  readonly segments: number;
  readonly hasLiveTable: boolean;
  readonly hasInactiveTable: boolean;
  readonly deferredRemove: boolean;
  readonly sizeBytes: number;
  readonly targetTypes: readonly string[];
  /** `MAJ:MIN` of the devices the live table stands on. */
  readonly deps: readonly string[];
}

export interface TargetText {
  readonly device: string;
  readonly startSectors: number;
  readonly lengthSectors: number;
  readonly type: string;
  /** Parameters of table or status; a thin-pool's keep their trailing blank. */
  readonly params: string;
}

export interface PoolInfo {
  readonly name: string;
  readonly state: DeviceState;
  readonly metadataDevice: string;
  readonly dataDevice: string;
  readonly metadataFile: string | undefined;
  readonly dataFile: string | undefined;
  readonly status: PoolStatus;
  /** The dmsetup status line, with the trailing blank. */
  readonly raw: string;
  readonly thinCount: number;
  /** Active thin devices of this pool. */
  readonly activeCount: number;
  readonly settings: {
    /** 100: never. */
    readonly autoextendThresholdPercent: number;
    readonly autoextendPercent: number;
    readonly maxSizeBytes: number | undefined;
    readonly minFreeSpacePercent: number;
  };
}

export interface PoolCreate {
  readonly name: string;
  readonly source:
    | {
        readonly kind: "devices";
        readonly data: string;
        readonly metadata: string;
        readonly dataSizeBytes?: number;
        readonly metadataSizeBytes?: number;
      }
    | { readonly kind: "table"; readonly table: string }
    | {
        readonly kind: "device";
        readonly device: string;
        readonly thinpPercent: number;
        readonly thinpMetaPercent: number;
      };
  /** Not with a table. */
  readonly blockBytes?: number;
  readonly lowWater?: LowWater;
  readonly features?: Partial<PoolFeatures>;
  readonly uuid?: string;
  /** Overwrite metadata that is neither zero nor dm-thin. */
  readonly format?: boolean;
  readonly ifNotExists?: boolean;
}

export type LowWater =
  | { readonly kind: "blocks"; readonly blocks: number }
  | { readonly kind: "bytes"; readonly bytes: number }
  | { readonly kind: "percent"; readonly percent: number };

export interface PoolCreated {
  readonly name: string;
  readonly formatted: boolean;
  /** Ids found in metadata that existed before. */
  readonly thinIds: readonly number[];
}

export interface PoolResize {
  readonly name: string;
  readonly data?: SizeTarget;
  readonly metadata?: SizeTarget;
}

export interface PoolShortening {
  readonly dataBytes: number;
  /** The loop device and the file below get that length too. */
  readonly cutsFile: boolean;
}

export type SizeTarget =
  | { readonly kind: "absolute"; readonly bytes: number }
  | { readonly kind: "grow"; readonly bytes: number }
  | { readonly kind: "growPercent"; readonly percent: number };

export interface PoolResized {
  readonly dataBytesBefore: number;
  readonly dataBytesAfter: number;
  readonly metadataBytesBefore: number;
  readonly metadataBytesAfter: number;
  /** Files that could become larger than what their file systems have left. */
  readonly overcommitted: readonly Overcommit[];
}

export interface Overcommit {
  readonly file: string;
  /** What the file takes once every byte of it is used, beyond what it takes now. */
  readonly neededBytes: number;
  readonly freeBytes: number;
}

export interface GroupOptions {
  /**
   * What page caches keep back above attached devices, whose requests wait until the group ends: written when the group begins
   * (the default); left, for what is undone in the end; or an operation that wants it written is refused (EBUSY), and is
   * to be done by itself.
   */
  readonly caches?: "written" | "left" | "refused";
}

export interface ThinCreate {
  readonly pool: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly id?: number;
  readonly externalOrigin?: string;
  readonly ifNotExists?: boolean;
}

export interface ThinSnap {
  readonly origin: string;
  readonly name: string;
  readonly id?: number;
  readonly sizeBytes?: number;
  readonly readOnly?: boolean;
  readonly ifNotExists?: boolean;
}

/** A thin device: what the metadata says, and its name and size where udm knows them. */
export interface ThinInfo {
  readonly name: string | undefined;
  readonly pool: string;
  readonly id: number;
  readonly sizeBytes: number | undefined;
  readonly active: boolean;
  readonly readOnly: boolean;
  readonly mappedBytes: number;
  readonly highestMappedBytes: number | undefined;
  readonly exclusiveBytes: number | undefined;
  readonly sharedBytes: number | undefined;
  /** Free once the device is deleted: exclusive, and not held by the metadata snapshot. */
  readonly freedIfDeletedBytes: number | undefined;
  /** Name or id of the device this one was a snapshot of, when udm made it; or the external origin. */
  readonly origin: string | undefined;
  readonly externalOrigin: string | undefined;
  /** Pool times, not dates. */
  readonly creationTime: number;
  readonly snapshottedTime: number;
  readonly transactionId: number;
}

export interface ThinUsage {
  readonly exclusiveBytes: number;
  readonly sharedBytes: number;
  readonly freedIfDeletedBytes: number;
  readonly mappedBytes: number;
}

/** A file or block device, or a stretch of one, that holds metadata. */
export interface MetadataPlace {
  /** As it was asked for. */
  readonly name: string;
  readonly path: string;
  readonly offsetBytes: number;
  /** To the end unless given. */
  readonly sizeBytes?: number;
  /** The pool of udm's that stands on it. */
  readonly pool?: string;
}

/** One run of mapped blocks. */
export interface MapRun {
  readonly virtualBlock: number;
  readonly dataBlock: number;
  readonly count: number;
  readonly time: number;
  /** Devices that map the first block of the run; filled when one block is asked for. */
  readonly sharers: readonly {
    readonly id: number;
    readonly name: string | undefined;
    readonly virtualBlock: number;
  }[];
  /** The metadata snapshot maps it too; this and what follows: of one block. */
  readonly held?: boolean;
  /** Who wrote it; undefined where the metadata does not tell. */
  readonly writer?: { readonly id: number; readonly name: string | undefined } | undefined;
  /** Nodes on the way to the mapping, and the entry taken in each. */
  readonly path?: readonly {
    readonly tree: "devices" | "mappings";
    readonly metadataBlock: number;
    readonly entry: number;
  }[];
}

export interface DiffExtent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly kind: "left-only" | "right-only" | "differ";
}

export interface TransferOptions {
  readonly offsetBytes?: number;
  readonly lengthBytes?: number;
}

/** Called with bytes done and bytes in all, a few times a second at most. */
export type Progress = (doneBytes: number, totalBytes: number) => void;

export interface ImportResult {
  readonly bytes: number;
  readonly dataBytes: number;
  readonly verified: boolean;
}

/** What a changing operation would do, as commands of the classic tools, one a line. */
export type Plan = readonly string[];

/** Node of the tree of devices: udm's own and the machine's. */
export interface BlockNode {
  readonly name: string;
  /** Kernel name for the machine's devices, `loopN`/`dm-N` for ours. */
  readonly kname: string;
  readonly path: string;
  readonly majMin: string;
  readonly removable: boolean;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** What lsblk prints as TYPE: disk, part, loop, dm; for a mapped device with a uuid the subsystem in it, such as lvm. */
  readonly type: string;
  readonly mountpoints: readonly string[];
  readonly owner: "udm" | "machine";
  readonly pool?: string;
  readonly thinId?: number;
  readonly mappedBytes?: number;
  readonly dataPercent?: number;
  readonly metadataPercent?: number;
  readonly origin?: string;
  /** running or suspended. */
  readonly state?: string;
  readonly backingFile?: string;
  /** When asked for. */
  readonly details?: DeviceDetails;
  /** Of the machine's loop device on the image of an attached device: the number of that one, which is ours. */
  readonly attachedTo?: string;
  /** `MAJ:MIN` of the devices this one stands on, ours or the machine's. */
  readonly parents: readonly string[];
}

export interface BlockNodesRequest {
  /** Also the machine's unused loop devices and RAM disks. */
  readonly all?: boolean;
  /** Also what only an open pool tells: mapped bytes, percentages. */
  readonly usage?: boolean;
  /** Also queue limits, identity, permissions, file systems. */
  readonly details?: boolean;
}

/** Something a machine may have or not. */
export interface Capability {
  readonly id: string;
  readonly isThere: boolean;
  readonly detail: string;
  /** What needs it. */
  readonly use: string;
}

export interface Finding {
  readonly id: string;
  /** `note`: worth knowing, nothing is wrong. */
  readonly severity: "wrong" | "note";
  readonly subject: string;
  readonly message: string;
  /** Command that mends it. */
  readonly fix?: string;
}

export interface ExaminationRequest {
  /** Folders to look for programs in, as in PATH. */
  readonly searchPath: string;
  readonly isRoot: boolean;
  /** Where links to attached devices are; without it they are not looked at. */
  readonly devFolder?: string;
  /** A daemon has the state and does not answer, so somebody else looks. */
  readonly silentDaemon?: { readonly pid: number | undefined };
}

export interface Examination {
  readonly machine: readonly Capability[];
  readonly findings: readonly Finding[];
}

/** Something that happened to a pool. More keys tell more of it, by kind. */
export interface PoolEvent {
  /** ISO 8601, UTC. */
  readonly time: string;
  readonly event:
    | "low-water"
    | "metadata-low-water"
    | "out-of-data-space"
    | "out-of-metadata-space"
    | "read-only"
    | "failed"
    | "writable"
    | "needs-check"
    | "resized"
    | "extended"
    | "extend-failed";
  readonly pool: string;
  readonly [key: string]: string | number | boolean;
}

export interface PoolEvents {
  readonly events: readonly PoolEvent[];
  /** Behind the last of them; for the next call. */
  readonly position: string;
}

/** Something that goes on in the daemon: an export, an attached device, a monitor. */
export interface ServiceInfo {
  readonly name: string;
  readonly kind: string;
  /** Ends with whoever asked for it, or with the daemon. */
  readonly lasts: "connection" | "daemon";
  /** Time it began, in milliseconds since 1970. */
  readonly sinceMs: number;
  /** What its kind tells of it. */
  readonly details: Readonly<Record<string, unknown>>;
}

export interface ServiceRequest {
  readonly kind: string;
  /** Plain values that its kind understands. */
  readonly options: unknown;
  /** Default `connection`: it ends when the host that asked for it is closed, or its process ends. */
  readonly lasts?: "connection" | "daemon";
}

/** The daemon behind a host, as it describes itself. */
export interface DaemonInfo {
  readonly pid: number;
  readonly version: string;
  readonly socket: string;
  readonly stateDir: string;
  readonly sinceMs: number;
  /** It ends by itself when nothing is served any more. */
  readonly endsWhenIdle: boolean;
  readonly connections: number;
  readonly services: readonly ServiceInfo[];
  /** Pools that are open because something in use stands on them. */
  readonly openPools: readonly string[];
  readonly memoryBytes: number;
}

export interface Host {
  // Loop devices
  attachLoop(request: LoopAttach): Promise<LoopInfo>;
  /** The kernel's own loop device. @returns `/dev/loopN` */
  attachKernelLoop(request: LoopAttach): Promise<string>;
  detachLoop(dev: string, options?: { readonly ifExists?: boolean }): Promise<void>;
  resizeLoop(dev: string, sizeBytes?: number): Promise<LoopInfo>;
  listLoops(): Promise<readonly LoopInfo[]>;

  // Pools
  createPool(request: PoolCreate): Promise<PoolCreated>;
  resizePool(request: PoolResize): Promise<PoolResized>;
  /**
   * Makes the table of a pool shorter, and the loop device and file of its data, once its metadata has been shrunk by one who
   * claims its devices. @throws StateError EBUSY when it was opened meanwhile, or a table waits
   */
  shortenPool(name: string, change: PoolShortening): Promise<void>;
  listPools(): Promise<readonly { readonly name: string; readonly state: DeviceState }[]>;
  poolStatus(name: string): Promise<PoolInfo>;
  setPool(name: string, change: PoolSettings): Promise<void>;
  /**
   * Extends a pool that has passed its threshold, as it is done by itself after operations.
   * @returns undefined when there was nothing to do @throws SpaceError, StateError when it cannot grow
   */
  extendPool(name: string): Promise<PoolResized | undefined>;
  /** What happened to pools since a position, or all that is remembered; `end` for the present position and no events. */
  poolEvents(options?: { readonly after?: string; readonly end?: boolean }): Promise<PoolEvents>;
  poolMessage(name: string, words: readonly string[]): Promise<void>;
  removePool(name: string, options?: { readonly destroy?: boolean; readonly ifExists?: boolean }): Promise<void>;
  /** Every run of used data blocks, in order, with the number of mappings on it (0: only the metadata snapshot holds it). */
  poolMap(name: string): Promise<PoolMap>;

  // Thin devices
  createThin(request: ThinCreate): Promise<void>;
  snapThin(request: ThinSnap): Promise<void>;
  /** `target` is a name or `POOL:ID`. */
  deleteThin(target: string, options?: { readonly deferred?: boolean; readonly ifExists?: boolean }): Promise<void>;
  activateThin(
    target: string,
    name: string,
    options?: { readonly sizeBytes?: number; readonly ifNotExists?: boolean },
  ): Promise<void>;
  deactivateThin(name: string, options?: { readonly ifExists?: boolean }): Promise<void>;
  resizeThin(name: string, size: SizeTarget): Promise<void>;
  renameThin(oldName: string, newName: string): Promise<void>;
  rollbackThin(name: string, snapshot: string): Promise<void>;
  listThins(pool?: string): Promise<readonly ThinInfo[]>;
  thinUsage(names: readonly string[]): Promise<ThinUsage>;
  thinMap(name: string, block?: number): Promise<readonly MapRun[]>;
  thinDiff(left: string, right: string): Promise<readonly DiffExtent[]>;

  /**
   * Where the metadata (or data) of a pool lies. `from`: a pool, a mapped device, a loop device of udm, or a path. The tools
   * for metadata work there in the process that asks. @throws StateError ENOENT, EINVAL
   */
  locateMetadata(from: string, role?: "metadata" | "data"): Promise<MetadataPlace>;

  // Bytes of any mapped device
  readDevice(name: string, out: NodeJS.WritableStream, options?: TransferOptions): Promise<number>;
  writeDevice(name: string, input: NodeJS.ReadableStream, options?: { readonly offsetBytes?: number }): Promise<number>;
  /** `file` or `-`; holes are kept. */
  exportDevice(
    name: string,
    file: string,
    options?: { readonly verify?: boolean; readonly progress?: Progress; readonly output?: NodeJS.WritableStream },
  ): Promise<ImportResult>;
  importDevice(
    name: string,
    file: string,
    options?: { readonly verify?: boolean; readonly progress?: Progress; readonly input?: NodeJS.ReadableStream },
  ): Promise<ImportResult>;
  trimDevice(
    name: string,
    options?: TransferOptions & { readonly zeroes?: boolean },
  ): Promise<{ readonly trimmedBytes: number }>;

  // Tables and mapped devices
  loadTable(
    name: string,
    table: readonly TableLine[],
    options?: { readonly readOnly?: boolean; readonly uuid?: string },
  ): Promise<void>;
  clearTable(name: string): Promise<void>;
  suspend(name: string, options?: { readonly noflush?: boolean }): Promise<void>;
  resume(name: string): Promise<void>;
  showTables(options?: {
    readonly name?: string;
    readonly inactive?: boolean;
    readonly target?: string;
  }): Promise<readonly TargetText[]>;
  tableStatus(options?: {
    readonly name?: string;
    readonly noflush?: boolean;
    readonly target?: string;
  }): Promise<readonly TargetText[]>;
  /** dmsetup's concise form of all tables. */
  saveTables(): Promise<string>;
  restoreTables(concise: string): Promise<readonly string[]>;
  listDevices(): Promise<readonly DeviceInfo[]>;
  deviceInfo(name: string): Promise<DeviceInfo>;
  renameDevice(oldName: string, newName: string): Promise<void>;
  removeDevice(
    name: string,
    options?: { readonly deferred?: boolean; readonly force?: boolean; readonly ifExists?: boolean },
  ): Promise<void>;
  deviceMessage(name: string, sector: number, words: readonly string[]): Promise<string | undefined>;
  /** Resolves with the event number once it differs from `eventNr` (default: the present one). */
  waitDevice(name: string, options?: { readonly eventNr?: number; readonly timeoutMs?: number }): Promise<number>;

  // Inspection
  blockNodes(request?: BlockNodesRequest): Promise<readonly BlockNode[]>;
  /** What the machine offers and what is wrong; changes nothing, and works where the state cannot be read. */
  examine(request: ExaminationRequest): Promise<Examination>;

  // Services: a daemon's host has them; one in a command's own process has none
  /** @throws StateError EOPNOTSUPP without a daemon; EINVAL, EEXIST; what starting it throws */
  startService(request: ServiceRequest): Promise<ServiceInfo>;
  /** @throws StateError ENOENT */
  stopService(name: string): Promise<void>;
  /** Resolves when it has ended. @throws what it ended with; StateError ENOENT; IoError EIO when the daemon goes away */
  waitService(name: string): Promise<void>;
  listServices(): Promise<readonly ServiceInfo[]>;
  /** Undefined in a command's own process. */
  daemonInfo(): Promise<DaemonInfo | undefined>;
  /** A daemon that would end when nothing is served stays until it is told to end. */
  keepDaemon(): Promise<void>;
  /** The daemon ends: what is served is flushed, committed and let go. Resolves before it has ended. */
  stopDaemon(): Promise<void>;

  /**
   * What follows is one change, up to `commit` or `undo`: operations see what those before them did, nothing is written,
   * and other processes wait. Not for operations that write data, make files, or bring pools into being or away.
   * @param purpose for the message of those who wait: `batch`
   */
  begin(purpose: string, options?: GroupOptions): Promise<void>;
  /**
   * All that was done since `begin`, or nothing of it when this rejects or the process ends. The pools stay open for a
   * moment, for the next `begin`. @throws StateError EINVAL when more than one pool would change
   */
  commit(): Promise<void>;
  /** As if nothing had been done since `begin`; does nothing after a commit, failed or not. */
  undo(): Promise<void>;

  /** The commands of dmsetup, losetup and truncate that the operation called on it amounts to; nothing is changed. */
  readonly plan: HostPlans;
  close(): Promise<void>;
}

export interface PoolSettings {
  readonly lowWater?: LowWater;
  readonly features?: Partial<PoolFeatures>;
  readonly autoextendThresholdPercent?: number;
  readonly autoextendPercent?: number;
  /** 0: no limit. */
  readonly maxSizeBytes?: number;
  /** New thin devices and snapshots are refused when less than this share of data or metadata is free; 0: never. */
  readonly minFreeSpacePercent?: number;
}

export interface PoolMap {
  readonly totalBlocks: number;
  readonly blockBytes: number;
  readonly runs: readonly {
    readonly dataBlock: number;
    readonly count: number;
    readonly mappings: number;
    readonly held: boolean;
  }[];
}

/** `--dry-run` of the changing operations: same arguments, same refusals, no change. */
export interface HostPlans {
  attachLoop(request: LoopAttach): Promise<Plan>;
  attachKernelLoop(request: LoopAttach): Promise<Plan>;
  detachLoop(dev: string, options?: { readonly ifExists?: boolean }): Promise<Plan>;
  resizeLoop(dev: string, sizeBytes?: number): Promise<Plan>;
  createPool(request: PoolCreate): Promise<Plan>;
  resizePool(request: PoolResize): Promise<Plan>;
  setPool(name: string, change: PoolSettings): Promise<Plan>;
  poolMessage(name: string, words: readonly string[]): Promise<Plan>;
  removePool(name: string, options?: { readonly destroy?: boolean; readonly ifExists?: boolean }): Promise<Plan>;
  createThin(request: ThinCreate): Promise<Plan>;
  snapThin(request: ThinSnap): Promise<Plan>;
  deleteThin(target: string, options?: { readonly deferred?: boolean; readonly ifExists?: boolean }): Promise<Plan>;
  activateThin(
    target: string,
    name: string,
    options?: { readonly sizeBytes?: number; readonly ifNotExists?: boolean },
  ): Promise<Plan>;
  deactivateThin(name: string, options?: { readonly ifExists?: boolean }): Promise<Plan>;
  resizeThin(name: string, size: SizeTarget): Promise<Plan>;
  renameThin(oldName: string, newName: string): Promise<Plan>;
  rollbackThin(name: string, snapshot: string): Promise<Plan>;
  /** `file` of import and export. */
  transfer(
    kind: "write" | "import" | "export" | "trim",
    name: string,
    options?: TransferOptions & { readonly file?: string; readonly zeroes?: boolean },
  ): Promise<Plan>;
  loadTable(
    name: string,
    table: readonly TableLine[],
    options?: { readonly readOnly?: boolean; readonly uuid?: string },
  ): Promise<Plan>;
  clearTable(name: string): Promise<Plan>;
  suspend(name: string, options?: { readonly noflush?: boolean }): Promise<Plan>;
  resume(name: string): Promise<Plan>;
  restoreTables(concise: string): Promise<Plan>;
  renameDevice(oldName: string, newName: string): Promise<Plan>;
  removeDevice(
    name: string,
    options?: { readonly deferred?: boolean; readonly force?: boolean; readonly ifExists?: boolean },
  ): Promise<Plan>;
  deviceMessage(name: string, sector: number, words: readonly string[]): Promise<Plan>;
}
