/**
 * What mapped devices stand on: udm's loop devices and the machine's block devices. Opened once for each operation,
 * claimed while open.
 */
import { readFileSync, realpathSync, statSync } from "node:fs";
import { resolve } from "node:path";
import type { Below, LoopRecord } from "../device-registry/index.js";
import { MAPPED_MAJOR } from "../device-registry/index.js";
import { codeOf, StateError } from "../errors/index.js";
import { type BlockDevice, type Claim, Claims, deviceNumber, FileDevice } from "../io/index.js";
import type { NbdDevice } from "../nbd/index.js";
import type { FoundDevice } from "../targets/index.js";
import { bytesToSectors } from "../units/index.js";
import type { OwnDevices } from "./attachments/own-devices.js";

export const LOOP_MAJOR = 7;
/** A device on an NBD server; loaded when there is one. */
const REMOTE = /^nbds?(?:\+(?:unix|tcp))?:/;

export interface LowDevicesOptions {
  /** Records as they are now: they change while an operation runs. */
  loops(): readonly LoopRecord[];
  /** Where relative paths begin; default the process's own. */
  cwd?(): string;
  log?(line: string): void;
  /** What is written comes from others, who flush when they see fit. */
  readonly isServing?: boolean;
  readonly ownDevices?: OwnDevices;
}

interface OpenedLow {
  readonly device: FileDevice | NbdDevice;
  /** One more with each growth. */
  readonly claims: Claim[];
}

export class LowDevices implements Below {
  readonly #options: LowDevicesOptions;
  /** Made with the first device: who opens none needs no locks. */
  #claims: Claims | undefined;
  readonly #open = new Map<string, OpenedLow>();

  constructor(options: LowDevicesOptions) {
    this.#options = options;
  }

  async find(word: string): Promise<FoundDevice> {
    if (REMOTE.test(word)) {
      const { formatNbdUri, parseNbdUri } = await import("../nbd/index.js");
      return { number: formatNbdUri(parseNbdUri(word)), kernelName: "nbd", kind: "machine" };
    }
    const number = /^(\d+):(\d+)$/.exec(word);
    if (number !== null) return this.#byNumber(Number(number[1]), Number(number[2]));
    const loop = /^loop(\d+)$/.exec(word);
    if (loop !== null) return this.#byNumber(LOOP_MAJOR, Number(loop[1]));
    if (word.includes("/")) return this.#byPath(word);
    const packed = /^(?:0x)?([0-9a-f]{1,8})$/i.exec(word);
    if (packed !== null) {
      const value = Number.parseInt(packed[1]!, 16);
      const found = this.#machine(`${value >>> 8}:${value & 0xff}`);
      if (found !== undefined) return found;
    }
    throw new StateError("ENODEV", `no device '${word}'`, {
      hint: "a device is MAJ:MIN, loopN, a mapped device's name, or the path of a block device",
    });
  }

  /** The loop device of a number or name, when it is one of ours. A path never is: in a table it means the machine's. */
  loop(word: string): LoopRecord | undefined {
    const match = /^(?:0*7:|loop)(\d+)$/.exec(word);
    const number = match === null ? undefined : Number(match[1]);
    return this.#options.loops().find((each) => each.number === number);
  }

  /** The same of a word that a person typed: /dev/loopN too, as long as the kernel has no such device in use. */
  namedLoop(word: string): LoopRecord | undefined {
    const number = /^\/dev\/loop(\d+)$/.exec(word)?.[1];
    if (number === undefined) return this.loop(word);
    return this.#machine(`${LOOP_MAJOR}:${number}`) === undefined ? this.loop(`loop${number}`) : undefined;
  }

  async open(number: string, { readOnly }: { readonly readOnly: boolean }): Promise<BlockDevice> {
    const known = this.#open.get(number);
    if (known !== undefined) return known.device;
    const loop = this.loop(number);
    const opened =
      loop !== undefined
        ? this.#openLoop(loop)
        : REMOTE.test(number)
          ? await this.#openRemote(number, readOnly)
          : this.#openMachine(number, readOnly);
    this.#open.set(number, opened);
    return opened.device;
  }

  async sizeSectors(number: string): Promise<number> {
    const loop = this.loop(number);
    if (loop !== undefined) return bytesToSectors(loop.sizeBytes);
    if (REMOTE.test(number)) return bytesToSectors((await this.open(number, { readOnly: false })).sizeBytes);
    const folder = `/sys/dev/block/${number.includes("/") ? (deviceNumber(number) ?? number) : number}`;
    const sectors = Number(textOf(`${folder}/size`));
    if (!Number.isSafeInteger(sectors)) throw noNumber(number);
    return sectors;
  }

  /** Lets go of one device, so that it is opened anew with what its record says then. */
  async release(number: string): Promise<void> {
    const known = this.#open.get(number);
    this.#open.delete(number);
    await known?.device.close();
    for (const claim of known?.claims ?? []) claim.release();
  }

  /** Lets go of all but these. */
  async releaseExcept(numbers: ReadonlySet<string>): Promise<void> {
    for (const number of [...this.#open.keys()]) if (!numbers.has(number)) await this.release(number);
  }

  /** The size that the record of a loop device has now, for one that is open. @throws StateError EBUSY; IoError EIO */
  async takeUpSize(number: string): Promise<void> {
    const known = this.#open.get(number);
    const loop = this.loop(number);
    if (known === undefined || loop === undefined) return;
    const before = known.device.sizeBytes;
    if (loop.sizeBytes > before) {
      known.claims.push(
        this.#claims!.claim({
          path: loop.file,
          role: `loop device ${number}`,
          readOnly: loop.readOnly,
          offsetBytes: loop.offsetBytes + before,
          lengthBytes: loop.sizeBytes - before,
        }),
      );
    }
    if (known.device instanceof FileDevice) await known.device.setFixedSize(loop.sizeBytes);
  }

  async close(): Promise<void> {
    for (const number of [...this.#open.keys()]) await this.release(number);
  }

  #openLoop(loop: LoopRecord): OpenedLow {
    const name = `${LOOP_MAJOR}:${loop.number}`;
    this.#options.ownDevices?.check(loop.file);
    return this.#claimed(
      {
        path: loop.file,
        role: `loop device ${name}`,
        readOnly: loop.readOnly,
        offsetBytes: loop.offsetBytes,
        lengthBytes: loop.sizeBytes,
      },
      () =>
        FileDevice.open(loop.file, {
          name: `${name} (${loop.file})`,
          readOnly: loop.readOnly,
          offsetBytes: loop.offsetBytes,
          fixedSizeBytes: loop.sizeBytes,
          sectorBytes: loop.sectorBytes,
          isServing: this.#options.isServing === true,
        }),
    );
  }

  /** Nobody can claim what lies on a server: the server decides whom it lets in. */
  async #openRemote(uri: string, readOnly: boolean): Promise<OpenedLow> {
    const { NbdDevice } = await import("../nbd/index.js");
    return { device: await NbdDevice.connect(uri, { readOnly, log: (line) => this.#options.log?.(line) }), claims: [] };
  }

  #openMachine(number: string, readOnly: boolean): OpenedLow {
    const path = number.includes("/") ? number : nodeOf(number);
    this.#refuseOwn(path);
    return this.#claimed({ path, role: `device ${number}`, readOnly }, () =>
      FileDevice.open(path, {
        readOnly,
        fallBackToReadOnly: true,
        isServing: this.#options.isServing === true,
      }),
    );
  }

  /** @throws StateError EBUSY for a block device that this process itself serves */
  #refuseOwn(path: string): void {
    const { ownDevices } = this.#options;
    if (ownDevices === undefined) return;
    ownDevices.check(path);
    if (!ownDevices.has(deviceNumber(path) ?? "")) return;
    throw new StateError("EBUSY", `${path} stands on an attached device, which the daemon serves itself`, {
      hint: "name the mapped device instead of its block device",
    });
  }

  #claimed(
    request: {
      readonly path: string;
      readonly role: string;
      readonly readOnly: boolean;
      readonly offsetBytes?: number;
      readonly lengthBytes?: number;
    },
    open: () => FileDevice,
  ): OpenedLow {
    this.#claims ??= new Claims();
    const claim = this.#claims.claim(request);
    try {
      return { device: open(), claims: [claim] };
    } catch (error) {
      claim.release();
      throw error;
    }
  }

  #byNumber(major: number, minor: number): FoundDevice {
    const number = `${major}:${minor}`;
    if (major === LOOP_MAJOR && this.loop(number) !== undefined) {
      return { number, kernelName: `loop${minor}`, kind: "loop" };
    }
    const found = major === MAPPED_MAJOR ? undefined : this.#machine(number);
    if (found === undefined) throw noNumber(number);
    return found;
  }

  #byPath(word: string): FoundDevice {
    const path = resolve(this.#options.cwd?.() ?? ".", word);
    let number: string | undefined;
    try {
      if (statSync(path).isBlockDevice()) number = deviceNumber(path);
      else throw new StateError("ENODEV", `${word} is not a block device`, { hint: `udm loop attach ${word}` });
    } catch (error) {
      if (error instanceof StateError) throw error;
      const code = codeOf(error) === "EACCES" ? "EACCES" : "ENODEV";
      throw new StateError(code, `no device '${word}'`, { hint: this.#pathHint(path), cause: error });
    }
    const found = number === undefined ? undefined : this.#machine(number);
    if (found === undefined) throw new StateError("ENODEV", `no device '${word}'`, { hint: this.#pathHint(path) });
    // Numbers that are ours mean ours; the machine's device of such a number keeps its path.
    const isOurs = number!.startsWith(`${MAPPED_MAJOR}:`) || this.loop(number!) !== undefined;
    return isOurs ? { ...found, number: realpathSync(path) } : found;
  }

  #pathHint(path: string): string {
    const number = /^\/dev\/loop(\d+)$/.exec(path)?.[1];
    const isOurs = number !== undefined && this.loop(`loop${number}`) !== undefined;
    return isOurs ? `udm's own loop device is named 7:${number} or loop${number}` : "is the path right?";
  }

  #machine(number: string): FoundDevice | undefined {
    const name = /^DEVNAME=(.*)$/m.exec(textOf(`/sys/dev/block/${number}/uevent`) ?? "")?.[1];
    if (name === undefined) return undefined;
    // A loop device of the kernel exists with and without a file; unused ones are no devices to stand on.
    if (Number(textOf(`/sys/dev/block/${number}/size`)) === 0) return undefined;
    return { number, kernelName: name, kind: "machine" };
  }
}

/** Path of the machine's block device of a number. */
export function nodeOf(number: string): string {
  const name = /^DEVNAME=(.*)$/m.exec(textOf(`/sys/dev/block/${number}/uevent`) ?? "")?.[1];
  if (name === undefined) throw noNumber(number);
  return `/dev/${name}`;
}

function noNumber(number: string): StateError {
  const isLoop = number.startsWith(`${LOOP_MAJOR}:`);
  return new StateError("ENXIO", `no device ${number}`, {
    hint: isLoop ? "udm loop list shows udm's loop devices" : "udm lsblk shows the devices there are",
  });
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
