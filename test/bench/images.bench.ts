/**
 * A 4 GiB image, half holes, into a thin device and out of it, against qemu-img convert into and out of qcow2 with
 * clusters as large as our blocks. Both are whole programs, started anew for each measure, on a new target.
 *
 * Which pairing is which. Our import flushes the data before it commits, so that what it says is imported survives a
 * power cut. qemu-img convert flushes only with `-t writeback`; by default (`unsafe`) it ends with the image in the page
 * cache. The first row therefore compares like with like, the second leaves us the extra work. Our export does not
 * flush, as cp does not; nor does qemu-img convert by default. Sources are in the page cache, for both; what a measure
 * left to be written back is written before the next begins.
 *
 * What bounds it. Half of an import's time on the processor is the kernel copying 2 GiB out of and into the page cache; the
 * rest is ours: node's start and that of the program (0.1 s), the engine (0.1 s), and V8 compiling in another thread what has
 * become hot (0.25 s). Its flush finds little to do, as data is written back while more is copied: the disk's speed is the
 * end of it. An export copies with two threads through the processors' own caches into room that was allocated ahead, at the
 * speed of a C program that does the same (185 to 230 ms); the start is what qemu-img does not have.
 */
import { closeSync, fsyncSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { run as runProgram } from "../../src/io/index.js";
import { Random } from "../support/random.js";
import { environmentOf, type Session, type Side, timed } from "./bench.js";

export const name = "images";
export const summary = "import and export of a 4 GiB image, half holes";
export const usesProgram = true;

const IMAGE_BYTES = 4 * 2 ** 30;
const BLOCK_BYTES = 65_536;
/** Data and holes take turns, each of 1 to so many blocks. */
const MAX_STRETCH_BLOCKS = 64;
const TIMEOUT_MS = 600_000;
const ROUNDS = 5;

export async function run(session: Session): Promise<void> {
  const path = (file: string) => join(session.folder, file);
  const image = path("image.raw");
  const copy = path("copy.raw");
  const qcow2 = path("image.qcow2");
  makeImage(image);
  const pool = new BenchPool(session, path("pool"));

  const before = async () => {
    await pool.make();
    await rm(qcow2, { force: true });
    await rm(copy, { force: true });
    await runProgram("sync", [], { timeoutMs: TIMEOUT_MS });
  };
  const udmImport: Side = {
    label: "udm thin import",
    measure: () => timed(() => pool.udm("thin", "import", "thin", image)),
  };
  const qemu = (label: string, args: readonly string[]): Side => ({
    label,
    measure: () => timed(() => runProgram("qemu-img", ["convert", ...args], { timeoutMs: TIMEOUT_MS })),
  });
  const toQcow2 = ["-f", "raw", "-O", "qcow2", "-o", `cluster_size=${BLOCK_BYTES}`, image, qcow2];
  await session.compare({
    title: "import, both flush",
    unit: "ms",
    ours: udmImport,
    peer: qemu("qemu-img convert -t writeback", ["-t", "writeback", ...toQcow2]),
    rounds: ROUNDS,
    before,
    floors: [{ kind: "ratio", atMost: 1 }],
  });
  await session.compare({
    title: "import, only udm flushes",
    unit: "ms",
    ours: udmImport,
    peer: qemu("qemu-img convert", toQcow2),
    rounds: ROUNDS,
    before,
    floors: [{ kind: "ratio", atMost: 1 }],
  });

  await before();
  await pool.udm("thin", "import", "thin", image);
  await runProgram("qemu-img", ["convert", ...toQcow2], { timeoutMs: TIMEOUT_MS });
  await session.compare({
    title: "export, neither flushes",
    unit: "ms",
    ours: { label: "udm thin export", measure: () => timed(() => pool.udm("thin", "export", "thin", copy)) },
    peer: qemu("qemu-img convert", ["-f", "qcow2", "-O", "raw", qcow2, copy]),
    rounds: ROUNDS,
    before: async () => {
      await rm(copy, { force: true });
      await runProgram("sync", [], { timeoutMs: TIMEOUT_MS });
    },
    floors: [{ kind: "ratio", atMost: 1 }],
  });
  await pool.udm("thin", "export", "thin", copy);
  await runProgram("cmp", [image, copy], { timeoutMs: TIMEOUT_MS });
}

/** A pool on sparse files with one empty thin device, as large as the image, called `thin`. */
class BenchPool {
  readonly #session: Session;
  readonly #folder: string;

  constructor(session: Session, folder: string) {
    this.#session = session;
    this.#folder = folder;
  }

  async make(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
    await mkdir(this.#folder);
    await this.udm("loop", "attach", join(this.#folder, "metadata.img"), "--size", "128m");
    await this.udm("loop", "attach", join(this.#folder, "data.img"), "--size", "10g");
    await this.udm("pool", "create", "pool", "--table", `0 ${(10 * 2 ** 30) / 512} thin-pool 7:0 7:1 128 0`);
    await this.udm("thin", "create", "pool", "thin", "--size", `${IMAGE_BYTES}`);
  }

  async udm(...args: readonly string[]): Promise<void> {
    await runProgram(process.execPath, [this.#session.program, ...args], {
      timeoutMs: TIMEOUT_MS,
      env: environmentOf({ folder: this.#folder }),
    });
  }
}

/** Stretches of bytes that do not compress, and holes; the same image every time. */
function makeImage(path: string): void {
  const random = new Random(1);
  const words = new Uint32Array((MAX_STRETCH_BLOCKS * BLOCK_BYTES) / 4);
  for (let index = 0; index < words.length; index++) words[index] = random.next() * 2 ** 32;
  const bytes = new Uint8Array(words.buffer);
  const stretch = () => random.between(1, MAX_STRETCH_BLOCKS) * BLOCK_BYTES;
  const fd = openSync(path, "w");
  try {
    ftruncateSync(fd, IMAGE_BYTES);
    for (let at = 0; at < IMAGE_BYTES; at += stretch()) {
      const length = Math.min(stretch(), IMAGE_BYTES - at);
      // No two stretches are alike.
      words[0] = at / BLOCK_BYTES;
      writeSync(fd, bytes, 0, length, at);
      at += length;
    }
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
