/**
 * An image in the daemon's FUSE mount, and a loop device of the kernel on it. The daemon serves the image in the thread that
 * runs this, so everything that touches the image is done by other processes.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { MappedDevice } from "../../device-registry/index.js";
import { messageOf, StateError } from "../../errors/index.js";
import type { FuseMount, ImageFile } from "../../fuse/index.js";
import { run } from "../../io/index.js";
import { attachKernelLoop, detachKernelLoop, listKernelLoops, resizeKernelLoop } from "../../loop/index.js";
import { ThinDevice } from "../../thin/index.js";
import type { ServiceContext } from "../daemon/services.js";
import { type Carrier, type CarrierRequest, UndoList } from "./carrier.js";
import type { FuseHome } from "./fuse-home.js";

/** How long a loop device may take to go after it was detached, and requests after that. */
const GONE_MS = 5000;
const PAUSE_MS = 10;
/** A write that had just ended spoils the first. */
const GROW_TRIES = 20;
/** Writes are not answered meanwhile. */
const STAT_MS = 5000;

export class FuseCarrier implements Carrier {
  readonly node: string;
  readonly file: string;
  readonly directIo: boolean;
  readonly #mount: FuseMount;
  readonly #image: ImageFile;
  readonly #device: MappedDevice;
  readonly #undo: UndoList;
  #isClosing = false;

  /** @throws StateError EPERM, ENODEV (no FUSE, no loop devices); ToolError */
  static async open(request: CarrierRequest, home: FuseHome): Promise<FuseCarrier> {
    const { context, name, device, readOnly, sectorBytes } = request;
    const undo = new UndoList((error) => context.log(`letting go: ${messageOf(error)}`));
    try {
      const lost = (error: unknown) => context.ended(error ?? new StateError("EIO", "the FUSE mount is gone"));
      const mount = await home.acquire(lost, request.devFolder);
      undo.push(() => home.release(lost));
      const image = mount.server.add({
        name: freeName(mount, name),
        device,
        readOnly,
        discardReadsZeros: readsZeros(device),
      });
      undo.push(() => removeImage(mount, image, context));
      const file = join(mount.folder, image.name);
      const { path: node } = await attachKernelLoop({ file, readOnly, sectorBytes, directIo: true });
      undo.push(() => detachLoop(node, context));
      return new FuseCarrier({ node, file, mount, image, device, undo });
    } catch (error) {
      await undo.run();
      throw error;
    }
  }

  private constructor(parts: {
    readonly node: string;
    readonly file: string;
    readonly mount: FuseMount;
    readonly image: ImageFile;
    readonly device: MappedDevice;
    readonly undo: UndoList;
  }) {
    this.node = parts.node;
    this.file = parts.file;
    this.#mount = parts.mount;
    this.#image = parts.image;
    this.#device = parts.device;
    this.#undo = parts.undo;
    this.directIo = listKernelLoops().find(({ path }) => path === parts.node)?.directIo ?? false;
  }

  get sizeBytes(): number {
    return this.#image.sizeBytes;
  }

  async tableChanged(): Promise<void> {
    this.#image.discardReadsZeros = readsZeros(this.#device);
    if (!this.#image.takeUpSize()) return;
    for (let tries = 0; tries < GROW_TRIES; tries++) {
      if (tries > 0) await sleep(PAUSE_MS);
      await this.#grow();
      const found = listKernelLoops().find(({ path }) => path === this.node)?.sizeBytes;
      if (found === undefined || found >= this.sizeBytes) return;
    }
    throw new StateError("EIO", `${this.node} does not take up the size of ${this.sizeBytes} bytes`, {
      hint: `losetup --set-capacity ${this.node}`,
    });
  }

  /** A loop device of older kernels (before Linux 6.15) takes the size that somebody last asked the file for. */
  async #grow(): Promise<void> {
    const letGo = this.#mount.server.announceSize(this.#image);
    try {
      await run("stat", ["--format=%s", "--", this.file], { timeoutMs: STAT_MS });
    } finally {
      letGo();
    }
    await resizeKernelLoop(this.node);
  }

  onLost(lost: () => void): void {
    this.#image.onUnused(() => {
      if (!this.#isClosing) lost();
    });
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#undo.run();
  }
}

/** A device that was renamed while it is attached leaves its image the old name, which another device may have by now. */
function freeName({ server }: FuseMount, name: string): string {
  if (!server.has(name)) return name;
  for (let number = 2; ; number++) if (!server.has(`${name}-${number}`)) return `${name}-${number}`;
}

/** A thin device with an external origin shows that where it discards. */
function readsZeros({ segments }: MappedDevice): boolean {
  return !segments.some(({ target: { device } }) => device instanceof ThinDevice && device.hasExternalOrigin);
}

async function detachLoop(path: string, context: ServiceContext): Promise<void> {
  const isThere = () => listKernelLoops().some((loop) => loop.path === path);
  if (!isThere()) return;
  await detachKernelLoop(path);
  for (const until = performance.now() + GONE_MS; isThere(); await sleep(PAUSE_MS)) {
    if (performance.now() < until) continue;
    context.log(`${path} is still open; whoever has it open gets errors from now on`);
    return;
  }
}

/** Requests of a device that is suspended, or whose pool is full and queues, may wait for ever: they are left behind. */
async function removeImage(mount: FuseMount, image: ImageFile, context: ServiceContext): Promise<void> {
  const removed = mount.server.remove(image).then(() => true);
  const patience = sleep(GONE_MS, false, { ref: false });
  if (!(await Promise.race([removed, patience]))) {
    context.log(`${image.underWay} requests to '${image.name}' still wait, and are left behind`);
  }
}
