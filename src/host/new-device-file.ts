/**
 * A new file that is written as a device, in any order: beside its place and sparse, until it is whole and takes its
 * name. What is cut off before leaves nothing.
 */
import { ftruncateSync } from "node:fs";
import { StateError } from "../errors/index.js";
import { FileDevice, systemError } from "../io/index.js";
import { PartFile, placeOf } from "./part-file.js";

/** Strangers may do nothing with a new disk image; the rest is left to the umask. */
const MODE = 0o660;

export class NewDeviceFile implements AsyncDisposable {
  readonly path: string;
  readonly device: FileDevice;
  readonly #part: PartFile;

  /** @throws StateError EACCES, ENOENT; SpaceError; IoError */
  constructor(path: string, sizeBytes: number) {
    this.path = path;
    const place = placeOf(path);
    if (place === undefined) throw new StateError("EINVAL", `${path}: no place for a new file`);
    this.#part = new PartFile(place, MODE);
    try {
      ftruncateSync(this.#part.fd, sizeBytes);
      this.device = FileDevice.open(this.#part.path, { name: path });
    } catch (error) {
      this.#part.drop();
      throw systemError(error, `${path}: cannot be made ${sizeBytes} bytes long`);
    }
  }

  /** Durable, and under its name, when the promise resolves. */
  async finish(): Promise<void> {
    await this.device.flush();
    await this.device.close();
    this.#part.finish();
  }

  /** Takes away what was not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.device.close();
    this.#part.drop();
  }
}
