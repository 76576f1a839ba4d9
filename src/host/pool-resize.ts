/**
 * Growing a pool: what its devices stand on, then the devices, then its table, as one step. Files are grown first: a
 * file that is longer than its loop device says does no harm. The new table is written down before the pool takes it
 * up, so that a cut in between is ended by the next operation, never met with metadata larger than the table.
 */
import { statSync } from "node:fs";
import { type DeviceRecord, formatTable, type LoopRecord } from "../device-registry/index.js";
import { messageOf, StateError } from "../errors/index.js";
import { freeBytes, setFileSize } from "../io/index.js";
import { MAX_METADATA_BLOCKS, METADATA_BLOCK_BYTES } from "../persistent-data/index.js";
import { poolConfigOf, type TargetLine } from "../targets/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { LOOP_MAJOR } from "./below.js";
import type { Core } from "./core.js";
import type { Overcommit, Plan, PoolResize, PoolResized, SizeTarget } from "./host.js";
import { dmsetupReload, quoted } from "./plan-text.js";
import type { Session } from "./session.js";
import { getPool } from "./thin-records.js";

/** What has to be done to a device and all below it, from the bottom up. */
type Step =
  | { readonly kind: "file"; readonly path: string; readonly fromBytes: number; readonly toBytes: number }
  | { readonly kind: "loop"; readonly number: number; readonly sizeBytes: number; readonly sizeLimitBytes: number }
  | { readonly kind: "table"; readonly device: string; readonly lines: readonly TargetLine[] };

interface ResizePlan {
  readonly record: DeviceRecord;
  readonly steps: readonly Step[];
  readonly line: TargetLine;
  readonly sizes: PoolResized;
}

export function resizePool(core: Core, request: PoolResize): Promise<PoolResized> {
  return core.change(`pool resize ${request.name}`, (session) => resizeIn(session, request));
}

/** Inside an operation. */
export async function resizeIn(session: Session, request: PoolResize): Promise<PoolResized> {
  const plan = await planResize(session, request);
  const before = session.loops;
  const tables = new Map(
    plan.steps.map((step) => [step, step.kind === "table" ? session.registry.get(step.device).live : undefined]),
  );
  try {
    for (const step of plan.steps) if (step.kind === "file") setFileSize(step.path, step.toBytes);
    session.step("files grown");
    for (const step of plan.steps) await takeUp(session, step);
    if (plan.steps.length > 0 || plan.line.lengthSectors !== currentLine(plan.record).lengthSectors) {
      await replaceTable(session, plan.record.name, plan.line);
    }
  } catch (error) {
    await undo(session, plan, { loops: before, tables });
    throw error;
  }
  return plan.sizes;
}

export function planResizePool(core: Core, request: PoolResize): Promise<Plan> {
  return core.view(async (session) => {
    const plan = await planResize(session, request);
    const lines = plan.steps.flatMap(stepCommands);
    return [...lines, ...dmsetupReload(plan.record.name, formatTable([plan.line]))];
  });
}

function stepCommands(step: Step): readonly string[] {
  switch (step.kind) {
    case "file":
      return [`truncate -s ${step.toBytes} ${quoted(step.path)}`];
    case "loop":
      return [`losetup --set-capacity /dev/loop${step.number}`];
    case "table":
      return dmsetupReload(step.device, formatTable(step.lines));
  }
}

/**
 * Loads a line and takes it up; a suspended device keeps it in its inactive slot. Written down before it is taken up.
 * When the pool refuses the line, the old one is put back.
 */
export async function replaceTable(session: Session, name: string, line: TargetLine): Promise<void> {
  const { registry } = session;
  const record = registry.get(name);
  if (record.live === undefined || record.suspended) {
    await registry.load(name, [line], { readOnly: record.readOnly });
    return;
  }
  await registry.load(name, [line], { readOnly: record.readOnly });
  const intent = { kind: "resume", pool: record.name } as const;
  try {
    await registry.resume(name, {
      onSwapped: async () => {
        session.step("swapped");
        await session.announce(intent);
        session.step("announced");
      },
    });
  } catch (error) {
    if (hasGrown(session, record)) throw error;
    if (registry.get(name).suspended) await putBack(session, record);
    session.fulfilled(intent);
    await session.save();
    throw error;
  }
  session.step("taken up");
  session.fulfilled(intent);
}

/** The pool took up more than the table it had before gives: there is no way back, only forward. */
function hasGrown(session: Session, before: DeviceRecord): boolean {
  const line = before.live?.[0];
  const open = session.registry.openPools().find(({ record }) => record.minor === before.minor);
  if (line === undefined || open === undefined) return false;
  const config = poolConfigOf(line);
  return open.pool.metadata.dataBlocks > Math.floor(config.lengthSectors / config.dataBlockSectors);
}

/** The table as it was; where the pool will not have that either, the new one stays, suspended. */
async function putBack(session: Session, record: DeviceRecord): Promise<void> {
  try {
    await session.registry.load(record.name, record.live ?? [], { readOnly: record.readOnly });
    await session.registry.resume(record.name);
  } catch (error) {
    session.log(`the old table of '${record.name}' cannot be put back: ${messageOf(error)}`);
  }
}

async function takeUp(session: Session, step: Step): Promise<void> {
  switch (step.kind) {
    case "file":
      return;
    case "loop": {
      const { number, sizeBytes, sizeLimitBytes } = step;
      session.setLoops(
        session.loops.map((loop) => (loop.number === number ? { ...loop, sizeBytes, sizeLimitBytes } : loop)),
      );
      return session.low.takeUpSize(`${LOOP_MAJOR}:${number}`);
    }
    case "table":
      return session.registry.replaceLive(step.device, step.lines);
  }
}

/** Back to what it was. Files are cut again only when nothing was taken up of what they grew by. */
async function undo(
  session: Session,
  plan: ResizePlan,
  before: {
    readonly loops: readonly LoopRecord[];
    readonly tables: ReadonlyMap<Step, readonly TargetLine[] | undefined>;
  },
): Promise<void> {
  const open = session.registry.openPools().find(({ record }) => record.minor === plan.record.minor);
  const metadataBytes = (open?.pool.metadata.metadataBlocks ?? 0) * METADATA_BLOCK_BYTES;
  // What the pool has taken up stays; what is left of the work is done by mending.
  if (hasGrown(session, plan.record) || metadataBytes > plan.sizes.metadataBytesBefore) return;
  await session.close();
  session.setLoops(before.loops);
  for (const [step, lines] of before.tables) {
    if (step.kind === "table" && lines !== undefined) await session.registry.replaceLive(step.device, lines);
    if (step.kind === "loop") await session.low.takeUpSize(`${LOOP_MAJOR}:${step.number}`);
  }
  for (const step of plan.steps) if (step.kind === "file") setFileSize(step.path, step.fromBytes);
  await session.save();
}

async function planResize(session: Session, request: PoolResize): Promise<ResizePlan> {
  const record = getPool(session, request.name);
  const line = currentLine(record);
  const [metadataNumber, dataNumber] = line.args as [string, string];
  const dataBefore = line.lengthSectors * SECTOR_BYTES;
  const metadataBefore = (await session.registry.sizeSectors(metadataNumber)) * SECTOR_BYTES;
  const dataAfter = wantedBytes(record.name, "data", dataBefore, request.data);
  const metadataAfter = wantedBytes(record.name, "metadata", metadataBefore, request.metadata);
  const most = MAX_METADATA_BLOCKS * METADATA_BLOCK_BYTES;
  if (metadataAfter > most && metadataAfter > metadataBefore) {
    throw new StateError("EINVAL", `metadata of ${metadataAfter} bytes is above the limit of ${most}`, {
      hint: "the format uses at most 4161600 blocks of 4 KiB (15.88 GiB)",
    });
  }
  if (request.data === undefined && request.metadata === undefined) {
    throw new StateError("EINVAL", `pool '${record.name}': no new size given`, {
      hint: "give a size for data or metadata",
    });
  }
  const steps: Step[] = [];
  if (request.metadata !== undefined) steps.push(...(await growth(session, metadataNumber, metadataAfter)));
  if (request.data !== undefined) steps.push(...(await growth(session, dataNumber, dataAfter)));
  return {
    record,
    steps,
    line: { ...line, lengthSectors: dataAfter / SECTOR_BYTES },
    sizes: {
      dataBytesBefore: dataBefore,
      dataBytesAfter: dataAfter,
      metadataBytesBefore: metadataBefore,
      metadataBytesAfter: metadataAfter,
      overcommitted: steps.flatMap(overcommitOf),
    },
  };
}

/** A sparse file takes what it needs when it needs it; whether that will be there is worth knowing now. */
function overcommitOf(step: Step): readonly Overcommit[] {
  if (step.kind !== "file") return [];
  const free = freeBytes(step.path);
  const needed = step.toBytes - statSync(step.path).blocks * SECTOR_BYTES;
  return free === undefined || needed <= free ? [] : [{ file: step.path, neededBytes: needed, freeBytes: free }];
}

/** The line that counts: the one that waits for a resume, else the live one. */
function currentLine(record: DeviceRecord): TargetLine {
  return (record.inactive?.lines ?? record.live)![0]!;
}

function wantedBytes(pool: string, what: string, before: number, target: SizeTarget | undefined): number {
  if (target === undefined) return before;
  const bytes =
    target.kind === "absolute"
      ? target.bytes
      : target.kind === "grow"
        ? before + target.bytes
        : before + (before * target.percent) / 100;
  const rounded = Math.floor(bytes / SECTOR_BYTES) * SECTOR_BYTES;
  if (rounded < before) {
    throw new StateError("EINVAL", `${what} of '${pool}' has ${before} bytes and would need to shrink to ${rounded}`, {
      hint: `nobody may use a pool while it shrinks: udm metadata shrink ${pool} --size SIZE`,
    });
  }
  if (!Number.isSafeInteger(rounded)) {
    throw new StateError("EINVAL", `${what} of '${pool}' cannot have ${rounded} bytes`, { hint: "the limit is 8 PiB" });
  }
  return rounded;
}

/** What makes a device at least `bytes` long. @throws StateError ENOSPC when it cannot be */
async function growth(session: Session, number: string, bytes: number): Promise<readonly Step[]> {
  const has = (await session.registry.sizeSectors(number)) * SECTOR_BYTES;
  if (has >= bytes) return [];
  const loop = session.low.loop(number);
  if (loop !== undefined) return growLoop(loop, bytes);
  const mapped = session.registry.find(number);
  if (mapped !== undefined) return growLinear(session, mapped, bytes);
  throw new StateError("ENOSPC", `device ${number} has ${has} bytes, the pool would need ${bytes}`, {
    hint: "grow the device first, then call again",
  });
}

function growLoop(loop: LoopRecord, bytes: number): readonly Step[] {
  const stat = statSync(loop.file, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new StateError("ENOENT", `${LOOP_MAJOR}:${loop.number}: ${loop.file} is gone`, { hint: "put the file back" });
  }
  if (!stat.isFile()) {
    throw new StateError("ENOSPC", `${loop.file} is a block device and cannot be grown from here`, {
      hint: `grow it, then udm loop resize ${LOOP_MAJOR}:${loop.number}`,
    });
  }
  const end = loop.offsetBytes + bytes;
  const file: Step[] = stat.size < end ? [{ kind: "file", path: loop.file, fromBytes: stat.size, toBytes: end }] : [];
  const sizeLimitBytes = loop.sizeLimitBytes > 0 ? Math.max(loop.sizeLimitBytes, bytes) : 0;
  return [...file, { kind: "loop", number: loop.number, sizeBytes: bytes, sizeLimitBytes }];
}

/** A device of linear lines gets one more, behind everything that stands on the same device; or a longer last one. */
async function growLinear(session: Session, record: DeviceRecord, bytes: number): Promise<readonly Step[]> {
  const lines = record.live ?? [];
  const last = lines.at(-1);
  if (last === undefined || lines.some((line) => line.type !== "linear")) {
    throw new StateError("EINVAL", `'${record.name}' is not made of linear lines and cannot be grown from here`, {
      hint: "load a longer table for it, then call again",
    });
  }
  const base = last.args[0]!;
  const baseSectors = await session.registry.sizeSectors(base);
  const missing = bytes / SECTOR_BYTES - (last.startSectors + last.lengthSectors);
  const areas = session.registry
    .records()
    .flatMap((each) => [...(each.live ?? []), ...(each.inactive?.lines ?? [])])
    .flatMap((line) => session.registry.areasOf(line))
    .filter((area) => area.device === base);
  const free = Math.max(0, ...areas.map((area) => area.startSectors + area.lengthSectors));
  if (free + missing > baseSectors) {
    throw new StateError(
      "ENOSPC",
      `device ${base} has ${(baseSectors - free) * SECTOR_BYTES} bytes left, ${missing * SECTOR_BYTES} are needed`,
      {
        hint: "give a smaller size, or grow the device below",
      },
    );
  }
  const isLast = Number(last.args[1]) + last.lengthSectors === free;
  const grown: TargetLine[] = isLast
    ? [...lines.slice(0, -1), { ...last, lengthSectors: last.lengthSectors + missing }]
    : [
        ...lines,
        {
          startSectors: last.startSectors + last.lengthSectors,
          lengthSectors: missing,
          type: "linear",
          args: [base, String(free)],
        },
      ];
  return [{ kind: "table", device: record.name, lines: grown }];
}
