/**
 * NBD: `udm serve` and its peers on unix sockets, all in the page cache, all with the same client, fio's nbd engine (libnbd) in
 * a process of its own. Blocks of 64 KiB on both sides.
 *
 * What bounds a row, as profiles of the daemon show:
 * - 4 KiB reads at depth 16 and 64: the client, which with its one thread takes as long as the server.
 * - 4 KiB overwrites: of 3.6 us a request 1.2 are the kernel's pwrite into the page cache of ext4, which lets one writer at a
 *   time into a file, however many threads there are; the rest is receiving, sending and looking up, beside the client's 1.9 us.
 * - depth 1: two wake-ups, of which the short busy poll after each request saves the server's; the rest is the client's.
 * - first writes: the server's one thread, 5 to 6 us, somewhat less than half of it the kernel, which makes a page and reserves room for
 *   it; the rest the allocation, the mapping and node. Blocks that were used before are written in full, which takes three times as
 *   long, so both sides begin with holes.
 * - first writes after a snapshot: copying 64 KiB a request, read and written through the page cache: 9 to 11 us in a C program that
 *   does nothing else.
 * - 64 KiB and 1 MiB: copies in the kernel (file to server to socket to client), and the size of the socket's buffers, which
 *   decides how often the two sides wait for each other.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../../src/io/index.js";
import { environmentOf, type Floor, type Session, type Side } from "./bench.js";

export const name = "nbd";
export const summary = "udm serve against qemu-nbd and nbdkit, with fio's nbd engine";
export const usesProgram = true;

const GIB = 2 ** 30;
const SECONDS = 1;
/** Of the rows that last tenths of a second: the first rounds would measure the compiler. */
const WARM_UPS = 6;
/** Of the device for first writes: so large that few of them hit a block that was written just before. */
const FRESH_SIZE = "12g";
const TICKS_PER_SECOND = 100;

interface Load {
  readonly rw: "randread" | "randwrite" | "read" | "write";
  readonly bs: string;
  readonly depth: number;
  readonly jobs?: number;
  /** So many bytes in all, at multiples of a block; else for a second. */
  readonly firstBytes?: number;
}

interface Server {
  readonly label: string;
  readonly uri: string;
  pid(): number;
}

export async function run_(session: Session): Promise<void> {
  const fixture = new Fixture(session);
  try {
    await fixture.start();
    const { ours, qemu, uring, nbdkit } = fixture.servers();
    const against = (peer: Server, title: string, load: Load, floors: readonly Floor[]) =>
      session.compare({
        title,
        unit: "per second",
        rounds: 3,
        floors,
        // What an earlier measure left to be written back is not this one's.
        before: () => writtenBack(load),
        ours: side(ours, load),
        peer: side(peer, load),
      });
    const times = (factor: number): readonly Floor[] => [{ kind: "ratio", atMost: 1 / factor }];
    for (const rw of ["randread", "randwrite"] as const) {
      const what = rw === "randread" ? "4 KiB random read" : "4 KiB overwrite";
      for (const depth of [1, 16, 64]) {
        const load = { rw, bs: "4k", depth };
        await against(qemu, `${what}, depth ${depth}`, load, times(depth === 1 ? 1 : 2));
        if (depth > 1) await against(nbdkit, `${what}, depth ${depth}`, load, times(1));
        await against(uring, `${what}, depth ${depth}`, load, times(depth === 1 ? 1 : 2));
      }
    }
    await against(
      qemu,
      "4 KiB random read, 4 connections of depth 16",
      { rw: "randread", bs: "4k", depth: 16, jobs: 4 },
      times(1),
    );
    for (const [title, load] of [
      ["64 KiB random read, depth 16", { rw: "randread", bs: "64k", depth: 16 }],
      ["64 KiB random write, depth 16", { rw: "randwrite", bs: "64k", depth: 16 }],
      ["1 MiB sequential read, depth 4", { rw: "read", bs: "1m", depth: 4 }],
      ["1 MiB sequential write, depth 4", { rw: "write", bs: "1m", depth: 4 }],
    ] as const) {
      await against(qemu, title, load, times(1));
      await session.compare({
        title: `processor time per GiB, ${title}`,
        unit: "ms",
        rounds: 3,
        floors: times(1),
        ours: { label: ours.label, measure: () => processorTime(ours, load) },
        peer: { label: qemu.label, measure: () => processorTime(qemu, load) },
      });
    }
    const first: Load = { rw: "randwrite", bs: "4k", depth: 16, firstBytes: 96 * 2 ** 20 };
    await session.compare({
      title: "4 KiB first writes, depth 16",
      unit: "per second",
      rounds: 3,
      warmUps: WARM_UPS,
      floors: times(3),
      before: () => fixture.renew(),
      ours: side(fixture.fresh, first),
      peer: side(fixture.freshPeer, first),
    });
    await session.compare({
      title: "4 KiB first writes after a snapshot, depth 16",
      unit: "per second",
      rounds: 3,
      warmUps: WARM_UPS,
      floors: times(3),
      before: () => fixture.snapshot(),
      ours: side(ours, { ...first, firstBytes: 16 * 2 ** 20 }),
      peer: side(fixture.overlay, { ...first, firstBytes: 16 * 2 ** 20 }),
    });
  } finally {
    await fixture.end();
  }
}
export { run_ as run };

async function writtenBack({ rw }: Load): Promise<void> {
  if (rw.includes("write")) await run("sync", [], { timeoutMs: 120_000 });
}

function side(server: Server, load: Load): Side {
  return { label: server.label, measure: async () => (await fio(server.uri, load)).perSecond };
}

async function processorTime(server: Server, load: Load): Promise<number> {
  const before = ticksOf(server.pid());
  const { bytes } = await fio(server.uri, load);
  return ((ticksOf(server.pid()) - before) * (1000 / TICKS_PER_SECOND)) / (bytes / GIB);
}

/** User and system time of a process. */
function ticksOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1")
    .replace(/^.*\) /, "")
    .split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

async function fio(uri: string, load: Load): Promise<{ readonly perSecond: number; readonly bytes: number }> {
  const { rw, bs, depth, jobs = 1, firstBytes } = load;
  const words = ["--name=x", "--ioengine=nbd", `--uri=${uri}`, `--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`];
  const length =
    firstBytes === undefined
      ? ["--size=1g", "--time_based", `--runtime=${SECONDS}`]
      : ["--size=100%", `--io_size=${firstBytes}`, "--blockalign=64k", "--norandommap"];
  const many = [`--numjobs=${jobs}`, "--group_reporting", "--thread"];
  const { stdout } = await run("fio", [...words, ...length, ...many, "--output-format=json"]);
  const job = JSON.parse(stdout.slice(stdout.indexOf("{"))).jobs[0] as Record<
    string,
    { iops: number; io_bytes: number }
  >;
  const of = job[rw.includes("read") ? "read" : "write"]!;
  return { perSecond: of.iops, bytes: of.io_bytes };
}

/** Servers, their images, and what renews them. */
class Fixture {
  readonly #session: Session;
  readonly #children = new Map<string, ChildProcess>();
  #snapshots = 0;
  #renewals = 0;

  constructor(session: Session) {
    this.#session = session;
  }

  #at(name: string): string {
    return join(this.#session.folder, name);
  }

  #uri(socket: string, name: string): string {
    return `nbd+unix:///${name}?socket=${this.#at(socket)}`;
  }

  servers(): { readonly ours: Server; readonly qemu: Server; readonly uring: Server; readonly nbdkit: Server } {
    const peer = (label: string, key: string, exportName: string): Server => ({
      label,
      uri: this.#uri(`${key}.sock`, exportName),
      pid: () => this.#children.get(key)!.pid!,
    });
    return {
      ours: { label: "udm", uri: this.#uri("udm.sock", "full"), pid: () => this.#daemonPid },
      qemu: peer("qemu-nbd qcow2, aio=threads", "qemu", "disk"),
      uring: peer("qemu-nbd qcow2, aio=io_uring", "uring", "disk"),
      nbdkit: peer("nbdkit file", "nbdkit", ""),
    };
  }

  get fresh(): Server {
    return { label: "udm", uri: this.#uri("udm-fresh.sock", "fresh"), pid: () => this.#daemonPid };
  }
  get freshPeer(): Server {
    return { label: "qemu-nbd qcow2, aio=threads", uri: this.#uri("fresh.sock", "disk"), pid: () => 0 };
  }
  get overlay(): Server {
    return { label: "qemu-nbd qcow2 overlay, aio=threads", uri: this.#uri("overlay.sock", "disk"), pid: () => 0 };
  }

  #daemonPid = 0;

  async start(): Promise<void> {
    await this.#udm(
      "pool",
      "create",
      "bench",
      "--metadata",
      "meta.img",
      "--metadata-size",
      "128m",
      "--data",
      "data.img",
      "--data-size",
      "16g",
    );
    await this.#udm("thin", "create", "bench", "full", "--size", "1g");
    await this.#udm("thin", "create", "bench", "fresh", "--size", FRESH_SIZE);
    await this.#serve("udm.sock", "full");
    await this.#serve("udm-fresh.sock", "fresh");
    this.#daemonPid = JSON.parse(await this.#udm("daemon", "status", "--json")).daemon.pid;
    for (const [key, aio] of [
      ["qemu", "threads"],
      ["uring", "io_uring"],
    ] as const) {
      await run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", this.#at(`${key}.qcow2`), "1g"]);
      await this.#qemu(key, aio, this.#at(`${key}.qcow2`));
    }
    await run("truncate", ["-s", "1g", this.#at("raw.img")]);
    await this.#start("nbdkit", "nbdkit", ["-f", "-U", this.#at("nbdkit.sock"), "file", this.#at("raw.img")]);
    for (const { uri } of Object.values(this.servers())) {
      await run("fio", [
        "--name=fill",
        "--ioengine=nbd",
        `--uri=${uri}`,
        "--rw=write",
        "--bs=1m",
        "--size=1g",
        "--iodepth=4",
      ]);
    }
  }

  /** Devices on which nothing was written yet. */
  async renew(): Promise<void> {
    await this.#stop("udm-fresh.sock");
    await this.#udm("thin", "trim", "fresh", "--yes");
    await this.#udm("thin", "delete", "fresh", "--yes");
    await this.#udm("thin", "create", "bench", "fresh", "--size", FRESH_SIZE);
    await this.#serve("udm-fresh.sock", "fresh");
    await this.#stop("fresh");
    const image = this.#at(`fresh${this.#renewals++}.qcow2`);
    rmSync(this.#at(`fresh${this.#renewals - 2}.qcow2`), { force: true });
    await run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", image, FRESH_SIZE]);
    await this.#qemu("fresh", "threads", image);
    await run("sync", []);
  }

  /** All blocks are in common with a snapshot: a snapshot of ours, an overlay of qemu's. */
  async snapshot(): Promise<void> {
    await this.#stop("overlay");
    await this.#stop("qemu");
    if (this.#snapshots > 0) await this.#udm("thin", "delete", `snap${this.#snapshots}`, "--yes");
    await this.#udm("thin", "snap", "full", `snap${++this.#snapshots}`);
    const image = this.#at(`overlay${this.#snapshots}.qcow2`);
    const backing = ["-b", this.#at("qemu.qcow2"), "-F", "qcow2"];
    await run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", ...backing, image]);
    await this.#qemu("overlay", "threads", image);
    await run("sync", []);
  }

  async end(): Promise<void> {
    for (const key of [...this.#children.keys()]) await this.#stop(key);
    await this.#udm("daemon", "stop");
  }

  async #qemu(key: string, aio: string, image: string): Promise<void> {
    const words = ["-k", this.#at(`${key}.sock`), "-f", "qcow2", "-x", "disk", "-t", "-e", "8", "--cache=writeback"];
    await this.#start(key, "qemu-nbd", [...words, `--aio=${aio}`, image]);
  }

  async #serve(socket: string, device: string): Promise<void> {
    const words = [this.#session.program, "serve", device, "--nbd", `unix:${this.#at(socket)}`];
    await this.#start(socket, process.execPath, words);
  }

  async #start(key: string, program: string, words: readonly string[]): Promise<void> {
    const socket = this.#at(key.endsWith(".sock") ? key : `${key}.sock`);
    rmSync(socket, { force: true });
    const options = {
      cwd: this.#session.folder,
      env: environmentOf(this.#session),
      stdio: ["ignore", "ignore", "inherit"],
    } as const;
    this.#children.set(key, spawn(program, words, { ...options, stdio: [...options.stdio] }));
    while (!existsSync(socket)) await sleep(10);
    await sleep(50);
  }

  async #stop(key: string): Promise<void> {
    const child = this.#children.get(key);
    if (child === undefined) return;
    this.#children.delete(key);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await gone;
  }

  async #udm(...words: readonly string[]): Promise<string> {
    const options = { cwd: this.#session.folder, env: environmentOf(this.#session) };
    return (await run(process.execPath, [this.#session.program, ...words], options)).stdout;
  }
}
