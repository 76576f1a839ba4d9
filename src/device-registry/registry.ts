/**
 * The registry: mapped devices, what their tables stand on, and their life. Records are plain values that the state
 * file keeps; a device is opened from its record when its bytes or its status are wanted, together with all that is
 * below it, and closed by `close`. One caller at a time.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf, StateError, type UdmError } from "../errors/index.js";
import type { BlockDevice } from "../io/index.js";
import {
  type Area,
  type FoundDevice,
  findTargetType,
  type KnownPool,
  type OpenContext,
  type OpenPool,
  type ParseContext,
  poolConfigOf,
  type Target,
  type TargetLine,
} from "../targets/index.js";
import type { Pool, PoolNote, PoolRuntime } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { MappedDevice, type Segment } from "./mapped-device.js";
import { compareNames, parseName, parseUuid, unmangle } from "./names.js";
import type { DeviceRecord, PoolRecord } from "./state.js";
import { tableParams, tableSectors } from "./table-text.js";

/** Major number of mapped devices. */
export const MAPPED_MAJOR = 253;
const MAX_MINOR = 1048575;
/** Largest end of a table in sectors. Source: dmsetup-cli, 7.2. */
const MAX_TABLE_SECTORS = 2 ** 54;

/** Devices that are not mapped: loops and the machine's own. */
export interface Below {
  /** @throws StateError ENODEV, ENXIO, EBUSY */
  find(word: string): Promise<FoundDevice>;
  /** Shared by all who ask; closed by its owner. */
  open(number: string, mode: { readonly readOnly: boolean }): Promise<BlockDevice>;
  /** Size without opening for I/O. */
  sizeSectors(number: string): Promise<number>;
}

export interface RegistryOptions {
  readonly devices: readonly DeviceRecord[];
  readonly below: Below;
  readonly log?: (line: string) => void;
  readonly noSpaceTimeoutMs?: number;
  readonly cacheBlocks?: number;
  /** Pools commit only when they are told to: by `commitHeld` of each. */
  readonly holdsCommits?: boolean;
  /** Who has a device open that this registry does not know of. */
  readonly holdersOf?: (minor: number) => readonly Holder[];
  /** The event counter of a device went up. */
  readonly onEvent?: (record: DeviceRecord) => void;
  /** Something happened to the pool that a device is. */
  readonly onNote?: (record: DeviceRecord, note: PoolNote) => void;
}

/** Somebody outside who has a mapped device open. */
export interface Holder {
  /** `NBD export`, `block device /dev/loop3` */
  readonly what: string;
  /** How to make it let go. */
  readonly hint: string;
}

/** A mapped device that stays open, the same object through new tables and names, until it is released. */
export interface Hold extends AsyncDisposable {
  readonly device: MappedDevice;
  readonly minor: number;
  /** Its present name. */
  readonly name: string;
  /** May be called twice. What was open only for it is closed by the owner of the registry. */
  release(): void;
}

/** A device that does not come to rest is looked at this often; writes that wait for room are not waited for longer. */
const DRAIN_LOOK_MS = 20;
const DRAIN_LOOKS = 10;

interface Opened {
  readonly device: MappedDevice;
  pool: Pool | undefined;
  /** Targets of the inactive table; opened by `load`, taken over by `resume`. */
  inactive: readonly Segment[] | undefined;
}

export interface TargetStatus {
  readonly device: string;
  readonly startSectors: number;
  readonly lengthSectors: number;
  readonly type: string;
  readonly params: string;
}

export class Registry {
  readonly #records = new Map<string, DeviceRecord>();
  readonly #nameOfMinor = new Map<number, string>();
  /** In byte order; made again when a name comes or goes. */
  #sortedNames: readonly string[] | undefined;
  readonly #opened = new Map<number, Opened>();
  readonly #holds = new Map<number, Set<Holder>>();
  readonly #below: Below;
  readonly #log: (line: string) => void;
  readonly #options: RegistryOptions;
  #holdsCommits: boolean;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#holdsCommits = options.holdsCommits ?? false;
    this.#below = options.below;
    this.#log = options.log ?? (() => {});
    for (const record of options.devices) this.#put(record.name, record);
  }

  // What there is

  /** All records, in byte order of their names. */
  records(): readonly DeviceRecord[] {
    this.#sortedNames ??= [...this.#records.keys()].sort(compareNames);
    return this.#sortedNames.map((name) => this.#records.get(name)!);
  }

  /** @throws StateError ENXIO */
  get(name: string): DeviceRecord {
    const record = this.find(name);
    if (record === undefined) {
      throw new StateError("ENXIO", `no device '${name}'`, { hint: "udm device list shows the devices there are" });
    }
    return record;
  }

  /** By name (either form), `/dev/mapper/NAME` or `253:N`. */
  find(text: string): DeviceRecord | undefined {
    const path = /^\/dev\/mapper\/([^/]+)$/.exec(text);
    const name = path?.[1] ?? text;
    const number = new RegExp(`^0*${MAPPED_MAJOR}:(\\d+)$`).exec(text);
    if (number !== null) {
      const minor = Number(number[1]);
      return this.#records.get(this.#nameOfMinor.get(minor) ?? "");
    }
    return this.#records.get(name) ?? this.#records.get(unmangle(name));
  }

  /** `MAJ:MIN` of a record. */
  static numberOf(record: { readonly minor: number }): string {
    return `${MAPPED_MAJOR}:${record.minor}`;
  }

  /** Names of the devices whose tables, live or inactive, use a device. */
  usersOf(number: string): readonly string[] {
    return this.records()
      .filter((each) => tablesOf(each).some((lines) => devicesOf(lines).includes(number)))
      .map((each) => each.name);
  }

  /** One for each table of another device that uses it, and one for each holder. */
  openCount(record: DeviceRecord): number {
    const number = Registry.numberOf(record);
    const tables = this.records()
      .flatMap((each) => tablesOf(each))
      .filter((lines) => devicesOf(lines).includes(number)).length;
    return tables + this.holdersOf(record).length;
  }

  holdersOf(record: DeviceRecord): readonly Holder[] {
    return [...(this.#holds.get(record.minor) ?? []), ...(this.#options.holdersOf?.(record.minor) ?? [])];
  }

  /** @throws StateError EBUSY while another device's table uses it, or somebody has it open */
  refuseInUse(record: DeviceRecord, label = record.name): void {
    const users = this.usersOf(Registry.numberOf(record));
    if (users.length > 0) {
      throw new StateError("EBUSY", `'${label}' is in use by ${users.join(", ")}`, {
        hint: `remove ${users.length === 1 ? "it" : "them"} first, or use --deferred`,
      });
    }
    const [holder] = this.holdersOf(record);
    if (holder !== undefined) {
      throw new StateError("EBUSY", `'${label}' is in use: ${holder.what}`, { hint: holder.hint });
    }
  }

  /** `MAJ:MIN` of what a table stands on, in reverse order of first reference. */
  dependencies(record: DeviceRecord, options: { readonly inactive?: boolean } = {}): readonly string[] {
    const lines = options.inactive === true ? record.inactive?.lines : record.live;
    return devicesOf(lines ?? []).reverse();
  }

  /** Stretches of devices that a line uses. */
  areasOf(line: TargetLine): readonly Area[] {
    return findTargetType(line.type)?.areas(line) ?? [];
  }

  /** Records so that each comes after those it stands on. */
  inDependencyOrder(): readonly DeviceRecord[] {
    const ordered = new Set<DeviceRecord>();
    const visit = (record: DeviceRecord) => {
      if (ordered.has(record)) return;
      for (const lines of tablesOf(record)) {
        for (const number of devicesOf(lines)) {
          const below = this.find(number);
          if (below !== undefined && below !== record) visit(below);
        }
      }
      ordered.add(record);
    };
    for (const record of this.records()) visit(record);
    return [...ordered];
  }

  /** A device as a word of a table or an argument names it. */
  async findDevice(word: string): Promise<FoundDevice> {
    const record = this.find(word);
    if (record === undefined) return this.#below.find(word);
    return { number: Registry.numberOf(record), kernelName: `dm-${record.minor}`, kind: "mapped" };
  }

  async sizeSectors(number: string): Promise<number> {
    const record = this.find(number);
    return record === undefined ? this.#below.sizeSectors(number) : tableSectors(record.live ?? []);
  }

  // Life

  /** A new device without a table. */
  create(request: { readonly name: string; readonly uuid?: string; readonly minor?: number }): DeviceRecord {
    const name = parseName(request.name);
    const uuid = parseUuid(request.uuid ?? "");
    if (this.#records.has(name)) {
      throw new StateError("EBUSY", `the name '${name}' is in use`, {
        hint: "choose another name, or remove the device",
      });
    }
    this.#refuseUuidInUse(uuid);
    const taken = new Set(this.records().map((each) => each.minor));
    let minor = request.minor ?? 0;
    if (request.minor === undefined) while (taken.has(minor)) minor++;
    if (taken.has(minor) || minor > MAX_MINOR) {
      throw new StateError("ENXIO", `minor ${minor} is ${taken.has(minor) ? "in use" : "out of range"}`, {
        hint: `minors go from 0 to ${MAX_MINOR}; leave it out for the lowest free one`,
      });
    }
    const record: DeviceRecord = {
      name,
      uuid,
      minor,
      readOnly: false,
      suspended: false,
      eventNr: 0,
      deferredRemove: false,
    };
    this.#put(name, record);
    return record;
  }

  /** Fills the inactive slot. A refused table leaves the slot as it was. */
  async load(name: string, lines: readonly TargetLine[], options: { readonly readOnly?: boolean } = {}): Promise<void> {
    const record = this.get(name);
    const readOnly = options.readOnly ?? false;
    const parsed = await this.#parse(record, lines, readOnly);
    this.#refuseReplacing(record, parsed);
    const isFirst = record.live === undefined && record.inactive === undefined;
    if (isFirst) await this.#checkSizes(record, parsed, { isFirst });
    // A pool that is in force stays the same object; the new table joins it.
    if (isPool(record)) await this.#open(record);
    const segments = await this.#openTargets(record, parsed, readOnly);
    const opened = this.#openedOf(record);
    await closeAll(opened.inactive ?? [], opened.pool);
    opened.inactive = segments;
    opened.pool ??= segments[0]?.target.pool;
    this.#update(record.name, { inactive: { lines: parsed, readOnly } });
  }

  async clear(name: string): Promise<void> {
    const record = this.get(name);
    const opened = this.#opened.get(record.minor);
    await closeAll(opened?.inactive ?? [], opened?.pool);
    if (opened !== undefined) opened.inactive = undefined;
    const { inactive: _dropped, ...rest } = record;
    this.#put(record.name, rest);
  }

  async suspend(name: string, options: { readonly noflush?: boolean } = {}): Promise<void> {
    const record = this.get(name);
    if (record.suspended) return;
    // A pool commits and remembers what it knows; other targets have nothing to do when nobody has them open.
    if (record.live !== undefined && (isPool(record) || this.#opened.has(record.minor))) {
      const { device } = await this.#open(record);
      const noflush = options.noflush ?? false;
      await this.#bringToRest(record, device, { noflush });
      for (const { target } of device.segments) await target.suspend?.({ noflush });
    }
    this.#update(name, { suspended: true });
  }

  /**
   * Makes the inactive table live, or the present one run again. A table that does not fit what is below is dropped and
   * the device stays suspended; one that its target refuses stays live and suspended. Both are kept by the caller.
   */
  async resume(
    name: string,
    options: { /** The new table is live, its target has not taken it up. */ onSwapped?: () => Promise<void> } = {},
  ): Promise<void> {
    const record = this.get(name);
    const next = record.inactive;
    if (next === undefined) {
      if (record.live === undefined || !record.suspended) return this.#update(record.name, { suspended: false });
      const opened = await this.#open(record);
      await this.#preResume(record, opened.device.segments, false);
      this.#letFlow(record, opened.device);
      this.#update(record.name, { suspended: false });
      return this.#resumeAbove(this.get(record.name));
    }
    try {
      await this.#checkSizes(record, next.lines, { isFirst: false });
    } catch (error) {
      await this.clear(name);
      const open = this.#opened.get(record.minor)?.device;
      if (open !== undefined && open.segments.length > 0) {
        await this.#bringToRest(record, open);
      }
      this.#update(record.name, { suspended: true });
      throw error;
    }
    const opened = this.#openedOf(record);
    const isOpen = opened.device.segments.length > 0;
    if (isOpen || (record.live !== undefined && isPool(record))) {
      const { device } = await this.#open(record);
      await this.#bringToRest(record, device);
      if (!record.suspended) for (const { target } of device.segments) await target.suspend?.({ noflush: false });
    }
    opened.inactive ??= await this.#openTargets(record, next.lines, next.readOnly);
    const old = opened.device.segments;
    const segments = opened.inactive;
    const wasPool = opened.pool;
    opened.pool = segments[0]?.target.pool;
    opened.inactive = undefined;
    opened.device.setTargets(segments, {
      sizeBytes: tableSectors(next.lines) * SECTOR_BYTES,
      isReadOnly: next.readOnly,
    });
    await closeAll(old, opened.pool);
    if (wasPool !== undefined && wasPool !== opened.pool) await wasPool.close();
    const { inactive: _taken, ...rest } = record;
    this.#put(record.name, { ...rest, live: next.lines, readOnly: next.readOnly, suspended: true });
    await options.onSwapped?.();
    await this.#preResume(record, segments, true);
    this.#letFlow(record, opened.device);
    this.#update(record.name, { suspended: false });
    await this.#resumeAbove(this.get(name));
    await opened.device.followed();
  }

  rename(oldName: string, newName: string): void {
    const record = this.get(oldName);
    const name = parseName(newName, "new name");
    if (this.#records.has(name)) {
      throw new StateError("EBUSY", `the name '${name}' is in use`, { hint: "choose another name" });
    }
    this.#drop(record.name);
    this.#put(name, { ...record, name });
    this.#opened.get(record.minor)?.device.tellChanged();
  }

  setUuid(name: string, text: string): void {
    const record = this.get(name);
    const uuid = parseUuid(text);
    if (record.uuid !== "") {
      throw new StateError("EINVAL", `'${record.name}' has a uuid already: ${record.uuid}`, {
        hint: "a uuid is set once and never changed",
      });
    }
    this.#refuseUuidInUse(uuid);
    this.#update(record.name, { uuid });
  }

  /** @throws StateError EBUSY while another device's table uses it */
  async remove(name: string): Promise<void> {
    const record = this.get(name);
    this.refuseInUse(record);
    await this.#close(record);
    this.#drop(record.name);
  }

  /** Replaces the live table by errors of the same length, which lets go of all below. */
  async wipe(name: string): Promise<void> {
    const record = this.get(name);
    if (record.live === undefined) return;
    await this.#close(record);
    const line = { startSectors: 0, lengthSectors: tableSectors(record.live), type: "error", args: [] };
    const { inactive: _inactive, pool: _pool, ...rest } = record;
    this.#put(record.name, { ...rest, live: [line], suspended: false });
    if (this.#holds.has(record.minor)) await this.#open(this.get(record.name));
  }

  /** Changes what is only remembered: flags, event number, the pool's part. */
  update(
    name: string,
    change: Partial<Pick<DeviceRecord, "deferredRemove" | "eventNr">> & { readonly pool?: PoolRecord },
  ): void {
    this.#update(this.get(name).name, change);
  }

  /** Puts a table in place that differs in length only; a device that is open takes it up while its requests wait. */
  async replaceLive(name: string, live: readonly TargetLine[]): Promise<void> {
    const record = this.get(name);
    const opened = this.#opened.get(record.minor);
    if (opened === undefined || opened.device.segments.length === 0) return this.#update(record.name, { live });
    const segments = await this.#openTargets(record, live, record.readOnly);
    await this.#bringToRest(record, opened.device);
    const old = opened.device.segments;
    opened.device.setTargets(segments, {
      sizeBytes: tableSectors(live) * SECTOR_BYTES,
      isReadOnly: record.readOnly,
    });
    this.#update(record.name, { live });
    if (!record.suspended) this.#letFlow(record, opened.device);
    await closeAll(old, opened.pool);
    await this.#resumeAbove(record);
    await opened.device.followed();
  }

  // Bytes, status, messages

  /** The device, open and resumed. @throws StateError ENXIO (no table), EBUSY (it or something below is suspended) */
  async open(name: string): Promise<MappedDevice> {
    const record = this.get(name);
    if (record.live === undefined) {
      throw new StateError("ENXIO", `'${record.name}' has no live table`, { hint: `udm table resume ${record.name}` });
    }
    this.#refuseSuspended(record);
    const { device } = await this.#open(record);
    return device;
  }

  /**
   * Keeps a device open for somebody outside. While it is held it is not removed, its table may be replaced, and its
   * requests wait while it is suspended. @throws StateError ENXIO (no live table), and whatever opening it throws
   */
  async hold(name: string, holder: Holder): Promise<Hold> {
    const record = this.get(name);
    if (record.live === undefined) {
      throw new StateError("ENXIO", `'${record.name}' has no live table`, { hint: `udm table resume ${record.name}` });
    }
    const { device } = await this.#open(record);
    const { minor } = record;
    const holders = this.#holds.get(minor) ?? new Set();
    this.#holds.set(minor, holders);
    // Two may describe themselves alike.
    const own = { ...holder };
    holders.add(own);
    const release = () => {
      holders.delete(own);
      if (holders.size === 0 && this.#holds.get(minor) === holders) this.#holds.delete(minor);
    };
    const nameNow = () => this.#nameOfMinor.get(minor) ?? record.name;
    return {
      device,
      minor,
      get name() {
        return nameNow();
      },
      release,
      async [Symbol.asyncDispose]() {
        release();
      },
    };
  }

  /** The requests of held devices wait, and nothing of the open pools is committed but by `commitHeld`, until `letGo`. */
  async holdBack(): Promise<void> {
    try {
      for (const minor of this.#holds.keys()) {
        const [record, opened] = [this.#recordOf(minor), this.#opened.get(minor)];
        if (record !== undefined && opened !== undefined) await this.#drain(record, opened.device);
      }
    } catch (error) {
      this.letGo();
      throw error;
    }
    for (const { pool } of this.openPools()) {
      if (pool.canChangeMetadata) await pool.commit();
      pool.holdsCommits = true;
    }
    this.#holdsCommits = true;
  }

  letGo(): void {
    this.#holdsCommits = false;
    for (const { pool } of this.openPools()) pool.holdsCommits = false;
    for (const minor of this.#holds.keys()) {
      const record = this.#recordOf(minor);
      const opened = this.#opened.get(minor);
      if (record !== undefined && opened !== undefined && !this.isHeldBack(record)) opened.device.resume();
    }
  }

  get hasOpen(): boolean {
    return this.#opened.size > 0;
  }

  get hasHolds(): boolean {
    return this.#holds.size > 0;
  }

  /** Closes what is open and neither held nor below something that is. */
  async closeUnused(): Promise<void> {
    const needed = this.#neededByHolds();
    const failures: unknown[] = [];
    for (const record of [...this.inDependencyOrder()].reverse()) {
      if (!needed.has(record.minor)) await this.#close(record).catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Numbers of devices that are not mapped and that open ones stand on. */
  numbersBelow(): ReadonlySet<string> {
    const numbers = new Set<string>();
    for (const record of this.records()) {
      if (!this.#opened.has(record.minor)) continue;
      for (const lines of tablesOf(record)) for (const number of devicesOf(lines)) numbers.add(number);
    }
    return numbers;
  }

  #neededByHolds(): ReadonlySet<number> {
    const needed = new Set<number>();
    const visit = (record: DeviceRecord | undefined) => {
      if (record === undefined || needed.has(record.minor)) return;
      needed.add(record.minor);
      for (const lines of tablesOf(record)) for (const number of devicesOf(lines)) visit(this.find(number));
    };
    for (const minor of this.#holds.keys()) visit(this.#recordOf(minor));
    return needed;
  }

  #recordOf(minor: number): DeviceRecord | undefined {
    return this.#records.get(this.#nameOfMinor.get(minor) ?? "");
  }

  /**
   * Other records take the place of those there are. All is closed (what pools have not committed is committed, or with
   * `abandon` forgotten), and what is held is opened anew as its record says; its requests wait meanwhile. A held device that
   * cannot be opened answers with errors.
   */
  async revert(records: readonly DeviceRecord[], options: { readonly abandon: boolean }): Promise<unknown> {
    const failures: unknown[] = [];
    this.#holdsCommits = this.#options.holdsCommits ?? false;
    for (const minor of this.#holds.keys()) await this.#opened.get(minor)?.device.suspend({ noflush: true });
    if (options.abandon) for (const { pool } of this.openPools()) pool.abandon();
    for (const record of [...this.inDependencyOrder()].reverse()) {
      await this.#close(record).catch((error: unknown) => failures.push(error));
    }
    this.#records.clear();
    this.#nameOfMinor.clear();
    this.#sortedNames = undefined;
    for (const record of records) this.#put(record.name, record);
    for (const minor of this.#holds.keys()) {
      const record = this.#recordOf(minor);
      if (record === undefined) continue;
      await this.#open(record).catch((error: unknown) => {
        failures.push(error);
        return this.#failHeld(record, error);
      });
    }
    return failures[0];
  }

  /** A held device that cannot be opened: no request waits for ever. */
  async #failHeld(record: DeviceRecord, error: unknown): Promise<void> {
    this.#log(`device '${record.name}' cannot be opened again: ${messageOf(error)}`);
    const { device } = this.#openedOf(record);
    const lengthSectors = tableSectors(record.live ?? []);
    const line = { startSectors: 0, lengthSectors, type: "error", args: [] };
    const segments = await this.#openTargets(record, [line], false);
    device.setTargets(segments, { sizeBytes: lengthSectors * SECTOR_BYTES, isReadOnly: record.readOnly });
    device.resume();
  }

  /**
   * Holds the requests of the open devices that stand on one, and waits for those under way: what is synchronous above
   * cannot wait below. Up to a pool, where the requests of its thin devices wait.
   */
  async #quietAbove(record: DeviceRecord): Promise<void> {
    for (const user of this.#openUsers(record)) {
      const { device, pool } = this.#openedOf(user);
      if (device.isSuspended) continue;
      if (!isPool(user)) await this.#quietAbove(user);
      await this.#drain(user, device);
      await pool?.suspend();
    }
  }

  /** A device and what stands on it: nothing is under way, what comes waits. When it fails, all goes on. */
  async #bringToRest(record: DeviceRecord, device: MappedDevice, { noflush = false } = {}): Promise<void> {
    try {
      if (!isPool(record)) await this.#quietAbove(record);
      if (noflush) await device.suspend({ noflush });
      else await this.#drain(record, device);
    } catch (error) {
      await this.#resumeAbove(record);
      throw error;
    }
  }

  /**
   * Holds new requests and waits for those under way. Writes that wait for room in their pool would keep everybody waiting,
   * and with them whoever could make room: then the device goes on. @throws StateError EBUSY
   */
  async #drain(record: DeviceRecord, device: MappedDevice): Promise<void> {
    let isDrained = false;
    const drained = device.suspend({ noflush: false }).then(() => {
      isDrained = true;
    });
    for (let looks = 0; !isDrained; looks++) {
      await Promise.race([drained, sleep(DRAIN_LOOK_MS)]);
      const full = this.openPools().find(({ pool }) => pool.waitingWrites > 0);
      if (isDrained || full === undefined || looks < DRAIN_LOOKS) continue;
      if (!this.isHeldBack(record)) device.resume();
      throw new StateError("EBUSY", `'${record.name}' has writes that wait for room in pool '${full.record.name}'`, {
        hint: `udm pool resize ${full.record.name}, or udm table suspend --noflush ${record.name}`,
      });
    }
  }

  /** Lets those go again that nothing else holds back. */
  async #resumeAbove(record: DeviceRecord): Promise<void> {
    for (const user of this.#openUsers(record)) {
      const { device, pool } = this.#openedOf(user);
      if (!device.isSuspended || this.isHeldBack(user)) continue;
      if (pool?.isSuspended === true) await pool.resume();
      this.#letFlow(user, device);
      if (!isPool(user)) await this.#resumeAbove(user);
    }
  }

  /** Inside a group, what is held waits for its end. */
  #letFlow({ minor }: DeviceRecord, device: MappedDevice): void {
    if (!this.#holdsCommits || !this.#holds.has(minor)) device.resume();
  }

  #openUsers(record: DeviceRecord): readonly DeviceRecord[] {
    return this.usersOf(Registry.numberOf(record))
      .map((name) => this.get(name))
      .filter((user) => this.#opened.get(user.minor)?.device.segments.length !== 0 && this.#opened.has(user.minor));
  }

  /** It is suspended, or something it stands on is. */
  isHeldBack(record: DeviceRecord): boolean {
    if (record.suspended) return true;
    return devicesOf(record.live ?? []).some((number) => {
      const below = this.find(number);
      return below !== undefined && below !== record && this.isHeldBack(below);
    });
  }

  /** The pool a device is; works while it is suspended. */
  async openPool(name: string): Promise<OpenPool> {
    const record = this.get(name);
    const { pool } = record.live === undefined ? await this.#openInactive(record) : await this.#open(record);
    if (pool === undefined) {
      throw new StateError("EINVAL", `'${record.name}' is not a thin pool`, { hint: "udm pool list shows the pools" });
    }
    return { pool, isSuspended: this.get(name).suspended || record.live === undefined };
  }

  async status(
    name: string,
    options: { readonly noflush?: boolean; readonly inactive?: boolean } = {},
  ): Promise<readonly TargetStatus[]> {
    const record = this.get(name);
    const lines = (options.inactive === true ? record.inactive?.lines : record.live) ?? [];
    const fixed = lines.map((line) => findTargetType(line.type)?.fixedStatus?.(line.args));
    const opened = fixed.includes(undefined) ? await this.#open(record) : undefined;
    const rows: TargetStatus[] = [];
    for (const [index, line] of lines.entries()) {
      const params = fixed[index] ?? (await opened?.device.segments[index]?.target.status(options)) ?? "";
      const { startSectors, lengthSectors, type } = line;
      rows.push({ device: record.name, startSectors, lengthSectors, type, params });
    }
    return rows;
  }

  /** @returns the reply, if there is one */
  async message(name: string, sector: number, words: readonly string[]): Promise<string | undefined> {
    const record = this.get(name);
    const [word] = words;
    const no = (reason: string, hint: string) =>
      new StateError("EINVAL", `message to '${record.name}': ${reason}`, { hint });
    if (word === undefined || word === "") throw no("empty message", "give the words of the message");
    if (word.startsWith("@")) {
      if (word.toLowerCase() !== "@cancel_deferred_remove")
        throw no(`unknown message '${word}'`, "words that begin with @ are for the driver");
      this.#update(record.name, { deferredRemove: false });
      return undefined;
    }
    if (record.live === undefined) throw no("no live table", `udm table resume ${record.name}`);
    const index = record.live.findIndex(
      (line) => sector >= line.startSectors && sector < line.startSectors + line.lengthSectors,
    );
    const line = record.live[index];
    if (line === undefined)
      throw no(`sector ${sector} is outside the device`, `it has ${tableSectors(record.live)} sectors`);
    if (line.type !== "thin-pool") throw no(`target type ${line.type} does not support messages`, "pools do");
    const { device } = await this.#open(record);
    return device.segments[index]?.target.message?.(words);
  }

  /** Pools that are open, with the record each belongs to. */
  openPools(): readonly { readonly record: DeviceRecord; readonly pool: Pool }[] {
    return this.records().flatMap((record) => {
      const pool = this.#opened.get(record.minor)?.pool;
      return pool === undefined ? [] : [{ record, pool }];
    });
  }

  /** Closes all that is open, users before what they use; pools commit. Their last knowledge goes into the records. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const record of [...this.inDependencyOrder()].reverse()) {
      await this.#close(record).catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  /** What the open pools know goes into the records, as if they were closed. */
  keepRuntimes(): void {
    for (const { record, pool } of this.openPools()) this.#keepRuntime(record, pool.runtime());
  }

  /** Lets go of all that is open without a commit. */
  abandon(): void {
    for (const { pool } of this.openPools()) pool.abandon();
    this.#opened.clear();
  }

  // Inside

  #put(name: string, record: DeviceRecord): void {
    if (!this.#records.has(name)) this.#sortedNames = undefined;
    this.#records.set(name, record);
    this.#nameOfMinor.set(record.minor, name);
  }

  #drop(name: string): void {
    const minor = this.#records.get(name)?.minor;
    if (minor !== undefined && this.#nameOfMinor.get(minor) === name) this.#nameOfMinor.delete(minor);
    this.#records.delete(name);
    this.#sortedNames = undefined;
  }

  #update(name: string, change: Partial<DeviceRecord>): void {
    const record = this.#records.get(name);
    if (record !== undefined) this.#put(name, { ...record, ...change });
  }

  #refuseUuidInUse(uuid: string): void {
    const owner = uuid === "" ? undefined : this.records().find((each) => each.uuid === uuid);
    if (owner !== undefined) {
      throw new StateError("EBUSY", `the uuid '${uuid}' is in use by '${owner.name}'`, { hint: "choose another uuid" });
    }
  }

  /** A request to a device waits while it or anything below is suspended; a command must not, so it is told. */
  #refuseSuspended(record: DeviceRecord): void {
    if (record.suspended) {
      throw new StateError("EBUSY", `'${record.name}' is suspended`, { hint: `udm table resume ${record.name}` });
    }
    for (const number of devicesOf(record.live ?? [])) {
      const below = this.find(number);
      if (below !== undefined && below !== record) this.#refuseSuspended(below);
    }
  }

  #refuseReplacing(record: DeviceRecord, lines: readonly TargetLine[]): void {
    const immutable = record.live?.find((line) => findTargetType(line.type)?.isImmutable === true);
    const [only] = lines;
    if (immutable === undefined || only?.type === immutable.type || only?.type === "error") return;
    this.#log(`ioctl: can't replace immutable target type ${immutable.type}`);
    throw new StateError("EINVAL", `table of '${record.name}': can't replace immutable target type ${immutable.type}`, {
      hint: "remove the device and make it anew",
    });
  }

  async #parse(record: DeviceRecord, lines: readonly TargetLine[], readOnly: boolean): Promise<readonly TargetLine[]> {
    const number = Registry.numberOf(record);
    const parsed: TargetLine[] = [];
    const no = (reason: string, logged = reason, hint = "see udm-table(7) for the form of a table") => {
      this.#log(`table: ${number}: ${logged}`);
      this.#log("ioctl: error adding target to table");
      return new StateError("EINVAL", `table of '${record.name}': ${reason}`, { hint });
    };
    if (lines.length === 0) {
      this.#log("ioctl: populate_table: no targets specified");
      throw new StateError("EINVAL", `table of '${record.name}': no targets specified`, {
        hint: "give at least one line",
      });
    }
    let end = 0;
    for (const line of lines) {
      const singleton = parsed.find((each) => findTargetType(each.type)?.isSingleton === true);
      if (singleton !== undefined) throw no(`target type ${singleton.type} must appear alone in table`);
      if (line.lengthSectors === 0) throw no("zero-length target");
      if (line.startSectors + line.lengthSectors >= MAX_TABLE_SECTORS) throw no("too large device");
      const type = findTargetType(line.type);
      if (type === undefined)
        throw no(
          `${line.type}: unknown target type`,
          undefined,
          "case matters: linear, striped, zero, error, thin-pool, thin",
        );
      if (type.isSingleton === true && parsed.length > 0)
        throw no(`target type ${type.name} must appear alone in table`);
      if (type.alwaysWritable === true && readOnly) {
        const reason = `${type.name}: target type may not be included in a read-only table`;
        throw no(reason, `${reason} (-EINVAL)`);
      }
      if (line.startSectors !== end) {
        const what = line.startSectors > end ? "Gap" : "Overlap";
        throw no(
          `${type.name}: ${what} in table: line starts at ${line.startSectors}, wanted ${end}`,
          `${type.name}: Gap in table (-EINVAL)`,
          "lines must follow each other without gap or overlap",
        );
      }
      const args = await type.parse(line, this.#parseContext(record)).catch((error: UdmError) => {
        this.#log(`table: ${number}: ${error.message} (-${error.code})`);
        this.#log("ioctl: error adding target to table");
        throw new StateError(error.code, `table of '${record.name}': ${error.message}`, {
          ...(error.hint === undefined ? {} : { hint: error.hint }),
          cause: error,
        });
      });
      if (this.#reaches(type.devices(args), number)) {
        throw no(`${type.name}: the device would stand on itself`, undefined, "map another device");
      }
      parsed.push({ ...line, args });
      end = line.startSectors + line.lengthSectors;
    }
    return parsed;
  }

  /** True when one of the devices is, or stands on, the one given. */
  #reaches(numbers: readonly string[], wanted: string): boolean {
    return numbers.some((number) => {
      if (number === wanted) return true;
      const record = this.find(number);
      return record !== undefined && tablesOf(record).some((lines) => this.#reaches(devicesOf(lines), wanted));
    });
  }

  #parseContext(record: DeviceRecord): ParseContext {
    return {
      deviceNumber: Registry.numberOf(record),
      find: (word) => this.findDevice(word),
      poolOf: (number) => this.#knownPool(this.find(number)),
      poolOn: (metadata) =>
        this.records()
          .map((each) => this.#knownPool(each))
          .find((each) => each?.metadata === metadata),
      isMapped: (number) => this.find(number) !== undefined,
    };
  }

  #knownPool(record: DeviceRecord | undefined): KnownPool | undefined {
    if (record === undefined) return undefined;
    const line = tablesOf(record)
      .flat()
      .find((each) => each.type === "thin-pool");
    if (line === undefined) return undefined;
    return {
      deviceNumber: Registry.numberOf(record),
      deviceName: record.name,
      metadata: line.args[0]!,
      data: line.args[1]!,
      config: poolConfigOf(line),
      isFailed: record.pool?.runtime?.mode === "fail",
    };
  }

  async #checkSizes(
    record: DeviceRecord,
    lines: readonly TargetLine[],
    { isFirst }: { readonly isFirst: boolean },
  ): Promise<void> {
    for (const line of lines) {
      for (const area of this.areasOf(line)) {
        const size = await this.sizeSectors(area.device);
        if (area.startSectors + area.lengthSectors <= size) continue;
        const { kernelName } = await this.findDevice(area.device);
        const reason = `${kernelName} too small for target: start=${area.startText}, len=${area.lengthSectors}, dev_size=${size}`;
        this.#log(`table: ${Registry.numberOf(record)}: ${reason}`);
        if (isFirst) {
          this.#log("core: Cannot calculate initial queue limits");
          this.#log("ioctl: unable to set up device queue for new table.");
        }
        throw new StateError("EINVAL", `table of '${record.name}': ${reason}`, {
          hint: "sizes are in sectors of 512 bytes; grow the device below or shorten the line",
        });
      }
    }
  }

  #openedOf(record: DeviceRecord): Opened {
    let opened = this.#opened.get(record.minor);
    if (opened === undefined) {
      const { minor } = record;
      const name = () => this.records().find((each) => each.minor === minor)?.name ?? record.name;
      opened = { device: new MappedDevice(name), pool: undefined, inactive: undefined };
      this.#opened.set(minor, opened);
    }
    return opened;
  }

  /** Opens the live table; resumed, unless the record says suspended. */
  async #open(record: DeviceRecord): Promise<Opened> {
    const opened = this.#openedOf(record);
    const lines = record.live ?? [];
    if (opened.device.segments.length > 0 || lines.length === 0) return opened;
    const segments = await this.#openTargets(record, lines, record.readOnly);
    opened.pool = segments[0]?.target.pool;
    opened.device.setTargets(segments, {
      sizeBytes: tableSectors(lines) * SECTOR_BYTES,
      isReadOnly: record.readOnly,
    });
    // A pool that was in force goes on as it was: neither a new line nor a metadata device that has grown is taken up;
    // that is for a resume that somebody asks for, who may have to write down first what the device stands on. One that
    // is suspended gets its mode back.
    if (!record.suspended) {
      await opened.pool?.resume(undefined, { keepsMetadataSize: true });
      opened.device.resume();
    } else if (opened.pool !== undefined) await this.#resumeBriefly(opened.pool);
    return opened;
  }

  /** A table that its pool refuses is told by the resume that is asked for, not by one of ours. */
  async #resumeBriefly(pool: Pool): Promise<void> {
    try {
      await pool.resume(undefined, { keepsMetadataSize: true });
      await pool.suspend();
    } catch (error) {
      this.#log(`suspended pool ${pool.name}: ${messageOf(error)}`);
    }
  }

  /** A pool whose table was loaded and never resumed. */
  async #openInactive(record: DeviceRecord): Promise<Opened> {
    const opened = this.#openedOf(record);
    if (record.inactive === undefined || opened.inactive !== undefined) return opened;
    opened.inactive = await this.#openTargets(record, record.inactive.lines, record.inactive.readOnly);
    opened.pool = opened.inactive[0]?.target.pool;
    return opened;
  }

  async #openTargets(
    record: DeviceRecord,
    lines: readonly TargetLine[],
    readOnly: boolean,
  ): Promise<readonly Segment[]> {
    const segments: Segment[] = [];
    const context = this.#openContext(record, readOnly);
    try {
      for (const line of lines) {
        const type = findTargetType(line.type);
        if (type === undefined) {
          throw new StateError("EINVAL", `table of '${record.name}': unknown target type ${line.type}`, {
            hint: "a newer udm may know it",
          });
        }
        const target: Target = await type.open(line, context);
        segments.push({ startBytes: line.startSectors * SECTOR_BYTES, target });
      }
    } catch (error) {
      await closeAll(segments, context.ownPool()?.pool);
      throw error;
    }
    return segments;
  }

  #openContext(record: DeviceRecord, readOnly: boolean): OpenContext {
    const { minor } = record;
    return {
      deviceNumber: Registry.numberOf(record),
      readOnly,
      open: async (number, mode) => {
        const below = this.find(number);
        if (below === undefined) return this.#below.open(number, mode);
        return (await this.#open(below)).device;
      },
      ownPool: () => {
        const pool = this.#opened.get(minor)?.pool;
        return pool === undefined ? undefined : { pool, isSuspended: record.suspended };
      },
      poolOf: (number) => this.openPool(number),
      runtime: record.pool?.runtime,
      onEvent: () => {
        const present = this.#recordOf(minor);
        if (present === undefined) return;
        this.#update(present.name, { eventNr: present.eventNr + 1 });
        this.#options.onEvent?.(this.get(present.name));
      },
      onNote: (note) => {
        const present = this.#recordOf(minor);
        if (present !== undefined) this.#options.onNote?.(present, note);
      },
      log: this.#log,
      noSpaceTimeoutMs: this.#options.noSpaceTimeoutMs,
      cacheBlocks: this.#options.cacheBlocks,
      ...(this.#holdsCommits ? { holdsCommits: true } : {}),
    };
  }

  /** @param isNewTable a table that takes force for the first time, as against one that runs again */
  async #preResume(record: DeviceRecord, segments: readonly Segment[], isNewTable: boolean): Promise<void> {
    for (const { target } of segments) {
      try {
        if (isNewTable) await target.preResume?.();
        else await target.pool?.resume();
      } catch (error) {
        const { code, message, hint } = error as UdmError;
        this.#log(`table: ${Registry.numberOf(record)}: thin-pool: preresume failed, error = -22`);
        throw new StateError(code, `resume of '${record.name}': ${message}`, {
          ...(hint === undefined ? {} : { hint }),
          cause: error,
        });
      }
    }
  }

  async #close(record: DeviceRecord): Promise<void> {
    const opened = this.#opened.get(record.minor);
    if (opened === undefined) return;
    const { pool, inactive } = opened;
    // Whoever holds it keeps the object; its requests wait until it is opened again.
    if (this.#holds.has(record.minor)) {
      await opened.device.suspend({ noflush: true });
      opened.pool = undefined;
      opened.inactive = undefined;
    } else this.#opened.delete(record.minor);
    try {
      await closeAll([...opened.device.takeTargets(), ...(inactive ?? [])], pool);
      await pool?.close();
    } finally {
      if (pool !== undefined) this.#keepRuntime(record, pool.runtime());
    }
  }

  #keepRuntime(record: DeviceRecord, runtime: PoolRuntime): void {
    const present = this.#records.get(record.name);
    if (present === undefined) return;
    this.#update(record.name, { pool: { thins: [], ...present.pool, runtime } });
  }
}

/** Closes targets; a pool that goes on serving is left open. */
async function closeAll(segments: readonly Segment[], keep: Pool | undefined): Promise<void> {
  for (const { target } of segments) if (target.pool === undefined || target.pool !== keep) await target.close();
}

function tablesOf(record: DeviceRecord): (readonly TargetLine[])[] {
  return [record.live, record.inactive?.lines].filter((lines) => lines !== undefined);
}

/** Devices of a table in order of first reference, each once. */
function devicesOf(lines: readonly TargetLine[]): string[] {
  return [...new Set(lines.flatMap((line) => findTargetType(line.type)?.devices(line.args) ?? []))];
}

function isPool(record: DeviceRecord): boolean {
  return record.live?.[0]?.type === "thin-pool";
}

/** Table of a record as text, without opening anything. A thin of a failed pool cannot say. */
export function tableTexts(lines: readonly TargetLine[], isFailedPool: (number: string) => boolean): readonly string[] {
  return lines.map((line) => (line.type === "thin" && isFailedPool(line.args[0]!) ? "Fail" : tableParams(line)));
}
