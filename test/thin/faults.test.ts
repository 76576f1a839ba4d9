/**
 * The n-th read, write or flush of metadata or data fails, once or from then on, for every n of a workload. Every request
 * is answered with success or an error, a reader sees what was written (after an aborted transaction perhaps what was
 * durable), never anything else, and on healthy devices the pool opens clean with everything that a flush acknowledged.
 */
import { afterAll, describe, expect, test } from "vitest";
import { codeOf } from "../../src/errors/index.js";
import { expectCleanPool } from "../support/check-metadata.js";
import { DelayedDevice } from "../support/delayed-device.js";
import { type Fault, type FaultKind, FaultyDevice } from "../support/faulty-device.js";
import { ForkDevice } from "../support/fork-device.js";
import { PoolWorker, randomWorkload, WORKLOAD_BLOCK_BYTES, type WorkStep } from "../support/pool-workload.js";
import { pageSurprise, WrittenHistory } from "../support/written-history.js";

const THIN_BLOCKS = 16;
const DATA_BLOCKS = 90;
const METADATA_BLOCKS = 96;
const THIN_BYTES = THIN_BLOCKS * WORKLOAD_BLOCK_BYTES;

interface Scene {
  readonly metadata: ForkDevice;
  readonly data: ForkDevice;
  readonly history: () => WrittenHistory;
  readonly work: readonly WorkStep[];
  readonly parallel: boolean;
}

/** Blocks of device 0 alone, so that a discard reaches the data device. */
const OWN_BLOCKS: readonly WorkStep[] = [
  { kind: "write", id: 0, offset: 10 * WORKLOAD_BLOCK_BYTES, length: 3 * WORKLOAD_BLOCK_BYTES, seed: 3 },
  { kind: "discard", id: 0, offset: 11 * WORKLOAD_BLOCK_BYTES, length: WORKLOAD_BLOCK_BYTES },
  { kind: "read", id: 0, page: 10 * 16 },
  { kind: "read", id: 0, page: 11 * 16 },
];

let clock = 0;

/** A pool with a device and a snapshot, and work to be done on it. */
async function prepare(seed: number, parallel: boolean): Promise<Scene> {
  const metadata = new ForkDevice("metadata", METADATA_BLOCKS * 4096);
  const data = new ForkDevice("data", (DATA_BLOCKS + 3) * WORKLOAD_BLOCK_BYTES);
  const before: WorkStep[] = [
    { kind: "create", id: 0 },
    { kind: "write", id: 0, offset: 0, length: 3 * WORKLOAD_BLOCK_BYTES, seed: 1 },
    { kind: "write", id: 0, offset: 5 * WORKLOAD_BLOCK_BYTES + 512, length: 1024, seed: 2 },
    { kind: "flush", id: 0 },
    { kind: "snap", id: 1, origin: 0 },
  ];
  const history = async (devices: { metadata: ForkDevice; data: ForkDevice }) => {
    const made = new WrittenHistory(() => ++clock);
    const worker = new PoolWorker({ ...devices, dataBlocks: DATA_BLOCKS, history: made, thinBytes: THIN_BYTES });
    await worker.pool.resume();
    await worker.work(before);
    await worker.close();
    return made;
  };
  await history({ metadata, data });
  // Each run takes notes of its own, beginning with what lies there.
  const notes = (): WrittenHistory => {
    const made = new WrittenHistory(() => ++clock);
    for (const step of before) note(made, step);
    return made;
  };
  const work = randomWorkload({
    seed,
    steps: parallel ? 20 : 40,
    thinBytes: THIN_BYTES,
    devices: [0, 1],
    dataBlocks: DATA_BLOCKS,
    spareDataBlocks: 3,
    ...(parallel ? { parallel: 5 } : {}),
  });
  return { metadata, data, history: notes, work: [...OWN_BLOCKS, ...work, { kind: "suspend" }], parallel };
}

function note(history: WrittenHistory, step: WorkStep): void {
  const nothing = async () => {};
  if (step.kind === "create") void history.create(step.id, nothing);
  else if (step.kind === "snap") void history.snapshot(step.id, step.origin, nothing);
  else if (step.kind === "write") void history.write(step.id, step.offset, step.length, step.seed, nothing);
  else if (step.kind === "flush") void history.flush(step.id, nothing);
}

let runs = 0;
let fired = 0;

/** @returns whether the fault was reached */
async function runWith(scene: Scene, on: "metadata" | "data", fault: Fault): Promise<boolean> {
  runs++;
  const metadata = scene.metadata.fork();
  const data = scene.data.fork();
  const faulty = new FaultyDevice(on === "metadata" ? metadata : data);
  const history = scene.history();
  await Promise.resolve();
  const dataSide = on === "data" ? faulty : data;
  const worker = new PoolWorker({
    metadata: on === "metadata" ? faulty : metadata,
    data: scene.parallel ? new DelayedDevice(dataSide, { seed: fault.at, maxTurns: 2 }) : dataSide,
    dataBlocks: DATA_BLOCKS,
    history,
    thinBytes: THIN_BYTES,
    cacheBlocks: 16,
  });
  await worker.pool.resume();
  faulty.arm(fault);
  await worker.work(scene.work, true);
  const wasFired = faulty.fired > 0;
  // Everything is read once more as long as the pool stands.
  faulty.arm(undefined);
  if (worker.pool.mode !== "fail") await worker.work(readsOf(history), true);
  if (!wasFired) expect(worker.failures.map(({ step, error }) => [step, error.message])).toEqual([]);
  const { needsCheck } = worker.pool.metadata;
  const { mode } = worker.pool;
  expect(["write", "read-only", "fail"]).toContain(mode);
  if (mode === "read-only") expect(needsCheck).toBe(true);
  if (on === "data" && fault.on !== "flush") expect(mode).toBe("write");
  await worker.close().catch((error: unknown) => expect(codeOf(error)).toBe("EIO"));
  if (mode === "write") expect(worker.pool.metadata.needsCheck).toBe(false);

  const report = expectCleanPool(metadata, {}, JSON.stringify([on, fault]));
  if (mode === "read-only") expect(report.flags & 1).toBe(1);
  const again = new PoolWorker({ metadata, data, dataBlocks: DATA_BLOCKS + 3, history, thinBytes: THIN_BYTES });
  await again.pool.resume();
  for (const [id, device] of history.devices) {
    const isThere = report.pool.devices.some((each) => each.id === id);
    if (device.exists && device.deletedAt === Number.POSITIVE_INFINITY) expect([id, isThere]).toEqual([id, true]);
    if (device.isGone) expect([id, isThere]).toEqual([id, false]);
    if (!isThere) continue;
    const thin = again.thin(id);
    const page = new Uint8Array(4096);
    for (const number of device.pages) {
      await thin.read(number * 4096, page);
      const surprise = pageSurprise(number, page, (sector) => device.afterCrash(sector, Number.POSITIVE_INFINITY));
      if (surprise !== undefined)
        expect.fail(`${JSON.stringify([on, fault])}: device ${id} when reopened: ${surprise}`);
    }
  }
  await again.close();
  fired += wasFired ? 1 : 0;
  return wasFired;
}

function readsOf(history: WrittenHistory): WorkStep[] {
  return [...history.devices].flatMap(([id, device]) =>
    device.isGone ? [] : [...device.pages].map((page): WorkStep => ({ kind: "read", id, page })),
  );
}

describe.each([
  ["one request after the other", false, 3],
  ["several at once on a slow data device", true, 4],
] as const)("%s", (_name, parallel, seed) => {
  for (const on of ["metadata", "data"] as const) {
    for (const kind of ["read", "write", "flush", "discard"] as const satisfies readonly FaultKind[]) {
      if (on === "metadata" && kind === "discard") continue;
      for (const fromThenOn of [false, true]) {
        test(`${on}: every ${kind} fails ${fromThenOn ? "from then on" : "once"}`, async () => {
          const scene = await prepare(seed, parallel);
          for (const code of ["EIO", "ENOSPC"] as const) {
            // ENOSPC comes from writes alone; other kinds show that the code makes no difference.
            if (code === "ENOSPC" && kind !== "write" && kind !== "flush") continue;
            let at = 1;
            while (await runWith(scene, on, { on: kind, at, code, fromThenOn })) at++;
            expect(at).toBeGreaterThan(1);
          }
        });
      }
    }
  }
});

test("torn metadata writes that fail", async () => {
  const scene = await prepare(8, false);
  let at = 1;
  while (
    await runWith(scene, "metadata", {
      on: "write",
      at,
      code: "EIO",
      fromThenOn: at % 2 === 0,
      tornBytes: 512 * (1 + (at % 7)),
    })
  )
    at++;
  expect(at).toBeGreaterThan(20);
});

afterAll(() => {
  process.stdout.write(`fault runs: ${runs}, with a fault: ${fired}\n`);
});
