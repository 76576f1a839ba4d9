/**
 * A new file that is written as a device, in any order: beside its place and sparse, until it is whole and takes its
 * name. What is cut off before leaves nothing.
 */
import { renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { createSparseFile, FileDevice, flushFolder, systemError } from "../io/index.js";

export class NewDeviceFile implements AsyncDisposable {
  readonly path: string;
  readonly device: FileDevice;
  readonly #fresh: string;
  #isFinished = false;

  /** @throws StateError EACCES, ENOENT; SpaceError; IoError */
  constructor(path: string, sizeBytes: number) {
    this.path = path;
    this.#fresh = `${path}.${process.pid}.part`;
    createSparseFile(this.#fresh, sizeBytes);
    try {
      this.device = FileDevice.open(this.#fresh, { name: path });
    } catch (error) {
      rmSync(this.#fresh, { force: true });
      throw error;
    }
  }

  /** Durable, and under its name, when the promise resolves. */
  async finish(): Promise<void> {
    await this.device.flush();
    await this.device.close();
    try {
      renameSync(this.#fresh, this.path);
      this.#isFinished = true;
      flushFolder(dirname(this.path));
    } catch (error) {
      throw systemError(error, `${this.path}: cannot be written`);
    }
  }

  /** Takes away what was not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.device.close();
    if (!this.#isFinished) rmSync(this.#fresh, { force: true });
  }
}
