import { describe, expect, test } from "vitest";
import type { BlockNode } from "../../src/host/index.js";
import { readCaptures } from "../device-registry/captures.js";
import { answeringHost, blockNode, runMain } from "./run-main.js";

const MIB = 1024 * 1024;

type Details = NonNullable<BlockNode["details"]>;
const queue: Details = {
  alignmentBytes: 0,
  minimumIoBytes: 512,
  optimalIoBytes: 0,
  physicalSectorBytes: 512,
  logicalSectorBytes: 512,
  rotational: false,
  queueRequests: 128,
  readAheadKib: 128,
  writeSameBytes: 0,
  discardAlignmentBytes: 0,
  discardGranularityBytes: 4096,
  discardMaxBytes: 4 * 1024 * MIB,
  discardZeroes: false,
};
const loopDetails: Details = { ...queue, scheduler: "none", mode: "brw-------" };
const poolDetails: Details = { ...queue, minimumIoBytes: 65536, optimalIoBytes: 65536, mode: "brw-rw----" };
const thinDetails: Details = { ...poolDetails, discardGranularityBytes: 65536, discardMaxBytes: 16 * 1024 * MIB };
const diskLimits: Details = {
  ...queue,
  rotational: true,
  discardGranularityBytes: 512,
  discardMaxBytes: 2 * 1024 * MIB,
};
const diskDetails: Details = { ...diskLimits, scheduler: "none", queueRequests: 256, mode: "brw-------" };
const mapDetails: Details = { ...diskLimits, mode: "brw-rw----" };

const loop = (number: number, sizeMiB: number, details = loopDetails) =>
  blockNode({
    name: `loop${number}`,
    majMin: `7:${number}`,
    sizeBytes: sizeMiB * MIB,
    type: "loop",
    owner: "udm",
    details,
  });
const mapped = (minor: number, name: string, sizeBytes: number, more: Partial<BlockNode>) =>
  blockNode({
    name,
    kname: `dm-${minor}`,
    path: `/dev/mapper/${name}`,
    majMin: `253:${minor}`,
    sizeBytes,
    type: "dm",
    owner: "udm",
    state: "running",
    details: mapDetails,
    ...more,
  });
const disks = [
  blockNode({ name: "vda", majMin: "254:0", sizeBytes: 64 * MIB, details: diskDetails }),
  blockNode({ name: "vdb", majMin: "254:16", sizeBytes: 64 * MIB, details: diskDetails }),
];
const poolAndThins = (mountpoints: readonly string[]) => [
  loop(0, 8, { ...loopDetails, readAheadKib: 256 }),
  loop(1, 64),
  mapped(0, "pool", 64 * MIB, { parents: ["7:1", "7:0"], details: poolDetails }),
  mapped(1, "thin-0", 128 * MIB, {
    parents: ["253:0"],
    mountpoints,
    details: {
      ...thinDetails,
      ...(mountpoints.length > 0 && { fsBytes: 116 * MIB, fsUsedBytes: 24576, fsAvailableBytes: 105.5 * MIB }),
    },
  }),
  mapped(2, "thin-1", 32 * MIB, { parents: ["253:0"], details: thinDetails }),
];

/** The machines of the captures. */
const MACHINES: Readonly<Record<string, readonly BlockNode[]>> = {
  "33-lsblk": [
    ...poolAndThins(["/mnt"]),
    mapped(3, "vg-lv", 4 * MIB, { parents: ["254:0"], type: "lvm" }),
    mapped(4, "m", 4 * MIB, { parents: ["254:0"], type: "mpath", state: "suspended" }),
    mapped(5, "ro", 4096, { parents: ["254:0"], readOnly: true }),
    mapped(6, "cr", 4096, { parents: ["254:0"], type: "crypt" }),
    ...disks,
  ],
  "34-lsblk-docker": [
    loop(0, 2048),
    loop(1, 100),
    mapped(0, "docker-8:1-1835009-pool", 2048 * MIB, { parents: ["7:0", "7:1"] }),
    mapped(1, "docker-8:1-1835009-base", 10 * 1024 * MIB, { parents: ["253:0"] }),
    ...disks,
  ],
  "35-utf8-trees": [...poolAndThins([]), ...disks],
};
/** A device made in the middle of a capture. */
const LATER: Readonly<Record<string, readonly BlockNode[]>> = {
  "LC_ALL=C.UTF-8 lsblk -o NAME,TYPE": [mapped(3, "\\xc3\\xa9t\\xc3\\xa9", 4096, {})],
};

/** Its own help and version; a pipe. What it says of failures is below. */
const NOT_OURS = /--version|--help|\|/;
/** Equal sizes come in the order of a folder of /sys there. */
const UNORDERED = "lsblk -x SIZE -o NAME,SIZE";

describe.each(Object.entries(MACHINES))("%s", (file, nodes) => {
  const captures = readCaptures(new URL(`../golden/captures/${file}.txt`, import.meta.url)).filter(
    (capture) => /^(LC_ALL=\S+ )?lsblk\b/.test(capture.command) && !NOT_OURS.test(capture.command),
  );

  test.each(captures.map((capture) => [capture.command, capture] as const))("%s", async (command, capture) => {
    const words = command.split(" ");
    const locale = words[0]?.startsWith("LC_ALL=") === true ? words.shift()!.slice("LC_ALL=".length) : "C";
    const ran = await runMain(["lsblk", ...words.slice(1)], {
      environment: { LC_ALL: locale },
      openHost: answeringHost({ blockNodes: async () => [...nodes, ...(LATER[command] ?? [])] }),
    });
    const lines = ran.stdout.split("\n").slice(0, -1);
    if (command === UNORDERED) expect(lines.toSorted()).toEqual(capture.stdout.toSorted());
    else expect(lines).toEqual(capture.stdout);
    if (capture.status === 0) expect(ran).toMatchObject({ status: 0, stderr: "" });
    else expect(failureOf(ran.stderr)).toBe(failureOf(capture.stderr.join("\n")));
  });
});

/** What a failure is about, in lsblk's words: ours have a prefix, a hint and quotes of their own. */
function failureOf(stderr: string): string {
  const line = stderr.split("\n")[0] ?? "";
  return line
    .replace(/^udm: /, "")
    .replace(/^lsblk: /, "")
    .replace("unrecognized option", "unknown option");
}

const openHost = answeringHost({ blockNodes: async () => MACHINES["33-lsblk"]! });
const hostOf = (nodes: readonly BlockNode[]) => ({ openHost: answeringHost({ blockNodes: async () => nodes }) });

test("a device that does not exist is reported, the others are printed", async () => {
  const ran = await runMain(["lsblk", "-n", "nosuch", "vdb"], { openHost });
  expect(ran.stdout).toMatch(/^vdb /);
  expect(ran.stderr).toBe("udm: lsblk: nosuch: not a block device\nhint: udm lsblk without a name shows them all\n");
  expect(ran.status).toBe(1);
});

test("an unknown column is wrong usage and is answered with the nearest one", async () => {
  const ran = await runMain(["lsblk", "-o", "NAMF"], { openHost });
  expect(ran.stderr).toMatch(/^udm: unknown column: NAMF\nhint: did you mean NAME\? columns: NAME /);
  expect(ran.status).toBe(2);
});

test("--json gives sizes in bytes in lsblk's own shape", async () => {
  const ran = await runMain(["--json", "lsblk", "loop1"], { openHost });
  const { blockdevices } = JSON.parse(ran.stdout);
  expect(blockdevices[0]).toMatchObject({ name: "loop1", size: 64 * MIB, mountpoints: [null] });
  expect(blockdevices[0].children[0].children.map((node: { name: string }) => node.name)).toEqual(["thin-0", "thin-1"]);
});

test("a number that both udm and the machine use means udm's below a device of udm", async () => {
  const clash = [
    loop(0, 8),
    blockNode({ name: "loop0", majMin: "7:0", sizeBytes: MIB, type: "loop" }),
    blockNode({ name: "crypt", kname: "dm-9", majMin: "253:9", sizeBytes: MIB, type: "crypt", parents: ["7:0"] }),
    mapped(0, "pool", 8 * MIB, { parents: ["7:0"] }),
  ];
  const ran = await runMain(["lsblk", "-n", "-o", "NAME,SOURCE"], hostOf(clash));
  expect(ran.stdout).toBe("loop0   udm\n`-pool  udm\nloop0   machine\n`-crypt machine\n");
});

test("our own columns come on request, and only those that need open pools ask for that", async () => {
  const asked: unknown[] = [];
  const host = answeringHost({
    blockNodes: async (request) => {
      asked.push(request);
      return [
        mapped(0, "pool", 64 * MIB, { dataPercent: 12.5, metadataPercent: 1 / 3 }),
        mapped(1, "base", MIB, { parents: ["253:0"], pool: "pool", thinId: 3, mappedBytes: 65536, dataPercent: 6.25 }),
        mapped(2, "snap", MIB, { parents: ["253:0"], pool: "pool", thinId: 12, origin: "base", state: "suspended" }),
      ];
    },
  });
  const ran = await runMain(["lsblk", "-o", "NAME,POOL,ID,MAPPED,DATA%,META%,ORIGIN,STATE"], { openHost: host });
  expect(ran.stdout).toBe(
    [
      "NAME   POOL ID MAPPED DATA% META% ORIGIN STATE",
      "pool                  12.50  0.33        running",
      "|-base pool  3    64K  6.25              running",
      "`-snap pool 12                    base   suspended",
      "",
    ].join("\n"),
  );
  const json = await runMain(["lsblk", "-J", "-o", "NAME,ID,MAPPED,DATA%", "base"], { openHost: host });
  expect(JSON.parse(json.stdout).blockdevices).toEqual([{ name: "base", id: 3, mapped: "64K", "data%": 6.25 }]);
  await runMain(["lsblk"], { openHost: host });
  await runMain(["lsblk", "-o", "+POOL,ID,ORIGIN,STATE"], { openHost: host });
  await runMain(["lsblk", "-t", "-a"], { openHost: host });
  expect(asked).toEqual([
    { all: false, usage: true, details: false },
    { all: false, usage: true, details: false },
    { all: false, usage: false, details: false },
    { all: false, usage: false, details: false },
    { all: true, usage: false, details: true },
  ]);
});

test("options that exclude each other are wrong usage, in lsblk's words", async () => {
  for (const [words, flags] of [
    ["-J -P", "-J --pairs"],
    ["-P -T", "--pairs --tree"],
    ["-r -l", "--list --raw"],
    ["-I 7 -e 8", "--include --exclude"],
    ["-O -o NAME", "--output-all --output"],
  ] as const) {
    const ran = await runMain(["lsblk", ...words.split(" ")], { openHost });
    expect(ran.stderr.split("\n")[0]).toBe(`udm: lsblk: mutually exclusive arguments: ${flags}`);
    expect(ran.status).toBe(2);
  }
  expect((await runMain(["lsblk", "-I", "x"], { openHost })).stderr).toMatch(/^udm: lsblk: failed to parse list 'x'\n/);
});

test("behind -T stands a column or a device", async () => {
  const column = await runMain(["lsblk", "-T", "SIZE", "-o", "NAME,SIZE", "loop1"], { openHost });
  expect(column.stdout).toBe("NAME   SIZE\nloop1  64M\npool   `-64M\nthin-0   |-128M\nthin-1   `-32M\n");
  const device = await runMain(["lsblk", "-o", "NAME", "-T", "vdb"], { openHost });
  expect(device.stdout).toBe("NAME\nvdb\n");
});

test("a pool named by its escaped name, its plain one, its path and its numbers is one device", async () => {
  const nodes = [mapped(7, "\\xc3\\xa9t\\xc3\\xa9", 4096, {})];
  const all = ["été", "\\xc3\\xa9t\\xc3\\xa9", "/dev/mapper/été", "253:7", "dm-7", "/dev/dm-7"];
  const ran = await runMain(["lsblk", "-n", "-o", "MAJ:MIN", ...all], hostOf(nodes));
  expect(ran).toMatchObject({ status: 0, stdout: "253:7  \n" });
});

test("a device mounted twice takes two lines, the last mount first; one word in -r and -P", async () => {
  const nodes = [
    blockNode({ name: "vda", majMin: "254:0", sizeBytes: MIB, mountpoints: ["/a b", "/c"] }),
    blockNode({ name: "vda1", majMin: "254:1", sizeBytes: MIB, parents: ["254:0"], mountpoints: ["/d", "/e"] }),
    blockNode({ name: "vda2", majMin: "254:2", sizeBytes: MIB, parents: ["254:0"], mountpoints: ['/$f"'] }),
  ];
  const ran = async (words: string) => (await runMain(["lsblk", "-n", ...words.split(" ")], hostOf(nodes))).stdout;
  expect(await ran("-o NAME,MOUNTPOINTS,RM")).toBe(
    [
      "vda    /c           0",
      "|      /a b        ",
      "|-vda1 /e           0",
      "| ".padEnd(7) + "/d          ",
      '`-vda2 /$f"         0',
      "",
    ].join("\n"),
  );
  expect(await ran("-r -o MOUNTPOINTS vda2")).toBe('/$f"\n');
  expect(await ran("-r -o MOUNTPOINTS,NAME")).toBe('/c\\x0a/a\\x20b vda\n/e\\x0a/d vda1\n/$f" vda2\n');
  expect(await ran("-P -o MOUNTPOINTS vda2")).toBe('MOUNTPOINTS="/\\x24f\\x22"\n');
  expect(await ran("-P -y -o MAJ:MIN,FSUSE% vda2")).toBe('MAJ_MIN="254:2" FSUSE_PCT=""\n');
});
