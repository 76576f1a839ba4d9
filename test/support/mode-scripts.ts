/**
 * Scripts that lead a pool through its modes, with a status, the event counter and the state of a thin device after every
 * step that may change them.
 */
import type { FeatureWord, PoolScript, PoolShape, PoolStep } from "./pool-script.js";

const BLOCK_BYTES = 65536;
const SMALL: PoolShape = {
  metadataBlocks: 2048,
  dataBlocks: 32,
  blockSectors: 128,
  lowWaterBlocks: 0,
  features: [],
  thinBytes: 64 * BLOCK_BYTES,
};

const CREATE: readonly PoolStep[] = [
  { kind: "create-thin", id: 0 },
  { kind: "activate", id: 0 },
];

function write(id: number, block: number, blocks = 1): PoolStep {
  return { kind: "write", id, offsetBytes: block * BLOCK_BYTES, lengthBytes: blocks * BLOCK_BYTES, seed: block + 1 };
}

function startWrite(id: number, block: number): PoolStep {
  return { kind: "start-write", id, offsetBytes: block * BLOCK_BYTES, lengthBytes: 4096, seed: block + 1 };
}

function discard(id: number, block: number, blocks: number): PoolStep {
  return { kind: "discard", id, offsetBytes: block * BLOCK_BYTES, lengthBytes: blocks * BLOCK_BYTES };
}

function reload(features: readonly FeatureWord[], dataBlocks = 32, lowWaterBlocks = 0): PoolStep {
  return { kind: "reload", features, dataBlocks, lowWaterBlocks };
}

function message(...words: readonly string[]): PoolStep {
  return { kind: "message", words };
}

const FLUSH: PoolStep = { kind: "flush", id: 0 };
/** Long enough for a worker to have met a request, short of a timer. */
const SETTLE: PoolStep = { kind: "wait", milliseconds: 200 };
/** After an aborted transaction a kernel's thin device goes on counting what was lost; ours does not. */
const LOOK_AT_POOL: readonly PoolStep[] = [
  { kind: "status", noflush: true },
  { kind: "events" },
  { kind: "table" },
  { kind: "thin-table", id: 0 },
];
const LOOK: readonly PoolStep[] = [
  { kind: "status" },
  { kind: "status", noflush: true },
  { kind: "thin-status", id: 0 },
  { kind: "events" },
  { kind: "table" },
  { kind: "thin-table", id: 0 },
];

export interface ModeScript extends PoolScript {
  /** Of the guest's module and of our engine; 60 s without. */
  readonly noSpaceTimeoutSeconds?: number;
}

export const MODE_SCRIPTS: readonly ModeScript[] = [
  {
    name: "features show in the status",
    shape: { ...SMALL, features: ["skip_block_zeroing", "no_discard_passdown", "error_if_no_space"] },
    steps: [
      ...LOOK.slice(0, 2),
      { kind: "events" },
      ...CREATE,
      ...LOOK,
      write(0, 3),
      FLUSH,
      ...LOOK,
      { kind: "reserve" },
      ...LOOK,
      reload([]),
      ...LOOK,
      { kind: "release" },
      ...LOOK,
    ],
  },
  {
    name: "ignore_discard",
    shape: { ...SMALL, features: ["ignore_discard"] },
    steps: [...CREATE, write(0, 0, 4), FLUSH, discard(0, 0, 4), FLUSH, ...LOOK],
  },
  {
    name: "low water is said once until the next resume",
    shape: { ...SMALL, lowWaterBlocks: 29 },
    steps: [
      ...CREATE,
      ...[0, 1, 2, 3, 4, 5].flatMap((block) => [write(0, block), FLUSH, ...LOOK]),
      reload([], 32, 30),
      ...LOOK,
      write(0, 6),
      FLUSH,
      ...LOOK,
      write(0, 7),
      FLUSH,
      ...LOOK,
      reload([], 32, 5),
      write(0, 8),
      FLUSH,
      ...LOOK,
    ],
  },
  {
    name: "a full pool queues, a discard lets it go on",
    shape: SMALL,
    steps: [
      ...CREATE,
      ...Array.from({ length: 16 }, (_, index) => write(0, 2 * index, 2)),
      FLUSH,
      ...LOOK,
      startWrite(0, 40),
      SETTLE,
      ...LOOK,
      write(0, 5),
      discard(0, 0, 3),
      // Its commit lets the queued write go on: ours at once, a kernel's when its worker wakes next, within a second.
      { kind: "status" },
      { kind: "wait", milliseconds: 2000 },
      ...LOOK,
      { kind: "join" },
      FLUSH,
      ...LOOK,
      { kind: "sum", id: 0 },
    ],
  },
  {
    name: "a full pool queues, growth lets it go on",
    shape: SMALL,
    steps: [
      ...CREATE,
      write(0, 0, 32),
      FLUSH,
      startWrite(0, 40),
      SETTLE,
      ...LOOK,
      message("create_thin", "1"),
      message("create_snap", "2", "1"),
      ...LOOK,
      reload([], 40),
      SETTLE,
      ...LOOK,
      { kind: "join" },
      FLUSH,
      ...LOOK,
      { kind: "sum", id: 0 },
    ],
  },
  {
    name: "a full pool answers after the timeout",
    shape: SMALL,
    noSpaceTimeoutSeconds: 1,
    steps: [
      ...CREATE,
      write(0, 0, 32),
      FLUSH,
      startWrite(0, 40),
      SETTLE,
      ...LOOK,
      { kind: "wait", milliseconds: 2500 },
      ...LOOK,
      { kind: "join" },
      write(0, 41),
      ...LOOK,
      write(0, 4),
      FLUSH,
      discard(0, 0, 4),
      ...LOOK,
      write(0, 50),
      FLUSH,
      ...LOOK,
    ],
  },
  {
    name: "error_if_no_space answers at once",
    shape: { ...SMALL, features: ["error_if_no_space"] },
    steps: [
      ...CREATE,
      write(0, 0, 32),
      FLUSH,
      ...LOOK,
      write(0, 40),
      ...LOOK,
      write(0, 3),
      FLUSH,
      ...LOOK,
      { kind: "sum", id: 0 },
      message("create_snap", "1", "0"),
      write(0, 3),
      ...LOOK,
      message("delete", "1"),
      ...LOOK,
      reload(["error_if_no_space"], 33),
      ...LOOK,
      write(0, 40),
      FLUSH,
      ...LOOK,
      write(0, 41),
      ...LOOK,
      discard(0, 40, 1),
      ...LOOK,
    ],
  },
  {
    name: "read_only by feature, and back",
    shape: SMALL,
    steps: [
      ...CREATE,
      write(0, 0, 4),
      FLUSH,
      reload(["read_only"]),
      ...LOOK,
      write(0, 1),
      write(0, 9),
      discard(0, 0, 2),
      message("create_thin", "1"),
      message("nonsense"),
      FLUSH,
      ...LOOK,
      { kind: "sum", id: 0 },
      reload([]),
      ...LOOK,
      write(0, 9),
      FLUSH,
      ...LOOK,
    ],
  },
  {
    name: "a metadata device that refuses writes leaves a pool that needs a check",
    shape: SMALL,
    steps: [
      ...CREATE,
      write(0, 0, 4),
      FLUSH,
      ...LOOK,
      { kind: "metadata-fault", refuses: "writes" },
      write(0, 5),
      FLUSH,
      ...LOOK_AT_POOL,
      write(0, 0),
      write(0, 9),
      message("create_thin", "1"),
      ...LOOK_AT_POOL,
      { kind: "metadata-fault", refuses: "nothing" },
      { kind: "reopen" },
      { kind: "activate", id: 0 },
      ...LOOK,
      write(0, 1),
      write(0, 9),
      discard(0, 0, 2),
      message("create_thin", "1"),
      reload([], 40),
      ...LOOK,
      { kind: "sum", id: 0 },
    ],
  },
  {
    name: "metadata that cannot be read any more fails the pool",
    shape: SMALL,
    steps: [
      ...CREATE,
      write(0, 0, 4),
      FLUSH,
      { kind: "metadata-fault", refuses: "everything" },
      write(0, 5),
      FLUSH,
      ...LOOK.slice(1),
      write(0, 0),
      write(0, 9),
      discard(0, 0, 1),
      message("create_thin", "1"),
      message("nonsense"),
      { kind: "sum", id: 0 },
      ...LOOK,
      { kind: "metadata-fault", refuses: "nothing" },
      { kind: "deactivate", id: 0 },
      { kind: "reopen" },
      { kind: "activate", id: 0 },
      ...LOOK,
      { kind: "sum", id: 0 },
    ],
  },
  {
    name: "full metadata makes a pool read-only until it grows",
    shape: { ...SMALL, metadataBlocks: 64, dataBlocks: 2048 },
    steps: [
      ...CREATE,
      write(0, 0),
      FLUSH,
      ...Array.from({ length: 50 }, (_, index) => message("create_thin", String(index + 1))),
      ...LOOK,
      write(0, 0),
      write(0, 1),
      FLUSH,
      discard(0, 0, 1),
      ...LOOK,
      message("create_thin", "60"),
      { kind: "grow-metadata", metadataBlocks: 128 },
      ...LOOK,
      write(0, 1),
      FLUSH,
      message("create_thin", "60"),
      ...LOOK,
    ],
  },
  {
    name: "messages and what they refuse",
    shape: SMALL,
    steps: [
      message("create_thin", "0"),
      message("create_thin", "0"),
      message("create_thin", "16777215"),
      message("create_thin", "16777216"),
      message("create_thin", "-1"),
      message("create_thin", "x"),
      message("create_thin"),
      message("create_thin", "1", "2"),
      message("CREATE_THIN", "+7"),
      message("create_thin", "010"),
      message("create_snap", "1", "2"),
      message("create_snap", "0", "0"),
      message("create_snap", "1", "0"),
      message("create_snap", "0", "1"),
      message("create_snap", "1"),
      message("delete", "2"),
      message("delete", "1"),
      message("delete", "x"),
      message("set_transaction_id", "1", "2"),
      message("set_transaction_id", "0", "3"),
      message("set_transaction_id", "x", "3"),
      message("set_transaction_id", "3", "y"),
      message("set_transaction_id", "3", "9007199254740991"),
      { kind: "status" },
      message("release_metadata_snap"),
      message("reserve_metadata_snap"),
      message("reserve_metadata_snap"),
      { kind: "status" },
      message("release_metadata_snap"),
      message("reserve_metadata_snap", "1"),
      message("nonsense"),
      { kind: "activate", id: 0 },
      message("delete", "0"),
      { kind: "status" },
    ],
  },
];
