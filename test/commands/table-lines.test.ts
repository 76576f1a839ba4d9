import { describe, expect, test } from "vitest";
import type { DeviceInfo, PoolInfo, TargetText } from "../../src/host/index.js";
import { NO_FEATURES } from "../../src/thin/index.js";
import { readCaptures } from "../device-registry/captures.js";
import { answeringHost, runMain } from "./run-main.js";

function device(name: string, minor: number, more: Partial<DeviceInfo> = {}): DeviceInfo {
  return {
    name,
    uuid: "",
    major: 253,
    minor,
    state: "ACTIVE",
    readOnly: false,
    openCount: 0,
    eventNr: 0,
    segments: 1,
    hasLiveTable: true,
    hasInactiveTable: false,
    deferredRemove: false,
    sizeBytes: 4096,
    targetTypes: ["linear"],
    deps: [],
    ...more,
  };
}

const DEVICES = [
  device("base", 0, { uuid: "LVM-abcdef", openCount: 2, deps: ["254:0"] }),
  device("leaf", 4, { segments: 2, deps: ["253:2", "253:1"] }),
  device("nt", 5, { hasLiveTable: false, segments: 0 }),
  device("ro", 6, { readOnly: true, deps: ["254:16"] }),
  device("top1", 1, { uuid: "MINE-1", openCount: 1, deps: ["253:0"] }),
  device("top2", 2, { openCount: 1, segments: 2, deps: ["254:16", "253:0"] }),
  device("z", 3, { state: "SUSPENDED" }),
];
const line = (name: string, startSectors: number, lengthSectors: number, type: string, params: string): TargetText => ({
  device: name,
  startSectors,
  lengthSectors,
  type,
  params,
});
const TABLES = [
  line("base", 0, 1024, "linear", "254:0 0"),
  line("leaf", 0, 8, "linear", "253:1 0"),
  line("leaf", 8, 8, "linear", "253:2 0"),
  line("ro", 0, 8, "linear", "254:16 0"),
  line("top1", 0, 512, "linear", "253:0 0"),
  line("top2", 0, 512, "linear", "253:0 512"),
  line("top2", 512, 8, "linear", "254:16 0"),
  line("z", 0, 8, "zero", ""),
];
const matching = (targets: readonly TargetText[], query: { readonly name?: string; readonly target?: string } = {}) =>
  targets.filter((each) => (query.name ?? each.device) === each.device && (query.target ?? each.type) === each.type);

const openHost = answeringHost({
  listDevices: async () => DEVICES,
  deviceInfo: async (name) => DEVICES.find((each) => each.name === name)!,
  showTables: async (query) => matching(TABLES, query),
  tableStatus: async (query) =>
    matching(
      TABLES.map((each) => ({ ...each, params: "" })),
      query,
    ),
});

describe("lines equal dmsetup's captured ones", () => {
  const captures = readCaptures(new URL("../golden/captures/14-table-status-options.txt", import.meta.url)).filter(
    ({ command }) => /^dmsetup (table|status)( --target \w+)?( (top2|z|base))?$/.test(command),
  );
  test.each(captures.map((capture) => [capture.command, capture] as const))("%s", async (command, capture) => {
    const [, verb, ...rest] = command.split(" ");
    const ran = await runMain(["table", verb === "table" ? "show" : "status", ...rest], { openHost });
    expect(ran).toEqual({ status: 0, stdout: capture.stdout.map((each) => `${each}\n`).join(""), stderr: "" });
  });

  const deps = readCaptures(new URL("../golden/captures/13-ls-tree-deps.txt", import.meta.url)).filter(({ command }) =>
    /^dmsetup deps \w+$/.test(command),
  );
  test.each(deps.map((capture) => [capture.command, capture] as const))("%s", async (command, capture) => {
    const ran = await runMain(["device", ...command.split(" ").slice(1)], { openHost });
    expect(ran.stdout).toBe(capture.stdout.map((each) => `${each}\n`).join(""));
  });
});

test("device info is dmsetup's paragraph", async () => {
  const ran = await runMain(["device", "info", "base"], { openHost });
  expect(ran.stdout).toBe(
    "Name:              base\nState:             ACTIVE\nTables present:    LIVE\nOpen count:        2\n" +
      "Event number:      0\nMajor, minor:      253, 0\nNumber of targets: 1\nUUID: LVM-abcdef\n\n",
  );
});

test("device list shows the letters of dmsetup info -c", async () => {
  const ran = await runMain(["device", "list", "-o", "name,stat"], { openHost });
  expect(ran.stdout).toBe("NAME STAT\nbase L--w\nleaf L--w\nnt   ---w\nro   L--r\ntop1 L--w\ntop2 L--w\nz    L-sw\n");
});

const POOL: PoolInfo = {
  name: "pool",
  state: "ACTIVE",
  metadataDevice: "7:0",
  dataDevice: "7:1",
  metadataFile: undefined,
  dataFile: undefined,
  status: {
    lengthSectors: 8388608,
    transactionId: 7,
    usedMetadataBlocks: 1658,
    totalMetadataBlocks: 16384,
    allocatedMetadataBlocks: 20,
    usedDataBlocks: 783,
    totalDataBlocks: 65536,
    heldRoot: undefined,
    mode: "write",
    features: { ...NO_FEATURES, skipBlockZeroing: true },
    discardPassdown: true,
    errorIfNoSpace: false,
    needsCheck: false,
    metadataLowWaterBlocks: 1024,
    dataBlockSectors: 128,
    lowWaterBlocks: 1000,
  },
  raw: "0 8388608 thin-pool 7 1658/16384 783/65536 - rw discard_passdown queue_if_no_space - 1024 ",
  thinCount: 2,
  activeCount: 1,
  settings: {
    autoextendThresholdPercent: 100,
    autoextendPercent: 20,
    maxSizeBytes: undefined,
    minFreeSpacePercent: 0,
  },
};
const poolHost = answeringHost({ poolStatus: async () => POOL, listPools: async () => [POOL, { ...POOL }] });

describe("pool status", () => {
  // Source of the figures: the example of docker info in the specification of Docker's storage.
  test("the long form has the figures docker info has", async () => {
    const { stdout } = await runMain(["pool", "status", "pool"], { openHost: poolHost });
    for (const expected of [
      "Pool Blocksize: 65.54kB",
      "Data Space Used: 51.31MB",
      "Data Space Total: 4.295GB",
      "Data Space Available: 4.244GB",
      "Metadata Space Used: 6.791MB",
      "Metadata Space Total: 67.11MB",
      "Metadata Space Available: 60.32MB",
      "Thin Pool Minimum Free Space: 429.5MB",
      "Features: skip_block_zeroing",
      "When Full: writes wait",
    ]) {
      expect(stdout.split("\n")).toContain(expected);
    }
  });

  test("--raw keeps the trailing blank, and the name when there are several", async () => {
    expect((await runMain(["pool", "status", "pool", "--raw"], { openHost: poolHost })).stdout).toBe(`${POOL.raw}\n`);
    expect((await runMain(["pool", "status", "--raw"], { openHost: poolHost })).stdout).toBe(
      `pool: ${POOL.raw}\npool: ${POOL.raw}\n`,
    );
  });

  test("a row has sizes and percentages", async () => {
    const { stdout } = await runMain(["pool", "status", "pool", "pool"], { openHost: poolHost });
    expect(stdout.split("\n").slice(0, 2)).toEqual([
      "NAME STATE  MODE  SIZE  USED DATA% META-SIZE META-USED META% THINS",
      "pool ACTIVE write   4G 48.9M  1.19       64M      6.5M 10.12     2",
    ]);
  });

  test.each([
    [[], 0, "POOL OK - pool: data 1.19%, metadata 10.12% | data=1.19%;80;90;0;100 metadata=10.12%;80;90;0;100\n"],
    [["-w", "5"], 1, /^POOL WARNING - /],
    [["-w", "5", "-c", "10"], 2, /^POOL CRITICAL - /],
  ])("pool check %j", async (options, status, line) => {
    const ran = await runMain(["pool", "check", "pool", ...options], { openHost: poolHost });
    expect(ran.status).toBe(status);
    if (typeof line === "string") expect(ran.stdout).toBe(line);
    else expect(ran.stdout).toMatch(line);
  });

  test("pool check of all pools tells of each, and the worst counts", async () => {
    const full = { ...POOL, status: { ...POOL.status, usedDataBlocks: POOL.status.totalDataBlocks } };
    const openHost = answeringHost({
      listPools: async () => [
        { name: "b", state: "ACTIVE" },
        { name: "a", state: "ACTIVE" },
      ],
      poolStatus: async (name: string) => (name === "a" ? POOL : full),
    });
    const ran = await runMain(["pool", "check"], { openHost });
    expect(ran).toMatchObject({ status: 2, stderr: "" });
    expect(ran.stdout).toBe(
      "POOL CRITICAL - a: data 1.19%, metadata 10.12%; b: data 100.00%, metadata 10.12% | " +
        "a_data=1.19%;80;90;0;100 a_metadata=10.12%;80;90;0;100 b_data=100.00%;80;90;0;100 b_metadata=10.12%;80;90;0;100\n",
    );
    const none = await runMain(["pool", "check"], { openHost: answeringHost({ listPools: async () => [] }) });
    expect(none).toMatchObject({ status: 0, stdout: "POOL OK - no pools\n" });
  });

  test("pool check of a pool that cannot be asked is unknown, 3", async () => {
    const ran = await runMain(["pool", "check", "x"], { openHost: answeringHost({}) });
    expect(ran.status).toBe(3);
    expect(ran.stdout).toMatch(/^POOL UNKNOWN - x: /);
  });
});
