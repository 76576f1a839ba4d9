import { describe, expect, test } from "vitest";
import type { BlockNode } from "../../src/host/index.js";
import { readCaptures } from "../device-registry/captures.js";
import { answeringHost, blockNode, runMain } from "./run-main.js";

const MIB = 1024 * 1024;
const loop = (number: number, sizeMiB: number) =>
  blockNode({ name: `loop${number}`, majMin: `7:${number}`, sizeBytes: sizeMiB * MIB, type: "loop", owner: "udm" });
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
    ...more,
  });
const disks = [
  blockNode({ name: "vda", majMin: "254:0", sizeBytes: 64 * MIB }),
  blockNode({ name: "vdb", majMin: "254:16", sizeBytes: 64 * MIB }),
];
const poolAndThins = (mountpoints: readonly string[]) => [
  loop(0, 8),
  loop(1, 64),
  mapped(0, "pool", 64 * MIB, { parents: ["7:1", "7:0"] }),
  mapped(1, "thin-0", 128 * MIB, { parents: ["253:0"], mountpoints }),
  mapped(2, "thin-1", 32 * MIB, { parents: ["253:0"] }),
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

/** Options of lsblk that udm's does not have, what it says in its own words, and equal sizes, which lsblk sorts at random. */
const NOT_OURS = /--version|--help|\s-[afmtDMTeIx]\b|BOGUS|bogus|nosuch|\/tmp\/m|PKNAME|TRAN|\|/;

describe.each(Object.entries(MACHINES))("%s", (file, nodes) => {
  const captures = readCaptures(new URL(`../golden/captures/${file}.txt`, import.meta.url)).filter(
    (capture) => /^(LC_ALL=\S+ )?lsblk\b/.test(capture.command) && !NOT_OURS.test(capture.command),
  );
  const comparable = captures.filter((capture) => !capture.stdout.join("").includes("\\x5c"));

  test.each(comparable.map((capture) => [capture.command, capture] as const))("%s", async (command, capture) => {
    const words = command.split(" ");
    const locale = words[0]?.startsWith("LC_ALL=") === true ? words.shift()!.slice("LC_ALL=".length) : "C";
    const ran = await runMain(["lsblk", ...words.slice(1)], {
      environment: { LC_ALL: locale },
      openHost: answeringHost({ blockNodes: async () => nodes }),
    });
    expect(ran.stdout.split("\n").slice(0, -1)).toEqual(capture.stdout);
    expect(ran).toMatchObject({ status: 0, stderr: "" });
  });
});

const openHost = answeringHost({ blockNodes: async () => MACHINES["33-lsblk"]! });

test("a device that does not exist is reported, the others are printed", async () => {
  const ran = await runMain(["lsblk", "-n", "nosuch", "vdb"], { openHost });
  expect(ran.stdout).toMatch(/^vdb /);
  expect(ran.stderr).toBe("udm: lsblk: nosuch: no such block device\nhint: udm lsblk without a name shows them all\n");
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
  const ran = await runMain(["lsblk", "-n", "-o", "NAME,OWNER"], {
    openHost: answeringHost({ blockNodes: async () => clash }),
  });
  expect(ran.stdout).toBe("loop0   udm\n`-pool  udm\nloop0   machine\n`-crypt machine\n");
});
