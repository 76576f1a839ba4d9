/**
 * Attaching, mounting and back, as commands do it. Mounting is done in the command's own process, so that it happens in the
 * mount namespace of whoever asked for it; the daemon only serves the device.
 */
import { messageOf, StateError, ToolError } from "../../errors/index.js";
import { abortConnection, stateOfFuseMount, unmountFuse } from "../../fuse/index.js";
import { deviceNumber, mountPoints, run } from "../../io/index.js";
import type { Host, Plan, ServiceInfo } from "../host.js";
import { quoted } from "../plan-text.js";
import { realPathOf } from "./device-link.js";
import { imageFolder } from "./image-folder.js";
import {
  deadNbdNodes,
  describeUser,
  type LeftNode,
  loopsBelow,
  mountsLike,
  takeNodeAway,
  usersOfNode,
} from "./leftovers.js";
import { ATTACH_KIND, type AttachmentInfo, type AttachRequest, attachmentOf } from "./request.js";

export interface AttachmentFolders {
  readonly stateDir: string;
  readonly runDir: string;
  /** Where links to attached devices are: `/dev/mapper`. */
  readonly devFolder: string;
}

/** mount(8) and umount(8) may write back a lot. */
const MOUNT_TIMEOUT_MS = 600_000;

/** Attached devices, by name. */
export async function listAttachments(host: Host): Promise<readonly AttachmentInfo[]> {
  const found = (await host.listServices()).map(attachmentOf).filter((each) => each !== undefined);
  return found.sort((left, right) => (left.device < right.device ? -1 : 1));
}

/** @param name of a device, or the path of its link */
export async function findAttachment(host: Host, name: string): Promise<AttachmentInfo | undefined> {
  const all = await listAttachments(host);
  return all.find((each) => each.device === name || each.path === name || each.node === name);
}

/**
 * @param host of a daemon
 * @throws StateError EEXIST when it is attached, unless `ifNotExists` and it is attached as asked
 */
export async function attachDevice(
  host: Host,
  request: AttachRequest,
  options: { readonly ifNotExists?: boolean } = {},
): Promise<AttachmentInfo> {
  const present = await findAttachment(host, request.device);
  if (present !== undefined) {
    const isSame =
      (request.readOnly ?? present.readOnly) === present.readOnly &&
      (request.sectorBytes ?? present.sectorBytes) === present.sectorBytes &&
      (request.via ?? present.via) === present.via;
    if (options.ifNotExists === true && isSame) return present;
    const how = `${present.readOnly ? "read-only, " : ""}sectors of ${present.sectorBytes} bytes`;
    throw new StateError("EEXIST", `'${present.device}' is attached at ${present.path} (${how})`, {
      hint: `udm detach ${present.device}`,
    });
  }
  const service = await host.startService({ kind: ATTACH_KIND, options: request, lasts: "daemon" });
  return known(service);
}

function known(service: ServiceInfo): AttachmentInfo {
  const attachment = attachmentOf(service);
  if (attachment === undefined) throw new ToolError("EIO", `the daemon answered with a service '${service.kind}'`);
  return attachment;
}

/** The same in commands of the classic tools. */
export function planAttach(request: AttachRequest, folders: AttachmentFolders): Plan {
  const link = quoted(`${request.devFolder}/${request.device}`);
  if (request.via === "nbd") {
    const client = ["nbd-client", "-unix", quoted(`${folders.runDir}/attach-nbdN.sock`), "/dev/nbdN"];
    if (request.readOnly === true) client.push("-readonly");
    if (request.sectorBytes !== undefined) client.push("-block-size", String(request.sectorBytes));
    return [[...client, "-name", quoted(request.device)].join(" "), `ln -s /dev/nbdN ${link}`];
  }
  const words = ["losetup", "--find", "--show"];
  if (request.readOnly === true) words.push("--read-only");
  if (request.sectorBytes !== undefined) words.push("--sector-size", String(request.sectorBytes));
  const file = `${imageFolder(folders)}/${request.device}`;
  return [[...words, "--direct-io=on", quoted(file)].join(" "), `ln -s /dev/loopN ${link}`];
}

/**
 * Takes an attached device away, also one that a killed daemon left.
 * @throws StateError EBUSY while somebody uses it; ENOENT
 */
export async function detachDevice(
  host: Host,
  name: string,
  options: { readonly folders: AttachmentFolders; readonly ifExists?: boolean },
): Promise<void> {
  const attachment = await findAttachment(host, name);
  if (attachment !== undefined) {
    refuseUsed(attachment.device, attachment.node);
    await refuseSuspended(host, attachment.device);
    return host.stopService(attachment.service);
  }
  const served = await listAttachments(host);
  const left = leftNodes(options.folders, served).filter((each) => each.name === name || each.node === name);
  if (left.length === 0) {
    if (options.ifExists === true) return;
    throw new StateError("ENOENT", `'${name}' is not attached`, { hint: "udm daemon status shows what is" });
  }
  for (const { node } of left) refuseUsed(name, node);
  for (const each of left) await takeNodeAway(each, options.folders.devFolder);
  await clearMounts(options.folders);
}

/** What was written would wait for the resume, and detaching with it. */
async function refuseSuspended(host: Host, name: string): Promise<void> {
  const { state } = await host.deviceInfo(name);
  if (state !== "SUSPENDED") return;
  throw new StateError("EBUSY", `'${name}' is suspended`, { hint: `udm table resume ${name}` });
}

function refuseUsed(name: string, node: string): void {
  const [user] = usersOfNode(node);
  if (user === undefined) return;
  const hint =
    user.kind === "mount"
      ? `udm umount ${user.folder}`
      : user.kind === "swap"
        ? `swapoff ${user.path}`
        : `end process ${user.pid} first`;
  throw new StateError("EBUSY", `'${name}' (${node}) is ${describeUser(user)}`, { hint });
}

/** Attaches when that was not done, then mounts. @returns where the device is, and whether this attached it */
export async function mountDevice(
  host: Host,
  request: AttachRequest & { readonly folder: string; readonly options?: readonly string[]; readonly type?: string },
): Promise<{ readonly attachment: AttachmentInfo; readonly folder: string }> {
  const present = await findAttachment(host, request.device);
  const { folder, options = [], type, ...attach } = request;
  const attachment = present ?? (await attachDevice(host, attach));
  try {
    await run("mount", mountWords({ path: attachment.path, folder, options, type, readOnly: attachment.readOnly }), {
      timeoutMs: MOUNT_TIMEOUT_MS,
    });
  } catch (error) {
    if (present === undefined) await host.stopService(attachment.service).catch(() => undefined);
    throw new StateError("EINVAL", `'${request.device}' cannot be mounted at ${folder}: ${saidBy(error)}`, {
      hint: `is there a file system on it? udm attach ${request.device} makes it a block device for mkfs and fsck`,
      cause: error,
    });
  }
  return { attachment, folder: realPathOf(folder) };
}

export function mountWords(request: {
  readonly path: string;
  readonly folder: string;
  readonly options: readonly string[];
  readonly type?: string | undefined;
  readonly readOnly: boolean;
}): string[] {
  const options = request.readOnly ? ["ro", ...request.options] : [...request.options];
  const words = request.type === undefined ? [] : ["-t", request.type];
  if (options.length > 0) words.push("-o", options.join(","));
  return [...words, request.path, request.folder];
}

/** What umount would be done of: a mount of an attached device. */
export interface UmountPlan {
  /** Newest first. */
  readonly mounted: readonly string[];
  readonly attachment: AttachmentInfo | undefined;
  readonly left: LeftNode | undefined;
}

/**
 * @param word a mount point, or a device's name: then all its mount points
 * @throws StateError ENOENT, EINVAL when it is not a mount of an attached device
 */
export async function planUmount(host: Host, word: string, folders: AttachmentFolders): Promise<UmountPlan> {
  const points = mountPoints();
  const pointsOf = (node: string) => [...(points.get(deviceNumber(node) ?? "") ?? [])].reverse();
  const served = await listAttachments(host);
  const left = leftNodes(folders, served);
  const attachment = await findAttachment(host, word);
  if (attachment !== undefined) {
    const mounted = pointsOf(attachment.node);
    if (mounted.length === 0) {
      throw new StateError("EINVAL", `'${word}' is attached but not mounted`, { hint: `udm detach ${word}` });
    }
    return { mounted, attachment, left: undefined };
  }
  const leftNamed = left.find((each) => each.name === word);
  if (leftNamed !== undefined) {
    return { mounted: pointsOf(leftNamed.node), attachment: undefined, left: leftNamed };
  }
  const folder = realPathOf(word);
  for (const each of served) {
    if (pointsOf(each.node).includes(folder)) return { mounted: [folder], attachment: each, left: undefined };
  }
  const leftMounted = left.find(({ node }) => pointsOf(node).includes(folder));
  if (leftMounted !== undefined) return { mounted: [folder], attachment: undefined, left: leftMounted };
  throw new StateError("ENOENT", `'${word}' is neither an attached device nor where one is mounted`, {
    hint: "udm daemon status shows attached devices; umount takes other mounts away",
  });
}

/** Unmounts, and detaches the device when nothing of it is mounted any more. */
export async function umountDevice(host: Host, word: string, folders: AttachmentFolders): Promise<void> {
  const { mounted, attachment, left } = await planUmount(host, word, folders);
  if (attachment !== undefined) await refuseSuspended(host, attachment.device);
  for (const folder of mounted) {
    try {
      await run("umount", [folder], { timeoutMs: MOUNT_TIMEOUT_MS });
    } catch (error) {
      throw new StateError("EBUSY", `${folder} cannot be unmounted: ${saidBy(error)}`, {
        hint: `end what uses it: fuser -vm ${folder}`,
        cause: error,
      });
    }
  }
  const number = deviceNumber(attachment?.node ?? left?.node ?? "") ?? "";
  if ((mountPoints().get(number) ?? []).length > 0) return;
  if (attachment !== undefined) return detachDevice(host, attachment.device, { folders, ifExists: true });
  if (left === undefined) return;
  await takeNodeAway(left, folders.devFolder);
  await clearMounts(folders);
}

/** Block devices that nobody serves any more. */
function leftNodes(folders: AttachmentFolders, served: readonly AttachmentInfo[]): readonly LeftNode[] {
  const loops = mountsLike(imageFolder(folders))
    .flatMap(({ folder }) => loopsBelow(folder, folders.devFolder))
    .filter(({ node }) => !served.some((each) => each.node === node));
  return [...loops, ...deadNbdNodes(folders.devFolder, folders.runDir)];
}

/** Mounts without a server and without loop devices. */
async function clearMounts(folders: AttachmentFolders): Promise<void> {
  for (const { folder, connection } of mountsLike(imageFolder(folders))) {
    if (loopsBelow(folder).length > 0) continue;
    const state = await stateOfFuseMount(folder);
    if (state === "served") continue;
    if (state === "stuck") await abortConnection(connection);
    await unmountFuse(folder);
  }
}

/** What mount(8) or umount(8) said, without their own names. */
function saidBy(error: unknown): string {
  const text = messageOf(error);
  return /exit status \d+: (?:u?mount: )?(.*)$/.exec(text)?.[1] ?? text;
}
