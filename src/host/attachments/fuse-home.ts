/**
 * The one FUSE mount of a daemon, with an image for each attached device: made with the first, taken away behind the last.
 * What an earlier daemon left of its mount is cleared up before.
 */
import { FuseMount, listFuseMounts } from "../../fuse/index.js";
import { nativeCalls } from "../../io/index.js";
import { imageFolder } from "./image-folder.js";
import { clearLeftovers } from "./leftovers.js";

export interface FuseHomeOptions {
  readonly stateDir: string;
  readonly runDir: string;
  readonly log: (line: string) => void;
}

/** Folders tried, when file systems on the devices of daemons that were killed are still mounted. */
const MAX_FOLDERS = 16;

export class FuseHome {
  readonly #options: FuseHomeOptions;
  readonly #users = new Set<(error: unknown) => void>();
  #mount: FuseMount | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: FuseHomeOptions) {
    this.#options = options;
  }

  /**
   * @param lost told when the mount goes away by itself
   * @throws StateError EPERM, ENODEV, EBUSY; ToolError
   */
  acquire(lost: (error: unknown) => void, devFolder: string): Promise<FuseMount> {
    return this.#inTurn(async () => {
      this.#mount ??= await this.#open(devFolder);
      this.#users.add(lost);
      return this.#mount;
    });
  }

  release(lost: (error: unknown) => void): Promise<void> {
    return this.#inTurn(async () => {
      this.#users.delete(lost);
      if (this.#users.size > 0) return;
      const mount = this.#mount;
      this.#mount = undefined;
      await mount?.close();
    });
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(run, run);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #open(devFolder: string): Promise<FuseMount> {
    const { log } = this.#options;
    const base = imageFolder(this.#options);
    await clearLeftovers({ folder: base, devFolder, log });
    const taken = new Set(listFuseMounts().map((each) => each.folder));
    let folder = base;
    for (let number = 2; taken.has(folder) && number <= MAX_FOLDERS; number++) folder = `${base}-${number}`;
    if (nativeCalls()?.becomeIoFlusher() === false) log("memory: this process may have to wait for its own devices");
    const mount = await FuseMount.open({ folder, source: "udm", log, onEnd: (error) => this.#lost(mount, error) });
    return mount;
  }

  #lost(mount: FuseMount, error: unknown): void {
    if (this.#mount !== mount) return;
    for (const tell of [...this.#users]) tell(error);
  }
}
