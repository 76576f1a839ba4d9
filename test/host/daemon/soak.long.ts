/** A device is written without a pause while it is snapshotted every second, for an hour: memory stays flat, the pool clean. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checkMetadata, imageSource } from "../../support/check-metadata.js";
import { Random } from "../../support/random.js";
import { MIB } from "../make-host.js";
import { makeDaemon } from "./make-daemon.js";

const MINUTES = Number(process.env.UDM_SOAK_MINUTES ?? 60);
const PAUSE_MS = Number(process.env.UDM_SOAK_PAUSE_MS ?? 1000);
const BLOCK = 65536;
const BLOCKS = 4096;
const KEPT = 20;
/** What the collector leaves lying about, and a little for what grows with the first snapshots. */
const SLACK_BYTES = 48 * MIB;

function heapBytes(): number {
  globalThis.gc?.();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  return heapUsed + external + arrayBuffers;
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
  const load = (async () => {
    const bytes = Buffer.alloc(4096, 1);
    for (let count = 0; !isOver; count++) {
      const offset = random.between(0, BLOCKS - 1) * BLOCK;
      if (device.tryWrite(offset, bytes) === 0) await device.write(offset, bytes);
      if (count % 64 === 0) await device.flush();
      if (count % 8 === 0) await new Promise<void>((resolve) => setImmediate(resolve));
    }
  })();
  const until = performance.now() + MINUTES * 60_000;
  let settled: number | undefined;
  let most = 0;
  for (let round = 0; performance.now() < until; round++) {
    await host.snapThin({ origin: "a", name: `s${round}` });
    if (round >= KEPT) await host.deleteThin(`s${round - KEPT}`);
    await host.poolStatus("pool");
    if (round % 50 === 0) await host.listThins();
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    if (round === 3 * KEPT) settled = heapBytes();
    if (settled !== undefined) most = Math.max(most, heapBytes());
  }
  isOver = true;
  await load;
  expect(settled).toBeDefined();
  expect(heapBytes() - settled!).toBeLessThan(SLACK_BYTES);
  expect((await host.daemonInfo())?.connections).toBe(1);
  await it.daemon.stop();
  expect(checkMetadata(imageSource(readFileSync(join(it.folder, "meta.img")))).damage).toEqual([]);
  expect(most).toBeGreaterThan(0);
});
