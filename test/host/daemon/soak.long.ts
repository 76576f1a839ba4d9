/** A device is written without a pause while it is snapshotted every second, for an hour: memory stays flat, the pool clean. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { checkMetadata, imageSource } from "../../support/check-metadata.js";
import { Random } from "../../support/random.js";
import { MIB } from "../make-host.js";
import { makeDaemon } from "./make-daemon.js";

const MINUTES = Number(process.env.UDM_SOAK_MINUTES ?? 60);
const PAUSE_MS = Number(process.env.UDM_SOAK_PAUSE_MS ?? 1000);
const BLOCK = 65536;
/** Every block copied for every snapshot that is kept fits the pool. */
const BLOCKS = 2048;
const KEPT = 20;
/** What the collector leaves lying about, and a little for what grows with the first snapshots. */
const SLACK_BYTES = 48 * MIB;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

function heapBytes(): number {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Told six times in a run. */
interface Figure {
  readonly minute: number;
  readonly snapshots: number;
  readonly writes: number;
  readonly heapMib: number;
  readonly rssMib: number;
}

test(`memory is flat over ${MINUTES} minutes`, async () => {
  const it = await makeDaemon();
  const host = await it.connect();
  await host.createPool({
    name: "pool",
    source: {
      kind: "devices",
      data: "data.img",
      metadata: "meta.img",
      dataSizeBytes: 4096 * MIB,
      metadataSizeBytes: 64 * MIB,
    },
  });
  await host.createThin({ pool: "pool", name: "a", sizeBytes: BLOCKS * BLOCK });
  const { device } = await it.hold(host, "a");
  const random = new Random(7);
  let isOver = false;
  let failure: unknown;
  let writes = 0;
  const load = (async () => {
    const bytes = Buffer.alloc(4096, 1);
    for (let count = 0; !isOver; count++) {
      const offset = random.between(0, BLOCKS - 1) * BLOCK;
      writes++;
      if (device.tryWrite(offset, bytes) === 0) await device.write(offset, bytes);
      if (count % 64 === 0) await device.flush();
      if (count % 8 === 0) await new Promise<void>((resolve) => setImmediate(resolve));
    }
  })().catch((error: unknown) => {
    failure = error;
  });
  const began = performance.now();
  const until = began + MINUTES * 60_000;
  const figures: Figure[] = [];
  const toMib = (bytes: number) => Math.round((bytes / MIB) * 10) / 10;
  const tell = (round: number) => {
    const minute = (performance.now() - began) / 60_000;
    if (minute < (figures.length * MINUTES) / 6) return;
    const heapMib = toMib(heapBytes());
    figures.push({
      minute: Math.round(minute * 10) / 10,
      snapshots: round,
      writes,
      heapMib,
      rssMib: toMib(process.memoryUsage.rss()),
    });
    process.stdout.write(`${JSON.stringify(figures.at(-1))}\n`);
  };
  let settled: number | undefined;
  let most = 0;
  for (let round = 0; performance.now() < until; round++) {
    await host.snapThin({ origin: "a", name: `s${round}` });
    if (round >= KEPT) await host.deleteThin(`s${round - KEPT}`);
    await host.poolStatus("pool");
    if (round % 50 === 0) await host.listThins();
    const before = writes;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    if (failure !== undefined) throw failure;
    expect(writes).toBeGreaterThan(before);
    if (round === 3 * KEPT) settled = heapBytes();
    // Collecting takes its time; often enough is enough.
    if (settled !== undefined && round % 10 === 0) most = Math.max(most, heapBytes());
    tell(round);
  }
  isOver = true;
  await load;
  expect(settled).toBeDefined();
  expect(heapBytes() - settled!).toBeLessThan(SLACK_BYTES);
  expect((await host.daemonInfo())?.connections).toBe(1);
  await it.daemon.stop();
  expect(checkMetadata(imageSource(readFileSync(join(it.folder, "meta.img")))).damage).toEqual([]);
  expect(most - settled!).toBeLessThan(2 * SLACK_BYTES);
});
