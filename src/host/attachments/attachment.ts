/**
 * A mapped device as a block device of this machine: its image in the daemon's FUSE mount, a loop device of the kernel on
 * that, and a link with the device's name. It is set up in this order, and taken down in the opposite one: what is mounted
 * from it first, the loop device, the link, the image, the mount.
 *
 * The daemon serves the image in the thread that runs this, so everything that touches the image is done by other processes.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Hold, MappedDevice } from "../../device-registry/index.js";
import { messageOf, StateError } from "../../errors/index.js";
import type { FuseMount, ImageFile } from "../../fuse/index.js";
import { mountPoints, run } from "../../io/index.js";
import {
  type AttachedKernelLoop,
  attachKernelLoop,
  detachKernelLoop,
  listKernelLoops,
  resizeKernelLoop,
} from "../../loop/index.js";
import { ThinDevice } from "../../thin/index.js";
import type { ResidentCore } from "../daemon/resident-core.js";
import type { Service, ServiceContext, ServiceKind } from "../daemon/services.js";
import { checkLink, makeLink, removeLink } from "./device-link.js";
import { FuseHome } from "./fuse-home.js";
import { imageFolder } from "./image-folder.js";
import { ATTACH_KIND, type AttachRequest, parseAttachRequest } from "./request.js";

/** How long a loop device may take to go after it was detached. */
const GONE_MS = 5000;
const PAUSE_MS = 10;
const UMOUNT_MS = 15_000;
const DEFAULT_SECTOR_BYTES = 512;

/** The kind, with the mount that its services share. */
export function attachmentKind(): ServiceKind<AttachRequest> {
  const homes = new WeakMap<ResidentCore, FuseHome>();
  return {
    kind: ATTACH_KIND,
    parse: parseAttachRequest,
    name: ({ device }) => `${ATTACH_KIND}-${device}`,
    async start(context, request) {
      const folders = { stateDir: join(context.core.file.path, ".."), runDir: context.runDir };
      let home = homes.get(context.core);
      if (home === undefined) {
        home = new FuseHome({ ...folders, log: (line) => context.core.log(line) });
        homes.set(context.core, home);
      }
      return Attachment.start(context, request, { home, folder: imageFolder(folders) });
    },
  };
}

interface Place {
  readonly home: FuseHome;
  /** Where images of this state dir are mounted. */
  readonly folder: string;
}

interface Parts {
  readonly hold: Hold;
  readonly mount: FuseMount;
  readonly image: ImageFile;
  readonly loop: AttachedKernelLoop;
}

class Attachment implements Service {
  readonly #context: ServiceContext;
  readonly #request: AttachRequest;
  readonly #place: Place;
  readonly #parts: Parts;
  readonly #undo: UndoList;
  /** Where the link is now; it follows the device's name. */
  #path: string;
  #directIo = false;
  #following: Promise<void> = Promise.resolve();
  #isStopping = false;

  static async start(context: ServiceContext, request: AttachRequest, place: Place): Promise<Attachment> {
    const undo = new UndoList((line) => context.log(line));
    try {
      const hold = await context.hold(request.device, { what: "attached", hint: `udm detach ${request.device}` });
      undo.push(async () => hold[Symbol.asyncDispose]());
      const { name, device } = hold;
      const readOnly = request.readOnly === true || device.isReadOnly;
      const sectorBytes = request.sectorBytes ?? Math.max(device.logicalBlockBytes, DEFAULT_SECTOR_BYTES);
      checkSize(name, device.sizeBytes, sectorBytes);
      const path = join(request.devFolder, name);
      const lost = (error: unknown) => context.ended(error ?? new StateError("EIO", "the FUSE mount is gone"));
      const mount = await place.home.acquire(lost, request.devFolder);
      undo.push(() => place.home.release(lost));
      // What an earlier daemon left is cleared up by now.
      checkLink(path, place.folder);
      const image = mount.server.add({ name, device, readOnly });
      undo.push(() => removeImage(mount, image, context));
      image.discardReadsZeros = readsZeros(device);
      const file = join(mount.folder, name);
      const loop = await attachKernelLoop({ file, readOnly, sectorBytes, directIo: true });
      undo.push(() => detachLoop(loop.path, context));
      const attachment = new Attachment({ context, request, place, parts: { hold, mount, image, loop }, undo, path });
      undo.push(async () => removeLink(attachment.#path, loop.path));
      makeLink(path, loop.path, place.folder);
      attachment.#watch();
      return attachment;
    } catch (error) {
      await undo.run();
      throw error;
    }
  }

  private constructor(options: {
    readonly context: ServiceContext;
    readonly request: AttachRequest;
    readonly place: Place;
    readonly parts: Parts;
    readonly undo: UndoList;
    readonly path: string;
  }) {
    this.#context = options.context;
    this.#request = options.request;
    this.#place = options.place;
    this.#parts = options.parts;
    this.#undo = options.undo;
    this.#path = options.path;
    this.#directIo = listKernelLoops().find(({ path }) => path === this.#parts.loop.path)?.directIo ?? false;
  }

  describe() {
    const { hold, image, loop, mount } = this.#parts;
    return {
      device: hold.name,
      path: this.#path,
      loop: loop.path,
      file: join(mount.folder, image.name),
      readOnly: image.isReadOnly,
      sectorBytes: this.#request.sectorBytes ?? Math.max(hold.device.logicalBlockBytes, DEFAULT_SECTOR_BYTES),
      sizeBytes: image.sizeBytes,
      directIo: this.#directIo,
    };
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#following;
    await this.#unmountAll();
    await this.#undo.run();
  }

  #watch(): void {
    const { hold, image } = this.#parts;
    this.#undo.push(async () => stopWatching());
    const stopWatching = hold.device.onTable(() => {
      this.#following = this.#following.then(() => this.#follow());
      return this.#following;
    });
    // Somebody detached the loop device: what is left has no use.
    image.onUnused(() => {
      if (!this.#isStopping) this.#context.ended();
    });
  }

  /** The device may have another name, another size. */
  async #follow(): Promise<void> {
    if (this.#isStopping) return;
    const { hold, image, loop, mount } = this.#parts;
    try {
      const path = join(this.#request.devFolder, hold.name);
      if (path !== this.#path) {
        makeLink(path, loop.path, this.#place.folder);
        removeLink(this.#path, loop.path);
        this.#path = path;
      }
      image.discardReadsZeros = readsZeros(hold.device);
      if (!mount.server.refreshSize(image)) return;
      // Older kernels take the size that was last asked for.
      await run("stat", ["--format=%s", "--", join(mount.folder, image.name)]);
      await resizeKernelLoop(loop.path);
    } catch (error) {
      this.#context.log(`following '${hold.name}': ${messageOf(error)}`);
    }
  }

  /** The daemon ends: file systems are unmounted; one that is in use gets its bytes written and is cut off. */
  async #unmountAll(): Promise<void> {
    const { loop } = this.#parts;
    for (const folder of (mountPoints().get(`7:${loop.number}`) ?? []).reverse()) {
      try {
        await run("umount", [folder], { timeoutMs: UMOUNT_MS });
        this.#context.log(`unmounted ${folder}`);
      } catch (error) {
        this.#context.log(`${folder} is in use and will be cut off: ${messageOf(error)}`);
        await run("sync", ["--file-system", folder], { timeoutMs: UMOUNT_MS }).catch((failure: unknown) => {
          this.#context.log(`writing back ${folder}: ${messageOf(failure)}`);
        });
      }
    }
  }
}

/** Undoing goes on when a step fails; what failed is logged, the first failure is thrown behind the last step. */
class UndoList {
  readonly #steps: (() => Promise<void>)[] = [];
  readonly #log: (line: string) => void;

  constructor(log: (line: string) => void) {
    this.#log = log;
  }

  push(step: () => Promise<void>): void {
    this.#steps.push(step);
  }

  async run(): Promise<void> {
    for (const step of this.#steps.splice(0).reverse()) {
      await step().catch((error: unknown) => this.#log(`letting go: ${messageOf(error)}`));
    }
  }
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

function checkSize(name: string, sizeBytes: number, sectorBytes: number): void {
  if (sizeBytes % sectorBytes === 0) return;
  throw new StateError("EINVAL", `'${name}' has ${sizeBytes} bytes, no multiple of ${sectorBytes}-byte sectors`, {
    hint: `udm attach ${name} --sector-size 512, or grow it with udm thin resize`,
  });
}

/** A thin device with an external origin shows that where it discards. */
function readsZeros({ segments }: MappedDevice): boolean {
  return !segments.some(({ target: { device } }) => device instanceof ThinDevice && device.hasExternalOrigin);
}
