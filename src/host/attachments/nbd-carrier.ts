/**
 * On a kernel with NBD: an export on a socket of the daemon's own, and nbd-client, which hands the connection to the kernel.
 * The block device keeps the size it was attached with.
 */
import { existsSync, rmSync } from "node:fs";
import { messageOf, StateError } from "../../errors/index.js";
import { run } from "../../io/index.js";
import { DeviceExport, NbdServer } from "../../nbd/index.js";
import { type Carrier, type CarrierRequest, UndoList } from "./carrier.js";
import { disconnectNbd, isNbdInUse, listNbdNumbers, nbdSocket } from "./nbd-node.js";

const CLIENT_TIMEOUT_MS = 20_000;
const CONNECTIONS = 1;

export class NbdCarrier implements Carrier {
  readonly node: string;
  readonly file: string;
  readonly sizeBytes: number;
  readonly directIo = false;
  readonly #request: CarrierRequest;
  readonly #undo: UndoList;

  /** @throws StateError ENODEV without a free /dev/nbdN; ToolError ENOENT without nbd-client, or what it said */
  static async open(request: CarrierRequest): Promise<NbdCarrier> {
    const { context, name, device, readOnly, sectorBytes } = request;
    const node = freeNode();
    const undo = new UndoList((error) => context.log(`letting go: ${messageOf(error)}`));
    try {
      const path = nbdSocket(context.runDir, node);
      const server = await NbdServer.listen({
        address: { kind: "unix", path },
        exports: [new DeviceExport(device, { name, readOnly })],
        log: (line) => context.log(line),
        onFailure: (error) => context.ended(error),
      });
      undo.push(async () => {
        await server.close();
        rmSync(path, { force: true });
      });
      const words = ["-unix", path, node, "-name", name, "-block-size", String(sectorBytes)];
      words.push("-connections", String(CONNECTIONS), ...(readOnly ? ["-readonly"] : []));
      await run("nbd-client", words, { timeoutMs: CLIENT_TIMEOUT_MS });
      undo.push(() => disconnectNbd(node));
      return new NbdCarrier({ node, path, request, undo });
    } catch (error) {
      await undo.run();
      throw error;
    }
  }

  private constructor(parts: {
    readonly node: string;
    readonly path: string;
    readonly request: CarrierRequest;
    readonly undo: UndoList;
  }) {
    this.node = parts.node;
    this.file = parts.path;
    this.sizeBytes = parts.request.device.sizeBytes;
    this.#request = parts.request;
    this.#undo = parts.undo;
  }

  async tableChanged(): Promise<void> {
    const { context, device, name } = this.#request;
    if (device.sizeBytes > this.sizeBytes) {
      context.log(`${this.node} keeps its size; detach '${name}' and attach it again for the new one`);
    }
  }

  onLost(): void {
    // The server sees a connection end; what that means, the kernel's client decides.
  }

  close(): Promise<void> {
    return this.#undo.run();
  }
}

/** The first /dev/nbdN that nobody uses. */
function freeNode(): string {
  const numbers = listNbdNumbers();
  const free = numbers.find((number) => existsSync(`/dev/nbd${number}`) && !isNbdInUse(number));
  if (free !== undefined) return `/dev/nbd${free}`;
  if (numbers.length === 0) {
    throw new StateError("ENODEV", "/dev/nbd0: this kernel has no NBD", {
      hint: "modprobe nbd; without it: udm attach goes by FUSE",
    });
  }
  throw new StateError("ENODEV", "all /dev/nbdN are in use", { hint: "modprobe nbd nbds_max=64, or detach one" });
}
