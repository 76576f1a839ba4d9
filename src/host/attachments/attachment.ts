/**
 * A mapped device as a block device of this machine: a carrier, which makes the block device, and a link with the device's
 * name. It is set up in this order, and taken down in the opposite one: what is mounted from it first, the link, the
 * block device and what it stands on, the mapped device.
 */
import { dirname, join } from "node:path";
import type { Hold } from "../../device-registry/index.js";
import { codeOf, IoError, messageOf, StateError } from "../../errors/index.js";
import { deviceNumber, mountPoints, run } from "../../io/index.js";
import type { ResidentCore } from "../daemon/resident-core.js";
import type { Service, ServiceContext, ServiceKind } from "../daemon/services.js";
import { type Carrier, type CarrierRequest, UndoList } from "./carrier.js";
import { checkLink, makeLink, removeLink } from "./device-link.js";
import { FuseCarrier } from "./fuse-carrier.js";
import { FuseHome } from "./fuse-home.js";
import { imageFolder } from "./image-folder.js";
import { clearNbdNodes } from "./leftovers.js";
import { ATTACH_KIND, type AttachRequest, parseAttachRequest } from "./request.js";

const UMOUNT_MS = 15_000;
/** For memory full of writes and a slow disk. */
const WRITE_BACK_MS = 300_000;
const DEFAULT_SECTOR_BYTES = 512;

interface Place {
  readonly home: FuseHome;
  /** Where images of this state dir are mounted. */
  readonly folder: string;
}

/** The kind, with the mount that its services share. */
export function attachmentKind(): ServiceKind<AttachRequest> {
  const homes = new WeakMap<ResidentCore, FuseHome>();
  return {
    kind: ATTACH_KIND,
    parse: parseAttachRequest,
    name: ({ device }) => `${ATTACH_KIND}-${device}`,
    isOther: ({ device }, details) => details.device !== device,
    async start(context, request) {
      const folders = { stateDir: dirname(context.core.file.path), runDir: context.runDir };
      let home = homes.get(context.core);
      if (home === undefined) {
        home = new FuseHome({ ...folders, log: (line) => context.core.log(line) });
        homes.set(context.core, home);
      }
      return Attachment.start(context, request, { home, folder: imageFolder(folders) });
    },
  };
}

class Attachment implements Service {
  readonly #context: ServiceContext;
  readonly #request: AttachRequest;
  readonly #folder: string;
  readonly #hold: Hold;
  readonly #carrier: Carrier;
  readonly #undo: UndoList;
  readonly #readOnly: boolean;
  readonly #sectorBytes: number;
  /** Where the link is now; it follows the device's name. */
  #path: string;
  #following: Promise<void> = Promise.resolve();
  #isStopping = false;

  static async start(context: ServiceContext, request: AttachRequest, place: Place): Promise<Attachment> {
    const undo = new UndoList((error) => context.log(`letting go: ${messageOf(error)}`));
    try {
      const hold = await context.hold(request.device, { what: "attached", hint: `udm detach ${request.device}` });
      undo.push(async () => hold[Symbol.asyncDispose]());
      const { name, device } = hold;
      const carry: CarrierRequest = {
        context,
        name,
        device,
        readOnly: request.readOnly === true || device.isReadOnly,
        sectorBytes: request.sectorBytes ?? Math.max(device.logicalBlockBytes, DEFAULT_SECTOR_BYTES),
        devFolder: request.devFolder,
      };
      checkSize(name, device.sizeBytes, carry.sectorBytes);
      const carrier = await openCarrier(carry, request, place);
      undo.push(() => carrier.close());
      if (!carry.readOnly) {
        const ended = context.core.cached(hold.minor, () => writeBack(hold.name, carrier.node));
        undo.push(async () => ended());
      }
      // What an earlier daemon left is cleared up by now.
      const path = join(request.devFolder, name);
      makeLink(path, carrier.node, place.folder);
      return new Attachment({ context, request, folder: place.folder, hold, carrier, carry, undo, path });
    } catch (error) {
      await undo.run();
      throw error;
    }
  }

  private constructor(options: {
    readonly context: ServiceContext;
    readonly request: AttachRequest;
    readonly folder: string;
    readonly hold: Hold;
    readonly carrier: Carrier;
    readonly carry: CarrierRequest;
    readonly undo: UndoList;
    readonly path: string;
  }) {
    this.#context = options.context;
    this.#request = options.request;
    this.#folder = options.folder;
    this.#hold = options.hold;
    this.#carrier = options.carrier;
    this.#undo = options.undo;
    this.#path = options.path;
    this.#readOnly = options.carry.readOnly;
    this.#sectorBytes = options.carry.sectorBytes;
    this.#undo.push(async () => removeLink(this.#path, this.#carrier.node));
    const stopWatching = this.#hold.device.onTable(() => {
      this.#following = this.#following.then(() => this.#follow());
      return this.#following;
    });
    this.#undo.push(async () => stopWatching());
    // What is left of it has no use.
    this.#carrier.onLost(() => {
      if (!this.#isStopping) this.#context.ended();
    });
  }

  describe() {
    const { node, file, sizeBytes, directIo } = this.#carrier;
    return {
      device: this.#hold.name,
      path: this.#path,
      node,
      via: this.#request.via ?? "fuse",
      file,
      readOnly: this.#readOnly,
      sectorBytes: this.#sectorBytes,
      sizeBytes,
      directIo,
    };
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#following;
    await this.#unmountAll();
    await this.#undo.run();
  }

  /** The device may have another name, another size. */
  async #follow(): Promise<void> {
    if (this.#isStopping) return;
    try {
      const path = join(this.#request.devFolder, this.#hold.name);
      if (path !== this.#path) {
        makeLink(path, this.#carrier.node, this.#folder);
        removeLink(this.#path, this.#carrier.node);
        this.#path = path;
      }
      await this.#carrier.tableChanged();
    } catch (error) {
      this.#context.log(`following '${this.#hold.name}': ${messageOf(error)}`);
    }
  }

  /** The daemon ends: file systems are unmounted; one that is in use gets its bytes written and is cut off. */
  async #unmountAll(): Promise<void> {
    for (const folder of [...foldersOf(this.#carrier.node)].reverse()) {
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

/** @throws StateError EEXIST before anything is made when something else has the name */
async function openCarrier(carry: CarrierRequest, request: AttachRequest, place: Place): Promise<Carrier> {
  if (request.via === "nbd") {
    const { devFolder } = request;
    const { context } = carry;
    const names = context.core.file.read().devices.map(({ name }) => name);
    await clearNbdNodes({ devFolder, runDir: context.runDir, names, log: (line) => context.log(line) });
    checkLink(join(devFolder, carry.name), place.folder);
    const { NbdCarrier } = await import("./nbd-carrier.js");
    return NbdCarrier.open(carry);
  }
  return FuseCarrier.open(carry, place.home);
}

/**
 * Of the file systems that are mounted from a block device, and of its own page cache, as device-mapper does it before it
 * suspends. By other processes: where the device does not answer they wait, and cannot be killed. The first writes what is
 * mounted anywhere and tells of no errors; the others tell.
 */
async function writeBack(name: string, node: string): Promise<void> {
  const options = { timeoutMs: WRITE_BACK_MS };
  try {
    await run("blockdev", ["--flushbufs", node], options);
    for (const folder of foldersOf(node)) {
      await run("sync", ["--file-system", folder], options).catch((error: unknown) => {
        // Unmounted meanwhile, it is written.
        if (foldersOf(node).includes(folder)) throw error;
      });
    }
    await run("sync", [node], options);
  } catch (error) {
    if (codeOf(error) === "ENOENT") throw error;
    throw new IoError("EIO", `'${name}': what is kept in memory could not be written: ${messageOf(error)}`, {
      hint: `is its pool full, or was it suspended? udm status; without it: udm table suspend --noflush ${name}`,
      cause: error,
    });
  }
}

/** Where it is mounted. */
function foldersOf(node: string): readonly string[] {
  return mountPoints().get(deviceNumber(node) ?? "") ?? [];
}

function checkSize(name: string, sizeBytes: number, sectorBytes: number): void {
  if (sizeBytes % sectorBytes === 0) return;
  throw new StateError("EINVAL", `'${name}' has ${sizeBytes} bytes, no multiple of ${sectorBytes}-byte sectors`, {
    hint: `udm attach ${name} --sector-size 512, or grow it with udm thin resize`,
  });
}
