/**
 * Attached devices: fio on the block device of a thin device, against other ways to the same thing. All stand on a kernel loop
 * device with direct I/O, on a file in the same folder, warm in the page cache, 64 KiB blocks.
 *
 * - qemu-storage-daemon, qcow2, FUSE export: one process, as ours.
 * - nbdfuse over qemu-nbd, qcow2: a FUSE file system over a unix socket.
 * - a plain loop device on a raw file, set up the same way: what the kernel does alone, without thin mapping.
 * - the same, buffered, which is what losetup does when nothing is said: the kernel then answers what lies in the page
 *   cache in the context of whoever asks, without a hand-over. No server can do that.
 *
 * What bounds ours. 4 KiB at depth 1: four hand-overs a request, fio to the loop device's kernel worker, that to us, and
 * back. From depth 16 on: the serving thread, which is busy all the time; nine tenths of that are three system calls a request
 * (read /dev/fuse, pread or pwrite, write /dev/fuse, with two copies of the data), measured with perf. Of an overwrite six
 * tenths are the pwrite of 4 KiB into a page cache that ext4 keeps in large folios, which "plain loop, buffered" pays too and
 * direct I/O does not. First writes: allocating and mapping, and ext4's own allocation below. 1 MiB: copying.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run as runProgram } from "../../src/io/index.js";
import { environmentOf, type Session, type Side } from "./bench.js";

export const name = "attach";
export const summary = "attached devices against qcow2 over FUSE, and plain loop devices";
export const usesProgram = true;

const SIZE = "512m";
const FIRST_WRITES = "24m";
const SECONDS = 1;
const ROUNDS = 3;
const READY_MS = 10_000;

interface Job {
  readonly title: string;
  readonly words: readonly string[];
  readonly unit: "per second" | "MiB";
}

const job = (title: string, rw: string, bs: string, depth: number): Job => ({
  title,
  unit: "per second",
  words: [`--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`, `--runtime=${SECONDS}`, "--time_based"],
});

const JOBS: readonly Job[] = [
  job("4 KiB random read, depth 1", "randread", "4k", 1),
  job("4 KiB random read, depth 16", "randread", "4k", 16),
  job("4 KiB random read, depth 64", "randread", "4k", 64),
  job("4 KiB overwrite, depth 1", "randwrite", "4k", 1),
  job("4 KiB overwrite, depth 16", "randwrite", "4k", 16),
  job("4 KiB overwrite, depth 64", "randwrite", "4k", 64),
  job("64 KiB random read, depth 16", "randread", "64k", 16),
  job("1 MiB read, depth 4", "read", "1m", 4),
  job("1 MiB write, depth 4", "write", "1m", 4),
];
const FIRST: Job = {
  title: "4 KiB first writes, depth 16",
  unit: "per second",
  words: ["--rw=randwrite", "--bs=4k", "--iodepth=16", `--io_size=${FIRST_WRITES}`, "--norandommap"],
};

/** A block device for fio, and how it is taken away. */
interface Target {
  readonly label: string;
  readonly path: string;
  close(): Promise<void>;
}

export async function run(session: Session): Promise<void> {
  const missing = whyNot();
  if (missing !== undefined) return session.note(`not measured: ${missing}`);
  const closing: Target[] = [];
  const open = async (target: Promise<Target>) => {
    closing.push(await target);
    return closing.at(-1)!;
  };
  try {
    const ours = await open(openUdm(session));
    const peers = {
      fuse: await open(openQemuFuse(session.folder)),
      nbdfuse: await open(openNbdFuse(session.folder)),
      direct: await open(openLoop(session.folder, "plain loop, direct I/O", ["--direct-io=on"])),
      buffered: await open(openLoop(session.folder, "plain loop, buffered", [])),
    };
    for (const target of closing) await fio(target.path, ["--rw=write", "--bs=1m", "--iodepth=4"]);
    const row = (each: Job, peer: Target, atMost: number | undefined) =>
      session.compare({
        title: each.title,
        unit: "per second",
        ours: sideOf(ours, each),
        peer: sideOf(peer, each),
        floors: atMost === undefined ? [] : [{ kind: "ratio", atMost }],
        rounds: ROUNDS,
        // So few that the first rounds would measure the compiler.
        warmUps: each === FIRST ? 3 : 0,
      });
    for (const each of JOBS) {
      for (const peer of [peers.fuse, peers.nbdfuse]) await row(each, peer, 1);
      const isDepth16 = each.title.endsWith("depth 16");
      await row(each, peers.direct, isDepth16 ? 2 : undefined);
      if (isDepth16) await row(each, peers.buffered, 2);
    }
    for (const peer of [peers.fuse, peers.nbdfuse]) await row(FIRST, peer, 1);
  } finally {
    for (const target of closing.reverse()) await target.close();
  }
}

function whyNot(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  return ["/dev/fuse", "/dev/loop-control"].find((path) => !existsSync(path));
}

function sideOf({ label, path }: Target, { words }: Job): Side {
  return {
    label,
    measure: async () => {
      if (words === FIRST.words) await runProgram("blkdiscard", ["-f", path]);
      return fio(path, words);
    },
  };
}

/** @returns requests a second */
async function fio(path: string, words: readonly string[]): Promise<number> {
  const common = [`--filename=${path}`, `--size=${SIZE}`, "--ioengine=libaio", "--direct=1", "--output-format=json"];
  const { stdout } = await runProgram("fio", ["--name=bench", ...common, ...words], { timeoutMs: 60_000 });
  const [result] = (JSON.parse(stdout) as { jobs: { read: { iops: number }; write: { iops: number } }[] }).jobs;
  return Math.max(result!.read.iops, result!.write.iops);
}

async function openUdm(session: Session): Promise<Target> {
  const { folder, program } = session;
  const env = { ...environmentOf(session), UDM_DEV_DIR: join(folder, "dev") };
  const udm = (line: string) => runProgram(process.execPath, [program, ...line.split(" ")], { env, cwd: folder });
  await udm("pool create pool --data data --metadata metadata --data-size 1g --metadata-size 64m");
  await udm(`thin create pool disk --size ${SIZE}`);
  const { stdout } = await udm("attach disk");
  return {
    label: "udm",
    path: stdout,
    close: async () => {
      await udm("detach disk");
      await udm("daemon stop");
    },
  };
}

async function openQemuFuse(folder: string): Promise<Target> {
  const image = await makeQcow2(join(folder, "fuse.qcow2"));
  const point = join(folder, "fuse-image");
  writeFileSync(point, "");
  const child = spawn(
    "qemu-storage-daemon",
    [
      ...["--blockdev", `driver=file,node-name=file,filename=${image},discard=unmap`],
      ...["--blockdev", "driver=qcow2,node-name=disk,file=file,discard=unmap"],
      ...["--export", `type=fuse,id=export,node-name=disk,mountpoint=${point},writable=on`],
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  return overLoop("qemu-storage-daemon, FUSE, qcow2", point, [child]);
}

async function openNbdFuse(folder: string): Promise<Target> {
  const image = await makeQcow2(join(folder, "nbd.qcow2"));
  const socket = join(folder, "nbd.sock");
  const point = join(folder, "nbd-image");
  writeFileSync(point, "");
  const server = spawn("qemu-nbd", ["-f", "qcow2", "-k", socket, "-t", "-e", "8", "--discard=unmap", image], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  await until(() => existsSync(socket));
  const client = spawn("nbdfuse", [point, "--unix", socket], { stdio: ["ignore", "ignore", "inherit"] });
  return overLoop("nbdfuse, qemu-nbd, qcow2", point, [server, client]);
}

async function makeQcow2(path: string): Promise<string> {
  await runProgram("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", path, SIZE]);
  return path;
}

/** A loop device on a file that other processes serve. */
async function overLoop(label: string, point: string, children: readonly ChildProcess[]): Promise<Target> {
  const isMounted = async () =>
    (await runProgram("mountpoint", ["-q", point], { okStatuses: [0, 1, 32] })).status === 0;
  for (const until = performance.now() + READY_MS; !(await isMounted()); await sleep(50)) {
    if (performance.now() > until) throw new Error(`${label} does not get ready`);
  }
  const { stdout: loop } = await runProgram("losetup", ["--find", "--show", "--direct-io=on", point]);
  return {
    label,
    path: loop,
    close: async () => {
      await runProgram("losetup", ["-d", loop]);
      await sleep(200);
      await runProgram("umount", [point], { okStatuses: [0, 1, 32] });
      for (const child of children) child.kill();
    },
  };
}

async function openLoop(folder: string, label: string, words: readonly string[]): Promise<Target> {
  const file = join(folder, `${words.length}.raw`);
  await runProgram("truncate", ["-s", SIZE, file]);
  const { stdout: loop } = await runProgram("losetup", ["--find", "--show", ...words, file]);
  return { label, path: loop, close: async () => void (await runProgram("losetup", ["-d", loop])) };
}

async function until(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + READY_MS; !condition(); await sleep(20)) {
    if (performance.now() > end) throw new Error("a peer does not get ready");
  }
}
