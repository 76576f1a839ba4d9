/** What is wrong with attached devices: mounts that nobody serves, and what stands on them; links that lead nowhere. */
import { listFuseMounts } from "../../fuse/index.js";
import type { Finding } from "../host.js";
import { quoted } from "../plan-text.js";
import { imageFolder } from "./image-folder.js";
import {
  danglingLinks,
  deadNbdNodes,
  describeUser,
  findLeftovers,
  type LeftNode,
  type Leftover,
  mountsLike,
} from "./leftovers.js";

export interface AttachmentsExamination {
  readonly stateDir: string;
  readonly runDir: string;
  /** Where links are; without it they are not looked at. */
  readonly devFolder: string | undefined;
  /** Names of mapped devices: other links are somebody else's. */
  readonly names: readonly string[];
}

export async function examineAttachments(request: AttachmentsExamination): Promise<readonly Finding[]> {
  const own = mountsLike(imageFolder(request));
  const others = listFuseMounts().filter((each) => !own.some(({ folder }) => folder === each.folder));
  const findings: Finding[] = [];
  for (const left of await findLeftovers(own, request.devFolder)) findings.push(...aboutOwn(left));
  for (const left of await findLeftovers(others)) findings.push(...aboutOther(left));
  for (const left of request.devFolder === undefined ? [] : deadNbdNodes(request.devFolder, request.runDir)) {
    if (request.names.includes(left.name)) findings.push(aboutNode(left, "its daemon is gone"));
  }
  for (const { path, target } of request.devFolder === undefined ? [] : danglingLinks(request.devFolder)) {
    if (!request.names.some((name) => path === `${request.devFolder}/${name}`)) continue;
    findings.push({
      id: "dangling-link",
      severity: "wrong",
      subject: path,
      message: `leads to ${target}, which is not in use`,
      fix: `rm ${quoted(path)}`,
    });
  }
  return findings;
}

function aboutOwn(left: Leftover): readonly Finding[] {
  const { mount, state, loops } = left;
  if (state === "stuck") return [stuck(left)];
  if (loops.length === 0) return [empty(left)];
  return loops.map((loop) => aboutNode(loop, `the daemon that served it at ${mount.folder} is gone`));
}

function aboutNode({ name, node, users: [user] }: LeftNode, why: string): Finding {
  const fix =
    user?.kind === "mount"
      ? `udm umount ${quoted(user.folder)}`
      : user?.kind === "swap"
        ? `swapoff ${node}`
        : user?.kind === "process"
          ? `kill ${user.pid}`
          : `udm detach ${quoted(name)}`;
  const used = user === undefined ? "" : `, and is ${describeUser(user)}`;
  return {
    id: "attached-dead",
    severity: "wrong",
    subject: name,
    message: `${why}; ${node} answers with errors${used}`,
    fix,
  };
}

/** Of another state dir, or of a daemon with another run dir: it is named, its owner decides. */
function aboutOther(left: Leftover): readonly Finding[] {
  const { mount, state, loops } = left;
  if (state === "stuck") return [stuck(left)];
  if (loops.length === 0) return [empty(left)];
  return loops.map(({ name, node, users: [user] }) => ({
    id: "attached-dead",
    severity: "wrong",
    subject: name,
    message: `the daemon of another state dir that served it at ${mount.folder} is gone; ${node} answers with errors`,
    fix: user?.kind === "mount" ? `umount ${quoted(user.folder)}` : `losetup --detach ${node}`,
  }));
}

function stuck({ mount, loops }: Leftover): Finding {
  const names = loops.map(({ name }) => name).join(", ");
  return {
    id: "attached-stuck",
    severity: "wrong",
    subject: mount.folder,
    message: `the daemon that serves ${names === "" ? "it" : names} does not answer; who uses these devices waits`,
    fix: `echo 1 > /sys/fs/fuse/connections/${mount.connection}/abort`,
  };
}

function empty({ mount }: Leftover): Finding {
  return {
    id: "attached-dead",
    severity: "wrong",
    subject: mount.folder,
    message: "a mount that a daemon left behind; nothing stands on it",
    fix: `umount ${quoted(mount.folder)}`,
  };
}
