/**
 * Copies bytes from file to file with two threads, where it is known in which files they lie.
 *
 * One thread copies through a buffer small enough that what it read is still in its processor's cache when it writes it;
 * two of them use two processors, though the kernel lets only one at a time write to one file. The second thread is given
 * the text of the function that the first one runs, and takes the next run of the list as the first does.
 */
import type { Worker } from "node:worker_threads";
import { InvariantError, IoError, type UdmError } from "../errors/index.js";
import { type Located, systemError } from "../io/index.js";
import type { ImageFile } from "./image-file.js";

/** Small enough for a processor's own cache. Measured best. */
export const PIECE_BYTES = 128 * 1024;
/** What a thread takes at a time. */
const RUN_BYTES = 2 * 2 ** 20;
const MAX_BATCH_RUNS = 8192;
const MAX_BATCH_BYTES = 2 ** 29;
/** A second thread costs some thirty milliseconds of a processor. */
const MIN_BYTES_FOR_THREAD = 2 ** 27;
/** Longest time without a turn for signals and timers. */
const TURN_MS = 20;
const FIELDS_PER_RUN = 4;

/** What both threads see. A run: descriptor it is read from, offset there, offset in the target, length. */
interface Batch {
  readonly runs: Float64Array;
  /** [0]: next run to be taken. */
  readonly next: Int32Array;
  readonly count: number;
  readonly toFd: number;
}

interface Done {
  readonly dataBytes: number;
  /** [from, to) in the target, one after the other: read as zeros and not written. */
  readonly zeros: readonly number[];
}

interface Failure {
  readonly code: string | undefined;
  readonly syscall: string | undefined;
  readonly message: string;
}

/** Runs of one batch go to the target; with them come stretches of zeros, which are given back. */
export class FileCopy implements AsyncDisposable {
  readonly #file: ImageFile;
  readonly #report: (offset: number) => void;
  readonly #runs = new Float64Array(new SharedArrayBuffer(MAX_BATCH_RUNS * FIELDS_PER_RUN * 8));
  readonly #next = new Int32Array(new SharedArrayBuffer(4));
  readonly #buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  #count = 0;
  #bytes = 0;
  #thread: Worker | undefined;
  #dataBytes = 0;

  constructor(file: ImageFile, report: (offset: number) => void) {
    this.#file = file;
    this.#report = report;
  }

  get dataBytes(): number {
    return this.#dataBytes;
  }

  /** In order of their offsets; each goes to the same offset of the target. */
  async add(located: Located): Promise<void> {
    for (let done = 0; done < located.length; ) {
      const length = Math.min(RUN_BYTES, located.length - done);
      this.#file.expect(located.offset + done, located.offset + located.length);
      this.#runs.set(
        [located.fd, located.fileOffset + done, located.offset + done, length],
        this.#count * FIELDS_PER_RUN,
      );
      this.#count++;
      this.#bytes += length;
      done += length;
      if (this.#count === MAX_BATCH_RUNS || this.#bytes >= MAX_BATCH_BYTES) await this.#copyBatch();
    }
  }

  /** All that was added is in the target. @throws IoError, SpaceError */
  async end(): Promise<void> {
    if (this.#count > 0) await this.#copyBatch();
  }

  /** The other thread has let go of all descriptors. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#thread?.terminate();
  }

  async #copyBatch(): Promise<void> {
    this.#next[0] = 0;
    const batch: Batch = { runs: this.#runs, next: this.#next, count: this.#count, toFd: this.#file.fd };
    const other = this.#bytes >= MIN_BYTES_FOR_THREAD ? this.#inThread(batch) : undefined;
    try {
      const zeros: number[] = [];
      for (let taken = 0; taken < batch.count; taken = Atomics.load(this.#next, 0)) {
        this.#report(this.#runs[taken * FIELDS_PER_RUN + 2]!);
        this.#dataBytes += copyRuns(batch, this.#buffer, zeros, performance.now() + TURN_MS);
        await new Promise((resolve) => setImmediate(resolve));
      }
      this.#giveBack(zeros);
    } catch (error) {
      // The other one stops at its next run.
      Atomics.store(this.#next, 0, batch.count);
      await other?.catch(() => {});
      throw this.#failure(error);
    }
    const done = await other;
    if (done !== undefined) {
      this.#dataBytes += done.dataBytes;
      this.#giveBack(done.zeros);
    }
    this.#count = 0;
    this.#bytes = 0;
  }

  #failure(error: unknown): UdmError {
    const isRead = error instanceof Object && "syscall" in error && error.syscall === "read";
    return systemError(
      error,
      isRead ? "what the device stands on cannot be read" : `${this.#file.path}: cannot be written`,
    );
  }

  #giveBack(zeros: readonly number[]): void {
    for (let index = 0; index < zeros.length; index += 2) this.#file.giveBack(zeros[index]!, zeros[index + 1]!);
  }

  #newThread(): Worker {
    // Every command loads this file; few come here.
    const { Worker: Thread } = process.getBuiltinModule("node:worker_threads");
    return new Thread(THREAD, { eval: true, workerData: PIECE_BYTES });
  }

  #inThread(batch: Batch): Promise<Done> {
    this.#thread ??= this.#newThread();
    const thread = this.#thread;
    const answer = new Promise<Done>((resolve, reject) => {
      const forget = () => {
        thread.off("message", onMessage).off("error", onError).off("exit", onExit);
      };
      const onMessage = (message: Done | Failure) => {
        forget();
        if ("message" in message) reject(this.#failure(message));
        else resolve(message);
      };
      const onError = (error: unknown) => {
        forget();
        reject(new InvariantError("a thread that copies failed", { cause: error }));
      };
      const onExit = (status: number) => {
        forget();
        reject(new IoError("EIO", `${this.#file.path}: a thread that copies ended with ${status}`));
      };
      thread.on("message", onMessage).on("error", onError).on("exit", onExit);
    });
    answer.catch(() => {});
    thread.postMessage(batch);
    return answer;
  }
}

/**
 * Takes runs and copies them until none is left or the time is over. Knows nothing but its arguments, see THREAD.
 * @param zeros gets stretches of the target that were not written
 * @returns bytes written
 */
function copyRuns(batch: Batch, buffer: Buffer, zeros: number[], untilMs: number): number {
  const { readSync, writeSync } = process.getBuiltinModule("node:fs");
  const { runs, next, count, toFd } = batch;
  const unitBytes = 4096;
  const zeroUnit = Buffer.alloc(unitBytes);
  let dataBytes = 0;
  const put = (from: number, to: number, position: number) => {
    for (let at = from; at < to; ) {
      const written = writeSync(toFd, buffer, at, to - at, position + at);
      if (written === 0) throw Object.assign(new Error("nothing could be written"), { code: "EIO" });
      at += written;
    }
    dataBytes += to - from;
  };
  while (performance.now() < untilMs) {
    const index = Atomics.add(next, 0, 1);
    if (index >= count) break;
    const [fd, from, to, length] = [runs[4 * index]!, runs[4 * index + 1]!, runs[4 * index + 2]!, runs[4 * index + 3]!];
    for (let done = 0; done < length; done += buffer.length) {
      const bytes = Math.min(buffer.length, length - done);
      for (let got = 0; got < bytes; ) {
        const read = readSync(fd, buffer, got, bytes - got, from + done + got);
        if (read === 0) throw Object.assign(new Error("end of file"), { code: "EIO", syscall: "read" });
        got += read;
      }
      const position = to + done;
      // Runs of units that hold data, and between them runs that do not; the first byte tells most of them apart.
      let begin = 0;
      let isData = true;
      for (let at = 0; at < bytes; at += unitBytes) {
        const end = Math.min(at + unitBytes, bytes);
        const holds = buffer[at] !== 0 || buffer.compare(zeroUnit, 0, end - at, at, end) !== 0;
        if (holds === isData) continue;
        if (isData && begin < at) put(begin, at, position);
        else if (!isData) zeros.push(position + begin, position + at);
        begin = at;
        isData = holds;
      }
      if (isData) put(begin, bytes, position);
      else zeros.push(position + begin, position + bytes);
    }
  }
  return dataBytes;
}

const THREAD = `
const { parentPort, workerData } = require("node:worker_threads");
const buffer = Buffer.allocUnsafeSlow(workerData);
const copyRuns = ${copyRuns.toString()};
parentPort.on("message", (batch) => {
  try {
    const zeros = [];
    const dataBytes = copyRuns(batch, buffer, zeros, Infinity);
    parentPort.postMessage({ dataBytes, zeros });
  } catch (error) {
    Atomics.store(batch.next, 0, batch.count);
    parentPort.postMessage({ code: error.code, syscall: error.syscall, message: error.message });
  }
});
`;
