/**
 * Mounting, unmounting and giving up FUSE mounts, always through other processes: mount(8) gets the open /dev/fuse as its
 * descriptor 3. Mounts of ours are told by their type, `fuse.udm`.
 *
 * A server that does not answer makes its callers wait for ever, and some of them cannot be killed. `abort` frees them: the
 * kernel then answers everything on the connection with an error.
 */
import { closeSync, openSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { codeOf, messageOf, StateError, ToolError } from "../errors/index.js";
import { makeFolder, run, systemError } from "../io/index.js";
import { isFuseByteOrder } from "./protocol.js";
import { openRequestSource } from "./request-source.js";
import { FuseServer, REQUEST_BYTES } from "./server.js";

const DEVICE = "/dev/fuse";
export const FUSE_TYPE = "fuse.udm";
const CONTROL_FOLDER = "/sys/fs/fuse/connections";
const MOUNT_TIMEOUT_MS = 20_000;
const ASK_TIMEOUT_MS = 3_000;

export interface FuseMountOptions {
  /** Made where it is missing; nothing may be mounted there. */
  readonly folder: string;
  /** Shown as the mount's source. */
  readonly source: string;
  readonly log: (line: string) => void;
  /** The mount went away though nobody asked for that. */
  readonly onEnd?: (error: unknown) => void;
}

/** A mount of this process with its server. */
export class FuseMount {
  readonly folder: string;
  readonly server: FuseServer;
  #isClosed = false;

  private constructor(folder: string, server: FuseServer) {
    this.folder = folder;
    this.server = server;
  }

  /** @throws StateError EPERM, ENOENT (no /dev/fuse), EOPNOTSUPP; ToolError what mount(8) said */
  static async open({ folder, source, log, onEnd }: FuseMountOptions): Promise<FuseMount> {
    if (!isFuseByteOrder) throw new StateError("EOPNOTSUPP", "FUSE is served on little-endian machines only");
    const fd = openDevice();
    let requests: ReturnType<typeof openRequestSource>;
    try {
      makeFolder(folder, 0o700);
      const options = "fd=3,rootmode=40000,user_id=0,group_id=0,default_permissions,nosuid,nodev,noexec";
      await run("mount", ["-i", "-t", FUSE_TYPE, "-o", options, source, folder], {
        passFds: [fd],
        timeoutMs: MOUNT_TIMEOUT_MS,
      });
      requests = openRequestSource(fd, REQUEST_BYTES);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    const server = new FuseServer({ source: requests, log, onEnd: (error) => mount.#ended(error, onEnd) });
    const mount = new FuseMount(folder, server);
    server.start();
    return mount;
  }

  #ended(error: unknown, tell: ((error: unknown) => void) | undefined): void {
    if (!this.#isClosed) tell?.(error);
  }

  /**
   * Takes the mount away. Where something still holds a file, the connection is aborted: what holds it gets errors, and the
   * mount stays as a killed server would leave it, so that whoever looks finds what stands on it. May be called twice.
   */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    try {
      await unmountFuse(this.folder, { leavesBusy: true });
    } finally {
      this.server.close();
      removeFolder(this.folder);
    }
  }
}

function openDevice(): number {
  try {
    return openSync(DEVICE, "r+");
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENODEV" || codeOf(error) === "ENXIO") {
      throw new StateError("ENODEV", `${DEVICE}: this kernel has no FUSE`, {
        hint: "modprobe fuse; without it: udm serve exports the device over NBD",
        cause: error,
      });
    }
    throw systemError(error, DEVICE, "attached devices need root");
  }
}

function removeFolder(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // Still in use, or not ours alone: it does no harm.
  }
}

/** A FUSE mount of ours, or one an earlier process left. */
export interface FuseMountInfo {
  readonly folder: string;
  readonly source: string;
  /** Number of the connection, under fusectl. */
  readonly connection: number;
}

/** Of this mount namespace, in mount order. Nothing is touched. */
export function listFuseMounts(): FuseMountInfo[] {
  const found: FuseMountInfo[] = [];
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const words = line.split(" ");
    const dash = words.indexOf("-");
    const [major, minor] = (words[2] ?? "").split(":").map(Number);
    if (dash < 0 || words[dash + 1] !== FUSE_TYPE || major !== 0 || minor === undefined) continue;
    found.push({ folder: unescapeOctal(words[4]!), source: unescapeOctal(words[dash + 2] ?? ""), connection: minor });
  }
  return found;
}

function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** Whether somebody answers behind a mount: asked by another process, which may have to be left behind. */
export async function stateOfFuseMount(folder: string): Promise<"served" | "dead" | "stuck"> {
  try {
    const { status } = await run("stat", ["--file-system", "--", folder], {
      timeoutMs: ASK_TIMEOUT_MS,
      okStatuses: [0, 1],
    });
    return status === 0 ? "served" : "dead";
  } catch (error) {
    if (error instanceof ToolError && error.code === "ETIMEDOUT") return "stuck";
    throw error;
  }
}

/**
 * Unmounts; what holds a file of it is cut off. Nothing is done when nothing is mounted there.
 * @param options.leavesBusy what is held all the same stays there, dead; else it goes out of sight
 * @throws ToolError with what umount(8) said
 */
export async function unmountFuse(folder: string, options: { readonly leavesBusy?: boolean } = {}): Promise<void> {
  const info = listFuseMounts().find((each) => each.folder === folder);
  if (info === undefined) return;
  try {
    await run("umount", ["-i", folder], { timeoutMs: MOUNT_TIMEOUT_MS });
  } catch (error) {
    await abortConnection(info.connection);
    if (options.leavesBusy === true) {
      await run("umount", ["-i", folder], { timeoutMs: MOUNT_TIMEOUT_MS, okStatuses: [0, 32] });
      return;
    }
    await run("umount", ["-i", "-l", folder], { timeoutMs: MOUNT_TIMEOUT_MS }).catch((second: unknown) => {
      throw new ToolError("EBUSY", `${messageOf(error)}; then ${messageOf(second)}`);
    });
  }
}

/** All that waits for answers on a connection gets an error at once. @returns false where the kernel offers no way */
export async function abortConnection(connection: number): Promise<boolean> {
  const path = `${CONTROL_FOLDER}/${connection}/abort`;
  for (const isSecond of [false, true]) {
    try {
      writeFileSync(path, "1");
      return true;
    } catch (error) {
      if (codeOf(error) !== "ENOENT" || isSecond) return false;
      await run("mount", ["-t", "fusectl", "none", CONTROL_FOLDER], { okStatuses: [0, 1, 32] }).catch(() => undefined);
    }
  }
  return false;
}
