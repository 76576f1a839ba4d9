/** The real lsblk, where it is installed in the version of the captures, on made-up machines: both print the same. */
import { spawnSync } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { BlockNode } from "../../src/host/index.js";
import { temporaryFolder } from "../support/make-folder.js";
import { answeringHost, blockNode, runMain } from "./run-main.js";

const VERSION = "2.38.1";
const version = spawnSync("lsblk", ["--version"], { encoding: "utf8" }).stdout ?? "";
const whyNot = version.includes(VERSION) ? "" : ` (needs lsblk ${VERSION})`;

/** A folder that lsblk takes for the root of a machine with these devices. */
function makeMachine(nodes: readonly BlockNode[]): string {
  const root = temporaryFolder();
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  const byNumber = new Map(nodes.map((node) => [node.majMin, node]));
  const folderOf = (node: BlockNode): string => {
    const disk = node.type === "part" ? byNumber.get(node.parents[0]!) : undefined;
    return disk === undefined ? `sys/block/${node.kname}` : `${folderOf(disk)}/${node.kname}`;
  };
  const link = (path: string, target: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    symlinkSync(target, join(root, path));
  };
  for (const node of nodes) {
    const folder = folderOf(node);
    write(`${folder}/dev`, `${node.majMin}\n`);
    write(`${folder}/size`, `${node.sizeBytes / 512}\n`);
    write(`${folder}/ro`, `${Number(node.readOnly)}\n`);
    write(`${folder}/removable`, "0\n");
    if (node.type === "part") write(`${folder}/partition`, "1\n");
    if (node.type === "loop") write(`${folder}/loop/backing_file`, "/file\n");
    write(`dev/${node.kname}`, "");
    for (const each of ["slaves", "holders"]) mkdirSync(join(root, folder, each));
    if (node.path.startsWith("/dev/mapper/")) {
      write(`${folder}/dm/name`, `${node.name}\n`);
      write(`${folder}/dm/uuid`, node.type === "dm" ? "\n" : `${node.type.toUpperCase()}-x\n`);
      write(`${folder}/dm/suspended`, `${Number(node.state === "suspended")}\n`);
      write(node.path.slice(1), "");
    }
    link(`sys/dev/block/${node.majMin}`, join(root, folder));
    if (node.type === "part") continue;
    for (const number of node.parents) {
      const below = folderOf(byNumber.get(number)!);
      link(`${below}/holders/${node.kname}`, join(root, folder));
      link(`${folder}/slaves/${byNumber.get(number)!.kname}`, join(root, below));
    }
  }
  const mounts = nodes.flatMap((node) =>
    node.mountpoints.map((point) => `${node.majMin} / ${point} rw - ext4 /dev/${node.kname} rw`),
  );
  write("proc/self/mountinfo", mounts.map((line, index) => `${index + 20} 1 ${line}\n`).join(""));
  return root;
}

interface Plan {
  readonly sizes: readonly number[];
  /** For each mapped device, which of the devices before it that it stands on. */
  readonly maps: readonly (readonly number[])[];
  readonly disks: number;
}

const MIB = 2 ** 20;

/** Sizes differ, so that sorting by them is decided; names are as long as chance has it. */
function nodesOf(plan: Plan): readonly BlockNode[] {
  const nodes: BlockNode[] = [];
  const size = () => MIB * (nodes.length + 1) + (plan.sizes[nodes.length % plan.sizes.length] ?? 0) * 512;
  for (let index = 0; index < plan.disks; index++) {
    const isLoop = index % 2 === 0;
    nodes.push(
      isLoop
        ? blockNode({ name: `loop${index}`, majMin: `7:${index}`, sizeBytes: size(), type: "loop" })
        : blockNode({ name: `vd${"abcdefgh"[index]}`, majMin: `254:${index * 16}`, sizeBytes: size() }),
    );
  }
  plan.maps.forEach((below, minor) => {
    const parents = [...new Set(below.map((each) => nodes[each % nodes.length]!.majMin))];
    const name = `map${"-long".repeat(plan.sizes[minor % plan.sizes.length]! % 3)}${minor}`;
    nodes.push(
      blockNode({
        name,
        kname: `dm-${minor}`,
        path: `/dev/mapper/${name}`,
        majMin: `253:${minor}`,
        sizeBytes: size(),
        type: minor % 4 === 3 ? "lvm" : "dm",
        readOnly: minor % 5 === 1,
        state: minor % 3 === 2 ? "suspended" : "running",
        mountpoints: Array.from(
          { length: plan.sizes[minor % plan.sizes.length]! % 4 },
          (_, at) => `/mnt/${minor}-${at}`,
        ),
        parents,
      }),
    );
  });
  return nodes;
}

const COMMANDS = [
  "",
  "-i",
  "-b",
  "-p",
  "-d",
  "-n",
  "-l",
  "-r",
  "-P",
  "-J",
  "-J -b",
  "-x SIZE",
  "-x SIZE -T",
  "-T -x NAME",
  "-P -x NAME",
  "-o SIZE",
  "-r -o SIZE",
  "-P -o SIZE",
  "-o SIZE,NAME",
  "-J -o SIZE",
  "-TSIZE",
  "-o NAME,KNAME,PKNAME,MAJ:MIN,TYPE,RO,RM,SIZE,STATE",
  "-p -o NAME,KNAME,PKNAME,PATH",
  "-o NAME,MOUNTPOINT,MOUNTPOINTS,SIZE",
  "-n -o STATE,SIZE",
];

async function expectSame(nodes: readonly BlockNode[], commands: readonly string[]): Promise<void> {
  const root = makeMachine(nodes);
  const openHost = answeringHost({ blockNodes: async () => nodes });
  for (const command of commands) {
    const words = command.split(" ").filter(Boolean);
    const environment = { LC_ALL: "C.UTF-8" };
    const real = spawnSync("lsblk", ["--sysroot", root, ...words], {
      encoding: "utf8",
      env: { ...process.env, ...environment },
    });
    const ours = await runMain(["lsblk", ...words.map((word) => word.replace(/^-T(?=.)/, "--tree="))], {
      environment,
      openHost,
    });
    expect({ command, status: ours.status, stdout: ours.stdout }).toEqual({
      command,
      status: real.status,
      stdout: real.stdout,
    });
  }
}

const plans = (maps: fc.Arbitrary<(readonly number[])[]>): fc.Arbitrary<Plan> =>
  fc.record({
    sizes: fc.array(fc.nat(100_000), { minLength: 1, maxLength: 7 }),
    maps,
    disks: fc.integer({ min: 1, max: 5 }),
  });

test.runIf(whyNot === "")(`any stack of devices is drawn as lsblk draws it${whyNot}`, async () => {
  const below = fc.array(fc.nat(20), { minLength: 1, maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(plans(fc.array(below, { maxLength: 7 })), async (plan) => {
      await expectSame(nodesOf(plan), COMMANDS);
    }),
    { numRuns: process.env.UDM_TEST_LONG === "1" ? 200 : 5, seed: 7, endOnFailure: true },
  );
});

test.runIf(whyNot === "")(`groups are merged as lsblk merges them${whyNot}`, async () => {
  const mib = (name: string, majMin: string, parents: readonly string[] = []) =>
    blockNode({
      name,
      majMin,
      sizeBytes: MIB,
      parents,
      ...(majMin.startsWith("7:") && { type: "loop" }),
      ...(majMin.startsWith("253:") && { kname: name.replace("d", "dm-"), path: `/dev/mapper/${name}`, type: "dm" }),
    });
  const loops = [0, 1, 2, 3, 4, 5].map((number) => mib(`loop${number}`, `7:${number}`));
  const map = (minor: number, ...parents: string[]) => mib(`d${minor}`, `253:${minor}`, parents);
  const machines: readonly (readonly BlockNode[])[] = [
    [...loops.slice(0, 3), map(0, "7:0", "7:1", "7:2"), map(1, "253:0"), mib("vda", "254:0")],
    [...loops.slice(0, 4), map(0, "7:0", "7:1"), map(1, "7:2", "7:3"), map(2, "253:0"), map(3, "253:1")],
    [...loops.slice(0, 4), map(0, "7:0", "7:2"), map(1, "7:1", "7:3"), map(2, "253:0"), map(3, "253:1")],
    [loops[0]!, map(0, "7:0"), map(1, "7:0"), map(2, "253:0", "253:1"), map(3, "253:2"), map(4, "253:2"), loops[5]!],
    [...loops.slice(0, 3), map(0, "7:0", "7:1"), map(1, "7:2", "253:0"), map(2, "253:1")],
    [...loops.slice(0, 2), map(0, "7:0"), map(1, "7:0", "7:1"), map(2, "253:1"), map(3, "7:1")],
    [...loops.slice(0, 4), map(0, "7:0", "7:3"), map(1, "7:1"), map(2, "7:2"), map(4, "253:2"), map(5, "7:2")],
    [loops[0]!, map(0, "7:0"), map(1, "7:0"), map(2, "253:0", "253:1"), map(3, "253:2"), map(5, "7:0"), loops[3]!],
    [...loops, map(0, "7:0", "7:3"), map(1, "7:1", "7:4"), map(2, "7:2", "7:5"), map(4, "253:2")],
  ];
  for (const nodes of machines) {
    await expectSame(nodes, ["-M", "-M -i", "-M -J", "-M -o SIZE,NAME", "-M -l", "-M -x MAJ:MIN -T"]);
  }
});
