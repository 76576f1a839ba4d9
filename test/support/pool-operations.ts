/**
 * Operations as fast-check makes them, small numbers without meaning, and the script they become for a given pool: each
 * number picks among what is there, what would not go is left out, so that shrinking leaves sequences that still run.
 */
import fc from "fast-check";
import { PoolModel } from "./pool-model.js";
import type { PoolScript, PoolShape } from "./pool-script.js";
import { PoolScriptRecorder, sumAll } from "./pool-script-recorder.js";

const PAGE_BYTES = 4096;
const MAX_DEVICES = 9;

const WEIGHTS = {
  create: 4,
  snap: 6,
  delete: 3,
  write: 24,
  overwriteBlock: 8,
  discard: 8,
  flush: 8,
  activate: 2,
  deactivate: 2,
  reserve: 1,
  release: 1,
  transactionId: 1,
  growData: 1,
  growMetadata: 1,
  reload: 2,
  reopen: 2,
  status: 2,
  look: 2,
};

export interface PoolOperation {
  readonly kind: keyof typeof WEIGHTS;
  readonly a: number;
  readonly b: number;
  readonly c: number;
}

export const POOL_OPERATION: fc.Arbitrary<PoolOperation> = fc.oneof(
  ...Object.entries(WEIGHTS).map(([kind, weight]) => ({
    weight,
    arbitrary: fc.record({
      kind: fc.constant(kind as keyof typeof WEIGHTS),
      a: fc.nat(10_000),
      b: fc.nat(10_000),
      c: fc.nat(10_000),
    }),
  })),
);

export const POOL_OPERATION_KINDS = Object.keys(WEIGHTS) as readonly (keyof typeof WEIGHTS)[];

/** The script of a sequence, with what a model says it answers; every byte of every device is read at the end. */
export function scriptOf(name: string, shape: PoolShape, operations: readonly PoolOperation[]): PoolScript {
  const model = new PoolModel(shape);
  const recorder = new PoolScriptRecorder(model);
  let seed = 0;
  for (const operation of operations) record(recorder, operation, ++seed);
  recorder.do(...sumAll(model), { kind: "status" }, { kind: "checkpoint", title: "end" });
  return recorder.script(name);
}

function record(recorder: PoolScriptRecorder, { kind, a, b, c }: PoolOperation, seed: number): void {
  const { model } = recorder;
  const ids = [...model.thins.keys()].sort((x, y) => x - y);
  const pick = ids[a % Math.max(ids.length, 1)];
  const newId = b % 7 === 0 ? 16_777_215 - (b % 5) : b % 40;
  switch (kind) {
    case "create":
      if (ids.length < MAX_DEVICES && !model.thins.has(newId)) recorder.do({ kind: "create-thin", id: newId });
      return;
    case "snap":
      if (pick === undefined || ids.length >= MAX_DEVICES || model.thins.has(newId)) return;
      recorder.do({ kind: "create-snap", id: newId, origin: pick });
      return;
    case "delete":
      if (pick === undefined || ids.length < 2) return;
      if (model.active.has(pick)) recorder.do({ kind: "deactivate", id: pick });
      recorder.do({ kind: "delete", id: pick });
      return;
    case "activate":
      if (pick !== undefined && !model.active.has(pick)) recorder.do({ kind: "activate", id: pick });
      return;
    case "deactivate":
      if (pick !== undefined && model.active.has(pick)) recorder.do({ kind: "deactivate", id: pick });
      return;
    case "reserve":
      if (!model.isHeld) recorder.do({ kind: "reserve" });
      return;
    case "release":
      if (model.isHeld) recorder.do({ kind: "release" });
      return;
    case "transactionId":
      recorder.do({ kind: "set-transaction-id", from: model.transactionId, to: b * 4_000_000_000 + c });
      return;
    case "growData":
      recorder.do({ kind: "grow-data", dataBlocks: model.dataBlocks + 1 + (b % 50) });
      return;
    case "growMetadata":
      recorder.do({ kind: "grow-metadata", metadataBlocks: model.metadataBlocks + 1 + (b % 100) });
      return;
    case "reload":
      recorder.do({ kind: "reload", features: [], lowWaterBlocks: b % 20, dataBlocks: model.dataBlocks + (c % 3) });
      return;
    case "reopen":
      recorder.do({ kind: "reopen" });
      return;
    case "status":
      recorder.do({ kind: "status", noflush: b % 2 === 0 });
      return;
    default:
      if (pick !== undefined) recordIo(recorder, kind, pick, b, c, seed);
  }
}

function recordIo(
  recorder: PoolScriptRecorder,
  kind: "write" | "overwriteBlock" | "discard" | "flush" | "look",
  id: number,
  b: number,
  c: number,
  seed: number,
): void {
  const { model } = recorder;
  if (!model.active.has(id)) recorder.do({ kind: "activate", id });
  const { thinBytes } = model.shape;
  const { blockBytes } = model;
  const pages = thinBytes / PAGE_BYTES;
  switch (kind) {
    case "flush":
      recorder.do({ kind: "flush", id });
      return;
    case "look":
      recorder.do({ kind: "thin-status", id }, { kind: "sum", id });
      return;
    case "discard": {
      const from = b % pages;
      const count = Math.min(pages - from, 1 + (c % (c % 3 === 0 ? pages : 60)));
      recorder.do({ kind: "discard", id, offsetBytes: from * PAGE_BYTES, lengthBytes: count * PAGE_BYTES });
      return;
    }
    case "write": {
      const from = b % pages;
      const count = Math.min(pages - from, 1 + (c % (c % 4 === 0 ? 70 : 5)));
      if (!hasRoom(model, count * PAGE_BYTES)) return;
      recorder.do({ kind: "write", id, offsetBytes: from * PAGE_BYTES, lengthBytes: count * PAGE_BYTES, seed });
      return;
    }
    case "overwriteBlock": {
      const from = (b % Math.floor(thinBytes / blockBytes)) * blockBytes;
      const length = Math.min(thinBytes - from, blockBytes * (1 + (c % 3)));
      if (!hasRoom(model, length)) return;
      recorder.do({ kind: "write", id, offsetBytes: from, lengthBytes: length, seed });
    }
  }
}

/** A full pool has tests of its own; here every write finds room. */
function hasRoom(model: PoolModel, bytes: number): boolean {
  return model.usedDataBlocks + Math.ceil(bytes / model.blockBytes) + 1 < model.dataBlocks;
}
