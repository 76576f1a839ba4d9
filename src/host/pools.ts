/** Pools: made, looked at, changed, taken away. Growing them is in pool-resize.ts. */
import { statSync } from "node:fs";
import {
  compareNames,
  type DeviceRecord,
  formatTable,
  type MadeFile,
  parseName,
  parseTable,
  Registry,
} from "../device-registry/index.js";
import { codeOf, StateError, UdmError } from "../errors/index.js";
import { createSparseFile, identityOf, isSameFile } from "../io/index.js";
import {
  MAX_DATA_BLOCK_SECTORS,
  MIN_DATA_BLOCK_SECTORS,
  poolArgs,
  poolConfigOf,
  type TargetLine,
} from "../targets/index.js";
import { eachUsedRun, NO_FEATURES, type PoolFeatures } from "../thin/index.js";
import { bytesToSectors, SECTOR_BYTES } from "../units/index.js";
import { DEFAULT_PERCENT, NEVER_PERCENT } from "./autoextend.js";
import { LOOP_MAJOR } from "./below.js";
import type { Core } from "./core.js";
import type {
  DeviceState,
  LowWater,
  Plan,
  PoolCreate,
  PoolCreated,
  PoolEvents,
  PoolInfo,
  PoolMap,
  PoolResized,
  PoolSettings,
} from "./host.js";
import { addLoop, checkNewFile, findSame, isMissing } from "./loops.js";
import { removeMadeFile } from "./mend.js";
import { forgetReadSnapshot } from "./metadata-snapshot.js";
import { dmsetupCreate, quoted } from "./plan-text.js";
import { replaceTable } from "./pool-resize.js";
import type { Session } from "./session.js";
import { getPool, isPoolRecord, refuseNameInUse, thinsOf, wipeSuperblock } from "./thin-records.js";

export const DEFAULT_DATA_BYTES = 100 * 2 ** 30;
export const DEFAULT_METADATA_BYTES = 2 * 2 ** 30;
const DEFAULT_BLOCK_BYTES = 65536;
const DEFAULT_LOW_WATER: LowWater = { kind: "percent", percent: 10 };
/** The unit in which one device is cut in two. */
const EXTENT_SECTORS = 8192;
const SUPERBLOCK_BYTES = 4096;

/** What a role will stand on, decided before anything is made. */
type Ground =
  | { readonly kind: "device"; readonly number: string; readonly sectors: number }
  | { readonly kind: "file"; readonly path: string; readonly makeBytes: number | undefined; readonly sectors: number };

interface CutDevice {
  readonly name: string;
  readonly startSectors: number;
  readonly lengthSectors: number;
}

interface CreatePlan {
  readonly name: string;
  readonly metadata: Ground;
  readonly data: Ground;
  /** Linear devices made on one device, metadata first. */
  readonly cut?: { readonly device: Ground; readonly metadata: CutDevice; readonly data: CutDevice };
  /** The line, given what numbers the roles got. */
  line(metadata: string, data: string): TargetLine;
}

export function createPool(core: Core, request: PoolCreate): Promise<PoolCreated> {
  return core.change(`pool create ${request.name}`, async (session) => {
    const present = session.registry.find(request.name);
    if (request.ifNotExists === true && present !== undefined && isPoolRecord(present)) {
      return { name: present.name, formatted: false, thinIds: [] };
    }
    const plan = await planCreate(session, request);
    const made: MadeFile[] = [];
    try {
      for (const ground of [plan.metadata, plan.data]) makeFile(ground, made);
    } catch (error) {
      for (const file of made) removeMadeFile(file);
      throw error;
    }
    session.step("files made");
    const intent =
      made.length === 0 ? undefined : await session.announce({ kind: "create-pool", pool: plan.name, files: made });
    session.step("announced");
    const created = await activate(session, request, plan);
    session.step("formatted");
    if (intent !== undefined) session.fulfilled(intent);
    return created;
  });
}

export function planCreatePool(core: Core, request: PoolCreate): Promise<Plan> {
  return core.view(async (session) => {
    const present = session.registry.find(request.name);
    if (request.ifNotExists === true && present !== undefined && isPoolRecord(present)) return [];
    const plan = await planCreate(session, request);
    const lines: string[] = [];
    const numbers: string[] = [];
    let next = 0;
    const named = [plan.metadata, plan.data].flatMap((each) => (each.kind === "device" ? [each.number] : []));
    for (const ground of plan.cut === undefined ? [plan.metadata, plan.data] : [plan.cut.device]) {
      if (ground.kind === "device") {
        numbers.push(ground.number);
        continue;
      }
      while (session.loops.some((loop) => loop.number === next) || named.includes(`${LOOP_MAJOR}:${next}`)) next++;
      if (ground.makeBytes !== undefined) lines.push(`truncate -s ${ground.makeBytes} ${quoted(ground.path)}`);
      lines.push(`losetup /dev/loop${next} ${quoted(ground.path)}`);
      numbers.push(`${LOOP_MAJOR}:${next}`);
      next++;
    }
    let [metadata, data] = numbers;
    if (plan.cut !== undefined) {
      for (const part of [plan.cut.metadata, plan.cut.data]) {
        lines.push(dmsetupCreate(part.name, `0 ${part.lengthSectors} linear ${numbers[0]} ${part.startSectors}`));
      }
      metadata = `/dev/mapper/${plan.cut.metadata.name}`;
      data = `/dev/mapper/${plan.cut.data.name}`;
    }
    const table = formatTable([plan.line(metadata!, data!)]);
    return [...lines, dmsetupCreate(plan.name, table, request.uuid === undefined ? {} : { uuid: request.uuid })];
  });
}

async function planCreate(session: Session, request: PoolCreate): Promise<CreatePlan> {
  const name = parseName(request.name);
  refuseNameInUse(session, name);
  const { source } = request;
  if (source.kind === "table") return planFromTable(session, name, source.table);
  const blockSectors = checkBlockSize(request.blockBytes ?? DEFAULT_BLOCK_BYTES);
  const features = { ...NO_FEATURES, errorIfNoSpace: true, ...request.features };
  const line = (dataSectors: number) => (metadata: string, data: string) =>
    poolLine({
      metadata,
      data,
      lengthSectors: dataSectors,
      blockSectors,
      lowWaterBlocks: lowWaterBlocks(request.lowWater ?? DEFAULT_LOW_WATER, dataSectors, blockSectors),
      features,
    });
  if (source.kind === "device") {
    const cut = await planCut(session, name, source);
    const ground = (part: CutDevice): Ground => ({ kind: "device", number: "", sectors: part.lengthSectors });
    checkDataSize(name, cut.data.lengthSectors, blockSectors);
    return {
      name,
      metadata: cut.device.kind === "file" ? cut.device : ground(cut.metadata),
      data: ground(cut.data),
      cut,
      line: line(cut.data.lengthSectors),
    };
  }
  const metadata = await planGround(session, source.metadata, source.metadataSizeBytes, DEFAULT_METADATA_BYTES);
  const data = await planGround(session, source.data, source.dataSizeBytes, DEFAULT_DATA_BYTES);
  refuseSameGround(metadata, data);
  checkDataSize(name, data.sectors, blockSectors);
  return { name, metadata, data, line: line(data.sectors) };
}

async function planFromTable(session: Session, name: string, table: string): Promise<CreatePlan> {
  const lines = parseTable(table);
  const [line] = lines;
  if (lines.length !== 1 || line?.type !== "thin-pool") {
    throw new StateError("EINVAL", `table of '${name}': wanted one line of type thin-pool`, {
      hint: "START LENGTH thin-pool META DATA BLOCK LOWWATER [N FEATURE...]",
    });
  }
  const ground = async (word: string | undefined): Promise<Ground> => {
    const number =
      word === undefined
        ? ""
        : await session.registry.findDevice(word).then(
            (found) => found.number,
            () => word,
          );
    return { kind: "device", number, sectors: 0 };
  };
  return { name, metadata: await ground(line.args[0]), data: await ground(line.args[1]), line: () => line };
}

function poolLine(options: {
  readonly metadata: string;
  readonly data: string;
  readonly lengthSectors: number;
  readonly blockSectors: number;
  readonly lowWaterBlocks: number;
  readonly features: PoolFeatures;
}): TargetLine {
  const { metadata, data, lengthSectors, blockSectors: dataBlockSectors, lowWaterBlocks, features } = options;
  return {
    startSectors: 0,
    lengthSectors,
    type: "thin-pool",
    args: poolArgs({ metadata, data, dataBlockSectors, lowWaterBlocks, features }),
  };
}

function checkBlockSize(bytes: number): number {
  const sectors = bytes / SECTOR_BYTES;
  if (sectors < MIN_DATA_BLOCK_SECTORS || sectors > MAX_DATA_BLOCK_SECTORS || sectors % MIN_DATA_BLOCK_SECTORS !== 0) {
    throw new StateError("EINVAL", `block size ${bytes} is not possible`, {
      hint: "a multiple of 64k from 64k to 1g",
    });
  }
  return sectors;
}

function checkDataSize(name: string, sectors: number, blockSectors: number): void {
  if (sectors >= blockSectors) return;
  throw new StateError("EINVAL", `pool '${name}': ${sectors} sectors of data hold not one block of ${blockSectors}`, {
    hint: "give it a larger data device, or smaller blocks",
  });
}

/** Data blocks of a mark. @throws StateError EINVAL when it is larger than the pool */
export function lowWaterBlocks(mark: LowWater, dataSectors: number, blockSectors: number): number {
  const total = Math.floor(dataSectors / blockSectors);
  switch (mark.kind) {
    case "blocks":
      return mark.blocks;
    case "bytes":
      return Math.floor(mark.bytes / (blockSectors * SECTOR_BYTES));
    case "percent":
      if (mark.percent < 0 || mark.percent > 100) {
        throw new StateError("EINVAL", `low water mark ${mark.percent}% is not a share`, { hint: "0% to 100%" });
      }
      return Math.floor((total * mark.percent) / 100);
  }
}

/** A device, a file, or a file to be made. */
async function planGround(
  session: Session,
  word: string,
  sizeBytes: number | undefined,
  defaultBytes: number,
): Promise<Ground> {
  const device = await findGroundDevice(session, word);
  if (device !== undefined) {
    return { kind: "device", number: device, sectors: await session.registry.sizeSectors(device) };
  }
  const path = session.resolvePath(word);
  if (isMissing(path)) {
    const makeBytes = sizeBytes ?? defaultBytes;
    if (makeBytes <= 0 || makeBytes % SECTOR_BYTES !== 0) {
      throw new StateError("EINVAL", `${makeBytes} bytes are no size for ${word}`, {
        hint: "a multiple of 512 above 0",
      });
    }
    checkNewFile(path, makeBytes);
    return { kind: "file", path, makeBytes, sectors: bytesToSectors(makeBytes) };
  }
  const stat = statSync(path);
  if (!stat.isFile()) {
    throw new StateError("ENODEV", `${word} is neither a block device nor a regular file`, {
      hint: "give a file, or a device as MAJ:MIN, loopN, a name, or its path",
    });
  }
  if (sizeBytes !== undefined && sizeBytes !== stat.size) {
    throw new StateError("EEXIST", `${word} exists with ${stat.size} bytes, not ${sizeBytes}`, {
      hint: "leave the size out to take it as it is; udm pool resize grows it afterwards",
    });
  }
  const attached = findSame(session, { file: path });
  if (attached !== undefined) {
    return { kind: "device", number: `${LOOP_MAJOR}:${attached.number}`, sectors: bytesToSectors(attached.sizeBytes) };
  }
  return { kind: "file", path, makeBytes: undefined, sectors: bytesToSectors(stat.size) };
}

/** Number of the device a word names; undefined when it can only be a file. */
async function findGroundDevice(session: Session, word: string): Promise<string | undefined> {
  try {
    return (await session.registry.findDevice(word)).number;
  } catch (error) {
    const looksLikeDevice = /^\d+:\d+$/.test(word) || /^loop\d+$/.test(word) || word.startsWith("/dev/");
    if (looksLikeDevice && !statSync(session.resolvePath(word), { throwIfNoEntry: false })?.isFile()) throw error;
    if (codeOf(error) === "ENODEV" || codeOf(error) === "ENXIO") return undefined;
    throw error;
  }
}

function refuseSameGround(metadata: Ground, data: Ground): void {
  const same =
    metadata.kind === "device" && data.kind === "device"
      ? metadata.number === data.number
      : metadata.kind === "file" &&
        data.kind === "file" &&
        (metadata.path === data.path ||
          (!isMissing(metadata.path) &&
            !isMissing(data.path) &&
            isSameFile(identityOf(metadata.path), identityOf(data.path))));
  if (!same) return;
  throw new StateError("EINVAL", "metadata and data are the same device", {
    hint: "give each a device or file of its own",
  });
}

/** Where on one device metadata and data go: what is there already under these names, else the free space. */
async function planCut(
  session: Session,
  name: string,
  source: { readonly device: string; readonly thinpPercent: number; readonly thinpMetaPercent: number },
): Promise<NonNullable<CreatePlan["cut"]>> {
  const { thinpPercent, thinpMetaPercent } = source;
  if (!(thinpPercent > 0 && thinpMetaPercent > 0 && thinpPercent + thinpMetaPercent <= 100)) {
    throw new StateError(
      "EINVAL",
      `${thinpPercent}% for data and ${thinpMetaPercent}% for metadata do not fit a device`,
      {
        hint: "two percentages above 0 that add up to 100 at most",
      },
    );
  }
  const device = await planGround(session, source.device, undefined, 0).catch((error: unknown) => {
    if (codeOf(error) !== "EINVAL") throw error;
    throw new StateError("ENOENT", `${source.device} does not exist`, {
      hint: "give a device or a file that is there",
    });
  });
  const extents = Math.floor(device.sectors / EXTENT_SECTORS);
  const metadataExtents = Math.max(1, Math.floor((extents * thinpMetaPercent) / 100));
  const dataExtents = Math.floor((extents * thinpPercent) / 100);
  if (dataExtents < 1 || metadataExtents + dataExtents > extents) {
    throw new StateError("ENOSPC", `${source.device} is too small: ${device.sectors} sectors`, {
      hint: "it is cut in extents of 4m; a device of 400m and more does",
    });
  }
  const metadata = { name: `${name}_tmeta`, startSectors: 0, lengthSectors: metadataExtents * EXTENT_SECTORS };
  const data = {
    name: `${name}_tdata`,
    startSectors: metadata.lengthSectors,
    lengthSectors: dataExtents * EXTENT_SECTORS,
  };
  for (const part of [metadata, data]) refuseNameInUse(session, part.name);
  if (device.kind === "device") {
    const users = session.registry.usersOf(device.number);
    if (users.length > 0) {
      throw new StateError("EBUSY", `${source.device} is in use by ${users.join(", ")}`, {
        hint: "a pool takes a whole device; remove what stands on it",
      });
    }
  }
  return { device, metadata, data };
}

function makeFile(ground: Ground, made: MadeFile[]): void {
  if (ground.kind !== "file" || ground.makeBytes === undefined) return;
  createSparseFile(ground.path, ground.makeBytes);
  const { ino, dev } = statSync(ground.path);
  made.push({ path: ground.path, ino, dev });
}

async function activate(session: Session, request: PoolCreate, plan: CreatePlan): Promise<PoolCreated> {
  const { registry } = session;
  let metadata: string;
  let data: string;
  if (plan.cut === undefined) {
    const named = [plan.metadata, plan.data].flatMap((each) => (each.kind === "device" ? [each.number] : []));
    metadata = attach(session, plan.metadata, named);
    data = attach(session, plan.data, named);
  } else {
    const base = attach(session, plan.cut.device);
    metadata = await makeLinear(session, plan.cut.metadata, base);
    data = await makeLinear(session, plan.cut.data, base);
  }
  const line = plan.line(metadata, data);
  if (metadata !== "" && request.format === true) await eraseForeign(session, metadata);
  registry.create({ name: plan.name, ...(request.uuid === undefined ? {} : { uuid: request.uuid }) });
  let wasBlank = false;
  try {
    await registry.load(plan.name, [line]);
    const { pool } = await registry.openPool(plan.name);
    wasBlank = pool.formatted;
    session.step("loaded");
    await registry.resume(plan.name);
    return { name: plan.name, formatted: pool.formatted, thinIds: pool.metadata.listDevices().map(({ id }) => id) };
  } catch (error) {
    // Nothing was there before, so nothing is left behind either.
    if (wasBlank) {
      await registry.remove(plan.name);
      const found = await registry.findDevice(line.args[0]!);
      await wipeSuperblock(session, found.number);
    }
    throw withFormatHint(error, plan.name);
  }
}

function attach(session: Session, ground: Ground, avoid: readonly string[] = []): string {
  if (ground.kind === "device") return ground.number;
  return `${LOOP_MAJOR}:${addLoop(session, { file: ground.path, autoclear: true, avoid }).number}`;
}

async function makeLinear(session: Session, part: CutDevice, base: string): Promise<string> {
  const record = session.registry.create({ name: part.name });
  const args = [base, String(part.startSectors)];
  await session.registry.load(part.name, [
    { startSectors: 0, lengthSectors: part.lengthSectors, type: "linear", args },
  ]);
  await session.registry.resume(part.name);
  return Registry.numberOf(record);
}

/** Metadata that is no pool's is overwritten on demand; a pool is never. */
async function eraseForeign(session: Session, number: string): Promise<void> {
  const mapped = session.registry.find(number);
  const device =
    mapped === undefined
      ? await session.low.open(number, { readOnly: false })
      : await session.registry.open(mapped.name);
  const block = Buffer.alloc(SUPERBLOCK_BYTES);
  if (device.sizeBytes < block.length) return;
  await device.read(0, block);
  // The magic of a thin pool's superblock; whatever else is wrong with it may be worth a repair.
  if (block.readBigUInt64LE(32) === 27022010n || block.every((byte) => byte === 0)) return;
  await device.write(0, Buffer.alloc(SUPERBLOCK_BYTES));
  await device.flush();
}

function withFormatHint(error: unknown, name: string): unknown {
  if (!(error instanceof UdmError) || !["EILSEQ", "ENOTBLK", "EUCLEAN"].includes(error.code)) return error;
  return new StateError(
    error.code,
    `pool '${name}': the metadata device is neither zeroed nor valid dm-thin metadata: ${error.message}`,
    {
      hint: "udm pool create --format -y overwrites what is not a pool's; a damaged pool wants thin_repair",
      cause: error,
    },
  );
}

// Looking

export function listPools(core: Core): Promise<readonly { readonly name: string; readonly state: DeviceState }[]> {
  return core.view((session) =>
    session.registry
      .records()
      .filter(isPoolRecord)
      .map((record) => ({ name: record.name, state: stateOf(record) }))
      .sort((left, right) => compareNames(left.name, right.name)),
  );
}

export function stateOf(record: DeviceRecord): DeviceState {
  if (record.suspended) return "SUSPENDED";
  return record.live === undefined ? "NONE" : "ACTIVE";
}

export function poolStatus(core: Core, name: string): Promise<PoolInfo> {
  return core.change(`pool status ${name}`, async (session) => {
    const record = getPool(session, name);
    const { pool } = await session.registry.openPool(record.name);
    const line = (record.live ?? record.inactive?.lines)![0]!;
    const [metadataDevice, dataDevice] = line.args as [string, string];
    const status = await pool.status();
    const raw = `${line.startSectors} ${line.lengthSectors} thin-pool ${await pool.statusParams({ noflush: true })}`;
    const number = Registry.numberOf(record);
    return {
      name: record.name,
      state: stateOf(session.registry.get(record.name)),
      metadataDevice,
      dataDevice,
      metadataFile: session.low.loop(metadataDevice)?.file,
      dataFile: session.low.loop(dataDevice)?.file,
      status,
      raw,
      thinCount: pool.mode === "fail" ? thinsOf(record).length : pool.metadata.listDevices().length,
      activeCount: session.registry
        .records()
        .filter((each) => each.live?.some((thin) => thin.type === "thin" && thin.args[0] === number) === true).length,
      settings: {
        autoextendThresholdPercent: record.pool?.autoextendThresholdPercent ?? NEVER_PERCENT,
        autoextendPercent: record.pool?.autoextendPercent ?? DEFAULT_PERCENT,
        maxSizeBytes: record.pool?.maxSizeBytes || undefined,
        minFreeSpacePercent: record.pool?.minFreeSpacePercent ?? 0,
      },
    };
  });
}

export function poolMap(core: Core, name: string): Promise<PoolMap> {
  return core.change(`pool map ${name}`, async (session) => {
    const record = getPool(session, name);
    const { pool } = await session.registry.openPool(record.name);
    const runs: { dataBlock: number; count: number; mappings: number; held: boolean }[] = [];
    eachUsedRun(pool.metadata, (dataBlock, count, mappings, held) => {
      runs.push({ dataBlock, count, mappings, held });
    });
    return { totalBlocks: pool.metadata.dataBlocks, blockBytes: pool.blockBytes, runs };
  });
}

// Changing

export function poolMessage(core: Core, name: string, words: readonly string[]): Promise<void> {
  return core.change(`pool message ${name}`, async (session) => {
    const record = getPool(session, name);
    const id = Number(words[1]);
    if (words[0]?.toLowerCase() === "delete") refuseDeletingActive(session, record, id);
    const { pool } = await session.registry.openPool(record.name);
    await pool.message(words);
    if (words[0]?.toLowerCase() === "release_metadata_snap") forgetReadSnapshot(session, record.name);
  });
}

export function extendPool(core: Core, name: string): Promise<PoolResized | undefined> {
  return core.change(`pool extend ${name}`, (session) => core.extender.extend(session, getPool(session, name).name));
}

export async function poolEvents(
  core: Core,
  options: { readonly after?: string; readonly end?: boolean } = {},
): Promise<PoolEvents> {
  return options.end === true ? { events: [], position: core.events.end() } : core.events.read(options.after);
}

/** A device is open as long as a table maps it, whether or not this process has it open. */
export function refuseDeletingActive(session: Session, pool: DeviceRecord, id: number): void {
  const number = Registry.numberOf(pool);
  const user = session.registry
    .records()
    .find((record) =>
      [...(record.live ?? []), ...(record.inactive?.lines ?? [])].some(
        (line) => line.type === "thin" && line.args[0] === number && line.args[1] === String(id),
      ),
    );
  if (user === undefined) return;
  session.log(`thin: Deletion of thin device ${id} failed.`);
  throw new StateError("EBUSY", `thin device ${id} of '${pool.name}' is in use by '${user.name}'`, {
    hint: `udm thin deactivate ${user.name}, or udm thin delete ${user.name}`,
  });
}

export function setPool(core: Core, name: string, change: PoolSettings): Promise<void> {
  return core.change(`pool set ${name}`, async (session) => {
    const record = getPool(session, name);
    checkSettings(change);
    const next = settingsLine(record, change);
    if (next !== undefined) await replaceTable(session, record.name, next);
    const { autoextendThresholdPercent, autoextendPercent, maxSizeBytes, minFreeSpacePercent } = change;
    session.registry.update(record.name, {
      pool: {
        thins: [],
        ...session.registry.get(record.name).pool,
        ...(autoextendThresholdPercent === undefined ? {} : { autoextendThresholdPercent }),
        ...(autoextendPercent === undefined ? {} : { autoextendPercent }),
        ...(maxSizeBytes === undefined ? {} : { maxSizeBytes }),
        ...(minFreeSpacePercent === undefined ? {} : { minFreeSpacePercent }),
      },
    });
  });
}

/** The table line of other settings; undefined where only what udm keeps changes. */
export function settingsLine(record: DeviceRecord, { lowWater, features }: PoolSettings): TargetLine | undefined {
  if (lowWater === undefined && features === undefined) return undefined;
  const line = (record.live ?? record.inactive?.lines)![0]!;
  const config = poolConfigOf(line);
  const mark =
    lowWater === undefined
      ? config.lowWaterBlocks
      : lowWaterBlocks(lowWater, line.lengthSectors, config.dataBlockSectors);
  return poolLine({
    metadata: line.args[0]!,
    data: line.args[1]!,
    lengthSectors: line.lengthSectors,
    blockSectors: config.dataBlockSectors,
    lowWaterBlocks: mark,
    features: { ...config.features, ...features },
  });
}

export function checkSettings(change: PoolSettings): void {
  const { autoextendThresholdPercent: threshold, autoextendPercent: percent } = change;
  if (threshold !== undefined && (!Number.isInteger(threshold) || threshold < 50 || threshold > 100)) {
    throw new StateError("EINVAL", `autoextend threshold ${threshold} is out of range`, {
      hint: "50 to 100 percent; 100 turns it off",
    });
  }
  if (percent !== undefined && (!Number.isInteger(percent) || percent < 0)) {
    throw new StateError("EINVAL", `autoextend percent ${percent} is out of range`, {
      hint: "a whole number, such as 20",
    });
  }
  const { minFreeSpacePercent: least } = change;
  if (least !== undefined && (!Number.isInteger(least) || least < 0 || least > 99)) {
    throw new StateError("EINVAL", `minimum free space ${least}% is out of range`, {
      hint: "0 to 99 percent; 0 turns it off",
    });
  }
}

export function removePool(
  core: Core,
  name: string,
  options: { readonly destroy?: boolean; readonly ifExists?: boolean } = {},
): Promise<void> {
  return core.change(`pool remove ${name}`, async (session) => {
    if (options.ifExists === true && session.registry.find(name) === undefined) return;
    const { record, metadata, parts } = checkRemove(session, name);
    if (options.destroy !== true) return session.registry.remove(record.name);
    const intent = await session.announce({ kind: "destroy-pool", pool: record.name, metadata });
    session.step("announced");
    await session.registry.remove(record.name);
    await wipeSuperblock(session, metadata);
    session.step("wiped");
    for (const part of parts) await session.registry.remove(part);
    session.fulfilled(intent);
  });
}

export function planRemovePool(
  core: Core,
  name: string,
  options: { readonly destroy?: boolean; readonly ifExists?: boolean } = {},
): Promise<Plan> {
  return core.view((session) => {
    if (options.ifExists === true && session.registry.find(name) === undefined) return [];
    const { record, metadata, parts } = checkRemove(session, name);
    const remove = `dmsetup remove ${quoted(record.name)}`;
    if (options.destroy !== true) return [remove];
    const path = session.low.loop(metadata)?.file ?? `/dev/block/${metadata}`;
    return [
      remove,
      `dd if=/dev/zero of=${quoted(path)} bs=4096 count=1 conv=notrunc`,
      ...parts.map((part) => `dmsetup remove ${quoted(part)}`),
    ];
  });
}

function checkRemove(
  session: Session,
  name: string,
): { readonly record: DeviceRecord; readonly metadata: string; readonly parts: readonly string[] } {
  const record = getPool(session, name);
  const users = session.registry.usersOf(Registry.numberOf(record));
  if (users.length > 0) {
    throw new StateError("EBUSY", `pool '${record.name}' is in use by ${users.join(", ")}`, {
      hint: "deactivate its thin devices first: udm thin deactivate",
    });
  }
  const line = (record.live ?? record.inactive?.lines)![0]!;
  const parts = [`${record.name}_tmeta`, `${record.name}_tdata`].filter((part) => {
    const found = session.registry.find(part);
    return found !== undefined && line.args.includes(Registry.numberOf(found));
  });
  return { record, metadata: line.args[0]!, parts };
}
